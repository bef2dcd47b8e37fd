//! Kernels of 3×3×3 voxels: the gradient of the weights.

use std::ops::Range;

use rayon::prelude::*;
use wide::f32x8;

use super::ConvShape;
use super::cubic::TAPS;
use super::micro::{BLOCK, LANES, add_lanes, add_products_of_shifts};
use super::panel::{interleave_rows, sum_partials};
use super::strips::{NUM_TASKS, Ring, Strip, Vector, channels_of_whole_planes, ranges, strips};

/// Smallest and largest number of blocks of output channels of a task, which share copies of the input.
const NUM_BLOCKS: [usize; 2] = [4, 8];

/// Number of input channels of a task: so few that the cache holds whole planes, over which sums stay in registers, but
/// not so few that the gradient of the output is packed too often.
fn group_len(shape: ConvShape) -> usize {
    channels_of_whole_planes(shape).clamp(16, 32)
}

/// Gradient of the weights of [`super::conv3`]: `x` `[N, in, X, Y, Z]` and `dy` `[N, out, X, Y, Z]` → `[out, in, 3, 3, 3]`.
///
/// Products are added in f32: over the rows of a strip in 8 lanes, then plane after plane, then over at most 32 parts of
/// the batch.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn conv3_weight_gradient(x: &[f32], dy: &[f32], shape: ConvShape) -> Vec<f32> {
    assert_eq!(x.len(), shape.input_len(), "input");
    assert_eq!(dy.len(), shape.output_len(), "gradient");
    let ConvShape { in_channels, out_channels, .. } = shape;
    let groups = in_channels.div_ceil(group_len(shape));
    let strips = strips(shape, in_channels.div_ceil(groups.max(1)));
    // Tasks take fewer blocks where they would be too few otherwise.
    let num_blocks = out_channels.div_ceil(BLOCK);
    let [most, least] = NUM_BLOCKS.map(|count| num_blocks.div_ceil(count));
    let block_ranges = NUM_TASKS.div_ceil((groups * strips.len()).max(1)).min(most).max(least);
    // Parts of the batch whose sums are added at the end.
    let num_parts = NUM_TASKS.div_ceil((groups * block_ranges).max(1)).min(strips.len()).max(1);
    let mut tasks = Vec::with_capacity(groups * block_ranges * num_parts);
    for channels in ranges(in_channels, groups) {
        for blocks in ranges(num_blocks, block_ranges) {
            for part in ranges(strips.len(), num_parts) {
                tasks.push((channels.clone(), blocks.clone(), &strips[part]));
            }
        }
    }
    let partials: Vec<Vec<f32>> = tasks
        .par_iter()
        .map(|(channels, blocks, strips)| {
            let mut sums = vec![0.0; blocks.len() * channels.len() * TAPS * BLOCK];
            for strip in *strips {
                add_strip(&mut sums, [x, dy], shape, strip, channels.clone(), blocks.clone());
            }
            sums
        })
        .collect();

    let mut gradient = vec![0.0; out_channels * in_channels * TAPS];
    for (parts, tasks) in partials.chunks(num_parts).zip(tasks.chunks(num_parts)) {
        let (channels, blocks, _) = &tasks[0];
        // [blocks][channels][27][BLOCK]
        let mut sums = sum_partials(parts).into_iter();
        for block in blocks.clone() {
            for channel in channels.clone() {
                for tap in 0..TAPS {
                    for (o, sum) in (block * BLOCK..(block + 1) * BLOCK).zip(sums.by_ref().take(BLOCK)) {
                        if o < out_channels {
                            gradient[(o * in_channels + channel) * TAPS + tap] = sum;
                        }
                    }
                }
            }
        }
    }
    gradient
}

/// Adds the products of one strip to `sums` `[blocks][channels][27][BLOCK]`.
fn add_strip(
    sums: &mut [f32],
    [x, dy]: [&[f32]; 2],
    shape: ConvShape,
    strip: &Strip,
    channels: Range<usize>,
    blocks: Range<usize>,
) {
    let [size_x, size_y, size_z] = shape.size;
    let num_vectors = size_z.div_ceil(LANES);
    let block_len = strip.y.len() * num_vectors * BLOCK * LANES;
    let mut ring = Ring::new(shape, strip, channels.clone());
    let vectors = ring.vectors();
    let mut packed = vec![0.0; block_len];
    for at_x in strip.x.clone() {
        ring.advance(x, at_x);
        for (block, sums) in blocks.clone().zip(sums.chunks_exact_mut(channels.len() * TAPS * BLOCK)) {
            for (at_y, packed) in strip.y.clone().zip(packed.chunks_exact_mut(num_vectors * BLOCK * LANES)) {
                interleave_rows(packed, |o| {
                    let o = block * BLOCK + o;
                    let row = (((strip.n * shape.out_channels + o) * size_x + at_x) * size_y + at_y) * size_z;
                    (o < shape.out_channels).then(|| &dy[row..][..size_z])
                });
            }
            for (channel, sums) in sums.chunks_exact_mut(TAPS * BLOCK).enumerate() {
                for (plane, sums) in ring.planes().into_iter().zip(sums.chunks_exact_mut(9 * BLOCK)) {
                    for (y, sums) in sums.chunks_exact_mut(3 * BLOCK).enumerate() {
                        let rows = &plane[channel * ring.channel_stride + y * ring.row_stride..];
                        add_products(sums, &packed, rows, &vectors);
                    }
                }
            }
        }
    }
}

/// Adds the products of a plane of a strip to `sums` `[3][BLOCK]`, for three taps along z.
#[inline(never)]
fn add_products(sums: &mut [f32], dy: &[f32], rows: &[f32], vectors: &[Vector]) {
    let mut products = [[f32x8::ZERO; 3]; BLOCK];
    add_products_of_shifts(&mut products, dy, rows, vectors.iter().map(|vector| vector.start));
    for (z, sums) in sums.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        add_lanes(sums, products.map(|products| products[z]));
    }
}
