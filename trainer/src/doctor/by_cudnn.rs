//! Small computations by cuDNN, compared with the CPU: the library consists of several files and compiles some engines as it
//! runs, so that one that opens may still lack a part.

use std::fmt;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::{largest_error, wave};
use crate::device::Compute;
use crate::device::failure::reason_of;
use crate::ops::attention::{Computation, Method, attend_self};
use crate::ops::conv::volume::volume_conv;
use crate::ops::product::Factors;
use crate::vendor::cudnn;
use crate::vendor::cudnn::record::Engines;

/// Largest relative error that the rounding of inputs, weights and results to bf16 explains: 2^-9 each.
const TOLERANCE: f64 = 2e-2;

/// A computation and what came of it.
#[derive(Debug)]
pub(super) struct Check {
    name: &'static str,
    /// Reason why cuDNN did not compute all of it; `None` if it did.
    refusal: Option<String>,
    /// Largest error of the value and its gradients, relative to their norms, or the device's failure.
    error: Result<f64, String>,
}

impl Check {
    pub(super) fn is_close(&self) -> bool {
        self.error.as_ref().is_ok_and(|error| *error <= TOLERANCE)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<13}", self.name)?;
        match &self.error {
            Ok(error) => {
                let verdict = if self.is_close() { "ok" } else { "WRONG" };
                write!(f, "{verdict}: relative error {error:.1e}, at most {TOLERANCE:.0e} expected")?;
            }
            Err(reason) => write!(f, "FAILED: {reason}")?,
        }
        match &self.refusal {
            Some(reason) => write!(f, "; not by cuDNN: {reason}"),
            None => Ok(()),
        }
    }
}

/// Computes a convolution of 3³ voxels and an attention in bf16 on `compute`. None where cuDNN is not used, which the list of
/// libraries explains.
pub(super) fn checks(compute: &Compute) -> Vec<Check> {
    let device = compute.raw();
    if !compute.is_cuda() || cudnn::library().is_err() || !device.supports_dtype(FloatDType::BF16) {
        return vec![];
    }
    let cpu = Device::flex();
    let by = |factors| Method { factors, computation: Computation::Cudnn };
    vec![
        // A plan for each of the value and its two gradients.
        check("convolution", 3, || convolution(device, Factors::Bf16), || convolution(&cpu, Factors::F32)),
        // Both passes.
        check("attention", 2, || attention(device, by(Factors::Bf16)), || attention(&cpu, by(Factors::F32))),
    ]
}

/// Runs a computation that needs `plans` plans, on the device and on the CPU.
fn check(
    name: &'static str,
    plans: usize,
    on_device: impl FnOnce() -> Result<Vec<Vec<f32>>, String>,
    on_cpu: impl FnOnce() -> Result<Vec<Vec<f32>>, String>,
) -> Check {
    let (before, warned) = (Engines::of_process().len(), refusals());
    let ours = on_device();
    let planned = Engines::of_process().len().saturating_sub(before);
    let unplanned = (planned < plans).then(|| match refusal(&warned, refusals()) {
        // A failure is a reason of its own.
        None if ours.is_ok() => Some(format!("it made {planned} of {plans} plans")),
        reason => reason,
    });
    let refusal = unplanned.flatten();
    let error = ours.and_then(|ours| {
        let reference = on_cpu()?.into_iter().map(|values| values.into_iter().map(f64::from).collect());
        Ok(largest_error(&ours, &reference.collect::<Vec<_>>()))
    });
    Check { name, refusal, error }
}

/// First reason of `now` that was not there `before` a check.
fn refusal(before: &[String], now: Vec<String>) -> Option<String> {
    now.into_iter().find(|reason| !before.contains(reason))
}

/// Reasons why a library did not compute something, as warned so far.
fn refusals() -> Vec<String> {
    #[cfg(feature = "cuda")]
    {
        crate::vendor::fallback::warned()
    }
    #[cfg(not(feature = "cuda"))]
    {
        vec![]
    }
}

/// Value of a convolution of 16 channels on 8³ voxels, and its two gradients.
fn convolution(device: &Device, factors: Factors) -> Result<Vec<Vec<f32>>, String> {
    let device = device.clone().autodiff();
    let load = |shape: [usize; 5], frequency| {
        Tensor::<5>::from_data(TensorData::new(wave(shape.iter().product(), frequency), shape), &device)
    };
    let x = load([2, 8, 8, 8, 16], 0.7).require_grad();
    let weight = load([16, 16, 3, 3, 3], 0.3).require_grad();
    let y = volume_conv(x.clone(), weight.clone(), factors).cast(FloatDType::F32);
    let grads = (y.clone() * load([2, 8, 8, 8, 16], 1.3)).sum().backward();
    [Some(y.inner()), x.grad(&grads), weight.grad(&grads)].into_iter().map(values).collect()
}

/// Value of an attention of 129 tokens to each other in two heads of 64 values, and its gradient.
fn attention(device: &Device, method: Method) -> Result<Vec<Vec<f32>>, String> {
    let device = device.clone().autodiff();
    let load = |shape: [usize; 3], frequency| {
        Tensor::<3>::from_data(TensorData::new(wave(shape.iter().product(), frequency), shape), &device)
    };
    let tokens = load([2, 129, 3 * 128], 0.7).require_grad();
    let qkv = match method.factors.dtype() {
        Some(dtype) => tokens.clone().cast(dtype),
        None => tokens.clone(),
    };
    let y = attend_self(qkv, None, 2, method).cast(FloatDType::F32);
    let grads = (y.clone() * load([2, 129, 128], 1.3)).sum().backward();
    [Some(y.inner()), tokens.grad(&grads)].into_iter().map(values).collect()
}

/// Values of a tensor on the host.
fn values<const D: usize>(x: Option<Tensor<D>>) -> Result<Vec<f32>, String> {
    let data = x.ok_or("a gradient is missing")?.try_into_data().map_err(reason_of)?;
    data.try_to_vec().map_err(|error| format!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_computations_are_close_in_bf16_and_not_otherwise() {
        let (cpu, by) = (Device::flex(), |factors| Method { factors, computation: Computation::Cudnn });
        let near = [
            check("convolution", 0, || convolution(&cpu, Factors::Bf16), || convolution(&cpu, Factors::F32)),
            check("attention", 0, || attention(&cpu, by(Factors::Bf16)), || attention(&cpu, by(Factors::F32))),
        ];
        for check in near {
            assert!(check.is_close() && check.refusal.is_none(), "{check}");
            assert!(check.to_string().contains("ok: relative error"), "{check}");
        }
        let other = || -> Result<Vec<Vec<f32>>, String> {
            let values = convolution(&cpu, Factors::F32)?;
            Ok(values.into_iter().map(|values| values.iter().map(|value| 1.1 * value).collect()).collect())
        };
        let wrong = check("convolution", 0, || convolution(&cpu, Factors::F32), other);
        assert!(!wrong.is_close() && wrong.to_string().contains("WRONG"), "{wrong}");
    }

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let failed = check("attention", 0, || Err("CUDNN_STATUS_INTERNAL_ERROR".to_owned()), || Ok(vec![]));
        assert!(!failed.is_close());
        assert_eq!(failed.to_string(), "attention    FAILED: CUDNN_STATUS_INTERNAL_ERROR");
    }

    #[test]
    fn a_refusal_is_explained_by_the_warning_of_its_own_check() {
        let reasons = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let before = reasons(&["products: no cuBLASLt"]);
        let now = reasons(&["convolutions: refused", "products: no cuBLASLt"]);
        assert_eq!(refusal(&before, now.clone()).as_deref(), Some("convolutions: refused"));
        assert_eq!(refusal(&now, now.clone()), None);
    }
}
