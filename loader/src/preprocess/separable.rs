//! Resampling axis by axis, for grids whose axes are parallel to those of the source.
//!
//! Planes of the source's two fast axes are resampled as a whole; two neighbouring planes are kept, and each output
//! plane is their weighted mean.

use super::grid::Coordinates;
use super::rows::{ReadRow, RowAt};

/// Source indices and weights of the positions along one output axis.
#[derive(Clone, Debug)]
pub(super) struct AxisTaps {
    /// Lower source index, upper source index, and weight of the upper index, for trilinear interpolation.
    linear: Vec<(u32, u32, f32)>,
    /// Source index for nearest-neighbour interpolation.
    nearest: Vec<u32>,
    /// Number of source voxels along the axis.
    source_len: usize,
}

impl AxisTaps {
    /// Taps of an axis that is not resampled; `flipped` reverses it.
    pub(super) fn unchanged(len: usize, flipped: bool) -> Self {
        Self::new((0..len).map(|idx| idx as f64), len, flipped)
    }

    /// Taps of an oriented axis at given source coordinates.
    pub(super) fn resampled(coordinates: &Coordinates, axis: usize, flipped: bool) -> Self {
        let mut along = Vec::new();
        coordinates.fill_row(axis, axis, [0.0; 3], &mut along);
        Self::new(along.into_iter(), coordinates.source_shape()[axis], flipped)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the axis, which is short")]
    fn new(coordinates: impl Iterator<Item = f64>, source_len: usize, flipped: bool) -> Self {
        let last = source_len as u32 - 1;
        let place = |idx: u32| if flipped { last - idx } else { idx };
        let mut map = Self { linear: Vec::new(), nearest: Vec::new(), source_len };
        for coordinate in coordinates {
            let lower = (coordinate.floor() as u32).min(last);
            let weight = (coordinate - f64::from(lower)) as f32;
            map.linear.push((place(lower), place((lower + 1).min(last)), weight));
            map.nearest.push(place((coordinate.round() as u32).min(last)));
        }
        map
    }
}

/// Computes output rows of an image by trilinear interpolation.
pub(super) struct SeparableRows<'a> {
    axes: &'a [AxisTaps; 3],
    read: ReadRow<'a>,
    lower: Plane,
    upper: Plane,
    scratch: RowBuffers,
    mixed: Vec<f32>,
}

/// One source plane, resampled along its own two axes.
struct Plane {
    source: Option<u32>,
    values: Vec<f32>,
}

/// Buffers of the two most recently read source rows, by number, and of their weighted mean.
struct RowBuffers {
    rows: [(Option<u32>, Vec<f32>); 2],
    mixed: Vec<f32>,
}

impl<'a> SeparableRows<'a> {
    pub(super) fn new(axes: &'a [AxisTaps; 3], read: ReadRow<'a>) -> Self {
        let [fast, middle, _] = axes;
        let (width, height) = (fast.linear.len(), middle.linear.len());
        let plane = || Plane { source: None, values: vec![0f32; width * height] };
        let row = || (None, vec![0f32; fast.source_len]);
        let scratch = RowBuffers { rows: [row(), row()], mixed: vec![0f32; fast.source_len] };
        Self { axes, read, lower: plane(), upper: plane(), scratch, mixed: vec![0f32; width] }
    }

    /// Computes the row at `at`. Rows must be requested in order.
    pub(super) fn row(&mut self, at: RowAt) -> &[f32] {
        let (low, high, weight) = self.axes[2].linear[at.plane];
        let mixing = weight > 0.0 && high != low;
        if at.row == 0 {
            // In either direction along the source, one of the two planes usually is in memory already.
            if self.upper.source == Some(low) || self.lower.source == Some(high) {
                std::mem::swap(&mut self.lower, &mut self.upper);
            }
            self.lower.load(low, self.axes, self.read, &mut self.scratch);
            if mixing {
                self.upper.load(high, self.axes, self.read, &mut self.scratch);
            }
        }
        let width = self.mixed.len();
        let range = at.row * width..(at.row + 1) * width;
        if mixing {
            mix(&self.lower.values[range.clone()], &self.upper.values[range], weight, &mut self.mixed);
            &self.mixed
        } else {
            &self.lower.values[range]
        }
    }
}

impl Plane {
    /// Resamples source plane `source` along its own axes, unless it is already in memory.
    fn load(&mut self, source: u32, axes: &[AxisTaps; 3], read: ReadRow<'_>, scratch: &mut RowBuffers) {
        if self.source == Some(source) {
            return;
        }
        self.source = Some(source);
        let [fast, middle, _] = axes;
        let plane_start = source as usize * middle.source_len * fast.source_len;
        let RowBuffers { rows: [lower, upper], mixed } = scratch;
        (lower.0, upper.0) = (None, None);
        let load = |row: u32, into: &mut (Option<u32>, Vec<f32>)| {
            if into.0 != Some(row) {
                read(plane_start + row as usize * fast.source_len, &mut into.1);
                into.0 = Some(row);
            }
        };
        for (&(low, high, weight), out) in middle.linear.iter().zip(self.values.chunks_exact_mut(fast.linear.len())) {
            if upper.0 == Some(low) || lower.0 == Some(high) {
                std::mem::swap(lower, upper);
            }
            load(low, lower);
            let row = if weight > 0.0 && high != low {
                load(high, upper);
                mix(&lower.1, &upper.1, weight, mixed);
                &*mixed
            } else {
                &lower.1
            };
            for (value, &(left, right, weight)) in out.iter_mut().zip(&fast.linear) {
                let (left, right) = (row[left as usize], row[right as usize]);
                *value = left + (right - left) * weight;
            }
        }
    }
}

/// Writes the weighted mean of `a` and `b` to `out`; `weight` is that of `b`.
fn mix(a: &[f32], b: &[f32], weight: f32, out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = a + (b - a) * weight;
    }
}

/// Computes one output row of a label map by nearest-neighbour interpolation.
pub(super) fn nearest_row(axes: &[AxisTaps; 3], labels: &[u8], at: RowAt, out: &mut [u8]) {
    let [fast, middle, slow] = axes;
    let source_row = slow.nearest[at.plane] as usize * middle.source_len + middle.nearest[at.row] as usize;
    let source = &labels[source_row * fast.source_len..][..fast.source_len];
    for (label, &from) in out.iter_mut().zip(&fast.nearest) {
        *label = source[from as usize];
    }
}
