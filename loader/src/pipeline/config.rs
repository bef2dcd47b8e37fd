//! Configuration of a stream.

use hiend_cache::Manifest;
use serde::{Deserialize, Serialize};

use crate::preprocess::PreprocessConfig;
use crate::sampler::SampleBy;
use crate::split::Split;
use crate::transform::Chain;

/// Largest number of crops in a global batch.
pub(crate) const MOST_CROPS: usize = 65_536;

/// Upper bound on step numbers of any stream, exclusive. Below it, the number of a visit fits into 64 bits.
pub(crate) const STEPS: u64 = 1 << 47;

/// Configuration of a stream. Together with the seed and the caches, it alone determines the batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Voxels of a crop along x, y, z.
    pub crop_size: [usize; 3],
    /// Crops cut each time a case is visited.
    pub crops_per_visit: usize,
    /// Number of visits in a global batch, over all ranks. Its product with `crops_per_visit` is at most 65,536.
    pub visits_per_batch: usize,
    /// Share of crops whose centre is foreground, 0 to 1.
    pub foreground_rate: f64,
    /// Definition of foreground.
    pub sample_by: SampleBy,
    /// Label of voxels without annotation, on which no crop is centred; if absent, the ignore label of each case's
    /// dataset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_label: Option<u8>,
    /// HU range mapped to [0, 1]; the cache's own window if absent. Not allowed for caches of z-scores, whose values
    /// are used unchanged. The foreground of crop centres remains that of the cache's window
    /// ([`Self::remark_on_foreground`]).
    pub window: Option<[f64; 2]>,
    /// True if batches carry labels.
    pub labels: bool,
    /// Reaction to a corrupt case.
    pub on_corrupt: OnCorrupt,
    /// Datasets to include, by name; empty for all.
    pub include: Vec<String>,
    /// Datasets to exclude, by name.
    pub exclude: Vec<String>,
    /// Part of the remaining cases to use.
    pub split: Split,
    /// Augmentation of the crops.
    pub augment: Chain,
}

/// Reaction to a chunk or an index that fails verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCorrupt {
    /// The stream ends with an error that names case, shard and chunk.
    #[default]
    Fail,
    /// The visit is skipped: its crops are missing from the batch, whose `shape[0]` is smaller by their number and may
    /// be 0. No other crops take their place.
    ///
    /// Skipping depends on the visit alone, so the batch is the same for any number of threads and ranks and after a
    /// resume. A visit reads only the chunks that its crops meet, so the same case may be sound in another epoch.
    Skip,
}

impl Default for StreamConfig {
    /// Returns the pre-training recipe: 24 cases, 8 crops of 96 x 96 x 96 each, 6 of 8 centred on foreground.
    fn default() -> Self {
        Self {
            crop_size: [96; 3],
            crops_per_visit: 8,
            visits_per_batch: 24,
            foreground_rate: 0.75,
            sample_by: SampleBy::Intensity,
            ignore_label: None,
            window: None,
            labels: false,
            on_corrupt: OnCorrupt::Fail,
            include: Vec::new(),
            exclude: Vec::new(),
            split: Split::default(),
            augment: Chain::recipe(),
        }
    }
}

impl StreamConfig {
    /// Number of crops in a global batch.
    #[must_use]
    pub fn crops_per_batch(&self) -> usize {
        self.crops_per_visit.saturating_mul(self.visits_per_batch)
    }

    /// Warning for a window that differs from the one used for crop centres: a conversion counts the foreground voxels
    /// above the lower end of its own window, and setting `window` does not repeat the count. `manifest` is that of a
    /// cache of the stream.
    ///
    /// `None` if the two windows begin alike, no crop is centred on foreground or crops are centred by labels, or the manifest
    /// states no preprocessing.
    #[must_use]
    pub fn remark_on_foreground(&self, manifest: &Manifest) -> Option<String> {
        let by_window = self.sample_by == SampleBy::Intensity && self.foreground_rate > 0.0;
        let [low, high] = self.window.filter(|_| by_window)?;
        let cache: PreprocessConfig = serde_json::from_value(manifest.preprocess.clone()).ok()?;
        let [cache_low, _] = cache.window;
        let is_other = cache.normalize.is_hu() && low.to_bits() != cache_low.to_bits();
        is_other.then(|| {
            format!(
                "crop centres: foreground is what lies above the {cache_low} HU of the cache, not above the {low} HU of \
                 stream.window; convert with --window={low},{high} to centre crops by it"
            )
        })
    }

    /// Checks that all numbers are in range.
    ///
    /// # Errors
    /// The first key that is out of range, with its value and the range.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let check = |ok: bool, key: &'static str, reason: String| if ok { Ok(()) } else { Err((key, reason)) };
        let size = self.crop_size;
        let good = size.iter().all(|n| (1..=1024).contains(n));
        check(good, "crop_size", format!("{size:?}; expected three numbers of 1 to 1024"))?;
        for (key, count) in [("crops_per_visit", self.crops_per_visit), ("visits_per_batch", self.visits_per_batch)] {
            check((1..=65_536).contains(&count), key, format!("{count}; expected 1 to 65536"))?;
        }
        let (visits, crops) = (self.visits_per_batch, self.crops_per_batch());
        let reason = format!("{visits}; a batch would have {crops} crops; expected at most {MOST_CROPS}");
        check(crops <= MOST_CROPS, "visits_per_batch", reason)?;
        let rate = self.foreground_rate;
        check((0.0..=1.0).contains(&rate), "foreground_rate", format!("{rate}; expected 0 to 1"))?;
        if let Some([low, high]) = self.window {
            let good = low < high && low.is_finite() && high.is_finite();
            check(good, "window", format!("[{low}, {high}]; expected two HU values, the lower one first"))?;
        }
        let by_label = self.sample_by != SampleBy::Intensity;
        check(!by_label || self.labels, "labels", "false; sampling by label or class needs true".into())?;
        let fault = self.split.fault();
        check(fault.is_none(), "split", fault.unwrap_or_default())?;
        let reason = format!("{size:?}; quarter turns need equal first two lengths, or rotate90.probability = 0");
        check(size[0] == size[1] || !self.augment.turns(), "crop_size", reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::normalize::Normalize;

    #[test]
    fn a_window_that_begins_elsewhere_than_the_cache_s_is_reported() {
        let remark = |config: &StreamConfig, cache: &PreprocessConfig| {
            let preprocess = serde_json::to_value(cache).unwrap();
            config.remark_on_foreground(&Manifest { preprocess, ..Manifest::default() })
        };
        let with = |window| StreamConfig { window, ..StreamConfig::default() };
        let lung = with(Some([-1000.0, 1000.0]));
        let hu = PreprocessConfig::default();
        let line = "crop centres: foreground is what lies above the -175 HU of the cache, not above the -1000 HU of \
                    stream.window; convert with --window=-1000,1000 to centre crops by it";
        assert_eq!(remark(&lung, &hu).as_deref(), Some(line));
        assert_eq!(remark(&with(None), &hu), None);
        assert_eq!(remark(&with(Some([-175.0, 400.0])), &hu), None);
        let by_label = StreamConfig { sample_by: SampleBy::Label, labels: true, ..lung.clone() };
        assert_eq!(remark(&by_label, &hu), None);
        assert_eq!(remark(&StreamConfig { foreground_rate: 0.0, ..lung.clone() }, &hu), None);
        // A stream of z-scores has no window; opening it says so.
        let normalize = Normalize::Zscore;
        let zscores = PreprocessConfig { normalize, window: normalize.default_window(), ..hu };
        assert_eq!(remark(&lung, &zscores), None);
        assert_eq!(lung.remark_on_foreground(&Manifest::default()), None);
    }
}
