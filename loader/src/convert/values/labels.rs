//! Signs that an image's values are those of a label map or the probabilities of a class.

use super::peaks::count;
use crate::volume::Volume;

/// Lowest value of a label; -1 and -100 are in use for unlabelled voxels.
const LOWEST: f32 = -128.0;
/// Highest value of a label.
const HIGHEST: f32 = 65_535.0;
/// Number of whole numbers from the lowest to the highest.
const NUM_VALUES: usize = 65_664;
/// Largest number of different labels.
const MOST_LABELS: usize = 256;
/// Largest number of different values that are taken for labels in areas of any form.
const FEW_LABELS: usize = 16;
/// Share of neighbours with equal values, among those that are not both background, from which whole numbers are labels.
const PIECEWISE_CONSTANT: f64 = 0.8;

/// Bounds of certainty: probabilities up to the first or from the second on count as certain.
const SURE: [f32; 2] = [0.01, 0.99];
/// Least share of certain voxels. A CT scaled to [0, 1] has lung, fat and soft tissue between the bounds.
const SURE_SHARE: f64 = 0.9;
/// Least share of voxels certain to belong to the class among those above the lower bound. A scaled CT has some bone at
/// 1.
const SURE_OF_CLASS: f64 = 0.3;

/// Different values of an image of whole numbers, with their neighbours of equal value along the rows.
pub(super) struct LabelCounts {
    /// For each value from the lowest on: 0 if the value was not seen, otherwise 1 plus the number of neighbouring
    /// pairs that have it.
    values: Vec<u64>,
    num: usize,
    /// Number of pairs of neighbours.
    pairs: u64,
}

impl LabelCounts {
    pub(super) fn new() -> Self {
        Self { values: vec![0; NUM_VALUES], num: 0, pairs: 0 }
    }

    /// Counts a row with the given lowest and highest value; returns whether all values may be labels.
    pub(super) fn add(&mut self, row: &[f32], min: f32, max: f32) -> bool {
        if min < LOWEST || max > HIGHEST {
            return false;
        }
        let mut last = None;
        for &value in row {
            if value.fract().abs() > 0.0 {
                return false;
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the range of labels")]
            let at = (value - LOWEST) as usize;
            if last == Some(at) {
                self.values[at] += 1;
                continue;
            }
            if self.values[at] == 0 {
                self.num += 1;
                self.values[at] = 1;
            }
            last = Some(at);
        }
        self.pairs += row.len().saturating_sub(1) as u64;
        self.num <= MOST_LABELS
    }

    /// Number of different values if they look like a label map; `None` otherwise.
    pub(super) fn num_labels(&self) -> Option<usize> {
        let equal = || self.values.iter().map(|count| count.saturating_sub(1));
        // The label of most neighbours, which are equal in an image with air or padding of one value as well.
        let background = equal().max().unwrap_or(0);
        let (equal, pairs) = (equal().sum::<u64>() - background, self.pairs - background);
        let is_piecewise = equal as f64 >= PIECEWISE_CONSTANT * pairs as f64;
        (self.num > 1 && (self.num <= FEW_LABELS || is_piecewise)).then_some(self.num)
    }
}

/// Returns whether a volume of values from 0 to 1 looks like the probability map of a class.
pub(super) fn are_probabilities(volume: &Volume) -> bool {
    let [low, high] = SURE;
    let (mut num, mut possible, mut sure) = (0, 0, 0);
    volume.for_each_row(|row| {
        num += row.len() as u64;
        possible += count(row, |value| value > low);
        sure += count(row, |value| value >= high);
    });
    let unsure = (possible - sure) as f64;
    sure > 0 && unsure <= (1.0 - SURE_SHARE) * num as f64 && sure as f64 >= SURE_OF_CLASS * possible as f64
}
