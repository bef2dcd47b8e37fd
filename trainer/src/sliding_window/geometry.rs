//! Geometry of the windows of one volume.

use std::ops::Range;

use super::SlidingWindow;

/// Sizes of a volume and of its windows, and the axis along which slabs are delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Shape of the volume in voxels along x, y, z.
    pub(super) dims: [usize; 3],
    /// Shape of the padded volume in voxels, at least that of a window.
    pub(super) padded: [usize; 3],
    /// Number of padding voxels before the volume along x, y, z.
    pub(super) pad: [usize; 3],
    /// Shape of a window in voxels along x, y, z.
    pub(super) roi: [usize; 3],
    /// Axis along which slabs are delivered.
    pub(super) axis: usize,
}

impl Geometry {
    /// Computes the geometry of `window`'s windows in a volume of `dims` voxels.
    pub(super) fn new(window: &SlidingWindow, dims: [usize; 3]) -> Self {
        let roi = window.roi_size;
        let padded: [usize; 3] = std::array::from_fn(|a| dims[a].max(roi[a]));
        let pad = std::array::from_fn(|a| (padded[a] - dims[a]) / 2);
        Self { dims, padded, pad, roi, axis: window.slab_axis(dims) }
    }

    /// Range of the volume within the padded volume, for each axis.
    pub(super) fn inside(&self) -> [Range<usize>; 3] {
        std::array::from_fn(|a| self.pad[a]..self.pad[a] + self.dims[a])
    }

    /// Shape of the sums: one window thick along the slab axis, where positions wrap around.
    pub(super) fn ring(&self) -> [usize; 3] {
        let mut ring = self.padded;
        ring[self.axis] = self.roi[self.axis];
        ring
    }
}
