//! GPU kernels in `CubeCL`, launched on Burn's own buffers.
//!
//! A plane (a warp on NVIDIA) processes a row: each of its units loads every 32nd vector of up to 16 bytes and keeps it in
//! registers, and sums and maxima are shared by shuffles. A row is read once, without shared memory or barriers. Sums over
//! rows are [`columns`]. All units of a plane run the same number of loop iterations, those beyond the end of the row
//! without work: a shuffle needs all of them, and after a loop that some units left early they may not be together.
//! The backward pass of [`layer_norm`] sums over rows as well: a cube processes a row, with barriers.
//!
//! All arithmetic is f32, whatever the type of the buffers.

#![expect(unsafe_code, reason = "launches whose kernels check every index; the launcher would check them once more")]
#![allow(
    clippy::used_underscore_binding,
    clippy::wildcard_imports,
    reason = "kernels expand to uses of the binding that defines their type, and to names of CubeCL's prelude"
)]

pub(super) mod adamw;
pub(super) mod class_sums;
pub(super) mod columns;
pub(super) mod decode;
pub(super) mod dequantize;
pub(super) mod gelu;
pub(super) mod heads;
pub(super) mod instance_norm;
mod launch;
pub(super) mod layer_norm;
pub(super) mod narrowed;
pub(super) mod noise;
pub(super) mod patch_loss;
mod plane;
#[cfg(all(test, feature = "ptx"))]
mod ptx;
pub(super) mod residual;
pub(super) mod softmax;

#[cfg(feature = "cuda")]
pub(super) use launch::uninit;

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::launch::even_rows;
    use super::{adamw, columns, gelu, heads, layer_norm, narrowed, residual};
    use crate::ops::attention::part::{Padding, Part};
    use crate::ops::step_params::StepParams;
    use crate::ops::testing::{Outcome, on_gpus, short_of, wave};
    use burn::backend::Cube;
    use burn::tensor::{Device, FloatDType, Shape, Tensor};
    use burn_cubecl::kernel::into_contiguous;
    use burn_cubecl::tensor::CubeTensor;

    /// Creates rows of `width` values with a pitch of 64, CUDA's layout, and a contiguous copy.
    fn pitched_rows(width: usize, dtype: FloatDType, frequency: f32, device: &Device) -> [CubeTensor; 2] {
        let whole = Tensor::<3>::from_data(wave([2, 70, 64], frequency, 3.0), device).cast(dtype);
        let copy = whole.clone().narrow(2, 0, width).try_into_primitive::<Cube>().unwrap();
        let mut gaps = whole.try_into_primitive::<Cube>().unwrap();
        *gaps.meta.shape_mut() = Shape::from([2, 70, width]);
        [gaps, into_contiguous(copy)]
    }

    fn vector(width: usize, frequency: f32, device: &Device) -> CubeTensor {
        Tensor::<1>::from_data(wave([width], frequency, 1.0), device).try_into_primitive::<Cube>().unwrap()
    }

    /// Reads the values of a tensor of any shape.
    fn host(x: CubeTensor) -> Outcome {
        let count = x.meta.shape().num_elements();
        let values = match x.meta.shape().num_dims() {
            1 => Tensor::<1>::from_primitive::<Cube>(x).reshape([1, 1, count]),
            3 => Tensor::<3>::from_primitive::<Cube>(x),
            _ => Tensor::<4>::from_primitive::<Cube>(x).reshape([1, 1, count]),
        };
        Outcome::of(values.cast(FloatDType::F32))
    }

    fn pitched_rows_give_the_same_bits_without_a_copy(device: &Device) {
        // Widths divisible by four, by eight, and by neither.
        for (width, dtype) in [36, 40, 37].into_iter().flat_map(|w| [(w, FloatDType::F32), (w, short_of(device))]) {
            let tokens = pitched_rows(width, FloatDType::F32, 0.7, device);
            let branch = pitched_rows(width, dtype, 0.3, device);
            assert_eq!(even_rows(branch[0].clone()).1, 64);
            assert_eq!(even_rows(branch[1].clone()).1, width as u32);
            let [gamma, beta] = [1.3, 0.9].map(|frequency| vector(width, frequency, device));
            let padding = Padding { tokens: 4, width: 8 };
            let part = |number| Part { number, parts: 2, heads: 1, padding };

            let outcomes = |of: usize| {
                let (x, h) = (tokens[of].clone(), branch[of].clone());
                let norm = layer_norm::backward(x.clone(), gamma.clone(), h.clone(), None, 1e-5);
                let met = layer_norm::backward(x.clone(), gamma.clone(), h.clone(), Some(x.clone()), 1e-5);
                let bent = gelu::backward(h.clone(), beta.clone(), h.clone());
                let added = residual::backward(x.clone(), dtype);
                let mut all = vec![
                    layer_norm::forward(x.clone(), gamma.clone(), beta.clone(), 1e-5, dtype),
                    gelu::forward(h.clone(), beta.clone()),
                    residual::forward(x, h.clone(), beta.clone()),
                    columns::sums(h.clone()),
                ];
                all.extend([norm.0, norm.1, norm.2, met.0, bent.0, bent.1, added.0, added.1]);
                if width.is_multiple_of(2) {
                    let bias = vector(width, 0.9, device);
                    let heads = [0, 1].map(|number| heads::split(h.clone(), Some(bias.clone()), part(number)));
                    all.extend(heads.clone());
                    all.push(heads::join(heads.into(), 70, width / 2));
                }
                all.into_iter().map(host)
            };
            for (pitched, contiguous) in outcomes(0).zip(outcomes(1)) {
                pitched.assert_close(&contiguous, 0.0);
            }
        }
    }

    fn rows_at_unequal_distances_are_copied(device: &Device) {
        let pitch_of = |x: Tensor<3>| {
            let (x, pitch) = even_rows(x.try_into_primitive::<Cube>().unwrap());
            assert_eq!(x.meta.strides()[2], 1);
            pitch
        };
        let x = Tensor::<3>::from_data(wave([4, 16, 64], 0.7, 1.0), device);
        assert_eq!(pitch_of(x.clone()), 64);
        assert_eq!(pitch_of(x.clone().swap_dims(1, 2)), 16);
        // The first three of sixteen rows of each sample. The axis of length 1 between does not hide the gap.
        let mut first = x.clone().reshape([4, 1, 16, 64]).try_into_primitive::<Cube>().unwrap();
        *first.meta.shape_mut() = Shape::from([4, 1, 3, 64]);
        let (first, pitch) = even_rows(first);
        assert_eq!((first.meta.strides()[0], pitch), (3 * 64, 64));
        // One row, expanded.
        assert_eq!(pitch_of(x.clone().narrow(1, 0, 1).expand([4, 16, 64])), 64);
        let row = x.narrow(0, 0, 1).narrow(1, 0, 1).expand([3, 5, 64]);
        assert_eq!(pitch_of(row.clone()), 64);
        let sums = columns::sums(row.clone().try_into_primitive::<Cube>().unwrap());
        host(sums).assert_close(&Outcome::of(row.narrow(0, 0, 1).narrow(1, 0, 1) * 15.0), 1e-6);
    }

    fn column_sums_are_those_of_burn_and_the_same_bits_each_time(device: &Device) {
        // One group of rows, a few, more than the units of a cube take in one pass; and, last, an odd width.
        for (rows, width) in [(7, 96), (33, 12), (3000, 132), (40_000, 8), (300, 37)] {
            for dtype in [FloatDType::F32, short_of(device)] {
                let x = Tensor::<3>::from_data(wave([1, rows, width], 0.7, 1.0), device).cast(dtype);
                let sums = || columns::sums(x.clone().try_into_primitive::<Cube>().unwrap());
                let expected = Outcome::of(x.clone().cast(FloatDType::F32).sum_dim(1));
                // Rounding of a sum of `rows` values up to 1, which is about their root in size.
                host(sums()).assert_close(&expected, 1e-5);
                host(sums()).assert_close(&host(sums()), 0.0);
            }
        }
    }
    fn an_optimizer_step_rewrites_the_kept_copy_of_a_weight(device: &Device) {
        // A width divisible by four, the length of a vector, and one that is not.
        for width in [96, 37] {
            let tensor = |frequency| {
                let tensor = Tensor::<3>::from_data(wave([1, 9, width], frequency, 1.0), device);
                tensor.try_into_primitive::<Cube>().unwrap()
            };
            let params =
                StepParams { lr: 1e-2, keep: 0.999, betas: [0.9, 0.95], epsilon: 1e-8, corrections: [0.1, 0.05] };
            let (weight, short) = (tensor(0.7), short_of(device));
            drop(narrowed::keep(weight.clone(), short));
            let moment = || Tensor::<3>::zeros([1, 9, width], device).try_into_primitive::<Cube>().unwrap();
            let (weight, _, _) = adamw::apply(weight, tensor(0.3), moment(), moment(), params);
            let copy = narrowed::take(&weight).expect("a copy is kept");
            let expected = Tensor::<3>::from_primitive::<Cube>(weight).cast(short).cast(FloatDType::F32);
            host(copy).assert_close(&Outcome::of(expected), 0.0);
        }
    }

    on_gpus!(
        an_optimizer_step_rewrites_the_kept_copy_of_a_weight,
        pitched_rows_give_the_same_bits_without_a_copy,
        rows_at_unequal_distances_are_copied,
        column_sums_are_those_of_burn_and_the_same_bits_each_time,
    );
}
