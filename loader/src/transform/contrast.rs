//! Contrast about the crop's mean, clamped to the crop's range, as in nnU-Net's chain.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::moments::moments;
use super::range::{PositiveRange, Probability};
use crate::rng::{DrawId, Operation};

/// Settings of the change of contrast: x becomes mean + m (x - mean), clamped to the crop's extremes.
///
/// The multiplier m is below 1 as often as above it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contrast {
    /// Probability of applying the transform.
    pub probability: Probability,
    /// Range of the multiplier.
    pub factor: PositiveRange,
}

/// Sampled multiplier of one crop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastParams {
    /// Contrast multiplier about the mean.
    pub factor: f32,
}

impl Default for Contrast {
    fn default() -> Self {
        Self { probability: Probability::known(0.15), factor: PositiveRange::known(0.75, 1.25) }
    }
}

impl Contrast {
    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> Option<ContrastParams> {
        let mut rng = id.rng(Operation::Contrast);
        let apply = self.probability.sample(&mut rng);
        let factor = self.factor.sample_about_one(&mut rng);
        apply.then_some(ContrastParams { factor })
    }
}

impl ContrastParams {
    /// Changes the contrast of a crop.
    pub fn apply(&self, image: &mut [f32]) {
        let of = moments(image);
        let (mean, factor) = (of.mean as f32, self.factor);
        for v in image {
            *v = ((*v - mean) * factor + mean).clamp(of.min, of.max);
        }
    }
}

impl fmt::Display for ContrastParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "contrast {:.3}", self.factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_spread_about_the_mean_within_the_range() {
        let check = |factor, expected: [f32; 4]| {
            let mut image = [0.0, 0.4, 0.6, 1.0];
            ContrastParams { factor }.apply(&mut image);
            for (v, e) in image.iter().zip(expected) {
                // Three roundings of numbers up to 1, 6e-8 each.
                assert!((v - e).abs() < 1e-6, "{image:?}");
            }
        };
        check(0.5, [0.25, 0.45, 0.55, 0.75]);
        check(2.0, [0.0, 0.3, 0.7, 1.0]);
    }

    #[test]
    fn constant_crop_is_unchanged() {
        let mut image = [0.3; 11];
        ContrastParams { factor: 1.2 }.apply(&mut image);
        assert!(image.iter().all(|v| v.to_bits() == 0.3f32.to_bits()));
    }
}
