//! Kernels of one voxel: a product of weights with the channels of each voxel.

use rayon::prelude::*;

use super::ConvShape;
use super::micro::BLOCK;
use super::panel::{Tile, VoxelRange, interleave_rows, pack_weights, tile_width, tiles, weight_gradient};
use crate::output::Blank;

/// Multiplies `weight` `[out, in]` by the channels of `x` `[N, in, X, Y, Z]` and adds `bias` `[out]` → `[N, out, X, Y,
/// Z]`.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn conv1(x: &[f32], weight: &[f32], bias: Option<&[f32]>, shape: ConvShape) -> Vec<f32> {
    let ConvShape { in_channels, out_channels, .. } = shape;
    assert_eq!(weight.len(), out_channels * in_channels, "weight");
    multiply(x, &pack_weights(in_channels, out_channels, |o, i| weight[o * in_channels + i]), bias, shape)
}

/// Gradient of the input of [`conv1`]: `dy` `[N, out, X, Y, Z]` → `[N, in, X, Y, Z]`.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn conv1_input_gradient(dy: &[f32], weight: &[f32], shape: ConvShape) -> Vec<f32> {
    let ConvShape { in_channels, out_channels, .. } = shape;
    assert_eq!(weight.len(), out_channels * in_channels, "weight");
    let packed = pack_weights(out_channels, in_channels, |i, o| weight[o * in_channels + i]);
    multiply(dy, &packed, None, shape.reversed())
}

/// Copies voxels of all channels into a tile.
fn fill(tile: &mut Tile, x: &[f32], in_channels: usize, num_voxels: usize, at: VoxelRange) {
    for (channel, row) in tile.rows_mut().enumerate() {
        row[..at.len].copy_from_slice(&x[(at.n * in_channels + channel) * num_voxels + at.start..][..at.len]);
    }
}

fn multiply(x: &[f32], packed: &[f32], bias: Option<&[f32]>, shape: ConvShape) -> Vec<f32> {
    assert_eq!(x.len(), shape.input_len(), "input");
    assert!(bias.is_none_or(|bias| bias.len() == shape.out_channels), "bias");
    let ConvShape { in_channels, out_channels, .. } = shape;
    let mut initial = vec![0.0; out_channels.next_multiple_of(BLOCK)];
    if let Some(bias) = bias {
        initial[..bias.len()].copy_from_slice(bias);
    }
    let num_voxels = shape.num_voxels();
    let y = Blank::new(shape.output_len());
    let width = tile_width(in_channels);
    let compute = |tile: &mut Tile, at: VoxelRange| {
        fill(tile, x, in_channels, num_voxels, at);
        let VoxelRange { n, start, len } = at;
        let mut part = y.part();
        tile.multiply(packed, &initial, len, |block, voxel, rows| {
            for (o, row) in (block * BLOCK..out_channels).zip(rows) {
                let row = &row[..row.len().min(len - voxel)];
                #[allow(unsafe_code, reason = "rows of an output that threads share")]
                // SAFETY: tiles are disjoint ranges of voxels, of which each block of channels is stored once.
                unsafe {
                    part.write((n * out_channels + o) * num_voxels + start + voxel, row);
                }
            }
        });
    };
    tiles(shape.batch, num_voxels, width).into_par_iter().for_each_init(|| Tile::new(in_channels, width), compute);
    y.finish()
}

/// Gradient of the weight of [`conv1`]: `x` `[N, in, X, Y, Z]` and `dy` `[N, out, X, Y, Z]` → `[out, in]`.
///
/// Products are added in f32: within a tile in 8 lanes, then tile after tile, then over at most 32 parts of the batch.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn conv1_weight_gradient(x: &[f32], dy: &[f32], shape: ConvShape) -> Vec<f32> {
    assert_eq!(x.len(), shape.input_len(), "input");
    assert_eq!(dy.len(), shape.output_len(), "gradient");
    let ConvShape { in_channels, out_channels, .. } = shape;
    let num_voxels = shape.num_voxels();
    weight_gradient(
        [out_channels, in_channels],
        &tiles(shape.batch, num_voxels, tile_width(in_channels)),
        |tile, at| fill(tile, x, in_channels, num_voxels, at),
        |packed, block, VoxelRange { n, start, len }| {
            interleave_rows(packed, |o| {
                let o = block * BLOCK + o;
                (o < out_channels).then(|| &dy[(n * out_channels + o) * num_voxels + start..][..len])
            });
        },
    )
}
