//! Trilinear resizing of volumes, with voxel centres (not corners) aligned.
//!
//! In f32 on the CPU this is one operation of `hiend_cpu`. Elsewhere each axis is one batch of matrix products in full 32 bits
//! ([`super::axis`]), which has a derivative on every backend, unlike their interpolation, and transposes no volume.

use burn::tensor::{Device, Tensor, TensorData};
use hiend_cpu::resize::{self, ResizeShape};

use super::axis::along_axis;
use super::on_cpu::{CpuOperation, CpuTensor, Operand, apply, in_order, is_on_cpu, tensor, values};

/// Resizes `[N, C, x, y, z]` to `size`.
#[must_use]
pub fn trilinear(x: Tensor<5>, size: [usize; 3]) -> Tensor<5> {
    if is_on_cpu(&x) {
        let [n, c, dx, dy, dz] = x.dims();
        let shape = ResizeShape { num_rows: n * c, from: [dx, dy, dz], to: size };
        return apply(Resize { batch: n, channels: c, shape }, [Operand::of(x)]);
    }
    composed(x, size)
}

fn composed(x: Tensor<5>, size: [usize; 3]) -> Tensor<5> {
    let [n, channels, dx, dy, dz] = x.dims();
    let (device, dtype) = (x.device().inner(), x.dtype());
    let matrix = |from, to| interpolation(from, to, &device).cast(dtype);
    let [sx, sy, sz] = size;
    // Channels last, as convolutions on a GPU leave and take them, so that neither permutation moves a value.
    let x = x.permute([0, 2, 3, 4, 1]).reshape([n * dx * dy, dz, channels]);
    let x = along_axis(matrix(dz, sz), x).reshape([n * dx, dy, sz * channels]);
    let x = along_axis(matrix(dy, sy), x).reshape([n, dx, sy * sz * channels]);
    along_axis(matrix(dx, sx), x).reshape([n, sx, sy, sz, channels]).permute([0, 4, 1, 2, 3])
}

/// Matrix `[to, from]` that resizes one axis.
fn interpolation(from: usize, to: usize, device: &Device) -> Tensor<2> {
    let mut matrix = vec![0_f32; to * from];
    for i in 0..to {
        // Outside the first and the last centre the edge value holds.
        let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
        let below = at.floor() as usize;
        let above = (below + 1).min(from - 1);
        let share = at - below as f64;
        matrix[i * from + below] += (1.0 - share) as f32;
        matrix[i * from + above] += share as f32;
    }
    Tensor::from_data(TensorData::new(matrix, [to, from]), device)
}

/// Operation of `hiend_cpu`.
#[derive(Clone, Copy, Debug)]
struct Resize {
    batch: usize,
    channels: usize,
    shape: ResizeShape,
}

impl CpuOperation<1> for Resize {
    type Saved = ();

    fn forward(self, [x]: [CpuTensor; 1], _: [bool; 1]) -> (CpuTensor, ()) {
        let [sx, sy, sz] = self.shape.to;
        let y = resize::trilinear(values(&in_order(x)), self.shape);
        (tensor(y, [self.batch, self.channels, sx, sy, sz]), ())
    }

    fn backward(self, (): (), dy: CpuTensor, _: [bool; 1]) -> [Option<CpuTensor>; 1] {
        let [sx, sy, sz] = self.shape.from;
        let dx = resize::trilinear_gradient(values(&dy), self.shape);
        [Some(tensor(dx, [self.batch, self.channels, sx, sy, sz]))]
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{on_devices, values_and_gradients, wave};

    /// The composition on `device` against the operation of the CPU, for volumes in the order of their axes and for views of
    /// volumes whose channels come last, as UNETR's are.
    fn the_composition_is_the_operation_of_the_cpu(device: &Device) {
        for size in [[6, 4, 7], [2, 3, 4], [3, 7, 2], [9, 12, 15]] {
            for channels_last in [false, true] {
                let run = |device: &Device, function: fn(Tensor<5>, [usize; 3]) -> Tensor<5>| {
                    values_and_gradients(device, &[wave([2, 3, 60], 0.7, 1.0)], |[x]| {
                        let x = if channels_last {
                            x.reshape([2, 3, 4, 5, 3]).permute([0, 4, 1, 2, 3])
                        } else {
                            x.reshape([2, 3, 3, 4, 5])
                        };
                        function(x, size).reshape([2, 3, size.iter().product::<usize>()])
                    })
                };
                // Weights and their products are rounded in another order; Burn's kernels on a GPU round factors to TF32, 10
                // bits of fraction, once an axis.
                let tolerance = if *device == Device::flex() { 1e-5 } else { 4e-3 };
                run(device, composed).assert_close(&run(&Device::flex(), trilinear), tolerance);
            }
        }
    }

    on_devices!(the_composition_is_the_operation_of_the_cpu);

    #[cfg(test)]
    #[test]
    fn resizing_keeps_a_constant_and_a_ramp() {
        let values = |x: Tensor<5>| x.into_data().try_to_vec::<f32>().unwrap();
        for resize in [trilinear, composed] {
            let constant = Tensor::<5>::full([1, 2, 3, 4, 5], 2.5, &Device::flex());
            for value in values(resize(constant, [6, 4, 7])) {
                assert!((value - 2.5).abs() < 1e-6, "{value}");
            }
            let ramp = Tensor::<5>::from_data(TensorData::new(vec![0_f32, 1.0], [1, 1, 1, 1, 2]), &Device::flex());
            assert_eq!(values(resize(ramp, [1, 1, 4])), [0.0, 0.25, 0.75, 1.0]);
        }
    }
}
