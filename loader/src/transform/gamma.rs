//! Gamma correction of the image or its inverse, restoring mean and standard deviation, as in nnU-Net's chain.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::approx::pow;
use super::moments::{Sums, moments};
use super::range::{PositiveRange, Probability};
use crate::rng::{DrawId, Operation};

/// Settings of the gamma correction: x becomes ((x - min)/(max - min))^g (max - min) + min.
///
/// The exponent g is below 1 as often as above it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gamma {
    /// Probability of applying the transform.
    pub probability: Probability,
    /// Range of the exponent.
    pub exponent: PositiveRange,
    /// True if the crop's mean and standard deviation are restored afterwards.
    pub retain_stats: bool,
}

/// Image that the gamma correction applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Polarity {
    /// The image itself.
    Plain,
    /// The image times -1, so that bright becomes dark; the sign is restored afterwards.
    Inverted,
}

/// Sampled parameters of one crop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GammaParams {
    /// Exponent of the gamma correction; above 1 darkens.
    pub exponent: f32,
    /// Polarity: the image or its inverse is corrected.
    pub polarity: Polarity,
    /// True if mean and standard deviation are restored.
    pub retain_stats: bool,
}

impl Default for Gamma {
    fn default() -> Self {
        Self { probability: Probability::known(0.3), exponent: PositiveRange::known(0.7, 1.5), retain_stats: true }
    }
}

impl Gamma {
    /// Default settings of nnU-Net's gamma correction of the inverted image: the same range, but a lower probability.
    #[must_use]
    pub fn inverted() -> Self {
        Self { probability: Probability::known(0.1), ..Self::default() }
    }

    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId, polarity: Polarity) -> Option<GammaParams> {
        let mut rng = id.rng(match polarity {
            Polarity::Plain => Operation::Gamma,
            Polarity::Inverted => Operation::GammaInverted,
        });
        let apply = self.probability.sample(&mut rng);
        let exponent = self.exponent.sample_about_one(&mut rng);
        apply.then_some(GammaParams { exponent, polarity, retain_stats: self.retain_stats })
    }
}

impl GammaParams {
    /// Intensity range below which a crop counts as constant; dividing by such a range would only amplify noise.
    pub const FLAT: f32 = 1e-7;

    /// Applies the correction to a crop. A constant crop is unchanged.
    pub fn apply(&self, image: &mut [f32]) {
        const PIECE: usize = 2048;
        let before = moments(image);
        let range = before.max - before.min;
        if range.is_nan() || range < Self::FLAT {
            return;
        }
        // With the sign folded in, both polarities are y = sign (t^g range) + base for t = sign (x - base)/range.
        let (sign, base) = match self.polarity {
            Polarity::Plain => (1.0, before.min),
            Polarity::Inverted => (-1.0, before.max),
        };
        let (into_unit, out_of_unit, exponent) = (sign / range, sign * range, self.exponent);
        let corrected = |v: f32| pow(((v - base) * into_unit).min(1.0), exponent) * out_of_unit + base;

        // In pieces that stay in the first-level cache, each in two plain loops. As one loop over eight lanes, the
        // compiler left the power scalar: 5.2 ms per crop instead of 2.7 (1.9 on a quiet machine).
        let mut sums = Sums::new();
        for piece in image.chunks_mut(PIECE) {
            for v in piece.iter_mut() {
                *v = corrected(*v);
            }
            if self.retain_stats {
                sums.add_all(piece);
            }
        }
        if self.retain_stats {
            let after = sums.moments();
            let scale = (before.std / after.std.max(f64::from(Self::FLAT))) as f32;
            let shift = (before.mean - after.mean * f64::from(scale)) as f32;
            for v in image {
                *v = *v * scale + shift;
            }
        }
    }
}

impl fmt::Display for GammaParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inverted = if self.polarity == Polarity::Inverted { "inverted " } else { "" };
        write!(f, "{inverted}gamma {:.3}", self.exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(exponent: f32, polarity: Polarity) -> GammaParams {
        GammaParams { exponent, polarity, retain_stats: false }
    }

    #[test]
    fn values_follow_the_definition() {
        let check = |params: GammaParams, expected: [f32; 3]| {
            let mut image = [-1.0, 0.0, 3.0];
            params.apply(&mut image);
            for (v, e) in image.iter().zip(expected) {
                // `pow` has a relative error of up to 3e-7 + ln(2) · 2 · 5e-7, its results here are at most 9/16 and are
                // scaled by 4: 2.3e-6, and a few roundings of numbers up to 4 (2.4e-7 each).
                assert!((v - e).abs() < 1e-5, "{params}: {image:?}");
            }
        };
        check(plain(2.0, Polarity::Plain), [-1.0, -0.75, 3.0]);
        check(plain(0.5, Polarity::Plain), [-1.0, 1.0, 3.0]);
        // The negative is [1, 0, -3]: (0 + 3)/4 squared is 9/16, times 4, less 3, is -0.75.
        check(plain(2.0, Polarity::Inverted), [-1.0, 0.75, 3.0]);
    }

    #[test]
    fn constant_crop_is_unchanged() {
        for polarity in [Polarity::Plain, Polarity::Inverted] {
            let mut image = [0.7; 19];
            GammaParams { exponent: 0.8, polarity, retain_stats: true }.apply(&mut image);
            assert!(image.iter().all(|v| v.to_bits() == 0.7f32.to_bits()));
        }
    }

    #[test]
    fn description_is_a_phrase() {
        assert_eq!(plain(0.83, Polarity::Plain).to_string(), "gamma 0.830");
        assert_eq!(plain(1.2, Polarity::Inverted).to_string(), "inverted gamma 1.200");
    }

    proptest! {
        #[test]
        fn mean_and_standard_deviation_are_restored(
            mut image in proptest::collection::vec(-2.0f32..3.0, 16..400),
            exponent in 0.7f32..1.5,
            inverted: bool,
        ) {
            let polarity = if inverted { Polarity::Inverted } else { Polarity::Plain };
            let before = moments(&image);
            GammaParams { exponent, polarity, retain_stats: true }.apply(&mut image);
            let after = moments(&image);
            // Moments are summed in f64; each voxel is rounded a few times at magnitudes below 4, by 2.4e-7 at most, and
            // scaling by the ratio of two deviations enlarges that a few times at these exponents.
            prop_assert!((before.mean - after.mean).abs() < 1e-5);
            prop_assert!((before.std - after.std).abs() < 1e-5);
        }

        #[test]
        fn order_of_intensities_is_kept(mut image in proptest::collection::vec(0.0f32..1.0, 2..50), exponent in 0.7f32..1.5) {
            image.sort_by(f32::total_cmp);
            plain(exponent, Polarity::Plain).apply(&mut image);
            prop_assert!(image.windows(2).all(|w| w[0] <= w[1] + 1e-6));
        }
    }
}
