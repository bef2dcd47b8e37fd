//! Addition of a constant to the intensities, the recipe's last transform.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::range::{Probability, Range};
use crate::rng::{DrawId, Operation};

/// Settings of the shift: x becomes x + u.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShiftIntensity {
    /// Probability of applying the shift.
    pub probability: Probability,
    /// Range of the shift, in units of the window.
    pub range: Range,
}

/// Sampled intensity shift of a crop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftIntensityParams {
    /// Value added to every voxel, in units of the window.
    pub shift: f32,
}

impl Default for ShiftIntensity {
    fn default() -> Self {
        Self { probability: Probability::known(0.1), range: Range::known(-0.1, 0.1) }
    }
}

impl ShiftIntensity {
    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> Option<ShiftIntensityParams> {
        let mut rng = id.rng(Operation::ShiftIntensity);
        let apply = self.probability.sample(&mut rng);
        let shift = self.range.sample(&mut rng);
        apply.then_some(ShiftIntensityParams { shift })
    }
}

impl ShiftIntensityParams {
    /// Shifts every voxel.
    pub fn apply(&self, image: &mut [f32]) {
        for v in image {
            *v += self.shift;
        }
    }
}

impl fmt::Display for ShiftIntensityParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shift intensity {:+.3}", self.shift)
    }
}
