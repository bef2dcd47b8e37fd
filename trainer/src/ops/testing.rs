//! Values and gradients of a function on every device that a test can reach.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};

/// The CPU, and the device that `HIEND_TEST_DEVICE` names (`cuda:0`, `vulkan:0`), if it names one.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::flex()];
    if let Some(name) = std::env::var_os("HIEND_TEST_DEVICE") {
        let choice = name.to_string_lossy().parse().expect("HIEND_TEST_DEVICE is a device");
        devices.push(crate::device::Compute::open(choice).expect("the device is there").raw().clone());
    }
    devices
}

/// A device's type of 16 bits: bf16, or f16 where it has no other.
pub fn short_of(device: &Device) -> FloatDType {
    [FloatDType::BF16, FloatDType::F16].into_iter().find(|&dtype| device.supports_dtype(dtype)).expect("one of them")
}

/// Numbers without a pattern that a mistake could hide in, from `-amplitude` to `amplitude`.
pub fn wave<const D: usize>(shape: [usize; D], frequency: f32, amplitude: f32) -> TensorData {
    let value = |i: usize| ((i as f32 * frequency).sin() * 43_758.547).fract() * amplitude;
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(value).collect();
    TensorData::new(values, shape)
}

/// The largest distance of two numbers at the same place.
///
/// # Panics
/// If there are more of one than of the other, or a number that is none: a maximum would pass over it.
pub fn largest_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().all(|value| value.is_finite()), "not all of it is numbers");
    ours.iter().zip(theirs).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// What a function gives, and the gradients of its inputs under weights that differ from value to value.
pub struct Outcome {
    values: Vec<f32>,
    gradients: Vec<Vec<f32>>,
}

pub fn values_and_gradients<const N: usize>(
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
    /// Values alone.
    pub fn of(values: Tensor<3>) -> Self {
        Self { values: values.into_data().try_to_vec().expect("f32"), gradients: vec![] }
    }

    /// Every tensor is that of `other`, but for `tolerance` of the other's largest value.
    pub fn assert_close(&self, other: &Self, tolerance: f32) {
        let check = |name: &str, ours: &[f32], theirs: &[f32]| {
            let largest = theirs.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            let error = largest_difference(ours, theirs) / largest;
            assert!(error <= tolerance, "{name}: error {error:.2e} of the largest value {largest}");
        };
        check("values", &self.values, &other.values);
        for (number, (ours, theirs)) in self.gradients.iter().zip(&other.gradients).enumerate() {
            check(&format!("gradient of input {number}"), ours, theirs);
        }
    }
}

#[test]
#[should_panic(expected = "not all of it is numbers")]
fn what_is_no_number_is_close_to_nothing() {
    let nothing = Outcome { values: vec![f32::NAN; 4], gradients: vec![] };
    nothing.assert_close(&Outcome { values: vec![1.0; 4], gradients: vec![] }, 1.0);
}
