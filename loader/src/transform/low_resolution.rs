//! Simulated low resolution of nnU-Net's chain: downsampling by nearest neighbour, upsampling by linear interpolation.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::range::{PositiveRange, Probability};
use super::scratch::Scratch;
use crate::rng::{DrawId, Operation};

/// Settings of the simulated low resolution, with one factor for all axes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LowResolution {
    /// Probability of applying the transform.
    pub probability: Probability,
    /// Probability of coarsening the channel if the transform is applied. As in nnU-Net, both are sampled even for a
    /// single channel.
    pub channel_probability: Probability,
    /// Range of the factor, in coarse voxels per voxel of the crop; a factor above 1 counts as 1.
    pub scale: PositiveRange,
}

/// Sampled resolution of a crop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowResolutionParams {
    /// Coarse voxels per voxel of the crop, along each axis.
    pub scale: f32,
}

impl Default for LowResolution {
    fn default() -> Self {
        Self {
            probability: Probability::known(0.25),
            channel_probability: Probability::known(0.5),
            scale: PositiveRange::known(0.5, 1.0),
        }
    }
}

impl LowResolution {
    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> Option<LowResolutionParams> {
        let mut rng = id.rng(Operation::LowResolution);
        let transform = self.probability.sample(&mut rng);
        let channel = self.channel_probability.sample(&mut rng);
        let scale = self.scale.sample(&mut rng);
        (transform && channel).then_some(LowResolutionParams { scale })
    }
}

/// Number of voxels along one axis before and after downsampling.
///
/// The coarse grid is never stored: its voxel i *is* the crop's voxel `nearest(i)`.
#[derive(Clone, Copy, Debug)]
struct Axis {
    num_fine: usize,
    num_coarse: usize,
}

impl Axis {
    fn new(num_fine: usize, scale: f32) -> Self {
        let num_coarse = (num_fine as f32 * scale).round_ties_even() as usize;
        Self { num_fine, num_coarse: num_coarse.clamp(1, num_fine.max(1)) }
    }

    /// Index of the fine voxel that holds a coarse voxel's centre.
    fn nearest(self, coarse: usize) -> usize {
        let at = (coarse as f32 + 0.5) * (self.num_fine as f32 / self.num_coarse as f32);
        (at as usize).min(self.num_fine - 1)
    }

    /// Indices of the coarse voxels on either side of a fine voxel's centre, and the weight of the second.
    fn between(self, fine: usize) -> (usize, usize, f32) {
        let at = ((fine as f32 + 0.5) * (self.num_coarse as f32 / self.num_fine as f32) - 0.5).max(0.0);
        let first = (at as usize).min(self.num_coarse - 1);
        (first, (first + 1).min(self.num_coarse - 1), at - first as f32)
    }
}

impl LowResolutionParams {
    /// Computes, for each voxel of an axis of `n` voxels, the indices of the two voxels that it is interpolated from and the
    /// weight of the second.
    #[must_use]
    pub fn taps(&self, n: usize) -> Vec<(usize, usize, f32)> {
        let axis = Axis::new(n, self.scale);
        let tap = |fine| {
            let (first, second, weight) = axis.between(fine);
            (axis.nearest(first), axis.nearest(second), weight)
        };
        (0..n).map(tap).collect()
    }

    /// Downsamples and upsamples a crop of `shape` in place.
    ///
    /// Each coarse plane is upsampled along z and y when the first output plane needs it; two coarse planes are kept,
    /// and output planes overwrite the crop. A coarse plane never reads a plane before the first output plane that
    /// needs it, so nothing is overwritten before it is read.
    ///
    /// # Panics
    /// If `image` does not have `shape`.
    pub fn apply(&self, image: &mut [f32], shape: [usize; 3], scratch: &mut Scratch) {
        let [nx, ny, nz] = shape;
        assert_eq!(image.len(), nx * ny * nz, "a crop has its shape");
        let plane = ny * nz;
        if plane == 0 {
            return;
        }
        let [along_x, along_y, _] = shape.map(|n| Axis::new(n, self.scale));
        let (floats, indices) = scratch.take(nz + along_y.num_coarse * nz + 2 * plane, 2 * nz);
        let (weights, floats) = floats.split_at_mut(nz);
        let (coarse_rows, kept) = floats.split_at_mut(along_y.num_coarse * nz);
        let (firsts, seconds) = indices.split_at_mut(nz);
        for (z, (first, second, weight)) in self.taps(nz).into_iter().enumerate() {
            (firsts[z], seconds[z], weights[z]) = (first as u32, second as u32, weight);
        }

        let mut num_upsampled = 0;
        for x in 0..nx {
            let (first, second, weight) = along_x.between(x);
            while num_upsampled <= second {
                let from = &image[along_x.nearest(num_upsampled) * plane..][..plane];
                for (y, to) in coarse_rows.chunks_exact_mut(nz).enumerate() {
                    let row = &from[along_y.nearest(y) * nz..][..nz];
                    for (((t, &i), &j), &weight) in to.iter_mut().zip(&*firsts).zip(&*seconds).zip(&*weights) {
                        let (a, b) = (row[i as usize], row[j as usize]);
                        *t = a + weight * (b - a);
                    }
                }
                let slot = &mut kept[num_upsampled % 2 * plane..][..plane];
                for (y, to) in slot.chunks_exact_mut(nz).enumerate() {
                    let (first, second, weight) = along_y.between(y);
                    mix(to, &coarse_rows[first * nz..][..nz], &coarse_rows[second * nz..][..nz], weight);
                }
                num_upsampled += 1;
            }
            let to = &mut image[x * plane..][..plane];
            mix(to, &kept[first % 2 * plane..][..plane], &kept[second % 2 * plane..][..plane], weight);
        }
    }
}

/// Interpolates linearly between rows `a` and `b`; `weight` is that of `b`.
#[inline]
fn mix(to: &mut [f32], a: &[f32], b: &[f32], weight: f32) {
    for ((t, &a), &b) in to.iter_mut().zip(a).zip(b) {
        *t = a + weight * (b - a);
    }
}

impl fmt::Display for LowResolutionParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "low resolution {:.3}", self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Applies the definition: makes the coarse image, then interpolates each voxel from eight coarse voxels.
    fn by_definition(image: &[f32], shape: [usize; 3], scale: f32) -> Vec<f32> {
        let axes = shape.map(|n| Axis::new(n, scale));
        let [cx, cy, cz] = axes.map(|axis| axis.num_coarse);
        let mut coarse = Vec::new();
        for x in 0..cx {
            for y in 0..cy {
                for z in 0..cz {
                    let fine = (axes[0].nearest(x) * shape[1] + axes[1].nearest(y)) * shape[2] + axes[2].nearest(z);
                    coarse.push(image[fine]);
                }
            }
        }
        let mut out = Vec::new();
        for x in 0..shape[0] {
            for y in 0..shape[1] {
                for z in 0..shape[2] {
                    let [(x0, x1, wx), (y0, y1, wy), (z0, z1, wz)] =
                        [axes[0].between(x), axes[1].between(y), axes[2].between(z)];
                    let mut sum = 0.0;
                    for (ix, weight_x) in [(x0, 1.0 - wx), (x1, wx)] {
                        for (iy, weight_y) in [(y0, 1.0 - wy), (y1, wy)] {
                            for (iz, weight_z) in [(z0, 1.0 - wz), (z1, wz)] {
                                sum += weight_x * weight_y * weight_z * coarse[(ix * cy + iy) * cz + iz];
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    #[test]
    fn halving_keeps_every_second_voxel_and_interpolates() {
        let mut image: Vec<f32> = (0..8).map(|i| i as f32).collect();
        LowResolutionParams { scale: 0.5 }.apply(&mut image, [1, 1, 8], &mut Scratch::new());
        // Coarse voxels are 1, 3, 5, 7; the centres of fine voxels lie a quarter of a coarse voxel from theirs.
        assert_eq!(image, [1.0, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.0]);
    }

    #[test]
    fn scale_1_is_the_identity() {
        let image: Vec<f32> = (0..60).map(|i| (i * 7 % 11) as f32).collect();
        let mut out = image.clone();
        LowResolutionParams { scale: 1.0 }.apply(&mut out, [3, 4, 5], &mut Scratch::new());
        assert_eq!(image, out);
    }

    proptest! {
        #[test]
        fn result_agrees_with_the_definition(
            shape in [1usize..14, 1usize..14, 1usize..14], scale in 0.1f32..1.2, seed: u64
        ) {
            let mut normals = super::super::approx::Normals::new(seed);
            let image: Vec<f32> = (0..shape.iter().product()).map(|_| normals.next_pair().0[0]).collect();
            let expected = by_definition(&image, shape, scale);
            let mut out = image;
            LowResolutionParams { scale }.apply(&mut out, shape, &mut Scratch::new());
            for (v, e) in out.iter().zip(expected) {
                // Interpolation along three axes: for each two products and a sum of numbers below 6, 3.6e-7 per
                // rounding, and weights whose f32 positions (up to 14) are off by 1e-6 at most.
                prop_assert!((v - e).abs() < 1e-5);
            }
        }

        #[test]
        fn constant_crop_is_unchanged(value in -2.0f32..2.0, scale in 0.5f32..1.0) {
            let mut image = vec![value; 9 * 8 * 7];
            LowResolutionParams { scale }.apply(&mut image, [9, 8, 7], &mut Scratch::new());
            prop_assert!(image.iter().all(|&v| v.to_bits() == value.to_bits()));
        }
    }
}
