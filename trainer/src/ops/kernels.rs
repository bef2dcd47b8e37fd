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
pub mod layer_norm;
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
