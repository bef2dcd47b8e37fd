//! Matrix products over tiles of voxels, shared by kernels of one voxel and transposed convolutions.

use rayon::prelude::*;
use wide::f32x8;

use super::micro::{BLOCK, LANES, Sums, add_lanes, add_products_of_rows, add_vectors, rows_of};
use super::strips::{NUM_TASKS, ranges};

/// Largest number of floats for partial sums of a weight's gradient, over all tasks.
const MAX_PARTIALS: usize = 4 << 20;

/// Number of voxels that a block sums at once.
const WIDTH: usize = 3 * LANES;
/// Number of floats in a tile: half of a core's first-level cache on the smaller servers.
const TILE_LEN: usize = 16 << 10 >> 2;

/// Packs the weights of a product as `[out / BLOCK][in][BLOCK]`, with zeros for outputs beyond the last. `weight`
/// receives output and input.
pub(crate) fn pack_weights(num_inputs: usize, num_outputs: usize, weight: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut packed = Vec::with_capacity(num_outputs.next_multiple_of(BLOCK) * num_inputs);
    for first in (0..num_outputs).step_by(BLOCK) {
        for i in 0..num_inputs {
            packed.extend((first..first + BLOCK).map(|o| if o < num_outputs { weight(o, i) } else { 0.0 }));
        }
    }
    packed
}

/// Number of voxels in a tile of `num_rows` rows: a multiple of 24 from 24 to 960.
pub(crate) fn tile_width(num_rows: usize) -> usize {
    (TILE_LEN / num_rows.max(1) / WIDTH).clamp(1, 40) * WIDTH
}

/// Some voxels of every input of a product, `[inputs][stride]`, small enough for the cache.
pub(crate) struct Tile {
    values: Vec<f32>,
    num_rows: usize,
    stride: usize,
}

impl Tile {
    /// Creates a tile of zeros for `num_rows` inputs and `width` voxels.
    pub(crate) fn new(num_rows: usize, width: usize) -> Self {
        // Not a power of two, whose rows would share the sets of a cache.
        let stride = width.next_multiple_of(WIDTH) + LANES;
        // Three rows more are read where the number of rows is not a multiple of 3.
        Self { values: vec![0.0; (num_rows + 2) * stride], num_rows, stride }
    }

    /// Mutable rows of the tile, to be filled. Values after a row's last voxel are computed and discarded; where sums
    /// run over voxels, they must be zero.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.values.chunks_exact_mut(self.stride).take(self.num_rows)
    }

    /// Row with the given number.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..][..self.stride]
    }

    /// Multiplies the first `width` voxels by weights packed by [`pack_weights`], and passes each block's rows of up to
    /// 24 values to `store(block, first voxel, rows)`. `initial` holds a value for each output, padded to whole blocks.
    pub(crate) fn multiply(
        &self,
        packed: &[f32],
        initial: &[f32],
        width: usize,
        mut store: impl FnMut(usize, usize, &[[f32; WIDTH]; BLOCK]),
    ) {
        for (block, weights) in packed.chunks_exact(self.num_rows * BLOCK).enumerate() {
            let initial: [f32x8; BLOCK] = std::array::from_fn(|o| f32x8::splat(initial[block * BLOCK + o]));
            for at in (0..width).step_by(WIDTH) {
                store(block, at, &rows_of(&self.sum_block(weights, initial, at)));
            }
        }
    }

    #[inline(never)]
    fn sum_block(&self, weights: &[f32], initial: [f32x8; BLOCK], at: usize) -> Sums<3> {
        let mut sums = initial.map(|value| [value; 3]);
        assert!(at + WIDTH <= self.stride, "a block's voxels lie in the tile");
        for (row, weights) in self.values.chunks_exact(self.stride).zip(weights.as_chunks::<BLOCK>().0) {
            let starts = std::array::from_fn(|v| at + v * LANES);
            #[allow(unsafe_code, reason = "bounds are checked once for all rows")]
            // SAFETY: a row has `stride` values, and the last vector ends within them.
            unsafe {
                add_vectors::<3, 1>(&mut sums, row, starts, weights);
            }
        }
        sums
    }

    /// Adds the products of `dy` `[vectors][BLOCK][LANES]` with every row, summed over voxels, to `sums` `[rows][BLOCK]`.
    pub(crate) fn add_products(&self, dy: &[f32], sums: &mut [f32]) {
        for (first, sums) in sums.chunks_mut(3 * BLOCK).enumerate() {
            let products = products(dy, std::array::from_fn(|row| self.row(3 * first + row)));
            for (row, sums) in sums.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
                add_lanes(sums, products.map(|products| products[row]));
            }
        }
    }
}

#[inline(never)]
fn products(dy: &[f32], rows: [&[f32]; 3]) -> Sums<3> {
    let mut sums = [[f32x8::ZERO; 3]; BLOCK];
    add_products_of_rows(&mut sums, dy, rows);
    sums
}

/// Interleaves the rows of a block vector by vector: `packed` is `[vectors][BLOCK][LANES]`. A row that is `None`, and
/// values beyond a row's end, become zero.
pub(crate) fn interleave_rows<'a>(packed: &mut [f32], row: impl Fn(usize) -> Option<&'a [f32]>) {
    for o in 0..BLOCK {
        let vectors = packed.as_chunks_mut::<LANES>().0.iter_mut().skip(o).step_by(BLOCK);
        let Some(row) = row(o) else {
            vectors.for_each(|vector| vector.fill(0.0));
            continue;
        };
        let mut chunks = row.chunks(LANES);
        for vector in vectors {
            let values = chunks.next().unwrap_or(&[]);
            if let Ok(values) = <[f32; LANES]>::try_from(values) {
                *vector = values;
            } else {
                vector.fill(0.0);
                vector[..values.len()].copy_from_slice(values);
            }
        }
    }
}

/// Element-wise sum of vectors of equal length, added in order.
pub(crate) fn sum_partials(parts: &[Vec<f32>]) -> Vec<f32> {
    let (first, rest) = parts.split_first().expect("at least one part");
    let mut sums = first.clone();
    for part in rest {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    sums
}

/// Consecutive voxels of one volume of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VoxelRange {
    pub(crate) n: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Divides the voxels of each volume into ranges of `width`; the last range may be shorter.
pub(crate) fn tiles(batch: usize, num_voxels: usize, width: usize) -> Vec<VoxelRange> {
    let starts = (0..num_voxels).step_by(width);
    (0..batch)
        .flat_map(|n| starts.clone().map(move |start| VoxelRange { n, start, len: width.min(num_voxels - start) }))
        .collect()
}

/// Gradient of weights `[out, in]`: products of the rows of `out` and `in`, summed over the voxels of all tiles.
/// `fill_tile` writes the rows of `in`, `fill_block` those of a block of `out`, interleaved.
///
/// Products are added in f32: within a tile in 8 lanes, then tile after tile, then over at most 32 parts of the batch.
pub(crate) fn weight_gradient(
    [num_out, num_in]: [usize; 2],
    tiles: &[VoxelRange],
    fill_tile: impl Fn(&mut Tile, VoxelRange) + Sync,
    fill_block: impl Fn(&mut [f32], usize, VoxelRange) + Sync,
) -> Vec<f32> {
    let block_len = (num_in * BLOCK).max(1);
    let sums_len = num_out.div_ceil(BLOCK) * block_len;
    let num_parts = (MAX_PARTIALS / sums_len.max(1)).clamp(1, NUM_TASKS).min(tiles.len()).max(1);
    let parts: Vec<_> = ranges(tiles.len(), num_parts).collect();
    let partials: Vec<Vec<f32>> = parts
        .into_par_iter()
        .map(|part| {
            let mut sums = vec![0.0; sums_len];
            for &at in &tiles[part] {
                // A new tile for each, because the values after the voxels of a narrower tile must be zero.
                let mut tile = Tile::new(num_in, at.len);
                fill_tile(&mut tile, at);
                let mut packed = vec![0.0; at.len.div_ceil(LANES) * BLOCK * LANES];
                for (block, sums) in sums.chunks_exact_mut(block_len).enumerate() {
                    fill_block(&mut packed, block, at);
                    tile.add_products(&packed, sums);
                }
            }
            sums
        })
        .collect();
    let mut gradient = vec![0.0; num_out * num_in];
    for (block, sums) in sum_partials(&partials).chunks_exact(block_len).enumerate() {
        for (i, sums) in sums.chunks_exact(BLOCK).enumerate() {
            for (o, &sum) in (block * BLOCK..num_out).zip(sums) {
                gradient[o * num_in + i] = sum;
            }
        }
    }
    gradient
}
