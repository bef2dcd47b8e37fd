//! Transposed convolution with kernel and stride 2, which turns each voxel into a block of 2×2×2, and its gradients.
//!
//! Blocks do not overlap, so this is a product of weights `[out * 8, in]` with the channels of each voxel, whose results
//! are written in the order of the larger volume as they are made.

use rayon::prelude::*;

use crate::conv::ConvShape;
use crate::conv::micro::BLOCK;
use crate::conv::panel::{Tile, VoxelRange, interleave_rows, pack_weights, tile_width, tiles, weight_gradient};
use crate::output::{Blank, Part};

/// Number of voxels that each voxel becomes.
const CHILDREN: usize = 8;

/// Applies the transposed convolution with `weight` `[in, out, 2, 2, 2]` to `x` `[N, in, X, Y, Z]` → `[N, out, 2X, 2Y,
/// 2Z]`.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn up_conv2(x: &[f32], weight: &[f32], shape: ConvShape) -> Vec<f32> {
    let ConvShape { batch, in_channels, out_channels, .. } = shape;
    check(shape, x, weight);
    let num_rows = out_channels * CHILDREN;
    let packed = pack_weights(in_channels, num_rows, |o, i| weight[i * num_rows + o]);
    let y = Blank::new(CHILDREN * shape.output_len());
    let width = whole_rows(tile_width(in_channels), shape);
    let task = |(tile, children): &mut (Tile, Vec<f32>), at: VoxelRange| {
        fill(tile, x, shape, at);
        let mut part = y.part();
        let stride = at.len.next_multiple_of(24);
        for (o, packed) in packed.chunks_exact((in_channels * CHILDREN).max(1)).enumerate() {
            tile.multiply(packed, &[0.0; CHILDREN], at.len, |block, voxel, rows| {
                for (child, row) in rows.iter().enumerate() {
                    children[(block * BLOCK + child) * stride + voxel..][..row.len()].copy_from_slice(row);
                }
            });
            store(children, stride, shape, o, at, &mut part);
        }
    };
    let init = || (Tile::new(in_channels, width), vec![0.0; CHILDREN * width.next_multiple_of(24)]);
    tiles(batch, shape.num_voxels(), width).into_par_iter().for_each_init(init, task);
    y.finish()
}

/// Writes the children `[8][stride]` of a tile's voxels to a channel of the larger volume.
fn store(children: &[f32], stride: usize, shape: ConvShape, o: usize, at: VoxelRange, part: &mut Part<'_>) {
    let size_z = shape.size[2];
    let mut line = vec![0.0; 2 * size_z];
    for (row, start) in (0..at.len).step_by(size_z).enumerate() {
        for pair in 0..CHILDREN / 2 {
            let near = &children[2 * pair * stride + start..][..size_z];
            let far = &children[(2 * pair + 1) * stride + start..][..size_z];
            for ((line, &near), &far) in line.as_chunks_mut::<2>().0.iter_mut().zip(near).zip(far) {
                *line = [near, far];
            }
            #[allow(unsafe_code, reason = "rows of an output that threads share")]
            // SAFETY: tiles are disjoint sets of rows, of which each channel's four children rows are written once.
            unsafe {
                part.write(child_row(shape, at.n * shape.out_channels + o, at.start / size_z + row, pair), &line);
            }
        }
    }
}

/// Index of the larger volume's row that belongs to row `row` (counted over x and y) of the smaller volume. `pair` is 0
/// to 3: twice the child's position along x plus its position along y.
fn child_row(shape: ConvShape, channel: usize, row: usize, pair: usize) -> usize {
    let [size_x, size_y, size_z] = shape.size;
    let [x, y] = [2 * (row / size_y) + pair / 2, 2 * (row % size_y) + pair % 2];
    ((channel * 2 * size_x + x) * 2 * size_y + y) * 2 * size_z
}

/// Gradient of the input of [`up_conv2`]: `dy` `[N, out, 2X, 2Y, 2Z]` → `[N, in, X, Y, Z]`.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn up_conv2_input_gradient(dy: &[f32], weight: &[f32], shape: ConvShape) -> Vec<f32> {
    let ConvShape { batch, in_channels, out_channels, .. } = shape;
    assert_eq!(dy.len(), CHILDREN * shape.output_len(), "gradient");
    assert_eq!(weight.len(), in_channels * out_channels * CHILDREN, "weight");
    let num_rows = out_channels * CHILDREN;
    let packed = pack_weights(num_rows, in_channels, |i, o| weight[i * num_rows + o]);
    let initial = vec![0.0; in_channels.next_multiple_of(BLOCK)];
    let num_voxels = shape.num_voxels();
    let dx = Blank::new(shape.input_len());
    let width = whole_rows(tile_width(num_rows), shape);
    let task = |tile: &mut Tile, at: VoxelRange| {
        fill_children(tile, dy, shape, at);
        let mut part = dx.part();
        tile.multiply(&packed, &initial, at.len, |block, voxel, rows| {
            for (i, row) in (block * BLOCK..in_channels).zip(rows) {
                let row = &row[..row.len().min(at.len - voxel)];
                #[allow(unsafe_code, reason = "rows of an output that threads share")]
                // SAFETY: tiles are disjoint ranges of voxels, of which each block of channels is stored once.
                unsafe {
                    part.write((at.n * in_channels + i) * num_voxels + at.start + voxel, row);
                }
            }
        });
    };
    tiles(batch, num_voxels, width).into_par_iter().for_each_init(|| Tile::new(num_rows, width), task);
    dx.finish()
}

/// Gradient of the weight of [`up_conv2`]: `x` `[N, in, X, Y, Z]` and `dy` `[N, out, 2X, 2Y, 2Z]` → `[in, out, 2, 2, 2]`.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn up_conv2_weight_gradient(x: &[f32], dy: &[f32], shape: ConvShape) -> Vec<f32> {
    let ConvShape { batch, in_channels, out_channels, .. } = shape;
    assert_eq!(x.len(), shape.input_len(), "input");
    assert_eq!(dy.len(), CHILDREN * shape.output_len(), "gradient");
    let num_voxels = shape.num_voxels();
    let num_rows = out_channels * CHILDREN;
    weight_gradient(
        [in_channels, num_rows],
        &tiles(batch, num_voxels, whole_rows(tile_width(num_rows), shape)),
        |tile, at| fill_children(tile, dy, shape, at),
        |packed, block, VoxelRange { n, start, len }| {
            interleave_rows(packed, |i| {
                let i = block * BLOCK + i;
                (i < in_channels).then(|| &x[(n * in_channels + i) * num_voxels + start..][..len])
            });
        },
    )
}

fn check(shape: ConvShape, x: &[f32], weight: &[f32]) {
    assert_eq!(x.len(), shape.input_len(), "input");
    assert_eq!(weight.len(), shape.in_channels * shape.out_channels * CHILDREN, "weight");
}

/// Number of voxels in a tile of whole rows along z: at least one row, and about `width` voxels.
fn whole_rows(width: usize, shape: ConvShape) -> usize {
    let size_z = shape.size[2].max(1);
    (width / size_z).max(1) * size_z
}

/// Copies voxels of all channels of the input into a tile.
fn fill(tile: &mut Tile, x: &[f32], shape: ConvShape, at: VoxelRange) {
    for (channel, row) in tile.rows_mut().enumerate() {
        let from = (at.n * shape.in_channels + channel) * shape.num_voxels() + at.start;
        row[..at.len].copy_from_slice(&x[from..][..at.len]);
    }
}

/// Copies the children of voxels into a tile `[out * 8]`.
fn fill_children(tile: &mut Tile, dy: &[f32], shape: ConvShape, at: VoxelRange) {
    let size_z = shape.size[2];
    for (o, row) in tile.rows_mut().enumerate() {
        let (channel, pair, child_z) = (o / CHILDREN, o % CHILDREN / 2, o % 2);
        for (number, row) in row[..at.len].chunks_exact_mut(size_z).enumerate() {
            let from = child_row(shape, at.n * shape.out_channels + channel, at.start / size_z + number, pair);
            for (value, children) in row.iter_mut().zip(dy[from..][..2 * size_z].as_chunks::<2>().0) {
                *value = children[child_z];
            }
        }
    }
}
