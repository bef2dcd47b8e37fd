//! Plans of one device, by the problems that they compute.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;

use super::graph::{Descriptor, NumericalNote};
use super::plan::Plan;
use super::record::Engines;
use super::{CudnnError, Handle, Target, opened};
use crate::vendor::choices::Owner;
use crate::vendor::recorded;

/// Alignment in bytes that plans expect of every tensor in device memory, that of
/// [`Tensor::new`](super::graph::Tensor::new).
pub const ALIGNMENT: u64 = 16;

/// A computation that the library plans. Its display text names it in timings.
pub trait Problem: fmt::Display {
    /// Text with everything on which the graph depends: the key under which plans are cached and engines recorded.
    fn key(&self) -> String;

    /// Builds the graph of the computation.
    ///
    /// # Errors
    /// If the library refuses a part of it.
    fn graph(&self, target: &Target) -> Result<Descriptor, CudnnError>;

    /// Notes that rule out an engine, in addition to those about determinism.
    fn refused(&self) -> &'static [NumericalNote] {
        &[]
    }

    /// Largest scratch memory that an engine may need, in bytes.
    fn most_workspace(&self) -> u64;

    /// Values of the graph's tensors on the host, by identifier.
    fn values(&self) -> Vec<(i64, f32)> {
        vec![]
    }
}

/// The library on one device. Used on the device's own thread, with the device's context current.
pub struct Session {
    target: Target,
    owner: Owner,
    plans: HashMap<String, Result<Plan, CudnnError>>,
}

impl Session {
    /// Opens a session on the current device, named `device`.
    ///
    /// # Errors
    /// The library's reason.
    pub fn open(device: String) -> Result<Self, CudnnError> {
        Self::on(Target::Device(Handle::open()?), device)
    }

    /// Opens a session for `target`, named `device`.
    ///
    /// # Errors
    /// If the library is not there.
    pub fn on(target: Target, device: String) -> Result<Self, CudnnError> {
        let owner = Owner { library: format!("cudnn {}", opened()?.version), device };
        if let Some(other) = Engines::of_process().others(&owner).next() {
            tracing::warn!(
                "this run recorded its plans with {} on {}; with {} on {} they may round differently",
                other.library,
                other.device,
                owner.library,
                owner.device
            );
        }
        Ok(Self { target, owner, plans: HashMap::new() })
    }

    /// Plans `problem` unless it is already planned: with the recorded engine, or by the library's heuristic, whose
    /// choice is then recorded. Returns the bytes of scratch memory that the plan needs.
    ///
    /// # Errors
    /// If the library has no engine for it, rejects the recorded one, or fails.
    pub fn prepare(&mut self, problem: &dyn Problem) -> Result<u64, CudnnError> {
        let key = problem.key();
        if !self.plans.contains_key(&key) {
            match self.plan(problem) {
                Err(fault) if fault.is_fault() => return Err(fault),
                plan => self.plans.insert(key.clone(), plan),
            };
        }
        match &self.plans[&key] {
            Ok(plan) => Ok(plan.workspace_bytes),
            Err(error) => Err(error.clone()),
        }
    }

    fn plan(&self, problem: &dyn Problem) -> Result<Plan, CudnnError> {
        let key = problem.key();
        let graph = problem.graph(&self.target)?;
        // Looked up on its own: as the condition it would keep the table locked.
        let choice = Engines::of_process().get(&self.owner, &key);
        let planned = recorded::usable(
            problem,
            choice.map(|choice| Plan::of(&self.target, &graph, &choice)),
            CudnnError::is_fault,
            |reason| CudnnError::Recorded(Box::new(reason)),
            recorded::is_other_rounding_allowed(),
        )?;
        if let Some(plan) = planned {
            return Ok(plan);
        }
        let plan = Plan::fastest(&self.target, &graph, problem.refused(), problem.most_workspace())?;
        Engines::of_process().insert(self.owner.clone(), key, plan.choice.clone());
        Ok(plan)
    }

    /// Queues a problem on `stream`. `buffers` holds the device addresses of the graph's tensors, by identifier.
    ///
    /// # Errors
    /// If the problem is not prepared, an address is not a multiple of [`ALIGNMENT`], or the library refuses.
    ///
    /// # Safety
    /// The addresses are memory of the session's device that holds what `problem` describes, `stream` is a `CUstream` of
    /// that device, and neither goes away before the plan is done on the device. No two plans that run at the same time
    /// share a workspace.
    pub unsafe fn run(
        &mut self,
        problem: &dyn Problem,
        buffers: &[(i64, u64)],
        workspace: Option<u64>,
        stream: *mut c_void,
    ) -> Result<(), CudnnError> {
        let refused = |reason: &str| Err(CudnnError::refused(reason));
        let Target::Device(handle) = &self.target else {
            return refused("a plan for a device that is only described cannot run");
        };
        let Some(Ok(plan)) = self.plans.get(&problem.key()) else { return refused("cuDNN was not asked for a plan") };
        if buffers.iter().any(|(_, address)| !address.is_multiple_of(ALIGNMENT)) {
            return refused("a tensor is less aligned than cuDNN's plan expects");
        }
        if plan.workspace_bytes > 0 && workspace.is_none() {
            return refused("cuDNN's plan needs scratch memory, and has none");
        }
        let values = problem.values();
        let hosts = values.iter().map(|(uid, value)| (*uid, &raw const *value as u64));
        let all: Vec<(i64, u64)> = buffers.iter().copied().chain(hosts).collect();
        // SAFETY: the caller's contract covers device memory and stream; values on the host live until the call returns,
        // which has read them.
        unsafe {
            handle.set_stream(stream)?;
            plan.run(handle, &all, workspace.unwrap_or(0))
        }
    }
}
