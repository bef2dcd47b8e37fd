//! Launch dimensions, and preparation of tensors for kernels.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

/// Maximum number of planes in a cube: 256 units where a plane has 32.
const PLANES: u32 = 8;

/// A launch with one plane per row.
pub(super) struct RowLaunch {
    pub(super) count: CubeCount,
    pub(super) dim: CubeDim,
    /// Number of rows.
    pub(super) rows: u32,
    /// Number of values in a row.
    pub(super) width: u32,
    /// Number of units in a plane.
    pub(super) lanes: u32,
}

impl RowLaunch {
    /// Creates the launch over the rows of `x` `[.., W]`.
    pub(super) fn over(x: &CubeTensor) -> Self {
        let shape = x.meta.shape();
        let width = shape[shape.num_dims() - 1];
        let rows = u32::try_from(shape.num_elements() / width).expect("rows are counted in 32 bits");
        assert!(u32::try_from(shape.num_elements()).is_ok(), "kernels count values in 32 bits; use micro-batches");
        Self { width: u32::try_from(width).expect("counted above"), ..Self::of(x, rows) }
    }

    /// Creates the launch of one plane for each of `rows` rows of one value, on the device of `x`.
    pub(super) fn of(x: &CubeTensor, rows: u32) -> Self {
        let hardware = &x.client.properties().hardware;
        let lanes = hardware.plane_size_max;
        let planes = (hardware.max_units_per_cube / lanes).clamp(1, PLANES);
        Self {
            count: cubes(&x.client, rows.div_ceil(planes)),
            dim: CubeDim::new_2d(lanes, planes),
            rows,
            width: 1,
            lanes,
        }
    }
}

/// Returns the dimensions of a launch of at least `count` cubes. A device may limit their number along one axis.
pub(super) fn cubes(client: &Client, count: u32) -> CubeCount {
    let layers = count.div_ceil(client.properties().hardware.max_cube_count.0);
    CubeCount::Static(count.div_ceil(layers), layers, 1)
}

/// Returns the dimensions of a launch of `count` independent units.
pub(super) fn elementwise(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    assert!(u32::try_from(count).is_ok(), "kernels count values in 32 bits; use micro-batches");
    let dim = CubeDim::new(client, count);
    (calculate_cube_count_elemwise(client, count, dim), dim)
}

/// Allocates an uninitialised contiguous tensor on the device of `x`.
pub(in crate::ops) fn uninit(x: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
}

/// Returns `x` and the distance between its rows, in values. Rows at unequal distances are first copied into a
/// contiguous tensor.
pub(super) fn even_rows(x: CubeTensor) -> (CubeTensor, u32) {
    let (shape, strides) = (x.meta.shape(), x.meta.strides());
    let rank = shape.num_dims();
    // The stride of an axis of length 1 means nothing, so such axes are passed over.
    let axes: Vec<usize> = (0..rank - 1).filter(|&axis| shape[axis] != 1).collect();
    let even = axes.windows(2).all(|pair| strides[pair[0]] == strides[pair[1]] * shape[pair[1]]);
    let width = shape[rank - 1];
    let rows = shape.num_elements() / width;
    // A single row has no pitch; rows that overlap, such as those of an expanded tensor, are copied.
    let pitch = axes.last().map_or(width, |&axis| strides[axis]);
    let fits = |distance: usize| u32::try_from(rows * distance).is_ok();
    if even && strides[rank - 1] == 1 && pitch >= width && fits(pitch) {
        return (x, pitch as u32);
    }
    assert!(fits(width), "kernels count values in 32 bits; use micro-batches");
    (into_contiguous(x), width as u32)
}

/// Number of values of `x` that a unit loads at once: up to 16 bytes, provided that it divides all `lengths`.
pub(super) fn vector_size_of(x: &CubeTensor, lengths: &[usize]) -> usize {
    let mut size = 16 / x.elem_size();
    while !divides(size, lengths) {
        size /= 2;
    }
    size
}

/// Like [`vector_size_of`], for a kernel with at least one f32 buffer, whatever the type of the others.
pub(super) fn f32_vector_size(lengths: &[usize]) -> usize {
    [4, 2].into_iter().find(|&size| divides(size, lengths)).unwrap_or(1)
}

fn divides(size: usize, lengths: &[usize]) -> bool {
    lengths.iter().all(|length| length.is_multiple_of(size))
}

/// Element type of `x`, in the form that kernels take.
pub(super) fn elem(x: &CubeTensor) -> ElemType {
    dtype_to_storage_type(x.dtype)
}
