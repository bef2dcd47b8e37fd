//! Sums of overlapping windows, kept for one ROI along the longest axis.
//!
//! The buffer is a ring over that axis, so nothing is moved when the windows advance.

use std::ops::Range;

use super::Slab;
use super::geometry::Geometry;

/// Number of positions along the longest axis passed to the sink at once; bounds the copy made for it.
const SLAB_THICKNESS: usize = 8;

/// Weighted sums of the windows over one ROI along the longest axis.
pub(super) struct Accumulator {
    pub(super) num_channels: usize,
    geometry: Geometry,
    /// Sums of all channels, each of the shape [`Geometry::ring`], one after the other.
    sums: Vec<f32>,
    weights: Vec<f32>,
    /// First position along `axis`, in the padded volume, that the sink has not received.
    next: usize,
    slab: Vec<f32>,
}

impl Accumulator {
    pub(super) fn new(num_channels: usize, geometry: Geometry) -> Self {
        let len = geometry.ring().iter().product::<usize>();
        Self {
            num_channels,
            geometry,
            sums: vec![0.0; num_channels * len],
            weights: vec![0.0; len],
            next: 0,
            slab: Vec::new(),
        }
    }

    /// Index into the sums of a position of the padded volume.
    fn place(&self, mut at: [usize; 3]) -> usize {
        let Geometry { axis, roi, .. } = self.geometry;
        let [_, ny, nz] = self.geometry.ring();
        at[axis] %= roi[axis];
        (at[0] * ny + at[1]) * nz + at[2]
    }

    /// Indices and lengths of a row of `len` voxels along z: one run, or two if the ring wraps along z.
    fn runs(&self, at: [usize; 3], len: usize) -> [(usize, usize); 2] {
        let Geometry { axis, roi, .. } = self.geometry;
        if axis != 2 {
            return [(self.place(at), len), (0, 0)];
        }
        let first = (roi[2] - at[2] % roi[2]).min(len);
        [(self.place(at), first), (self.place([at[0], at[1], 0]), len - first)]
    }

    /// Adds a window `[C, rx, ry, rz]` that begins at `start` of the padded volume.
    pub(super) fn add(&mut self, start: [usize; 3], window: &[f32], weights: &[f32]) {
        let [rx, ry, rz] = self.geometry.roi;
        let (plane, window_len) = (self.weights.len(), rx * ry * rz);
        for x in 0..rx {
            for y in 0..ry {
                let row = (x * ry + y) * rz;
                let mut done = 0;
                for (place, len) in self.runs([start[0] + x, start[1] + y, start[2]], rz) {
                    let from = row + done;
                    let weight = &weights[from..from + len];
                    add_assign(&mut self.weights[place..place + len], weight);
                    for channel in 0..self.num_channels {
                        let values = &window[channel * window_len + from..][..len];
                        let sums = &mut self.sums[channel * plane + place..][..len];
                        for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weight) {
                            *sum += value * weight;
                        }
                    }
                    done += len;
                }
            }
        }
    }

    /// Passes all positions below `end` along the axis to the sink; no later window may overlap them.
    pub(super) fn finish_before<E>(
        &mut self,
        end: usize,
        sink: &mut impl FnMut(Slab<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (axis, inside) = (self.geometry.axis, self.geometry.inside());
        while self.next < end {
            let mut region = inside.clone();
            let till = (self.next + SLAB_THICKNESS).min(end);
            region[axis] = self.next.max(inside[axis].start)..till.min(inside[axis].end);
            if !region[axis].is_empty() {
                self.average(&region);
                sink(Slab {
                    start: std::array::from_fn(|a| region[a].start - inside[a].start),
                    dims: std::array::from_fn(|a| region[a].len()),
                    values: &self.slab,
                })?;
            }
            self.clear(self.next..till);
            self.next = till;
        }
        Ok(())
    }

    /// Divides the sums of a region by their weights and writes the averages to `slab`.
    fn average(&mut self, region: &[Range<usize>; 3]) {
        let plane = self.weights.len();
        let mut slab = std::mem::take(&mut self.slab);
        slab.clear();
        for channel in 0..self.num_channels {
            let sums = &self.sums[channel * plane..][..plane];
            for x in region[0].clone() {
                for y in region[1].clone() {
                    for (place, len) in self.runs([x, y, region[2].start], region[2].len()) {
                        let weights = &self.weights[place..place + len];
                        slab.extend(sums[place..place + len].iter().zip(weights).map(|(sum, weight)| sum / weight));
                    }
                }
            }
        }
        self.slab = slab;
    }

    /// Zeroes the given positions of the ring, for the next turn.
    fn clear(&mut self, positions: Range<usize>) {
        let mut region: [Range<usize>; 3] = self.geometry.ring().map(|len| 0..len);
        region[self.geometry.axis] = positions;
        let plane = self.weights.len();
        for x in region[0].clone() {
            for y in region[1].clone() {
                for (place, len) in self.runs([x, y, region[2].start], region[2].len()) {
                    self.weights[place..place + len].fill(0.0);
                    for channel in 0..self.num_channels {
                        self.sums[channel * plane + place..][..len].fill(0.0);
                    }
                }
            }
        }
    }
}

fn add_assign(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sliding_window::SlidingWindow;

    #[test]
    fn memory_does_not_grow_with_the_longest_axis() {
        let window = SlidingWindow::new([4; 3], 0.5, 1).unwrap();
        let accumulator = |length| Accumulator::new(14, Geometry::new(&window, [8, length, 8])).sums.len();
        assert_eq!(accumulator(1000), accumulator(10));
    }
}
