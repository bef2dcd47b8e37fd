//! What the stream of crops is, until the loader's own type takes this place.

use serde::{Deserialize, Serialize};

/// Crops and batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Sides of a crop, voxels.
    pub crop_size: [usize; 3],
    /// Crops of each visit of a case.
    pub crops_per_visit: usize,
    /// Cases of a batch.
    pub visits_per_batch: usize,
    /// Part of the crops centred on foreground.
    pub foreground_rate: f64,
    /// What is done to each crop.
    pub augment: AugmentConfig,
}

/// Augmentation of a crop, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// Of each axis.
    pub flip: Chance,
    /// In the plane of the first two axes.
    pub rotate90: Chance,
    /// Multiplication by 1 + u.
    pub scale_intensity: RangedChance,
    /// Addition of u.
    pub shift_intensity: RangedChance,
}

/// How often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chance {
    /// From 0 to 1.
    pub probability: f64,
}

/// How often and how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangedChance {
    /// From 0 to 1.
    pub probability: f64,
    /// Largest |u|.
    pub range: f64,
}

impl Default for StreamConfig {
    fn default() -> Self {
        let intensity = RangedChance { probability: 0.1, range: 0.1 };
        Self {
            crop_size: [96; 3],
            crops_per_visit: 8,
            visits_per_batch: 24,
            foreground_rate: 0.75,
            augment: AugmentConfig {
                flip: Chance { probability: 0.5 },
                rotate90: Chance { probability: 0.3 },
                scale_intensity: intensity.clone(),
                shift_intensity: intensity,
            },
        }
    }
}
