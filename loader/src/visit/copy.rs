//! Copies of the chunks of a column into one crop: converted, flipped and turned in one pass.
//!
//! A column consists of all chunks with the same x and y. Its rows are as long as the crop's, so the crop is written in
//! whole rows, in the order in which they lie in memory. Chunk by chunk, a crop is written in pieces of 32 voxels
//! instead; that took 1.3 to 1.5 times as long (`benches/README.md`, "Copying").

use hiend_cache::Box3;
use hiend_cache::grid::Grid;

use crate::batch::Dequantize;
use crate::streaming;
use crate::transform::AxisMap;

/// Layout in which a crop's rows are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Source of each axis of the crop. Maps z to z, so that rows stay rows.
    pub(super) map: AxisMap,
    /// Size of the crop in voxels along x, y, z.
    pub(super) size: [usize; 3],
}

/// Part of a column that one crop needs.
#[derive(Debug)]
pub(super) struct ColumnCopy<'a> {
    pub(super) grid: &'a Grid,
    /// Box of the whole column.
    pub(super) column: Box3,
    /// Part of the column that is copied.
    pub(super) part: Box3,
    /// First voxel of the crop's box.
    pub(super) box_start: [i64; 3],
}

/// Buffers for copying rows.
#[derive(Debug, Default)]
pub(super) struct RowBuffers {
    /// A finished row, before it is written past the caches.
    row: Vec<f32>,
    pieces: Vec<Piece>,
}

impl RowBuffers {
    /// Number of floats allocated.
    pub(super) fn capacity(&self) -> usize {
        self.row.capacity()
    }
}

impl ColumnCopy<'_> {
    /// Copies the image as floats. Rows bypass the caches if `finished` is true, because nothing reads them soon.
    pub(super) fn floats(
        &self,
        chunks: &[Vec<u16>],
        layout: Layout,
        &Dequantize { scale, factor, shift }: &Dequantize,
        finished: bool,
        RowBuffers { row, pieces }: &mut RowBuffers,
        crop: &mut [f32],
    ) {
        let row = finished.then(|| {
            row.resize(layout.size[2], 0.0);
            row.as_mut_slice()
        });
        let through = (row, streaming::write::<f32>);
        if (factor, shift) == (1.0, 0.0) {
            self.rows(chunks, layout, through, pieces, crop, |value| scale.apply(value));
        } else {
            self.rows(chunks, layout, through, pieces, crop, |value| scale.apply(value) * factor + shift);
        }
    }

    /// Copies stored values or labels unchanged.
    pub(super) fn values<T: Copy>(&self, chunks: &[Vec<T>], layout: Layout, buffers: &mut RowBuffers, crop: &mut [T]) {
        self.rows(chunks, layout, (None, |_: &[T], _: &mut [T]| ()), &mut buffers.pieces, crop, |value| value);
    }

    /// Copies row by row along z. With a row buffer, each row is assembled there and then written by `store`.
    ///
    /// Rows are visited in the crop's memory order: writes go to main memory, which favours sequential access, while
    /// reads hit the core's cache, where the order does not matter.
    fn rows<T: Copy, U>(
        &self,
        chunks: &[Vec<T>],
        Layout { map, size }: Layout,
        (mut through, store): (Option<&mut [U]>, impl Fn(&[U], &mut [U])),
        pieces: &mut Vec<Piece>,
        crop: &mut [U],
        convert: impl Fn(T) -> U,
    ) {
        debug_assert_eq!(map.source[2], 2);
        // The part's position in the box; it lies inside, so it is not negative.
        let within: [usize; 3] = std::array::from_fn(|axis| {
            let voxel = i64::try_from(self.part.start[axis]).unwrap_or(i64::MAX);
            usize::try_from(voxel - self.box_start[axis]).unwrap_or(0)
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
                let out = &mut crop[to..to + z.count];
                let target = match &mut through {
                    Some(row) => &mut row[..z.count],
                    None => &mut *out,
                };
                for &Piece { chunk, stride, from, to, len } in &*pieces {
                    let (values, out) = (&chunks[chunk][row * stride + from..][..len], &mut target[to..to + len]);
                    if z.flipped {
                        copy_row::<true, _, _>(values, out, &convert);
                    } else {
                        copy_row::<false, _, _>(values, out, &convert);
                    }
                }
                if let Some(row) = &through {
                    store(&row[..z.count], out);
                }
            }
        }
    }
}

/// Contribution of one chunk of a column to each row.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Number of the chunk within the column.
    chunk: usize,
    /// Length of the chunk along z.
    stride: usize,
    /// Start index in the chunk's row.
    from: usize,
    /// Start index in the crop's row.
    to: usize,
    /// Number of voxels.
    len: usize,
}

/// Range of one axis of a crop that a column fills.
#[derive(Clone, Copy)]
struct Axis {
    count: usize,
    /// First index in the crop.
    first: usize,
    /// First index in the column, along the axis from which this one is read.
    from: usize,
    flipped: bool,
}

impl Axis {
    /// Index in the column from which index `at` of the range is read.
    fn source(&self, at: usize) -> usize {
        self.from + if self.flipped { self.count - 1 - at } else { at }
    }
}

/// Number of voxels converted together.
const BLOCK: usize = 8;

/// Converts a row of voxels, reversed if `FLIPPED`.
///
/// It works in blocks of constant length, which the compiler turns into vectors; the last block overlaps the one
/// before, so that no row ends in single voxels.
fn copy_row<const FLIPPED: bool, T: Copy, U>(values: &[T], out: &mut [U], convert: impl Fn(T) -> U) {
    let block = |values: &[T; BLOCK], out: &mut [U; BLOCK]| {
        for (at, value) in out.iter_mut().enumerate() {
            *value = convert(values[if FLIPPED { BLOCK - 1 - at } else { at }]);
        }
    };
    let (Some(first), Some(last)) = (values.first_chunk(), values.last_chunk()) else {
        for (at, value) in out.iter_mut().enumerate() {
            *value = convert(values[if FLIPPED { values.len() - 1 - at } else { at }]);
        }
        return;
    };
    if FLIPPED {
        for (values, out) in values.as_rchunks().1.iter().rev().zip(out.as_chunks_mut().0) {
            block(values, out);
        }
    } else {
        for (values, out) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            block(values, out);
        }
    }
    if let (false, Some(out)) = (values.len().is_multiple_of(BLOCK), out.last_chunk_mut()) {
        block(if FLIPPED { first } else { last }, out);
    }
}
