//! Rows in the axis order of the file, and their transposition to the order of the result.
//!
//! A `NIfTI` array has its first axis fastest; the result has z fastest. Rows are computed along the file's fastest
//! axis, where they are contiguous and compile to vector code. They are collected in blocks of `BLOCK` planes before
//! they are transposed to z-fast order, which keeps the scattered writes within the processor's cache.

/// Number of planes that are collected before they are transposed to z-fast order.
const BLOCK: usize = 32;

/// Function that reads consecutive source voxels, in file order from a voxel number on, into the slice.
pub(super) type ReadRow<'a> = &'a dyn Fn(usize, &mut [f32]);

/// Position of a row in processing order.
#[derive(Clone, Copy, Debug)]
pub struct RowAt {
    /// Plane, along the source's slowest axis.
    pub plane: usize,
    /// Row of the plane, along the source's middle axis.
    pub row: usize,
}

/// Relation between the order of processing (source axes, the file's fastest first) and that of the result (z fastest).
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Number of voxels of the result along the axes of processing.
    pub(super) extent: [usize; 3],
    /// Distance in the result, in voxels, between neighbours along the axes of processing.
    pub(super) strides: [usize; 3],
}

impl Layout {
    pub(super) fn new(shape: [usize; 3], target_axis: [usize; 3]) -> Self {
        let by_output = [shape[1] * shape[2], shape[2], 1];
        Self { extent: target_axis.map(|axis| shape[axis]), strides: target_axis.map(|axis| by_output[axis]) }
    }
}

/// Fills `out`, z fastest, with the rows that `fill` computes, plane after plane, row after row.
pub(super) fn fill_by_rows<T: Copy + Default>(layout: Layout, out: &mut [T], mut fill: impl FnMut(RowAt, &mut [T])) {
    let [width, height, depth] = layout.extent;
    let mut block = vec![T::default(); width * height * BLOCK.min(depth)];
    for first in (0..depth).step_by(BLOCK) {
        let planes = BLOCK.min(depth - first);
        for (number, samples) in block.chunks_exact_mut(width).take(planes * height).enumerate() {
            fill(RowAt { plane: first + number / height, row: number % height }, samples);
        }
        place_block(&block, [width, height, planes], first, layout.strides, out);
    }
}

/// Copies a block of planes from source order to the output. The axis that is z in the output is the inner loop.
fn place_block<T: Copy>(
    block: &[T],
    [width, height, depth]: [usize; 3],
    first: usize,
    strides: [usize; 3],
    out: &mut [T],
) {
    let out = &mut out[first * strides[2]..];
    let plane = width * height;
    if strides[0] == 1 {
        for at in 0..depth {
            for row in 0..height {
                let to = at * strides[2] + row * strides[1];
                out[to..to + width].copy_from_slice(&block[at * plane + row * width..][..width]);
            }
        }
        return;
    }
    let (outer, outer_from, inner, inner_from, inner_to, outer_to) = if strides[2] == 1 {
        (height, width, depth, plane, strides[2], strides[1])
    } else {
        (depth, plane, height, width, strides[1], strides[2])
    };
    for o in 0..outer {
        for column in 0..width {
            let from = o * outer_from + column;
            let to = o * outer_to + column * strides[0];
            for i in 0..inner {
                out[to + i * inner_to] = block[from + i * inner_from];
            }
        }
    }
}
