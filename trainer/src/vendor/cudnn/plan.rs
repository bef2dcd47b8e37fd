//! Plans: an engine of the library, selected for a graph and ready to run.

use std::ffi::c_int;

use serde::{Deserialize, Serialize};

use super::graph::{Attribute, Descriptor, Draft, HeuristicMode, Kind, KnobType, NumericalNote};
use super::{CudnnError, Handle, Target};

/// Largest number of engine configurations tried for a graph, per heuristic.
const MOST_ENGINES: usize = 64;
/// Largest number of knobs of an engine; version 9.28 has 51 kinds.
const MOST_KNOBS: usize = 128;
/// Largest number of notes about an engine; version 9.28 has 10 kinds.
const MOST_NOTES: usize = 32;

/// An engine with the values of its knobs: the same choice computes the same bits, given the same version and kind of
/// device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Index of the engine among those for the graph.
    pub engine: i64,
    /// Knobs by the library's numbers, with their values.
    pub knobs: Vec<(i32, i64)>,
}

/// Engine for a graph, ready to run.
pub struct Plan {
    descriptor: Descriptor,
    /// Scratch memory needed, in bytes.
    pub workspace_bytes: u64,
    /// Engine and settings with which the plan was built.
    pub choice: Choice,
}

impl Plan {
    /// Selects the plan that the library expects to be fastest, among those that compute the same bits each time, have
    /// none of the `refused` notes, and need at most `most_workspace` bytes of scratch memory.
    ///
    /// # Errors
    /// If there is none; the reason is that of the configuration that the library names first or, where it names none, that
    /// of its heuristic. If memory is exhausted, no slower configuration takes the place of the one that met it.
    pub fn fastest(
        target: &Target,
        graph: &Descriptor,
        refused: &[NumericalNote],
        most_workspace: u64,
    ) -> Result<Self, CudnnError> {
        let mut refusals = Refusals::default();
        for mode in [HeuristicMode::A, HeuristicMode::Fallback] {
            let configs = match engines(target, graph, mode) {
                Ok(configs) => configs,
                Err(error) if error.is_out_of_memory() => return Err(error),
                Err(error) => {
                    refusals.heuristic.get_or_insert(error);
                    continue;
                }
            };
            for config in configs {
                match Self::allowed(target, &config, refused, most_workspace) {
                    Ok(plan) => return Ok(plan),
                    Err(error) if error.is_out_of_memory() => return Err(error),
                    Err(error) => refusals.add(error),
                }
            }
        }
        Err(refusals.into_error())
    }

    fn allowed(
        target: &Target,
        config: &Descriptor,
        refused: &[NumericalNote],
        most_workspace: u64,
    ) -> Result<Self, CudnnError> {
        let (engine, choice) = choice_of(config)?;
        let refuse = |reason: String| Err(CudnnError::refused(reason));
        let notes = engine.get::<NumericalNote>(Attribute::EngineNumericalNote, MOST_NOTES)?;
        let not_allowed = |note: &NumericalNote| *note == NumericalNote::NONDETERMINISTIC || refused.contains(note);
        if let Some(NumericalNote(note)) = notes.into_iter().find(not_allowed) {
            return refuse(format!("engine {} has the numerical note {note}", choice.engine));
        }
        let plan = Self::new(target, config, choice)?;
        if plan.workspace_bytes > most_workspace {
            let (engine, bytes) = (plan.choice.engine, plan.workspace_bytes);
            return refuse(format!(
                "engine {engine} needs {bytes} bytes of scratch memory, at most {most_workspace} are given"
            ));
        }
        Ok(plan)
    }

    /// Builds the plan of an earlier choice for the same graph.
    ///
    /// # Errors
    /// If the library has no such engine for the graph.
    pub fn of(target: &Target, graph: &Descriptor, choice: &Choice) -> Result<Self, CudnnError> {
        let engine = Draft::new(Kind::Engine)?
            .set_descriptors(Attribute::EngineOperationGraph, &[graph])?
            .set(Attribute::EngineGlobalIndex, &[choice.engine])?;
        let engine = match target {
            Target::Device(_) => engine,
            Target::Described(properties) => engine.set_descriptors(Attribute::EngineDeviceProp, &[properties])?,
        };
        let engine = engine.finalize()?;
        let knob = |&(knob, value): &(i32, i64)| {
            Draft::new(Kind::KnobChoice)?
                .set(Attribute::KnobChoiceKnobType, &[KnobType(knob)])?
                .set(Attribute::KnobChoiceKnobValue, &[value])?
                .finalize()
        };
        let knobs = choice.knobs.iter().map(knob).collect::<Result<Vec<_>, _>>()?;
        let knobs: Vec<&Descriptor> = knobs.iter().collect();
        let config = Draft::new(Kind::EngineConfig)?
            .set_descriptors(Attribute::EngineCfgEngine, &[&engine])?
            .set_descriptors(Attribute::EngineCfgKnobChoices, &knobs)?
            .finalize()?;
        Self::new(target, &config, choice.clone())
    }

    fn new(target: &Target, config: &Descriptor, choice: Choice) -> Result<Self, CudnnError> {
        let draft =
            Draft::new(Kind::ExecutionPlan)?.set_descriptors(Attribute::ExecutionPlanEngineConfig, &[config])?;
        let draft = match target {
            Target::Device(handle) => draft.set_handle(Attribute::ExecutionPlanHandle, handle)?,
            Target::Described(properties) => {
                draft.set_descriptors(Attribute::ExecutionPlanDeviceProp, &[properties])?
            }
        };
        let descriptor = draft.finalize()?;
        let workspace_bytes = descriptor.value::<i64>(Attribute::ExecutionPlanWorkspaceSize)?;
        Ok(Self { descriptor, workspace_bytes: u64::try_from(workspace_bytes).unwrap_or(0), choice })
    }

    /// Queues the plan on the handle's stream. `buffers` holds the addresses of the graph's tensors that are not
    /// virtual, by identifier.
    ///
    /// # Errors
    /// If the library refuses: a tensor is missing, an address is not aligned as described, or a launch fails.
    ///
    /// # Safety
    /// The plan was made for the device of `handle`. Each address is memory of that device (of the host for a
    /// [`Place::Value`](super::graph::Place::Value)) that holds the tensor as it was described; `workspace` is device
    /// memory of [`workspace_bytes`](Self::workspace_bytes), used by this call alone. Device memory stays until the call is
    /// done on the device.
    pub unsafe fn run(&self, handle: &Handle, buffers: &[(i64, u64)], workspace: u64) -> Result<(), CudnnError> {
        let (uids, pointers): (Vec<i64>, Vec<u64>) = buffers.iter().copied().unzip();
        let pack = Draft::new(Kind::VariantPack)?
            .set(Attribute::VariantPackUniqueIds, &uids)?
            .set_pointers(Attribute::VariantPackDataPointers, &pointers)?
            .set_pointers(Attribute::VariantPackWorkspace, &[workspace])?
            .finalize()?;
        // SAFETY: handle, plan and pack are alive; the caller's contract covers the memory.
        let status: c_int =
            unsafe { (handle.library.functions.execute)(handle.raw, self.descriptor.raw(), pack.raw()) };
        handle.library.check("cudnnBackendExecute", status)
    }
}

/// Record of the engine configurations that were rejected for a graph.
#[derive(Default)]
struct Refusals {
    /// Number of configurations examined.
    looked_at: usize,
    /// First reason, which concerns the configuration that the library ranks first.
    first: Option<CudnnError>,
    /// First failure of a heuristic that named no configuration.
    heuristic: Option<CudnnError>,
}

impl Refusals {
    fn add(&mut self, reason: CudnnError) {
        self.looked_at += 1;
        self.first.get_or_insert(reason);
    }

    fn into_error(self) -> CudnnError {
        let Self { looked_at, first, heuristic } = self;
        match first {
            Some(first) => CudnnError::NoEngine { looked_at, first: Box::new(first) },
            None => heuristic.unwrap_or_else(|| CudnnError::refused("cuDNN names no engine for this graph")),
        }
    }
}

/// Engine configurations for a graph, the best first.
fn engines(target: &Target, graph: &Descriptor, mode: HeuristicMode) -> Result<Vec<Descriptor>, CudnnError> {
    let draft = Draft::new(Kind::EngineHeuristics)?
        .set_descriptors(Attribute::EngineHeurOperationGraph, &[graph])?
        .set(Attribute::EngineHeurMode, &[mode])?;
    let draft = match target {
        Target::Device(_) => draft,
        Target::Described(properties) => draft.set_descriptors(Attribute::EngineHeurDeviceProp, &[properties])?,
    };
    draft.finalize()?.descriptors(Attribute::EngineHeurResults, Kind::EngineConfig, MOST_ENGINES)
}

/// Returns the engine of a configuration, and the choice that it represents.
fn choice_of(config: &Descriptor) -> Result<(Descriptor, Choice), CudnnError> {
    let engines = config.descriptors(Attribute::EngineCfgEngine, Kind::Engine, 1)?;
    let Some(engine) = engines.into_iter().next() else {
        return Err(CudnnError::refused("cuDNN names a configuration without an engine"));
    };
    let knobs = config.descriptors(Attribute::EngineCfgKnobChoices, Kind::KnobChoice, MOST_KNOBS)?;
    let knob = |knob: &Descriptor| {
        let KnobType(number) = knob.value(Attribute::KnobChoiceKnobType)?;
        Ok((number, knob.value(Attribute::KnobChoiceKnobValue)?))
    };
    let knobs = knobs.iter().map(knob).collect::<Result<Vec<_>, CudnnError>>()?;
    let choice = Choice { engine: engine.value(Attribute::EngineGlobalIndex)?, knobs };
    Ok((engine, choice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusal_is_reported_with_the_number_of_configurations() {
        assert_eq!(Refusals::default().into_error().to_string(), "cuDNN names no engine for this graph");
        let failed = || CudnnError::Failed {
            call: "cudnnBackendFinalize",
            code: 3000,
            status: "CUDNN_STATUS_NOT_SUPPORTED".to_owned(),
            reason: ": no heuristic".to_owned(),
        };
        let no_heuristic = || Refusals { heuristic: Some(failed()), ..Refusals::default() };
        assert_eq!(no_heuristic().into_error(), failed());
        // The other heuristic names configurations, and the reason lies in their refusals.
        let mut refusals = no_heuristic();
        refusals.add(CudnnError::refused("engine 3 has the numerical note 5"));
        refusals.add(failed());
        assert_eq!(
            refusals.into_error().to_string(),
            "none of the 2 engine configurations that cuDNN names is usable; the first: engine 3 has the numerical note 5"
        );
    }

    #[test]
    fn only_what_the_library_does_not_compute_is_left_to_other_kernels() {
        let failed = |code| CudnnError::Failed {
            call: "cudnnBackendFinalize",
            code,
            status: String::new(),
            reason: String::new(),
        };
        // NOT_INITIALIZED, SUBLIBRARY_LOADING_FAILED, BAD_PARAM, NOT_SUPPORTED, COMPILATION_FAILED.
        for code in [1001, 1008, 2000, 3000, 4001] {
            assert!(!failed(code).is_fault(), "{code}");
        }
        // INTERNAL_ERROR, HOST_ and DEVICE_ALLOCATION_FAILED, EXECUTION_FAILED and that of the driver.
        for code in [4000, 4003, 4004, 5000, 5001] {
            assert!(failed(code).is_fault(), "{code}");
            let none = CudnnError::NoEngine { looked_at: 3, first: Box::new(failed(code)) };
            assert!(none.is_fault(), "{none}");
        }
        assert!(!CudnnError::refused("a mask").is_fault());
        let recorded = CudnnError::Recorded(Box::new(failed(3000)));
        assert!(recorded.is_fault() && recorded.to_string().contains("--other-rounding"), "{recorded}");
    }
}
