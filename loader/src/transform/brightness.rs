//! Multiplicative brightness of nnU-Net's chain.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::range::{PositiveRange, Probability};
use crate::rng::{DrawId, Operation};

/// x becomes m x, m as likely below 1 as above it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Brightness {
    /// Of any change.
    pub probability: Probability,
    /// Of m.
    pub factor: PositiveRange,
}

/// The factor drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrightnessParams {
    /// m.
    pub factor: f32,
}

impl Default for Brightness {
    fn default() -> Self {
        Self { probability: Probability::known(0.15), factor: PositiveRange::known(0.75, 1.25) }
    }
}

impl Brightness {
    /// What this crop gets.
    #[must_use]
    pub fn draw(&self, id: &DrawId) -> Option<BrightnessParams> {
        let mut rng = id.rng(Operation::Brightness);
        let apply = self.probability.throw(&mut rng);
        let factor = self.factor.draw_about_one(&mut rng);
        apply.then_some(BrightnessParams { factor })
    }
}

impl BrightnessParams {
    /// Multiplies every voxel.
    ///
    /// DIFFERENCE: nnU-Net multiplies values of mean 0 and deviation 1, so it spreads them about the mean. Here 0 is
    /// the lower end of the window, as everywhere in this loader, and the image becomes brighter or darker.
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
