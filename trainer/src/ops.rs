//! Differentiable operations, each of which is one kernel on a GPU, where Burn would compose many.
//!
//! Each computes in at least 32 bits whatever the type of its inputs, and returns its result in the requested type: a
//! network with 16-bit matrix products keeps its norms and softmaxes in f32. Each has a reference composed of Burn's
//! own operations, a kernel (`kernels`) that reads its input once on a GPU, or twice where sums over rows follow, and
//! for f32 on the CPU a function of [`hiend_cpu`] on the tensors' memory (`cpu`); other types use the reference there.
//! Tests compare the values and gradients of all with the composition.
//!
//! Apart from `device`, these are the only files that name a backend, because a custom operation must name the backends
//! for which it is implemented.

pub mod adamw;
pub mod attention;
pub mod axis;
pub mod class_sums;
pub mod columns;
pub mod conv;
mod cpu;
pub mod decode;
pub mod dequantize;
pub mod dice_ce;
pub mod fixed_order;
pub mod gate;
pub mod gelu;
pub mod instance_norm;
pub mod junction;
#[cfg(feature = "cube")]
mod kernels;
pub mod layer_norm;
pub mod narrowed;
pub mod noise;
mod on_cpu;
pub mod patch_loss;
mod primitive;
pub mod product;
pub mod recompute;
pub mod residual;
pub mod step_params;
#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, reason = "parts of the CPU's tests alone"))]
pub(crate) mod testing;
pub mod trilinear;
pub mod trunk;

use primitive::{along_rows, cast, dtype_of, widened};

/// Device tests of the operations; those of NVIDIA's libraries come first, because a run may be cut short.
#[cfg(any(test, feature = "device-tests"))]
pub(crate) fn device_tests() -> impl Iterator<Item = testing::DeviceTest> {
    let of_operations = [
        adamw::tests::DEVICE_TESTS,
        attention::tests::DEVICE_TESTS,
        axis::tests::DEVICE_TESTS,
        class_sums::tests::DEVICE_TESTS,
        conv::volume::tests::DEVICE_TESTS,
        decode::tests::DEVICE_TESTS,
        dequantize::tests::DEVICE_TESTS,
        fixed_order::tests::DEVICE_TESTS,
        gelu::tests::DEVICE_TESTS,
        instance_norm::volume::tests::DEVICE_TESTS,
        layer_norm::tests::DEVICE_TESTS,
        noise::tests::DEVICE_TESTS,
        product::tests::DEVICE_TESTS,
        residual::tests::DEVICE_TESTS,
        trilinear::tests::DEVICE_TESTS,
        trunk::tests::DEVICE_TESTS,
    ];
    #[cfg(feature = "cube")]
    let of_kernels = kernels::tests::DEVICE_TESTS;
    #[cfg(not(feature = "cube"))]
    let of_kernels: &[testing::DeviceTest] = &[];
    #[cfg(feature = "cuda")]
    let of_vendor = [
        product::cuda::tests::DEVICE_TESTS,
        conv::cuda::tests::DEVICE_TESTS,
        // By far the longest: cuDNN takes half a second for each pass that it plans.
        attention::cudnn::tests::DEVICE_TESTS,
        product::cuda::tests::last::DEVICE_TESTS,
    ];
    #[cfg(not(feature = "cuda"))]
    let of_vendor: [&[testing::DeviceTest]; 0] = [];
    of_vendor.into_iter().chain([of_kernels]).chain(of_operations).flatten().copied()
}
