//! A constant added to the intensities: the recipe's last step.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::range::{Probability, Range};
use crate::rng::{DrawId, Operation};

/// x becomes x + u.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShiftIntensity {
    /// Of any change.
    pub probability: Probability,
    /// Of u, in units of the window.
    pub range: Range,
}

/// The shift drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftIntensityParams {
    /// u, in units of the window.
    pub shift: f32,
}

impl Default for ShiftIntensity {
    fn default() -> Self {
        Self { probability: Probability::known(0.1), range: Range::known(-0.1, 0.1) }
    }
}

impl ShiftIntensity {
    /// What this crop gets.
    #[must_use]
    pub fn draw(&self, id: &DrawId) -> Option<ShiftIntensityParams> {
        let mut rng = id.rng(Operation::ShiftIntensity);
        let apply = self.probability.throw(&mut rng);
        let shift = self.range.draw(&mut rng);
        apply.then_some(ShiftIntensityParams { shift })
    }
}

impl ShiftIntensityParams {
    /// Adds to every voxel.
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
