//! Positions of crops: centres exactly uniform over foreground, background or a class, without scanning the volume.
//!
//! # Guarantee
//! A crop's kind is foreground with the configured rate, else background; a kind that the volume lacks is replaced by
//! the other. Voxels with the ignore label are neither, because they were not annotated. Its centre is uniform over the
//! voxels of that kind, by the counts of [`hiend_cache::occupancy`]. The box is placed as in MONAI's
//! `RandCropByPosNegLabeld`: it starts half a crop before the centre and is moved inside the
//! volume if it would reach out. A volume that is shorter than the crop is centred and padded.

use std::fmt;

use hiend_cache::occupancy::{Counts, Occupancy};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::rng::{DrawId, Operation};

/// Definition of the foreground that crop centres are sampled from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleBy {
    /// Voxels above the lower end of the cache's window (with z-scores, above 0 in the scan's file), for pre-training.
    #[default]
    Intensity,
    /// Voxels with a label other than 0, for fine-tuning.
    Label,
    /// Voxels of a class chosen uniformly among those that occur, so that small classes are chosen as often as large
    /// ones.
    Class,
}

/// Kind of voxels that a centre is sampled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Voxels above the foreground threshold.
    Foreground,
    /// Voxels at or below the foreground threshold.
    Background,
    /// Voxels with this label.
    Class(u32),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreground => f.write_str("foreground"),
            Self::Background => f.write_str("background"),
            Self::Class(class) => write!(f, "class {class}"),
        }
    }
}

/// One voxel, identified by its chunk and its number among the chunk's voxels of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CentrePick {
    /// Kind of voxel that is counted.
    pub kind: Kind,
    /// Index of the chunk.
    pub chunk: usize,
    /// Number of the voxel among the chunk's voxels of this kind, from 0.
    pub nth: u32,
}

impl SampleBy {
    /// Samples the centre of the crop `id`; `ignore` is the label of voxels without annotation. In a case without
    /// annotated voxels, the centre is sampled as with [`SampleBy::Intensity`].
    #[must_use]
    pub fn pick(self, id: &DrawId, foreground_rate: f64, occupancy: &Occupancy, ignore: Option<u8>) -> CentrePick {
        let mut rng = id.rng(Operation::Centre);
        let wants_foreground = rng.random::<f64>() < foreground_rate;
        let labelled: Vec<(Kind, &Counts)> = occupancy
            .classes
            .iter()
            .filter(|(class, _)| *class != 0 && Some(*class) != ignore.map(u32::from))
            .map(|(class, n)| (Kind::Class(*class), n))
            .collect();
        let unlabelled = occupancy.class(0).map(|counts| (Kind::Class(0), counts));
        let is_annotated = unlabelled.is_some() || !labelled.is_empty();
        let (foreground, background) = match if is_annotated { self } else { Self::Intensity } {
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

/// First voxel of a box of `size` voxels around `centre`, along one axis of `len` voxels. It is negative if the box is
/// longer than the axis.
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
    use std::collections::BTreeMap;

    const NUM_DRAWS: u32 = 20_000;

    /// Voxels per chunk of each kind; class 7 is rare.
    fn occupancy() -> Occupancy {
        Occupancy {
            foreground: Counts::new([(1, 30), (4, 10)]),
            background: Counts::new([(0, 50), (1, 20), (2, 50)]),
            classes: vec![
                (0, Counts::new([(0, 50), (2, 50), (3, 25)])),
                (2, Counts::new([(1, 27), (4, 8)])),
                (7, Counts::new([(4, 2)])),
            ],
        }
    }

    /// Shares of kinds and chunks among many picks; asserts that every picked voxel exists.
    fn shares(
        sample_by: SampleBy,
        rate: f64,
        occupancy: &Occupancy,
        ignore: Option<u8>,
    ) -> BTreeMap<(u32, usize), f64> {
        let mut shares = BTreeMap::new();
        for crop in 0..NUM_DRAWS {
            let pick = sample_by.pick(&DrawId { seed: 1, epoch: 2, case: 3, crop }, rate, occupancy, ignore);
            let (kind, counts) = match pick.kind {
                Kind::Foreground => (1, &occupancy.foreground),
                Kind::Background => (0, &occupancy.background),
                Kind::Class(class) => (class, occupancy.class(class).unwrap()),
            };
            let (_, count) = counts.iter().find(|(chunk, _)| *chunk as usize == pick.chunk).unwrap();
            assert!(pick.nth < count, "{pick:?} of {count}");
            *shares.entry((kind, pick.chunk)).or_default() += 1.0 / f64::from(NUM_DRAWS);
        }
        shares
    }

    /// Checks the shares to within five standard errors, and that nothing else is picked.
    fn check(sample_by: SampleBy, rate: f64, occupancy: &Occupancy, expected: &[((u32, usize), f64)]) {
        check_with(sample_by, rate, occupancy, None, expected);
    }

    fn check_with(
        sample_by: SampleBy,
        rate: f64,
        occupancy: &Occupancy,
        ignore: Option<u8>,
        expected: &[((u32, usize), f64)],
    ) {
        let shares = shares(sample_by, rate, occupancy, ignore);
        assert_eq!(
            shares.keys().copied().collect::<Vec<_>>(),
            expected.iter().map(|(key, _)| *key).collect::<Vec<_>>()
        );
        for &(key, share) in expected {
            let error = (share * (1.0 - share) / f64::from(NUM_DRAWS)).sqrt();
            assert!(
                (shares[&key] - share).abs() < 5.0 * error + 1e-9,
                "{sample_by:?} {key:?}: {}, not {share}",
                shares[&key]
            );
        }
    }

    #[test]
    fn picks_are_uniform_over_the_voxels_of_their_kind() {
        let occupancy = occupancy();
        let background = |scale: f64, shares: [((u32, usize), f64); 3]| shares.map(|(key, n)| (key, scale * n));
        let [a, b, c] = background(0.25 / 120.0, [((0, 0), 50.0), ((0, 1), 20.0), ((0, 2), 50.0)]);
        check(SampleBy::Intensity, 0.75, &occupancy, &[a, b, c, ((1, 1), 0.75 * 0.75), ((1, 4), 0.75 * 0.25)]);
        let [a, b, c] = background(0.25 / 125.0, [((0, 0), 50.0), ((0, 2), 50.0), ((0, 3), 25.0)]);
        let of = |n: f64| 0.75 * n / 37.0;
        check(SampleBy::Label, 0.75, &occupancy, &[a, b, c, ((2, 1), of(27.0)), ((2, 4), of(8.0)), ((7, 4), of(2.0))]);
        let of = |n: f64| 0.375 * n / 35.0;
        check(SampleBy::Class, 0.75, &occupancy, &[a, b, c, ((2, 1), of(27.0)), ((2, 4), of(8.0)), ((7, 4), 0.375)]);
    }

    #[test]
    fn missing_kind_is_replaced_by_the_other() {
        let all = occupancy();
        let no_foreground = Occupancy {
            foreground: Counts::default(),
            classes: all.classes[..1].to_vec(),
            background: Counts::new([(3, 5)]),
        };
        let unlabelled = [((0, 0), 0.4), ((0, 2), 0.4), ((0, 3), 0.2)];
        check(SampleBy::Intensity, 0.75, &no_foreground, &[((0, 3), 1.0)]);
        check(SampleBy::Label, 0.75, &no_foreground, &unlabelled);
        check(SampleBy::Class, 0.75, &no_foreground, &unlabelled);
        let no_background = Occupancy {
            foreground: Counts::new([(2, 9)]),
            background: Counts::default(),
            classes: all.classes[2..].to_vec(),
        };
        for (sample_by, kind, chunk) in [(SampleBy::Intensity, 1, 2), (SampleBy::Label, 7, 4), (SampleBy::Class, 7, 4)]
        {
            check(sample_by, 0.25, &no_background, &[((kind, chunk), 1.0)]);
        }
    }

    #[test]
    fn ignored_voxels_are_no_foreground() {
        let occupancy = occupancy();
        let background = [((0, 0), 0.1), ((0, 2), 0.1), ((0, 3), 0.05)];
        let with = |class: [((u32, usize), f64); 2]| [background.as_slice(), &class].concat();
        let of_2 = with([((2, 1), 0.75 * 27.0 / 35.0), ((2, 4), 0.75 * 8.0 / 35.0)]);
        for sample_by in [SampleBy::Label, SampleBy::Class] {
            check_with(sample_by, 0.75, &occupancy, Some(7), &of_2);
        }
        // A label that does not occur changes no pick.
        for crop in 0..100 {
            let id = DrawId { seed: 1, epoch: 2, case: 3, crop };
            let pick = |ignore| SampleBy::Class.pick(&id, 0.75, &occupancy, ignore);
            assert_eq!(pick(Some(9)), pick(None));
        }
        // Nothing is annotated.
        let ignored = Occupancy { classes: occupancy.classes[2..].to_vec(), ..occupancy };
        let shares = [((0, 0), 0.25 * 50.0 / 120.0), ((0, 1), 0.25 / 6.0), ((0, 2), 0.25 * 50.0 / 120.0)];
        let expected = [shares.as_slice(), &[((1, 1), 0.75 * 0.75), ((1, 4), 0.75 * 0.25)]].concat();
        check_with(SampleBy::Label, 0.75, &ignored, Some(7), &expected);
    }

    #[test]
    fn rates_0_and_1_are_exact() {
        let occupancy = occupancy();
        let foreground = shares(SampleBy::Intensity, 1.0, &occupancy, None);
        assert!(foreground.keys().all(|(kind, _)| *kind == 1));
        let background = shares(SampleBy::Intensity, 0.0, &occupancy, None);
        assert!(background.keys().all(|(kind, _)| *kind == 0));
    }

    #[test]
    fn boxes_stay_inside_and_short_volumes_are_centred() {
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
