//! Partition of a volume into strips, and the padded planes of a strip that a thread keeps in its cache.

use std::ops::Range;

use super::ConvShape;
use super::micro::LANES;

/// Largest size in bytes of a ring of planes: half of a core's second-level cache on the smaller servers.
const RING_BYTES: usize = 256 << 10;
/// Minimum number of rows of a strip, so that copying its two border rows stays cheap.
const MIN_ROWS: usize = 4;
/// Minimum number of planes of a strip, because each strip copies two planes that its neighbours copy too.
const MIN_PLANES: usize = 8;
/// Number of tasks to aim for, so that 16 threads have work, and fewer threads finish at about the same time.
pub(super) const NUM_TASKS: usize = 32;

/// A box of one volume that covers all of z.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    /// Index of the volume within the batch.
    pub(super) n: usize,
    pub(super) x: Range<usize>,
    pub(super) y: Range<usize>,
}

/// Row length including padding: one voxel before the row, and at least one after its end rounded up to whole vectors.
fn row_stride(size_z: usize) -> usize {
    size_z.next_multiple_of(LANES) + LANES
}

/// Number of channels whose planes fit into a ring in full.
pub(super) fn channels_of_whole_planes(shape: ConvShape) -> usize {
    let [_, size_y, size_z] = shape.size;
    RING_BYTES / (3 * (size_y + 2) * row_stride(size_z) * size_of::<f32>())
}

/// Divides a batch of volumes into strips of about equal work; a ring holds `channels` channels of a volume. The
/// division depends on sizes alone.
pub(super) fn strips(shape: ConvShape, channels: usize) -> Vec<Strip> {
    let [size_x, size_y, size_z] = shape.size;
    let row_bytes = 3 * channels * row_stride(size_z) * size_of::<f32>();
    let max_rows = (RING_BYTES / row_bytes.max(1)).saturating_sub(2).max(MIN_ROWS);
    let along_y = size_y.div_ceil(max_rows);
    let along_x = NUM_TASKS.div_ceil((shape.batch * along_y).max(1)).min((size_x / MIN_PLANES).max(1));
    let mut strips = Vec::with_capacity(shape.batch * along_y * along_x);
    for n in 0..shape.batch {
        for x in ranges(size_x, along_x) {
            strips.extend(ranges(size_y, along_y).map(|y| Strip { n, x: x.clone(), y }));
        }
    }
    strips
}

/// Divides `0..len` into `count` ranges whose lengths differ by at most one.
pub(crate) fn ranges(len: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).map(move |i| i * len / count..(i + 1) * len / count)
}

/// Some consecutive voxels of a row: as many as a vector has or, at the end of the row, fewer.
#[derive(Clone, Copy)]
pub(super) struct Vector {
    /// Index of the first voxel's first tap in a channel of a ring's plane.
    pub(super) start: usize,
    /// Index of the first voxel in a plane of the volume.
    pub(super) place: usize,
    /// Number of voxels.
    pub(super) len: usize,
}

/// Three planes of some channels of a strip with a border of one voxel, `[3][channels][rows + 2][row_stride]`, zero outside
/// the volume.
pub(super) struct Ring {
    values: Vec<f32>,
    shape: ConvShape,
    n: usize,
    y: Range<usize>,
    channels: Range<usize>,
    /// Padded position along x of the plane in each third of `values`; plane p of the volume has the position p + 1.
    held: [Option<usize>; 3],
    /// Position along x of the centre plane.
    centre: usize,
    plane_len: usize,
    pub(super) channel_stride: usize,
    pub(super) row_stride: usize,
}

impl Ring {
    /// Creates an empty ring for the input channels `channels` of a strip.
    pub(super) fn new(shape: ConvShape, strip: &Strip, channels: Range<usize>) -> Self {
        let row_stride = row_stride(shape.size[2]);
        let channel_stride = (strip.y.len() + 2) * row_stride;
        let plane_len = channels.len() * channel_stride;
        Self {
            values: vec![0.0; 3 * plane_len],
            shape,
            n: strip.n,
            y: strip.y.clone(),
            channels,
            held: [None; 3],
            centre: 0,
            plane_len,
            channel_stride,
            row_stride,
        }
    }

    /// Lists the vectors of a plane of the strip, row after row.
    pub(super) fn vectors(&self) -> Vec<Vector> {
        let size_z = self.shape.size[2];
        let row = |(row, y): (usize, usize)| {
            (0..size_z).step_by(LANES).map(move |z| Vector {
                start: row * self.row_stride + z,
                place: y * size_z + z,
                len: LANES.min(size_z - z),
            })
        };
        self.y.clone().enumerate().flat_map(row).collect()
    }

    /// Makes `x` the centre plane, copying those of its three planes that are not yet in the ring.
    pub(super) fn advance(&mut self, volume: &[f32], x: usize) {
        self.centre = x;
        for padded in x..x + 3 {
            if self.held[padded % 3] != Some(padded) {
                self.held[padded % 3] = Some(padded);
                self.fill(volume, padded);
            }
        }
    }

    fn fill(&mut self, volume: &[f32], padded: usize) {
        let [size_x, size_y, size_z] = self.shape.size;
        let plane = &mut self.values[padded % 3 * self.plane_len..][..self.plane_len];
        if padded == 0 || padded > size_x {
            plane.fill(0.0);
            return;
        }
        for (rows, channel) in plane.chunks_exact_mut(self.channel_stride).zip(self.channels.clone()) {
            let from = ((self.n * self.shape.in_channels + channel) * size_x + padded - 1) * size_y;
            for (row, padded_y) in rows.chunks_exact_mut(self.row_stride).zip(self.y.start..) {
                if padded_y == 0 || padded_y > size_y {
                    row.fill(0.0);
                } else {
                    row[1..=size_z].copy_from_slice(&volume[(from + padded_y - 1) * size_z..][..size_z]);
                }
            }
        }
    }

    /// Makes the processor fetch into its second-level cache what the next [`Ring::advance`] copies: part `part` of
    /// `num_parts` of the channels. Without this, waiting for memory takes 2 to 5% of a convolution.
    pub(super) fn prefetch(&self, volume: &[f32], part: usize, num_parts: usize) {
        let [size_x, size_y, size_z] = self.shape.size;
        let next = self.centre + 2;
        if next >= size_x {
            return;
        }
        let rows = self.y.start.saturating_sub(1)..(self.y.end + 1).min(size_y);
        let first = self.channels.start + self.channels.len() * part / num_parts;
        let end = self.channels.start + self.channels.len() * (part + 1) / num_parts;
        for channel in first..end {
            let plane = ((self.n * self.shape.in_channels + channel) * size_x + next) * size_y;
            let values = &volume[(plane + rows.start) * size_z..(plane + rows.end) * size_z];
            values.chunks(16).for_each(prefetch_line);
        }
    }

    /// Planes before, at and after the centre.
    pub(super) fn planes(&self) -> [&[f32]; 3] {
        std::array::from_fn(|i| &self.values[(self.centre + i) % 3 * self.plane_len..][..self.plane_len])
    }
}

/// Makes the processor fetch the line of its cache that holds the first of `values` into the second level.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "a hint to the processor")]
fn prefetch_line(values: &[f32]) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch is a hint; it does not access memory as far as a program can tell.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(values.as_ptr().cast()) };
}

/// Does nothing; other processors prefetch by themselves.
#[cfg(not(target_arch = "x86_64"))]
fn prefetch_line(_: &[f32]) {}
