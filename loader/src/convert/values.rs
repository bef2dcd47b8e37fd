//! Statistics of a source image's values, counted before the window clips them.

mod air;
mod grain;
mod histogram;
mod labels;
mod peaks;
mod shares;
mod slices;
mod tissue;

use hiend_cache::SourceValues;

use crate::preprocess::normalize::Normalize;
use crate::preprocess::zscore::{ZScore, is_nonzero};
use crate::volume::{Format, Volume};
use grain::Grain;
use histogram::Histogram;
use labels::LabelCounts;
use peaks::count;

pub use air::Air;
pub(super) use histogram::RARE;
pub use peaks::Peaks;
pub use shares::Shares;
pub use slices::{BlankSlices, RepeatedSlices, Slices};
pub use tissue::Tissue;

/// Highest value of air or padding, in HU.
const AIR_HU: f32 = -900.0;
/// Largest share of voxels below a background; resampling leaves some there.
const BELOW_BACKGROUND: f64 = 0.01;

/// Range and shares of an image's values.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueStats {
    /// Lowest value, in the image's own unit.
    pub min: f32,
    /// Highest value, in the image's own unit.
    pub max: f32,
    /// Share of voxels at or below the window's lower end.
    pub below: f64,
    /// Share of voxels at or above the window's upper end.
    pub above: f64,
    /// Share of voxels at or below -900; for z-scores, share of voxels that are 0.
    pub air: f64,
    /// Counts that reveal another scale or sign.
    pub peaks: Peaks,
    /// Shares of voxels in ranges where HU have many or few; 0 for z-scores.
    pub shares: Shares,
    /// Air at other values than those of HU; not looked for in an image that becomes z-scores.
    pub odd_air: Air,
    /// True if neighbouring voxels differ as much as any two, by hundreds of HU; false for z-scores.
    pub is_noise: bool,
    /// Slices without content of their own; not looked for in masks and label maps.
    pub slices: Slices,
    /// Format of the files.
    pub format: Format,
    /// Number of different values if they look like a label map; `None` otherwise.
    pub labels: Option<usize>,
    /// True for values from 0 to 1 that look like the probabilities of a class.
    pub are_probabilities: bool,
    /// Mean and standard deviation, for z-scores of an image where both exist.
    pub zscore: Option<ZScore>,
}

impl ValueStats {
    /// Counts the values of a volume; the window is in HU or, for z-scores, in standard deviations from the mean.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "values of images are f32")]
    pub fn of(volume: &Volume, normalize: Normalize, window: [f64; 2]) -> Self {
        let is_zscore = normalize == Normalize::Zscore;
        let zscore = if is_zscore { ZScore::of(volume) } else { None };
        let window = match zscore {
            Some(zscore) => window.map(|z| zscore.value_at(z)),
            None if is_zscore => [f64::NEG_INFINITY, f64::INFINITY],
            None => window,
        };
        let mut counts = Counts {
            is_zscore,
            window: window.map(|end| end as f32),
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            num: 0,
            below: 0,
            above: 0,
            air: 0,
            peaks: Peaks::default(),
            histogram: (!is_zscore).then(|| Histogram::new(volume.info.shape.iter().product())),
            grain: Grain::default(),
            labels: Some(LabelCounts::new()),
        };
        volume.for_each_row(|row| counts.add(row));
        let (min, max) = (counts.min, counts.max);
        let labels = counts.labels.as_ref().and_then(LabelCounts::num_labels);
        let share = |count: u64| count as f64 / counts.num.max(1) as f64;
        let is_background = |value: f32| {
            let below = |histogram: &Histogram| histogram.share_up_to(value.floor() as i32 - 1);
            value <= AIR_HU || counts.histogram.as_ref().is_none_or(|histogram| below(histogram) < BELOW_BACKGROUND)
        };
        let is_mask = min >= max || labels.is_some();
        Self {
            min,
            max,
            below: share(counts.below),
            above: share(counts.above),
            air: share(counts.air),
            peaks: counts.peaks,
            shares: counts.histogram.as_ref().map(Shares::of).unwrap_or_default(),
            odd_air: counts.histogram.as_ref().map(Air::of).unwrap_or_default(),
            is_noise: counts.histogram.as_ref().is_some_and(|histogram| counts.grain.is_noise(histogram)),
            slices: if is_mask { Slices::default() } else { Slices::of(volume, is_background) },
            format: volume.info.format,
            labels,
            are_probabilities: labels.is_none() && min >= 0.0 && max <= 1.0 && labels::are_probabilities(volume),
            zscore,
        }
    }
}

impl ValueStats {
    /// The part of the counts that is stored with the case, next to its findings and the label values that it lost.
    #[must_use]
    pub fn to_record(&self, findings: Vec<String>, lost_labels: Vec<u8>) -> SourceValues {
        // Shares are rounded: further digits serve no purpose, and every case would carry them.
        let rounded = |share: f64| (share * 1e6).round() / 1e6;
        SourceValues {
            min: self.min.into(),
            max: self.max.into(),
            below: rounded(self.below),
            above: rounded(self.above),
            air: rounded(self.air),
            mean: self.zscore.map(|zscore| zscore.mean),
            std: self.zscore.map(|zscore| zscore.std),
            findings,
            lost_labels,
        }
    }
}

struct Counts {
    is_zscore: bool,
    window: [f32; 2],
    min: f32,
    max: f32,
    num: u64,
    below: u64,
    above: u64,
    air: u64,
    peaks: Peaks,
    /// `None` for z-scores.
    histogram: Option<Histogram>,
    /// Differences in the rows that the histogram counts.
    grain: Grain,
    /// Values seen so far; `None` once a value was found that cannot be a label.
    labels: Option<LabelCounts>,
}

impl Counts {
    fn add(&mut self, row: &[f32]) {
        let [low, high] = self.window;
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        for &value in row {
            min = min.min(value);
            max = max.max(value);
        }
        self.min = self.min.min(min);
        self.max = self.max.max(max);
        self.num += row.len() as u64;
        self.below += count(row, |value| value <= low);
        self.above += count(row, |value| value >= high);
        self.air +=
            if self.is_zscore { count(row, |value| !is_nonzero(value)) } else { count(row, |value| value <= AIR_HU) };
        if let Some(histogram) = &mut self.histogram {
            self.peaks.add(row, min, max);
            if histogram.add(row) {
                self.grain.add(row);
            }
        }
        if let Some(labels) = &mut self.labels
            && !labels.add(row, min, max)
        {
            self.labels = None;
        }
    }
}
