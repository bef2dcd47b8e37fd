//! Multiplication of the intensities by 1 + u, the recipe's third transform.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::range::{Probability, Range};
use crate::rng::{DrawId, Operation};

/// Settings of the multiplication: x becomes x (1 + u).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleIntensity {
    /// Probability of applying the multiplication.
    pub probability: Probability,
    /// Range that u is drawn from, as a fraction of the intensity.
    pub range: Range,
}

/// Sampled multiplication of a crop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleIntensityParams {
    /// Multiplier of every voxel, 1 + u.
    pub factor: f32,
}

impl Default for ScaleIntensity {
    fn default() -> Self {
        Self { probability: Probability::known(0.1), range: Range::known(-0.1, 0.1) }
    }
}

impl ScaleIntensity {
    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> Option<ScaleIntensityParams> {
        let mut rng = id.rng(Operation::ScaleIntensity);
        let apply = self.probability.sample(&mut rng);
        let factor = 1.0 + self.range.sample(&mut rng);
        apply.then_some(ScaleIntensityParams { factor })
    }
}

impl ScaleIntensityParams {
    /// Multiplies every voxel.
    pub fn apply(&self, image: &mut [f32]) {
        for v in image {
            *v *= self.factor;
        }
    }
}

impl fmt::Display for ScaleIntensityParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scale intensity {:.3}", self.factor)
    }
}
