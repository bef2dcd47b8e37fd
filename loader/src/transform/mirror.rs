//! Mirroring along each axis: the recipe's flip and the last transform of nnU-Net's chain.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::range::{Probability, write_axes};
use crate::rng::{DrawId, Operation};

/// Settings of mirroring, which is sampled for each axis independently.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mirror {
    /// Probability of mirroring an axis.
    pub probability: Probability,
}

/// Chain that a mirror belongs to; each chain samples other random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorUse {
    /// Flip of the recipe's chain.
    Flip,
    /// Mirror of nnU-Net's chain.
    Mirror,
}

/// Axes to mirror, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorParams {
    /// Axes to mirror: x, y, z.
    pub axes: [bool; 3],
}

impl Default for Mirror {
    fn default() -> Self {
        Self { probability: Probability::known(0.5) }
    }
}

impl Mirror {
    /// Samples the axes to mirror for the crop `id`; `None` if there are none.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId, mirror_use: MirrorUse) -> Option<MirrorParams> {
        let mut rng = id.rng(match mirror_use {
            MirrorUse::Flip => Operation::Flip,
            MirrorUse::Mirror => Operation::Mirror,
        });
        let axes = [(); 3].map(|()| self.probability.sample(&mut rng));
        axes.contains(&true).then_some(MirrorParams { axes })
    }
}

impl MirrorParams {
    /// Mirrors the image or the labels of a crop of `shape` in place.
    ///
    /// Rows are swapped with their mirror images, and reversed if z is mirrored, so that each voxel moves once.
    ///
    /// # Panics
    /// If `voxels` does not have `shape`.
    pub fn apply<T: Copy>(&self, voxels: &mut [T], shape: [usize; 3]) {
        let [nx, ny, nz] = shape;
        assert_eq!(voxels.len(), nx * ny * nz, "a crop has its shape");
        let num_rows = nx * ny;
        for row in 0..num_rows {
            let (x, y) = (row / ny, row % ny);
            let image_x = if self.axes[0] { nx - 1 - x } else { x };
            let image_y = if self.axes[1] { ny - 1 - y } else { y };
            let image = image_x * ny + image_y;
            if image < row {
                continue;
            }
            if image == row {
                if self.axes[2] {
                    voxels[row * nz..][..nz].reverse();
                }
                continue;
            }
            let (head, tail) = voxels.split_at_mut(image * nz);
            let (a, b) = (&mut head[row * nz..][..nz], &mut tail[..nz]);
            if self.axes[2] {
                for (p, q) in a.iter_mut().zip(b.iter_mut().rev()) {
                    std::mem::swap(p, q);
                }
            } else {
                a.swap_with_slice(b);
            }
        }
    }
}

impl fmt::Display for MirrorParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mirror")?;
        write_axes(f, self.axes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_axes_agrees_with_the_definition() {
        let shape = [3, 4, 5];
        let at = |x: usize, y: usize, z: usize| (x * 100 + y * 10 + z) as u32;
        for code in 1..8u8 {
            let axes = [code & 1 != 0, code & 2 != 0, code & 4 != 0];
            let mut voxels = Vec::new();
            let mut expected = Vec::new();
            for x in 0..3 {
                for y in 0..4 {
                    for z in 0..5 {
                        voxels.push(at(x, y, z));
                        let image = |i: usize, n: usize, flip: bool| if flip { n - 1 - i } else { i };
                        expected.push(at(image(x, 3, axes[0]), image(y, 4, axes[1]), image(z, 5, axes[2])));
                    }
                }
            }
            MirrorParams { axes }.apply(&mut voxels, shape);
            assert_eq!(voxels, expected, "{axes:?}");
        }
    }

    #[test]
    fn description_is_a_phrase() {
        assert_eq!(MirrorParams { axes: [true, false, true] }.to_string(), "mirror x z");
    }
}
