//! The bounding box of the foreground, found while rows are resampled, and the crop to it.

use hiend_cache::Box3;

use super::resample::Resampling;
use super::rows::RowAt;

/// Bounding box of the foreground among the rows seen so far, along the axes of processing.
#[derive(Clone, Copy, Debug)]
pub struct ForegroundBox {
    start: [usize; 3],
    end: [usize; 3],
}

impl ForegroundBox {
    pub(super) fn new() -> Self {
        Self { start: [usize::MAX; 3], end: [0; 3] }
    }

    /// Extends the box by the foreground of one row.
    pub(super) fn look(&mut self, values: &[f32], at: RowAt, is_foreground: impl Fn(f32) -> bool) {
        let Some(first) = values.iter().position(|&value| is_foreground(value)) else { return };
        let last = values.iter().rposition(|&value| is_foreground(value)).unwrap_or(first);
        for (axis, low, high) in [(0, first, last), (1, at.row, at.row), (2, at.plane, at.plane)] {
            self.start[axis] = self.start[axis].min(low);
            self.end[axis] = self.end[axis].max(high + 1);
        }
    }

    /// The box along x, y, z; `None` without foreground.
    pub(super) fn region(&self, resampling: &Resampling) -> Option<Box3> {
        if self.start[0] == usize::MAX {
            return None;
        }
        let mut region = Box3 { start: [0; 3], end: [0; 3] };
        for (source, &axis) in resampling.target_axis().iter().enumerate() {
            region.start[axis] = self.start[source];
            region.end[axis] = self.end[source];
        }
        Some(region)
    }
}

/// Crops a volume to a box, in place.
pub(super) fn crop<T: Copy>(volume: &mut Vec<T>, shape: [usize; 3], region: &Box3) {
    let [nx, ny, nz] = region.shape();
    for x in 0..nx {
        for y in 0..ny {
            let from = ((region.start[0] + x) * shape[1] + region.start[1] + y) * shape[2] + region.start[2];
            volume.copy_within(from..from + nz, (x * ny + y) * nz);
        }
    }
    volume.truncate(nx * ny * nz);
    volume.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crop_keeps_only_the_box() {
        let mut volume: Vec<usize> = (0..2 * 3 * 4).collect();
        crop(&mut volume, [2, 3, 4], &Box3 { start: [1, 0, 2], end: [2, 2, 4] });
        assert_eq!(volume, [14, 15, 18, 19]);
    }
}
