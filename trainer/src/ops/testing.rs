//! Test harness of the operations: values and gradients of a function, on the CPU and on a device.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};

/// A named test function, which panics if the device fails.
pub(crate) type DeviceTest = (&'static str, fn(&Device));

/// Declares two tests for each named function of a [`Device`]: one on the CPU, and one as in [`on_gpus`].
macro_rules! on_devices {
    ($($name:ident),+ $(,)?) => {
        #[cfg(test)]
        mod on_cpu {
            $(#[test]
            fn $name() {
                super::$name(&burn::tensor::Device::flex());
            })+
        }

        crate::ops::testing::on_gpus!($($name),+);
    };
}
pub(crate) use on_devices;

/// Declares a test for each named function of a [`Device`], on the device named by `HIEND_TEST_DEVICE`. The test is
/// ignored unless requested (`--include-ignored`). `DEVICE_TESTS` lists the functions for programs.
macro_rules! on_gpus {
    ($($name:ident),+ $(,)?) => {
        #[cfg(test)]
        mod on_device {
            $(#[test]
            #[ignore = "needs a device: HIEND_TEST_DEVICE"]
            fn $name() {
                super::$name(&crate::ops::testing::test_device());
            })+
        }

        /// Functions declared above.
        pub(crate) const DEVICE_TESTS: &[crate::ops::testing::DeviceTest] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name)),+];
    };
}
pub(crate) use on_gpus;

/// Device named by `HIEND_TEST_DEVICE`: `cuda:0` or `vulkan:0`.
///
/// # Panics
/// If it names none, or one that cannot be opened.
pub(crate) fn test_device() -> Device {
    named_device().expect("HIEND_TEST_DEVICE names a device: cuda:0 or vulkan:0")
}

/// The CPU and, if `HIEND_TEST_DEVICE` names one, a GPU.
pub(crate) fn devices() -> Vec<Device> {
    std::iter::once(Device::flex()).chain(named_device()).collect()
}

fn named_device() -> Option<Device> {
    let name = std::env::var("HIEND_TEST_DEVICE").ok()?;
    let choice = name.parse().expect("HIEND_TEST_DEVICE names a device");
    Some(crate::device::Compute::open(choice).expect("the named device opens").raw().clone())
}

/// The 16-bit type of `device`: bf16, or f16 where it has no bf16.
pub(crate) fn short_of(device: &Device) -> FloatDType {
    [FloatDType::BF16, FloatDType::F16].into_iter().find(|&dtype| device.supports_dtype(dtype)).expect("one of them")
}

/// Values from `-amplitude` to `amplitude`, without a period that could hide an index error.
pub(crate) fn wave<const D: usize>(shape: [usize; D], frequency: f32, amplitude: f32) -> TensorData {
    let value = |i: usize| ((i as f32 * frequency).sin() * 43_758.547).fract() * amplitude;
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(value).collect();
    TensorData::new(values, shape)
}

/// Largest absolute difference between two values at the same index.
///
/// # Panics
/// If the lengths differ or a value of `ours` is not finite: a maximum ignores those.
pub(crate) fn largest_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().all(|value| value.is_finite()), "a value is not finite");
    ours.iter().zip(theirs).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// Values of a function and the gradients of its inputs.
pub(crate) struct Outcome {
    values: Vec<f32>,
    gradients: Vec<Vec<f32>>,
}

/// Outcome of `function`, with an output gradient that differs from value to value.
pub(crate) fn values_and_gradients<const N: usize>(
    device: &Device,
    inputs: &[TensorData; N],
    function: impl Fn([Tensor<3>; N]) -> Tensor<3>,
) -> Outcome {
    let autodiff = device.clone().autodiff();
    let inputs = inputs.each_ref().map(|data| Tensor::<3>::from_data(data.clone(), &autodiff).require_grad());
    let y = function(inputs.clone());
    let weights = Tensor::from_data(wave(y.dims(), 1.3, 1.0), &autodiff);
    let grads = (y.clone() * weights).sum().backward();
    let host = |tensor: Tensor<3>| tensor.into_data().try_to_vec::<f32>().expect("f32");
    let gradients = inputs.iter().map(|input| host(input.grad(&grads).expect("every input is used"))).collect();
    Outcome { values: host(y.inner()), gradients }
}

impl Outcome {
    /// Outcome with `values` but without gradients.
    pub(crate) fn of(values: Tensor<3>) -> Self {
        Self { values: values.into_data().try_to_vec().expect("f32"), gradients: vec![] }
    }

    /// Asserts that no value differs from that of `other` by more than `tolerance` times the largest value of its
    /// tensor.
    pub(crate) fn assert_close(&self, other: &Self, tolerance: f32) {
        let check = |name: &str, ours: &[f32], theirs: &[f32]| {
            let largest = theirs.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            let error = largest_difference(ours, theirs) / largest;
            assert!(error <= tolerance, "{name}: error {error:.2e} of the largest value {largest}");
        };
        check("values", &self.values, &other.values);
        assert_eq!(self.gradients.len(), other.gradients.len());
        for (number, (ours, theirs)) in self.gradients.iter().zip(&other.gradients).enumerate() {
            check(&format!("gradient of input {number}"), ours, theirs);
        }
    }
}

#[test]
#[should_panic(expected = "a value is not finite")]
fn not_a_number_is_close_to_no_value() {
    let nothing = Outcome { values: vec![f32::NAN; 4], gradients: vec![] };
    nothing.assert_close(&Outcome { values: vec![1.0; 4], gradients: vec![] }, 1.0);
}
