//! Sums of overlapping windows, kept for one ROI along the longest axis.
//!
//! The buffer is a ring over that axis, so nothing is moved when the windows advance.

use std::ops::Range;

use super::Slab;

/// Positions along the longest axis given to the sink at once; bounds the copy made for it.
const SLAB_THICKNESS: usize = 8;

/// Weighted sums of the windows over one ROI's thickness of the longest axis.
pub(super) struct Accumulator {
    pub(super) num_channels: usize,
    /// Extent of the sums: that of the padded volume, except for one ROI along `axis`, where positions wrap around.
    extent: [usize; 3],
    axis: usize,
    roi: [usize; 3],
    /// Range of the volume within the padded one, by axis.
    inside: [Range<usize>; 3],
    sums: Vec<f32>,
    weights: Vec<f32>,
    /// First position along `axis`, in the padded volume, that the sink has not received.
    next: usize,
    slab: Vec<f32>,
}

impl Accumulator {
    pub(super) fn new(
        num_channels: usize,
        padded: [usize; 3],
        pad: [usize; 3],
        dims: [usize; 3],
        roi: [usize; 3],
        axis: usize,
    ) -> Self {
        let mut extent = padded;
        extent[axis] = roi[axis];
        let len = extent.iter().product::<usize>();
        Self {
            num_channels,
            extent,
            axis,
            roi,
            inside: std::array::from_fn(|a| pad[a]..pad[a] + dims[a]),
            sums: vec![0.0; num_channels * len],
            weights: vec![0.0; len],
            next: 0,
            slab: Vec::new(),
        }
    }

    /// Index into the sums of a position of the padded volume.
    fn place(&self, mut at: [usize; 3]) -> usize {
        at[self.axis] %= self.roi[self.axis];
        (at[0] * self.extent[1] + at[1]) * self.extent[2] + at[2]
    }

    /// Indices and lengths of a row of `len` voxels along z: one run, or two where the ring wraps along z.
    fn runs(&self, at: [usize; 3], len: usize) -> [(usize, usize); 2] {
        if self.axis != 2 {
            return [(self.place(at), len), (0, 0)];
        }
        let first = (self.roi[2] - at[2] % self.roi[2]).min(len);
        [(self.place(at), first), (self.place([at[0], at[1], 0]), len - first)]
    }

    /// Adds a window `[C, rx, ry, rz]` that begins at `start` of the padded volume.
    pub(super) fn add(&mut self, start: [usize; 3], window: &[f32], weights: &[f32]) {
        let [rx, ry, rz] = self.roi;
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

    /// Hands all positions below `end` along the axis to the sink; no later window may overlap them.
    pub(super) fn finish_before<E>(
        &mut self,
        end: usize,
        sink: &mut impl FnMut(Slab<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.next < end {
            let mut region = self.inside.clone();
            let till = (self.next + SLAB_THICKNESS).min(end);
            let inside = &self.inside[self.axis];
            region[self.axis] = self.next.max(inside.start)..till.min(inside.end);
            if !region[self.axis].is_empty() {
                self.average(&region);
                sink(Slab {
                    start: std::array::from_fn(|a| region[a].start - self.inside[a].start),
                    dims: std::array::from_fn(|a| region[a].len()),
                    values: &self.slab,
                })?;
            }
            self.clear(self.next..till);
            self.next = till;
        }
        Ok(())
    }

    /// Divides the sums of a region by their weights, into `slab`.
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
        let mut region: [Range<usize>; 3] = std::array::from_fn(|a| 0..self.extent[a]);
        region[self.axis] = positions;
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

    #[test]
    fn memory_does_not_grow_with_the_longest_axis() {
        let accumulator =
            |length| Accumulator::new(14, [8, length, 8], [0; 3], [8, length, 8], [4, 4, 4], 1).sums.len();
        assert_eq!(accumulator(1000), accumulator(10));
    }
}
