//! Multiplicative brightness of nnU-Net's chain.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::range::{PositiveRange, Probability};
use crate::rng::{DrawId, Operation};

/// Settings of the multiplication of all voxels by a factor, which is below 1 as often as above it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Brightness {
    /// Probability of applying the transform.
    pub probability: Probability,
    /// Range of the factor.
    pub factor: PositiveRange,
}

/// Sampled brightness change of a crop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrightnessParams {
    /// Multiplier of every voxel.
    pub factor: f32,
}

impl Default for Brightness {
    fn default() -> Self {
        Self { probability: Probability::known(0.15), factor: PositiveRange::known(0.75, 1.25) }
    }
}

impl Brightness {
    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> Option<BrightnessParams> {
        let mut rng = id.rng(Operation::Brightness);
        let apply = self.probability.sample(&mut rng);
        let factor = self.factor.sample_about_one(&mut rng);
        apply.then_some(BrightnessParams { factor })
    }
}

impl BrightnessParams {
    /// Multiplies every voxel.
    ///
    /// DIFFERENCE: nnU-Net multiplies values of mean 0 and standard deviation 1, which spreads them about the mean.
    /// Here 0 is the lower end of the window, as everywhere in this loader, so the image becomes brighter or darker.
    pub fn apply(&self, image: &mut [f32]) {
        for v in image {
            *v *= self.factor;
        }
    }
}

impl fmt::Display for BrightnessParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "brightness {:.3}", self.factor)
    }
}
