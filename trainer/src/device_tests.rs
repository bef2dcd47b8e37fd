//! Tests of the code for devices, as a list of functions: a program can run them where there is no test harness.

use burn::tensor::Device;

/// The name of each test, and the test: a function that panics if the device fails it.
pub fn device_tests() -> impl Iterator<Item = (&'static str, fn(&Device))> {
    let of_others = [
        crate::augment::tests::DEVICE_TESTS,
        crate::loss::class_map::tests::DEVICE_TESTS,
        crate::model::block::tests::DEVICE_TESTS,
        crate::sliding_window::classes::tests::DEVICE_TESTS,
    ];
    crate::ops::device_tests().chain(of_others.into_iter().flatten().copied())
}
