//! Gaussian blur of nnU-Net's chain: one pass over the crop, with a short kernel along each axis.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::range::{PositiveRange, Probability};
use super::scratch::Scratch;
use crate::rng::{DrawId, Operation};

/// Settings of the blur, whose kernel has its own width along each axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussianBlur {
    /// Probability of applying the transform.
    pub probability: Probability,
    /// Probability of blurring the channel if the transform is applied. As in nnU-Net, both are sampled even for a
    /// single channel.
    pub channel_probability: Probability,
    /// Range of the standard deviation along each axis, in voxels.
    pub sigma: PositiveRange,
}

/// Sampled widths of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianBlurParams {
    /// Standard deviation along x, y, z, in voxels.
    pub sigma: [f32; 3],
}

impl Default for GaussianBlur {
    fn default() -> Self {
        Self {
            probability: Probability::known(0.2),
            channel_probability: Probability::known(0.5),
            sigma: PositiveRange::known(0.5, 1.0),
        }
    }
}

impl GaussianBlur {
    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> Option<GaussianBlurParams> {
        let mut rng = id.rng(Operation::GaussianBlur);
        let transform = self.probability.sample(&mut rng);
        let channel = self.channel_probability.sample(&mut rng);
        let sigma = [(); 3].map(|()| self.sigma.sample(&mut rng));
        (transform && channel).then_some(GaussianBlurParams { sigma })
    }
}

impl GaussianBlurParams {
    /// Kernel along an axis: the weight of its centre, then of the voxels at distance 1, 2, … on either side.
    #[must_use]
    pub fn kernel(&self, axis: usize) -> Vec<f32> {
        let mut weights = vec![0.0; radius(self.sigma[axis]) + 1];
        fill_weights(&mut weights, self.sigma[axis]);
        weights
    }

    /// Index of the voxel that tap `offset` reads for voxel `at` on an axis of `n` voxels, reflected at the borders.
    #[must_use]
    pub fn read_at(at: usize, offset: isize, n: usize) -> usize {
        reflect(at, offset, n)
    }

    /// Blurs a crop of `shape` in place. The crop is continued beyond its borders by reflection about the border voxel.
    ///
    /// Planes along x pass through a ring of 2 r + 1 planes already blurred along z and y, so the crop is read and
    /// written once and the ring stays in the second-level cache.
    ///
    /// # Panics
    /// If `image` does not have `shape`.
    pub fn apply(&self, image: &mut [f32], shape: [usize; 3], scratch: &mut Scratch) {
        let [nx, ny, nz] = shape;
        assert_eq!(image.len(), nx * ny * nz, "a crop has its shape");
        if image.is_empty() {
            return;
        }
        let plane = ny * nz;
        let [rx, ry, rz] = self.sigma.map(radius);
        let num_slots = (2 * rx + 1).min(nx);
        let num_weights = rx + ry + rz + 3;
        let (floats, _) = scratch.take(num_weights + nz + 2 * rz + plane + num_slots * plane, 0);
        let (weights, floats) = floats.split_at_mut(num_weights);
        let (weights_x, weights) = weights.split_at_mut(rx + 1);
        let (weights_y, weights_z) = weights.split_at_mut(ry + 1);
        fill_weights(weights_x, self.sigma[0]);
        fill_weights(weights_y, self.sigma[1]);
        fill_weights(weights_z, self.sigma[2]);
        let (padded, floats) = floats.split_at_mut(nz + 2 * rz);
        let (along_z, ring) = floats.split_at_mut(plane);

        let mut num_loaded = 0;
        for x in 0..nx {
            while num_loaded <= (x + rx).min(nx - 1) {
                let from = &image[num_loaded * plane..][..plane];
                for (row, to) in from.chunks_exact(nz).zip(along_z.chunks_exact_mut(nz)) {
                    blur_row(row, padded, weights_z, to);
                }
                let slot = &mut ring[num_loaded % num_slots * plane..][..plane];
                for (y, to) in slot.chunks_exact_mut(nz).enumerate() {
                    weigh(to, weights_y, |j| &along_z[reflect(y, j, ny) * nz..][..nz]);
                }
                num_loaded += 1;
            }
            let to = &mut image[x * plane..][..plane];
            for (y, to) in to.chunks_exact_mut(nz).enumerate() {
                weigh(to, weights_x, |j| &ring[(reflect(x, j, nx) % num_slots) * plane + y * nz..][..nz]);
            }
        }
    }
}

/// Number of taps on each side of the centre, by nnU-Net's rule, which cuts the kernel at about three standard
/// deviations: 3 taps in total below 0.583 voxels, 5 below 0.917, then 7.
fn radius(sigma: f32) -> usize {
    (3.0 * sigma + 0.25) as usize
}

/// Fills in the weight of the centre, then of the taps on either side; the whole kernel sums to 1.
fn fill_weights(weights: &mut [f32], sigma: f32) {
    let sigma = f64::from(sigma);
    let density = |j: usize| (-0.5 * (j as f64 / sigma).powi(2)).exp();
    let total: f64 = density(0) + 2.0 * (1..weights.len()).map(density).sum::<f64>();
    for (j, weight) in weights.iter_mut().enumerate() {
        *weight = (density(j) / total) as f32;
    }
}

/// Index `at + offset` on an axis of `n` voxels, reflected at the borders without repeating the border voxel.
fn reflect(at: usize, offset: isize, n: usize) -> usize {
    let period = 2 * (n as isize - 1);
    if period == 0 {
        return 0;
    }
    let folded = (at as isize + offset).rem_euclid(period);
    folded.min(period - folded) as usize
}

/// Blurs `row` along itself into `to`.
fn blur_row(row: &[f32], padded: &mut [f32], weights: &[f32], to: &mut [f32]) {
    let r = weights.len() - 1;
    let n = row.len();
    padded[r..r + n].copy_from_slice(row);
    for j in 1..=r {
        padded[r - j] = row[reflect(0, -(j as isize), n)];
        padded[r + n - 1 + j] = row[reflect(n - 1, j as isize, n)];
    }
    weigh(to, weights, |j| &padded[r.wrapping_add_signed(j)..][..n]);
}

/// Computes the weighted sum of the rows at offsets -r to r. A row stays in the first-level cache from tap to tap.
#[inline]
fn weigh<'a>(to: &mut [f32], weights: &[f32], row: impl Fn(isize) -> &'a [f32]) {
    for (t, v) in to.iter_mut().zip(row(0)) {
        *t = weights[0] * v;
    }
    for (j, &weight) in weights.iter().enumerate().skip(1) {
        let j = j as isize;
        for ((t, a), b) in to.iter_mut().zip(row(-j)).zip(row(j)) {
            *t += weight * (a + b);
        }
    }
}

impl fmt::Display for GaussianBlurParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.sigma;
        write!(f, "gaussian blur {x:.2} {y:.2} {z:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blurs by the definition: voxel by voxel and axis by axis, in f64.
    fn by_definition(image: &[f32], shape: [usize; 3], sigma: [f32; 3]) -> Vec<f64> {
        let strides = [shape[1] * shape[2], shape[2], 1];
        let mut now: Vec<f64> = image.iter().map(|&v| f64::from(v)).collect();
        for axis in 0..3 {
            let r = radius(sigma[axis]) as isize;
            let weight = |j: isize| (-0.5 * (j as f64 / f64::from(sigma[axis])).powi(2)).exp();
            let total: f64 = (-r..=r).map(weight).sum();
            let before = now.clone();
            for (i, v) in now.iter_mut().enumerate() {
                let at = i / strides[axis] % shape[axis];
                *v = (-r..=r)
                    .map(|j| weight(j) * before[i - at * strides[axis] + reflect(at, j, shape[axis]) * strides[axis]])
                    .sum::<f64>()
                    / total;
            }
        }
        now
    }

    #[test]
    fn kernels_have_the_lengths_of_nnunet() {
        let check = |sigma, expected| assert_eq!(radius(sigma), expected, "{sigma}");
        check(0.5, 1);
        check(0.583, 1);
        check(0.584, 2);
        check(0.916, 2);
        check(0.917, 3);
        check(1.0, 3);
    }

    #[test]
    fn border_voxel_is_not_repeated() {
        let check = |at, offset, n, expected| assert_eq!(reflect(at, offset, n), expected);
        check(0, -1, 5, 1);
        check(0, -3, 5, 3);
        check(4, 1, 5, 3);
        check(2, 1, 5, 3);
        check(0, -5, 3, 1);
        check(0, 7, 1, 0);
    }

    proptest! {
        #[test]
        fn result_agrees_with_the_definition(
            shape in [1usize..9, 1usize..9, 1usize..12],
            sigma in [0.3f32..2.0, 0.3f32..2.0, 0.3f32..2.0],
            seed: u64,
        ) {
            let mut normals = super::super::approx::Normals::new(seed);
            let image: Vec<f32> = (0..shape.iter().product()).map(|_| normals.next_pair().0[0]).collect();
            let expected = by_definition(&image, shape, sigma);
            let mut blurred = image;
            GaussianBlurParams { sigma }.apply(&mut blurred, shape, &mut Scratch::new());
            for (v, e) in blurred.iter().zip(expected) {
                // Three sums of at most 13 products in f32, of normals below 6 with weights that add up to 1: each sum
                // rounds by less than 13 · 6 · 2^-24 = 4.6e-6 in the worst case, and by a quarter of it in practice.
                prop_assert!((f64::from(*v) - e).abs() < 1e-5);
            }
        }

        #[test]
        fn constant_crop_is_unchanged(value in -2.0f32..2.0, sigma in [0.3f32..3.0, 0.3f32..3.0, 0.3f32..3.0]) {
            let mut image = vec![value; 7 * 5 * 9];
            GaussianBlurParams { sigma }.apply(&mut image, [7, 5, 9], &mut Scratch::new());
            prop_assert!(image.iter().all(|v| (v - value).abs() < 1e-5));
        }
    }
}
