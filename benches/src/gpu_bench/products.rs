//! Check that cuBLASLt computes products on a CUDA device: if it refuses, Burn's kernels are tuned for minutes before the
//! first result, and the measurement would be theirs.

use anyhow::bail;
use burn::tensor::{Tensor, TensorData};
use hiend_trainer::device::Compute;
use hiend_trainer::ops::product::{Factors, linear};
use hiend_trainer::vendor::algorithms::Algorithms;

use super::refusals;

/// Multiplies two small matrices, unless the library has computed a product in this process already. Has no effect on other
/// devices.
///
/// # Errors
/// If the library does not compute the product, with its reasons.
pub(super) fn check(compute: &Compute) -> anyhow::Result<()> {
    if !compute.is_cuda() || !Algorithms::of_process().is_empty() {
        return Ok(());
    }
    let ones = || Tensor::<2>::from_data(TensorData::new(vec![1f32; 64 * 64], [64, 64]), compute.raw());
    let product = linear(ones(), ones(), Factors::F32);
    if Algorithms::of_process().is_empty() {
        let mut reasons = refusals::warned();
        reasons.extend(product.try_into_data().err().map(|fault| format!("{fault:?}")));
        bail!("cuBLASLt computes no products, and Burn's kernels would be measured; reasons: {reasons:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_needs_no_library() {
        check(&Compute::cpu()).unwrap();
    }
}
