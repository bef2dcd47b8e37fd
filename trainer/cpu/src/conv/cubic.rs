//! Kernels of 3×3×3 voxels: the convolution and the gradient of its input.

use std::ops::Range;

use rayon::prelude::*;
use wide::f32x8;

use super::ConvShape;
use super::micro::{BLOCK, LANES, Sums, add_row, rows_of};
use super::panel::pack_weights;
use super::strips::{NUM_TASKS, Ring, Strip, ranges, strips};
use crate::output::{Blank, Part};

/// Number of kernel weights for one input channel and one output channel.
pub(super) const TAPS: usize = 27;

/// Convolves `x` `[N, in, X, Y, Z]` with `weight` `[out, in, 3, 3, 3]` and adds `bias` `[out]` → `[N, out, X, Y, Z]`.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn conv3(x: &[f32], weight: &[f32], bias: Option<&[f32]>, shape: ConvShape) -> Vec<f32> {
    let ConvShape { in_channels, out_channels, .. } = shape;
    assert_eq!(weight.len(), out_channels * in_channels * TAPS, "weight");
    let packed = pack_weights(in_channels * TAPS, out_channels, |o, k| weight[o * in_channels * TAPS + k]);
    convolve(x, &packed, bias, shape)
}

/// Gradient of the input of [`conv3`]: `dy` `[N, out, X, Y, Z]` → `[N, in, X, Y, Z]`.
///
/// # Panics
/// If a slice has another length than `shape` says.
#[must_use]
pub fn conv3_input_gradient(dy: &[f32], weight: &[f32], shape: ConvShape) -> Vec<f32> {
    let ConvShape { in_channels, out_channels, .. } = shape;
    assert_eq!(weight.len(), out_channels * in_channels * TAPS, "weight");
    // The gradient is the convolution with the kernel mirrored and its channels swapped.
    let packed = pack_weights(out_channels * TAPS, in_channels, |i, k| {
        let (o, tap) = (k / TAPS, k % TAPS);
        weight[(o * in_channels + i) * TAPS + (TAPS - 1 - tap)]
    });
    convolve(dy, &packed, None, shape.reversed())
}

fn convolve(x: &[f32], packed: &[f32], bias: Option<&[f32]>, shape: ConvShape) -> Vec<f32> {
    assert_eq!(x.len(), shape.input_len(), "input");
    assert!(bias.is_none_or(|bias| bias.len() == shape.out_channels), "bias");
    let y = Blank::new(shape.output_len());
    let mut initial = vec![0.0; shape.out_channels.next_multiple_of(BLOCK)];
    if let Some(bias) = bias {
        initial[..bias.len()].copy_from_slice(bias);
    }
    let strips = strips(shape, shape.in_channels);
    // Blocks are split only where strips are too few: each part copies the input's rows once more.
    let num_blocks = initial.len() / BLOCK;
    let num_parts = NUM_TASKS.div_ceil(strips.len().max(1)).min(num_blocks.div_ceil(4)).max(1);
    let convolution = Convolution { packed, initial: &initial, shape, y: &y };
    let tasks: Vec<_> =
        strips.iter().flat_map(|strip| ranges(num_blocks, num_parts).map(move |blocks| (strip, blocks))).collect();
    tasks.into_par_iter().for_each(|(strip, blocks)| convolution.run(x, strip, blocks));
    y.finish()
}

struct Convolution<'a> {
    /// Packed weights, `[out / BLOCK][in * 27][BLOCK]`.
    packed: &'a [f32],
    /// Initial value of each channel: its bias, or 0.
    initial: &'a [f32],
    shape: ConvShape,
    y: &'a Blank,
}

impl Convolution<'_> {
    /// Computes the blocks of channels in `blocks` for one strip.
    fn run(&self, x: &[f32], strip: &Strip, blocks: Range<usize>) {
        let mut ring = Ring::new(self.shape, strip, 0..self.shape.in_channels);
        let mut part = self.y.part();
        for at_x in strip.x.clone() {
            ring.advance(x, at_x);
            for block in blocks.clone() {
                for at_y in strip.y.clone() {
                    self.row(&ring, strip, block, [at_x, at_y], &mut part);
                }
            }
        }
    }

    /// Computes one row along z of a block of channels.
    fn row(&self, ring: &Ring, strip: &Strip, block: usize, [at_x, at_y]: [usize; 2], part: &mut Part<'_>) {
        let [size_x, size_y, size_z] = self.shape.size;
        let block_len = self.shape.in_channels * TAPS * BLOCK;
        let weights = &self.packed[block * block_len..][..block_len];
        let start = (at_y - strip.y.start) * ring.row_stride;
        let first = block * BLOCK;
        let initial: [f32x8; BLOCK] = std::array::from_fn(|o| f32x8::splat(self.initial[first + o]));
        let num_vectors = size_z.div_ceil(LANES);
        let mut done = 0;
        while done < num_vectors {
            let at_z = done * LANES;
            // Two blocks of 2 vectors keep more registers busy than one of 3 and one of 1.
            let (rows, num_done) = match num_vectors - done {
                1 => (rows_of(&sum_block::<1>(ring, start + at_z, weights, initial)), 1),
                2 | 4 => (rows_of(&sum_block::<2>(ring, start + at_z, weights, initial)), 2),
                _ => (rows_of(&sum_block::<3>(ring, start + at_z, weights, initial)), 3),
            };
            done += num_done;
            let len = (num_done * LANES).min(size_z - at_z);
            for (o, row) in (first..self.shape.out_channels).zip(&rows) {
                let channel = strip.n * self.shape.out_channels + o;
                let at = ((channel * size_x + at_x) * size_y + at_y) * size_z + at_z;
                #[allow(unsafe_code, reason = "rows of an output that threads share")]
                // SAFETY: tasks are disjoint boxes of (n, channel, x, y), and each of their rows is written once.
                unsafe {
                    part.write(at, &row[..len]);
                }
            }
        }
    }
}

/// Sums of a block over all input channels and taps, in the order channel, x, y, z.
#[inline(never)]
fn sum_block<const V: usize>(ring: &Ring, start: usize, weights: &[f32], initial: [f32x8; BLOCK]) -> Sums<V> {
    let mut sums: Sums<V> = initial.map(|value| [value; V]);
    let planes = ring.planes();
    for (channel, weights) in weights.chunks_exact(TAPS * BLOCK).enumerate() {
        let at = start + channel * ring.channel_stride;
        for (plane, weights) in planes.iter().zip(weights.chunks_exact(9 * BLOCK)) {
            for (y, weights) in weights.chunks_exact(3 * BLOCK).enumerate() {
                add_row::<V, 3>(&mut sums, &plane[at + y * ring.row_stride..], weights);
            }
        }
    }
    sums
}
