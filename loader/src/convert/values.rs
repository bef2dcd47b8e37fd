//! The values of a source image, counted before the window hides them.

use hiend_cache::SourceValues;

use super::peaks::{Peaks, count, lowest_peak, share_between};
use crate::preprocess::normalize::Normalize;
use crate::preprocess::zscore::{ZScore, is_nonzero};
use crate::volume::{Format, Volume};

/// Values at or below this are air or padding, in HU.
const AIR_HU: f32 = -900.0;
/// Lowest value from which all of an image are above those of a CT in HU, whose air is at -1000.
pub(super) const FAR_ABOVE_AIR: f32 = 500.0;
/// Range of soft tissue and water when 1024 (or 1000) was added to HU.
const OFFSET_TISSUE: std::ops::RangeInclusive<f32> = 874.0..=1274.0;
/// Largest number of values that an image of few grey levels is still taken for a label map with.
const FEW_LABELS: usize = 16;
/// Share of neighbours with equal values, among those that are not both 0, from which whole numbers are labels.
const PIECEWISE_CONSTANT: f64 = 0.8;

/// Range and shares of an image's values.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueStats {
    /// Lowest value.
    pub min: f32,
    /// Highest value.
    pub max: f32,
    /// Share of voxels at or below the window's lower end.
    pub below: f64,
    /// Share of voxels at or above the window's upper end.
    pub above: f64,
    /// Share of voxels at or below -900; for z-scores, share of voxels that are 0.
    pub air: f64,
    /// Share of voxels from 874 to 1274.
    pub offset_tissue: f64,
    /// Counts by which another scale or sign is recognised.
    pub peaks: Peaks,
    /// The lowest value around which many voxels lie, looked for where all values are far above those of air in HU.
    pub lowest_peak: Option<f32>,
    /// Share of voxels from 1898 to 2298, where tissue lies with an offset of 2048, counted where all values are far above those
    /// of air in HU; 0 elsewhere.
    pub raised_tissue: f64,
    /// Format of the files.
    pub format: Format,
    /// Number of different values, if they are those of a label map.
    pub labels: Option<usize>,
    /// Mean and standard deviation, for z-scores of an image that has them.
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
            offset_tissue: 0,
            peaks: Peaks::default(),
            labels: Some(LabelCounts { seen: [false; 256], pairs: 0, equal: 0 }),
        };
        volume.for_each_row(|row| counts.add(row));
        let is_far_above = !is_zscore && counts.min >= FAR_ABOVE_AIR;
        let share = |count: u64| count as f64 / counts.num.max(1) as f64;
        Self {
            min: counts.min,
            max: counts.max,
            below: share(counts.below),
            above: share(counts.above),
            air: share(counts.air),
            offset_tissue: share(counts.offset_tissue),
            peaks: counts.peaks,
            lowest_peak: if is_far_above { lowest_peak(volume, counts.min) } else { None },
            raised_tissue: if is_far_above {
                share_between(volume, OFFSET_TISSUE.start() + 1024.0, OFFSET_TISSUE.end() + 1024.0)
            } else {
                0.0
            },
            format: volume.info.format,
            labels: counts.labels.as_ref().and_then(LabelCounts::num_labels),
            zscore,
        }
    }
}

impl ValueStats {
    /// The part of the counts that is stored with the case.
    #[must_use]
    pub fn to_record(&self, findings: Vec<String>) -> SourceValues {
        // Shares are rounded: nobody needs more digits, and every case would carry them.
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
    offset_tissue: u64,
    peaks: Peaks,
    /// Values seen so far; `None` once one was met that cannot be a label.
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
        self.offset_tissue += count(row, |value| OFFSET_TISSUE.contains(&value));
        if !self.is_zscore {
            self.peaks.add(row, min, max);
        }
        if let Some(labels) = &mut self.labels
            && !(min >= 0.0 && max <= 255.0 && labels.add(row))
        {
            self.labels = None;
        }
    }
}

struct LabelCounts {
    seen: [bool; 256],
    /// Neighbours along a row that are not both 0.
    pairs: u64,
    /// Voxels of equal value.
    equal: u64,
}

impl LabelCounts {
    /// Counts a row of values from 0 to 255; returns whether all are whole numbers.
    fn add(&mut self, row: &[f32]) -> bool {
        let mut last = None;
        for &value in row {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255")]
            let label = value as u8;
            if (f32::from(label) - value).abs() > 0.0 {
                return false;
            }
            self.seen[usize::from(label)] = true;
            if let Some(last) = last.filter(|&last| label > 0 || last > 0) {
                self.pairs += 1;
                self.equal += u64::from(label == last);
            }
            last = Some(label);
        }
        true
    }

    fn num_labels(&self) -> Option<usize> {
        let num = self.seen.iter().filter(|&&seen| seen).count();
        let is_piecewise = self.equal as f64 >= PIECEWISE_CONSTANT * self.pairs as f64;
        (num > 1 && (num <= FEW_LABELS || is_piecewise)).then_some(num)
    }
}
