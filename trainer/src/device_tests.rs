//! Device tests as a list of functions, so that a program can run them where there is no test harness.

use burn::tensor::Device;

/// Name and function of each test; the function panics if the device fails.
pub fn device_tests() -> impl Iterator<Item = (&'static str, fn(&Device))> {
    let of_others = [
        crate::augment::tests::DEVICE_TESTS,
        crate::loss::class_map::tests::DEVICE_TESTS,
        crate::loss::masked_mse::tests::DEVICE_TESTS,
        crate::model::block::tests::DEVICE_TESTS,
        crate::sliding_window::classes::tests::DEVICE_TESTS,
        crate::sliding_window::on_device::tests::DEVICE_TESTS,
    ];
    #[cfg(feature = "cuda")]
    let of_ranks = crate::distributed::nccl::tests::DEVICE_TESTS;
    #[cfg(not(feature = "cuda"))]
    let of_ranks: &[crate::ops::testing::DeviceTest] = &[];
    crate::ops::device_tests().chain(of_others.into_iter().chain([of_ranks]).flatten().copied())
}
