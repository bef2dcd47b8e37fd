//! Kernels of 3×3×3 voxels: the convolution and the gradient of its input.

use std::ops::Range;

use rayon::prelude::*;
use wide::f32x8;

use super::ConvShape;
use super::micro::{BLOCK, LANES, Sums, add_vectors};
use super::panel::pack_weights;
use super::strips::{NUM_TASKS, Ring, Strip, Vector, ranges, strips};
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
        let vectors = ring.vectors();
        let mut part = self.y.part();
        for at_x in strip.x.clone() {
            ring.advance(x, at_x);
            for block in blocks.clone() {
                ring.prefetch(x, block - blocks.start, blocks.len());
                self.plane(&ring, &vectors, [strip.n, block, at_x], &mut part);
            }
        }
    }

    /// Computes the plane `at_x` of a block of channels in volume `n`, three vectors of voxels at a time.
    fn plane(&self, ring: &Ring, vectors: &[Vector], [n, block, at_x]: [usize; 3], part: &mut Part<'_>) {
        let block_len = self.shape.in_channels * TAPS * BLOCK;
        let weights = &self.packed[block * block_len..][..block_len];
        let [size_x, size_y, size_z] = self.shape.size;
        let first = block * BLOCK;
        let initial: [f32x8; BLOCK] = std::array::from_fn(|o| f32x8::splat(self.initial[first + o]));
        let plane = |o: usize| ((n * self.shape.out_channels + o) * size_x + at_x) * size_y * size_z;
        let planes: [Option<usize>; BLOCK] =
            std::array::from_fn(|o| (first + o < self.shape.out_channels).then(|| plane(first + o)));
        let (threes, rest) = vectors.as_chunks::<3>();
        for vectors in threes {
            store(&sum_block(ring, vectors, weights, initial), vectors, planes, part);
        }
        match rest {
            [a, b] => store(&sum_block(ring, &[*a, *b], weights, initial), &[*a, *b], planes, part),
            [a] => store(&sum_block(ring, &[*a], weights, initial), &[*a], planes, part),
            _ => {}
        }
    }
}

/// Writes the sums of some vectors. `planes` holds the index of each channel's plane in the output, if there is one.
#[inline]
fn store<const V: usize>(sums: &Sums<V>, vectors: &[Vector; V], planes: [Option<usize>; BLOCK], part: &mut Part<'_>) {
    for (sums, plane) in sums.iter().zip(planes) {
        let Some(plane) = plane else { return };
        for (sum, vector) in sums.iter().zip(vectors) {
            let lanes = sum.to_array();
            #[allow(unsafe_code, reason = "rows of an output that threads share")]
            // SAFETY: tasks are disjoint boxes of (n, channel, x, y), and each of their vectors is written once.
            unsafe {
                if vector.len == LANES {
                    part.write(plane + vector.place, &lanes);
                } else {
                    part.write(plane + vector.place, &lanes[..vector.len]);
                }
            }
        }
    }
}

/// Sums of a block over all input channels and taps, in the order channel, x, y, z.
#[inline(never)]
fn sum_block<const V: usize>(ring: &Ring, vectors: &[Vector; V], weights: &[f32], initial: [f32x8; BLOCK]) -> Sums<V> {
    let mut sums: Sums<V> = initial.map(|value| [value; V]);
    let starts = vectors.map(|vector| vector.start);
    let planes = ring.planes();
    let last = starts.iter().max().map_or(0, |start| start + 2 * ring.row_stride + LANES + 2);
    assert!(last <= ring.channel_stride, "the taps of a vector lie in the ring");
    let num_channels = weights.len() / (TAPS * BLOCK);
    assert!(
        planes.iter().all(|plane| plane.len() >= num_channels * ring.channel_stride),
        "the ring holds all channels"
    );
    for (channel, weights) in weights.chunks_exact(TAPS * BLOCK).enumerate() {
        for (plane, weights) in planes.iter().zip(weights.chunks_exact(9 * BLOCK)) {
            for (y, weights) in weights.chunks_exact(3 * BLOCK).enumerate() {
                let at = channel * ring.channel_stride + y * ring.row_stride;
                #[allow(unsafe_code, reason = "bounds are checked once for all rows")]
                // SAFETY: the plane holds all channels, and the last tap of each vector lies in its channel.
                unsafe {
                    add_vectors::<V, 3>(&mut sums, plane.get_unchecked(at..), starts, weights);
                }
            }
        }
    }
    sums
}
