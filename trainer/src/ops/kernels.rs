//! Kernels for GPUs, in `CubeCL`, launched on Burn's own buffers.
//!
//! A row is the work of one plane (a warp on NVIDIA): its lanes take every 32nd piece of up to 16 bytes, keep it in
//! registers, and share sums and maxima through shuffles, so that nothing needs shared memory or a barrier and a row is
//! read once. Sums over rows are the work of units that each take some columns of a group of rows.
//! All lanes take as many turns, those beyond the row's end idle ones: a shuffle takes part with the lanes that are there,
//! and after a loop that some left early, that need not be all.
//!
//! All arithmetic is f32, whatever the buffers hold.

#![expect(
    unsafe_code,
    reason = "launches that look at every index themselves; the launcher's own checks would come on top"
)]
#![allow(
    clippy::wildcard_imports,
    clippy::used_underscore_binding,
    reason = "kernels expand to two dozen names of CubeCL's, and use the binding that defines their type"
)]

pub mod adamw;
pub mod columns;
pub mod gelu;
pub mod heads;
pub mod layer_norm;
pub mod noise;
#[cfg(all(test, feature = "ptx"))]
mod ptx;
pub mod residual;
pub mod softmax;
pub mod window;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Planes of a cube at most: 256 units.
const PLANES: u32 = 8;

/// How rows are spread over the device.
struct Spread {
    count: CubeCount,
    dim: CubeDim,
    rows: u32,
    width: u32,
    lanes: u32,
}

impl Spread {
    /// Of `x` `[.., W]`.
    fn of(x: &CubeTensor) -> Self {
        let shape = x.meta.shape();
        let width = shape[shape.num_dims() - 1];
        let rows = u32::try_from(shape.num_elements() / width).expect("rows are counted in 32 bits");
        assert!(u32::try_from(shape.num_elements()).is_ok(), "kernels count values in 32 bits; use micro-batches");
        let hardware = &x.client.properties().hardware;
        let lanes = hardware.plane_size_max;
        let planes = (hardware.max_units_per_cube / lanes).clamp(1, PLANES);
        // A device may take fewer cubes along an axis than there are.
        let cubes = rows.div_ceil(planes);
        let layers = cubes.div_ceil(hardware.max_cube_count.0);
        Self {
            count: CubeCount::Static(cubes.div_ceil(layers), layers, 1),
            dim: CubeDim::new_2d(lanes, planes),
            rows,
            width: u32::try_from(width).expect("counted above"),
            lanes,
        }
    }
}

/// How single values are spread over the device.
fn elementwise(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    assert!(u32::try_from(count).is_ok(), "kernels count values in 32 bits; use micro-batches");
    let dim = CubeDim::new(client, count);
    (calculate_cube_count_elemwise(client, count, dim), dim)
}

/// The row of a unit.
#[cube]
fn own_row() -> u32 {
    CUBE_POS as u32 * CUBE_DIM_Y + UNIT_POS_Y
}

/// An uninitialised tensor beside `x`.
fn beside(x: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
}

/// `x` and the distance from row to row, where all rows are equally far apart; a copy without gaps where they are not.
fn even_rows(x: CubeTensor) -> (CubeTensor, u32) {
    let (shape, strides) = (x.meta.shape(), x.meta.strides());
    let rank = shape.num_dims();
    let even = (0..rank - 2).all(|axis| shape[axis] == 1 || strides[axis] == strides[axis + 1] * shape[axis + 1]);
    let width = shape[rank - 1];
    let rows = shape.num_elements() / width;
    // One row has no distance; rows that lie on top of each other, as an expanded one does, are copied.
    let pitch = if rows == 1 { width } else { strides[rank - 2] };
    let fits = |distance: usize| u32::try_from(rows * distance).is_ok();
    if even && strides[rank - 1] == 1 && pitch >= width && fits(pitch) {
        return (x, pitch as u32);
    }
    assert!(fits(width), "kernels count values in 32 bits; use micro-batches");
    (into_contiguous(x), width as u32)
}

/// Values that a unit moves in one go: 16 bytes of them, as far as they divide all `lengths`.
fn piece_of(x: &CubeTensor, lengths: &[usize]) -> usize {
    let mut piece = 16 / x.elem_size();
    while !divides(piece, lengths) {
        piece /= 2;
    }
    piece
}

/// The same where some values are f32, whatever the others are.
fn f32_piece_of(lengths: &[usize]) -> usize {
    [4, 2].into_iter().find(|&piece| divides(piece, lengths)).unwrap_or(1)
}

fn divides(piece: usize, lengths: &[usize]) -> bool {
    lengths.iter().all(|length| length.is_multiple_of(piece))
}

fn elem(x: &CubeTensor) -> ElemType {
    dtype_to_storage_type(x.dtype)
}

/// The sum over the lanes of a plane, in each of them.
#[cube]
fn lanes_sum(value: f32, #[comptime] lanes: u32) -> f32 {
    if comptime!(lanes > 1) { plane_sum(value) } else { value }
}

/// The sum of a piece.
#[cube]
fn sum_of<N: Size>(piece: Vector<f32, N>) -> f32 {
    let mut sum = piece.extract(0usize);
    #[unroll]
    for i in 1usize..N::value().comptime() {
        sum += piece.extract(i);
    }
    sum
}

/// The largest of a piece.
#[cube]
fn most_of<N: Size>(piece: Vector<f32, N>) -> f32 {
    let mut most = piece.extract(0usize);
    #[unroll]
    for i in 1usize..N::value().comptime() {
        most = max(most, piece.extract(i));
    }
    most
}

/// The largest over the lanes of a plane, in each of them.
#[cube]
fn lanes_max(value: f32, #[comptime] lanes: u32) -> f32 {
    if comptime!(lanes > 1) { plane_max(value) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::{Padding, Part};
    use crate::ops::testing::{Outcome, devices, short_of, wave};
    use burn::backend::Cube;
    use burn::tensor::{Device, FloatDType, Tensor};

    /// The device that `HIEND_TEST_DEVICE` names; the first is the CPU's own backend, which has no kernels.
    fn gpus() -> Vec<Device> {
        let gpus: Vec<Device> = devices().into_iter().skip(1).collect();
        if gpus.is_empty() {
            println!("nothing tested: HIEND_TEST_DEVICE names no device");
        }
        gpus
    }

    /// Rows of `width` values that begin every 64, as CUDA lays them out, and a copy without gaps.
    fn rows_with_gaps(width: usize, dtype: FloatDType, frequency: f32, device: &Device) -> [CubeTensor; 2] {
        let whole = Tensor::<3>::from_data(wave([2, 70, 64], frequency, 3.0), device).cast(dtype);
        let copy = whole.clone().narrow(2, 0, width).try_into_primitive::<Cube>().unwrap();
        let mut gaps = whole.try_into_primitive::<Cube>().unwrap();
        *gaps.meta.shape_mut() = Shape::from([2, 70, width]);
        [gaps, into_contiguous(copy)]
    }

    fn vector(width: usize, frequency: f32, device: &Device) -> CubeTensor {
        Tensor::<1>::from_data(wave([width], frequency, 1.0), device).try_into_primitive::<Cube>().unwrap()
    }

    /// Values as they are, whatever their shape.
    fn host(x: CubeTensor) -> Outcome {
        let count = x.meta.shape().num_elements();
        let values = match x.meta.shape().num_dims() {
            1 => Tensor::<1>::from_primitive::<Cube>(x).reshape([1, 1, count]),
            3 => Tensor::<3>::from_primitive::<Cube>(x),
            _ => Tensor::<4>::from_primitive::<Cube>(x).reshape([1, 1, count]),
        };
        Outcome::of(values.cast(FloatDType::F32))
    }

    #[test]
    fn gaps_between_rows_change_nothing_and_cost_no_copy() {
        for device in gpus() {
            // Rows that can be read in pieces of four, of eight, and of one.
            for (width, dtype) in [36, 40, 37].into_iter().flat_map(|w| [(w, FloatDType::F32), (w, short_of(&device))])
            {
                let tokens = rows_with_gaps(width, FloatDType::F32, 0.7, &device);
                let branch = rows_with_gaps(width, dtype, 0.3, &device);
                assert_eq!(even_rows(branch[0].clone()).1, 64);
                assert_eq!(even_rows(branch[1].clone()).1, width as u32);
                let [gamma, beta] = [1.3, 0.9].map(|frequency| vector(width, frequency, &device));
                let padding = Padding { tokens: 4, width: 8 };
                let part = |number| Part { number, parts: 2, heads: 1, padding };

                let outcomes = |of: usize| {
                    let (x, h) = (tokens[of].clone(), branch[of].clone());
                    let norm = layer_norm::backward(x.clone(), gamma.clone(), h.clone(), 1e-5);
                    let bent = gelu::backward(h.clone(), beta.clone(), h.clone());
                    let added = residual::backward(x.clone(), dtype);
                    let mut all = vec![
                        layer_norm::forward(x.clone(), gamma.clone(), beta.clone(), 1e-5, dtype),
                        gelu::forward(h.clone(), beta.clone()),
                        residual::forward(x, h.clone(), beta.clone()),
                        columns::sums(h.clone()),
                    ];
                    all.extend([norm.0, norm.1, norm.2, bent.0, bent.1, added.0, added.1]);
                    if width.is_multiple_of(2) {
                        let bias = vector(width, 0.9, &device);
                        let heads = [0, 1].map(|number| heads::split(h.clone(), Some(bias.clone()), part(number)));
                        all.extend(heads.clone());
                        all.push(heads::join(heads.into(), 70, width / 2));
                    }
                    all.into_iter().map(host)
                };
                for (of_gaps, of_copy) in outcomes(0).zip(outcomes(1)) {
                    of_gaps.assert_close(&of_copy, 0.0);
                }
            }
        }
    }

    #[test]
    fn rows_that_are_not_in_a_row_are_copied() {
        for device in gpus() {
            let pitch_of = |x: Tensor<3>| {
                let (x, pitch) = even_rows(x.try_into_primitive::<Cube>().unwrap());
                assert_eq!(x.meta.strides()[2], 1);
                pitch
            };
            let x = Tensor::<3>::from_data(wave([4, 16, 64], 0.7, 1.0), &device);
            assert_eq!(pitch_of(x.clone()), 64);
            assert_eq!(pitch_of(x.clone().swap_dims(1, 2)), 16);
            // One row, many times.
            assert_eq!(pitch_of(x.clone().narrow(1, 0, 1).expand([4, 16, 64])), 64);
            let row = x.narrow(0, 0, 1).narrow(1, 0, 1).expand([3, 5, 64]);
            assert_eq!(pitch_of(row.clone()), 64);
            let sums = columns::sums(row.clone().try_into_primitive::<Cube>().unwrap());
            host(sums).assert_close(&Outcome::of(row.narrow(0, 0, 1).narrow(1, 0, 1) * 15.0), 1e-6);
        }
    }
}
