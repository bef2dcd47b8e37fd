//! Where crops are cut: centres drawn exactly uniformly over foreground, background or a class, without a scan.
//!
//! # Law
//! A crop's kind is foreground with the configured rate, else background; a kind that the volume lacks is replaced by
//! the other. Its centre is uniform over the voxels of that kind ([`hiend_cache::occupancy`] says how). The box lies
//! around the centre as in MONAI's `RandCropByPosNegLabeld`: it begins half a crop before it and is moved inside if it
//! would reach out. A volume that is shorter than the crop is centred and padded.

use hiend_cache::occupancy::{Counts, Occupancy};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::rng::{DrawId, Operation};

/// What counts as foreground when crops are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleBy {
    /// Voxels above the window's lower end: pre-training.
    #[default]
    Intensity,
    /// Voxels with a label other than 0: fine-tuning.
    Label,
    /// A class that occurs, each with the same probability, then its voxels: rare classes come as often as large ones.
    Class,
}

/// The voxels among which a centre is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Above the foreground threshold.
    Foreground,
    /// Not above it.
    Background,
    /// Of this label.
    Class(u32),
}

/// One voxel, named by its chunk and its place among the chunk's voxels of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CentrePick {
    /// What to count.
    pub kind: Kind,
    /// The chunk.
    pub chunk: usize,
    /// Which of the chunk's voxels of this kind, from 0.
    pub nth: u32,
}

impl SampleBy {
    /// Draws a centre.
    #[must_use]
    pub fn pick(self, id: &DrawId, foreground_rate: f64, occupancy: &Occupancy) -> CentrePick {
        let mut rng = id.rng(Operation::Centre);
        let wants_foreground = rng.random::<f64>() < foreground_rate;
        let labelled: Vec<(Kind, &Counts)> = occupancy
            .classes
            .iter()
            .filter(|(class, _)| *class != 0)
            .map(|(class, n)| (Kind::Class(*class), n))
            .collect();
        let unlabelled = occupancy.class(0).map(|counts| (Kind::Class(0), counts));
        let (foreground, background) = match self {
            Self::Intensity => {
                (vec![(Kind::Foreground, &occupancy.foreground)], vec![(Kind::Background, &occupancy.background)])
            }
            Self::Label => (labelled, unlabelled.into_iter().collect()),
            Self::Class if labelled.is_empty() => (labelled, unlabelled.into_iter().collect()),
            Self::Class => {
                let class = labelled[rng.random_range(0..labelled.len())];
                (vec![class], unlabelled.into_iter().collect())
            }
        };
        let total = |kinds: &[(Kind, &Counts)]| kinds.iter().map(|(_, counts)| counts.total()).sum::<u64>();
        let (wanted, other) = if wants_foreground { (foreground, background) } else { (background, foreground) };
        let kinds = if total(&wanted) > 0 { wanted } else { other };
        let mut k = rng.random_range(0..total(&kinds));
        for (kind, counts) in kinds {
            if let Some((chunk, nth)) = counts.locate(k) {
                return CentrePick { kind, chunk, nth };
            }
            k -= counts.total();
        }
        unreachable!("k is below the total of all kinds, and every voxel is foreground or background")
    }
}

/// First voxel of the box of `size` around `centre`, along one axis of `len` voxels.
#[must_use]
pub fn box_start(centre: usize, len: usize, size: usize) -> i64 {
    let signed = |n: usize| i64::try_from(n).expect("an axis is shorter than 2^63");
    if len <= size {
        return -(signed(size - len) / 2);
    }
    (signed(centre) - signed(size / 2)).clamp(0, signed(len - size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_stay_inside_and_small_volumes_are_centred() {
        for (centre, len, size, expected) in [
            (50, 200, 96, 2),
            (10, 200, 96, 0),
            (190, 200, 96, 104),
            (30, 60, 96, -18),
            (30, 61, 96, -17),
            (0, 96, 96, 0),
        ] {
            assert_eq!(box_start(centre, len, size), expected, "{centre} {len} {size}");
        }
    }
}
