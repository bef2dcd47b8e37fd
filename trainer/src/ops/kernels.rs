//! Kernels for GPUs, in CubeCL, launched on Burn's own buffers.
//!
//! A row is the work of one plane (a warp on NVIDIA): its lanes take every 32nd value and share sums and maxima
//! through shuffles, so nothing needs shared memory or a barrier. All lanes take as many turns, those beyond the row's
//! end idle ones: a shuffle takes part with the lanes that are there, and after a loop that some left early, that need
//! not be all. On the CPU, where the tests run, a plane is one lane.
//! Rows are read two or three times; they are a few kilobytes long and stay in the first cache in between.
//!
//! All arithmetic is f32, whatever the buffers hold.

#![expect(
    unsafe_code,
    reason = "launches that look at every index themselves; the launcher's own checks would come on top"
)]

pub mod adamw;
pub mod gelu;
pub mod heads;
pub mod layer_norm;
pub mod noise;
#[cfg(all(test, feature = "ptx"))]
mod ptx;
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
struct Rows {
    count: CubeCount,
    dim: CubeDim,
    rows: u32,
    width: u32,
    lanes: u32,
}

impl Rows {
    /// Of `x` `[.., W]`.
    fn of(x: &CubeTensor) -> Self {
        let shape = x.meta.shape();
        let width = shape[shape.num_dims() - 1];
        let rows = u32::try_from(shape.num_elements() / width).expect("rows are counted in 32 bits");
        assert!(u32::try_from(shape.num_elements()).is_ok(), "kernels count values in 32 bits; use micro-batches");
        let hardware = &x.client.properties().hardware;
        let lanes = hardware.plane_size_max;
        let planes = (hardware.max_units_per_cube / lanes).clamp(1, PLANES);
        Self {
            count: CubeCount::Static(rows.div_ceil(planes), 1, 1),
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

/// An uninitialised tensor beside `x`.
fn beside(x: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
}

/// `x` and the distance from row to row, where all rows are equally far apart; a copy without gaps where they are not.
fn even_rows(x: CubeTensor) -> (CubeTensor, u32) {
    let (shape, strides) = (x.meta.shape(), x.meta.strides());
    let rank = shape.num_dims();
    let even = (0..rank - 2).all(|axis| shape[axis] == 1 || strides[axis] == strides[axis + 1] * shape[axis + 1]);
    let pitch = strides[rank - 2].max(shape[rank - 1]);
    let rows = shape.num_elements() / shape[rank - 1];
    if even && strides[rank - 1] == 1 && u32::try_from(rows * pitch).is_ok() {
        return (x, pitch as u32);
    }
    let width = shape[rank - 1];
    (into_contiguous(x), width as u32)
}

fn elem(x: &CubeTensor) -> ElemType {
    dtype_to_storage_type(x.dtype)
}

/// The sum over the lanes of a plane, in each of them.
#[cube]
fn lanes_sum(value: f32, #[comptime] lanes: u32) -> f32 {
    if comptime!(lanes > 1) { plane_sum(value) } else { value }
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
    use crate::ops::testing::{Outcome, devices, wave};
    use burn::backend::Cube;
    use burn::tensor::{Device, FloatDType, Tensor};

    /// Rows of `width` values that begin every 64, as CUDA lays them out, and a copy without gaps.
    fn rows_with_gaps(width: usize, device: &Device) -> [CubeTensor; 2] {
        let whole = Tensor::<3>::from_data(wave([2, 6, 64], 0.7, 5.0), device);
        let copy = whole.clone().narrow(2, 0, width).try_into_primitive::<Cube>().unwrap();
        let mut gaps = whole.try_into_primitive::<Cube>().unwrap();
        *gaps.meta.shape_mut() = Shape::from([2, 6, width]);
        [gaps, into_contiguous(copy)]
    }

    #[test]
    fn gaps_between_rows_change_nothing_and_cost_no_copy() {
        let host = |x| Outcome::of(Tensor::from_primitive::<Cube>(x));
        let padding = Padding { tokens: 4, width: 8 };
        // The first device is the CPU's own backend.
        for device in devices().into_iter().skip(1) {
            let [gaps, copy] = rows_with_gaps(36, &device);
            let (x, pitch) = even_rows(gaps.clone());
            assert_eq!((x.meta.strides()[1], pitch), (64, 64));
            assert_eq!(even_rows(copy.clone()).1, 36);

            let [gamma, beta] = [1.3, 0.9].map(|frequency| {
                let vector = Tensor::<1>::from_data(wave([36], frequency, 1.0), &device);
                vector.try_into_primitive::<Cube>().unwrap()
            });
            let norm = |x| layer_norm::forward(x, gamma.clone(), beta.clone(), 1e-5, FloatDType::F32);
            host(norm(gaps.clone())).assert_close(&host(norm(copy.clone())), 0.0);
            let [of_gaps, of_copy] =
                [&gaps, &copy].map(|x| layer_norm::backward(x.clone(), gamma.clone(), x.clone(), 1e-5));
            host(of_gaps.0).assert_close(&host(of_copy.0), 0.0);
            let vector = |x: CubeTensor| Outcome::of(Tensor::<1>::from_primitive::<Cube>(x).reshape([1, 1, 36]));
            vector(of_gaps.1).assert_close(&vector(of_copy.1), 0.0);
            vector(of_gaps.2).assert_close(&vector(of_copy.2), 0.0);

            let split = |x| heads::split(x, Part { number: 1, parts: 2, heads: 2, padding });
            let rows = |x| Outcome::of(Tensor::<4>::from_primitive::<Cube>(x).flatten(0, 1));
            rows(split(gaps)).assert_close(&rows(split(copy)), 0.0);
        }
    }

    #[test]
    fn rows_that_are_not_in_a_row_are_copied() {
        for device in devices().into_iter().skip(1) {
            let turned = Tensor::<3>::from_data(wave([4, 16, 64], 0.7, 1.0), &device).swap_dims(1, 2);
            let (turned, pitch) = even_rows(turned.try_into_primitive::<Cube>().unwrap());
            assert_eq!((turned.meta.strides()[2], pitch), (1, 16));
        }
    }
}
