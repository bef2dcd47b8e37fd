//! From the chunks of a column into one crop: normalised, flipped and turned in one pass.
//!
//! A column is all chunks that lie above one another along z. Its rows are as long as the crop's, so the crop is
//! written in whole rows, in the order in which they lie in memory. Chunk by chunk, a crop is written in pieces of 32
//! voxels instead; that took 1.3 to 1.5 times as long (`benches/README.md`, "Copying").

use crate::preprocess::window::Scale;
use hiend_cache::Box3;
use hiend_cache::grid::Grid;

use super::streaming;
use crate::transform::AxisMap;

/// The layout that rows are written in.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) map: AxisMap,
    pub(super) size: [usize; 3],
}

/// The part of a column that goes into one cut.
pub(super) struct ColumnCopy<'a> {
    pub(super) grid: &'a Grid,
    /// The whole column.
    pub(super) column: Box3,
    pub(super) part: Box3,
    /// First voxel of the cut.
    pub(super) cut_start: [i64; 3],
}

/// Where the finished rows go if they are to bypass the caches, and through what.
type Through<'a, U> = Option<(&'a mut [U], fn(&[U], &mut [U]))>;

impl ColumnCopy<'_> {
    /// `row` has the crop's length along z if its rows shall bypass the caches.
    pub(super) fn image(
        &self,
        chunks: &[Vec<u16>],
        target: Target,
        (scale, (factor, shift)): (Scale, (f32, f32)),
        row: Option<&mut [f32]>,
        pieces: &mut Vec<Piece>,
        out: &mut [f32],
    ) {
        let through: Through<'_, f32> = row.map(|row| (row, streaming::write as fn(&[f32], &mut [f32])));
        if (factor, shift) == (1.0, 0.0) {
            self.rows(chunks, target, through, pieces, out, |sample| scale.apply(sample));
        } else {
            self.rows(chunks, target, through, pieces, out, |sample| scale.apply(sample) * factor + shift);
        }
    }

    /// Copies row by row along z, from the column's chunks. The recipe's turns leave z where it is, so rows stay rows.
    ///
    /// `pieces` is memory that is used again. Rows come in the order in which they lie in the crop: what is written goes to memory, where order counts; what
    /// is read lies in the core's own cache, where it does not.
    pub(super) fn rows<T: Copy, U>(
        &self,
        chunks: &[Vec<T>],
        Target { map, size }: Target,
        mut through: Through<'_, U>,
        pieces: &mut Vec<Piece>,
        out: &mut [U],
        convert: impl Fn(T) -> U,
    ) {
        debug_assert_eq!(map.source[2], 2);
        // The part's place in the cut; it lies inside, so it is not negative.
        let within: [usize; 3] = std::array::from_fn(|axis| {
            let voxel = i64::try_from(self.part.start[axis]).unwrap_or(i64::MAX);
            usize::try_from(voxel - self.cut_start[axis]).unwrap_or(0)
        });
        let counts = self.part.shape();
        let [x, y, z]: [Axis; 3] = std::array::from_fn(|axis| {
            let (source, flipped) = (map.source[axis], map.flipped[axis]);
            let count = counts[source];
            let first = if flipped { size[axis] - within[source] - count } else { within[source] };
            Axis { count, first, from: self.part.start[source] - self.column.start[source], flipped }
        });
        let chunk_y = self.column.shape()[1];
        let chunk_z = self.grid.chunk()[2];
        pieces.clear();
        let (low, high) = (self.part.start[2], self.part.end[2]);
        for chunk in low / chunk_z..high.div_ceil(chunk_z) {
            let start = chunk * chunk_z;
            let stride = chunk_z.min(self.grid.shape()[2] - start);
            let (first, last) = (low.max(start), high.min(start + stride));
            let to = if z.flipped { high - last } else { first - low };
            pieces.push(Piece { chunk, stride, from: first - start, to, len: last - first });
        }
        for at_x in 0..x.count {
            for at_y in 0..y.count {
                let (row_x, row_y) = (x.source(at_x), y.source(at_y));
                let row = if map.source[0] == 0 { row_x * chunk_y + row_y } else { row_y * chunk_y + row_x };
                let to = ((x.first + at_x) * size[1] + y.first + at_y) * size[2] + z.first;
                let out = &mut out[to..to + z.count];
                let target = match &mut through {
                    Some((row, _)) => &mut row[..z.count],
                    None => &mut *out,
                };
                for &Piece { chunk, stride, from, to, len } in &*pieces {
                    let (samples, values) = (&chunks[chunk][row * stride + from..][..len], &mut target[to..to + len]);
                    if z.flipped {
                        copy_row::<true, _, _>(samples, values, &convert);
                    } else {
                        copy_row::<false, _, _>(samples, values, &convert);
                    }
                }
                if let Some((row, stream)) = &mut through {
                    stream(&row[..z.count], out);
                }
            }
        }
    }
}

/// What one chunk of the column adds to a row.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    chunk: usize,
    /// The chunk's own length along z.
    stride: usize,
    /// Where in the chunk's row it begins.
    from: usize,
    /// Where in the crop's row it begins.
    to: usize,
    len: usize,
}

/// One axis of a crop, as far as a column fills it.
#[derive(Clone, Copy)]
struct Axis {
    count: usize,
    /// Where in the crop it begins.
    first: usize,
    /// Where in the column the part begins.
    from: usize,
    flipped: bool,
}

impl Axis {
    /// Which place along the column's axis the place `at` is read from.
    fn source(&self, at: usize) -> usize {
        self.from + if self.flipped { self.count - 1 - at } else { at }
    }
}

/// Voxels that are converted in one go.
const BLOCK: usize = 8;

/// Converts a row of voxels, from its other end if `FLIPPED`.
///
/// In blocks of constant length, which the compiler turns into vectors; the last one overlaps the one before, so that
/// no row ends in single voxels.
fn copy_row<const FLIPPED: bool, T: Copy, U>(samples: &[T], out: &mut [U], convert: impl Fn(T) -> U) {
    let block = |samples: &[T; BLOCK], out: &mut [U; BLOCK]| {
        for (at, value) in out.iter_mut().enumerate() {
            *value = convert(samples[if FLIPPED { BLOCK - 1 - at } else { at }]);
        }
    };
    let (Some(first), Some(last)) = (samples.first_chunk(), samples.last_chunk()) else {
        for (at, value) in out.iter_mut().enumerate() {
            *value = convert(samples[if FLIPPED { samples.len() - 1 - at } else { at }]);
        }
        return;
    };
    if FLIPPED {
        for (samples, out) in samples.as_rchunks().1.iter().rev().zip(out.as_chunks_mut().0) {
            block(samples, out);
        }
    } else {
        for (samples, out) in samples.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            block(samples, out);
        }
    }
    if let (false, Some(out)) = (samples.len().is_multiple_of(BLOCK), out.last_chunk_mut()) {
        block(if FLIPPED { first } else { last }, out);
    }
}
