//! Scans on which a model was trained, as its run recorded them, and their differences from other scans.

use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::preprocess::window::Store;

use crate::config::RunConfig;

/// Preprocessing of the scans on which a model was trained.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedOn {
    /// Preprocessing of the cache; earlier versions did not record it for HU.
    preprocess: Option<PreprocessConfig>,
    /// Window of the stream, if it replaced that of the cache.
    window: Option<[f64; 2]>,
}

impl TrainedOn {
    /// Training scans of a run with `config`.
    #[must_use]
    pub fn of(config: &impl RunConfig) -> Self {
        Self { preprocess: config.preprocess().cloned(), window: config.stream().window }
    }

    /// Normalisation of the values.
    #[must_use]
    pub fn normalize(&self) -> Normalize {
        self.preprocess.as_ref().map_or(Normalize::Hu, |preprocess| preprocess.normalize)
    }

    /// HU range mapped to [0, 1], or the range of z-scores that was kept, if it was recorded.
    #[must_use]
    pub fn window(&self) -> Option<[f64; 2]> {
        self.window.or(self.preprocess.as_ref().map(|preprocess| preprocess.window))
    }

    /// Describes the recorded facts in which the scans of a cache differ, the most important first. `window` replaces
    /// the cache's own.
    #[must_use]
    pub fn differences(&self, cache: &PreprocessConfig, window: Option<[f64; 2]>) -> Vec<String> {
        let (theirs, ours) = (self.normalize(), cache.normalize);
        if theirs != ours {
            return vec![format!("{}, and the cache holds {}", theirs.values(), ours.values())];
        }
        let mut differences = Vec::new();
        if let Some(preprocess) = &self.preprocess
            && preprocess.spacing != cache.spacing
        {
            let [theirs, ours] = [preprocess.spacing, cache.spacing].map(spacing_text);
            differences.push(format!("scans of {theirs}, and the cache holds scans of {ours}"));
        }
        // Z-scores mean the same whatever range of them is kept.
        let ours = Some(window.unwrap_or(cache.window)).filter(|_| cache.normalize.is_hu());
        if let (Some(theirs), Some(ours)) = (self.window(), ours)
            && theirs.map(f64::to_bits) != ours.map(f64::to_bits)
        {
            let [theirs, ours] = [theirs, ours].map(|[low, high]| format!("{low} to {high} HU"));
            differences.push(format!("the window {theirs}, and the cache is read with {ours}"));
        }
        differences
    }
}

/// A cache whose preprocessing differs from that of a configuration.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cache was made with {cache}; the configuration's preprocess says {config}; choose another cache (a resumed run needs \
     the one that it began with), or remove [preprocess]"
)]
pub struct OtherPreprocess {
    /// Settings of the cache that differ.
    cache: String,
    /// Settings of the configuration that differ.
    config: String,
}

/// Fills in the preprocessing that a configuration states from that of the cache, or compares the two.
///
/// # Errors
/// If they differ.
pub(crate) fn settle_preprocess(
    stated: &mut Option<PreprocessConfig>,
    cache: &PreprocessConfig,
) -> Result<(), OtherPreprocess> {
    match &*stated {
        Some(expected) if expected != cache => {
            let [cache, config] = differing(cache, expected);
            Err(OtherPreprocess { cache, config })
        }
        _ => {
            *stated = Some(cache.clone());
            Ok(())
        }
    }
}

/// Describes two ways of preprocessing by the settings in which they differ, such as `spacing 2 mm`.
pub(crate) fn differing(one: &PreprocessConfig, other: &PreprocessConfig) -> [String; 2] {
    let settings = |preprocess: &PreprocessConfig| {
        let [low, high] = preprocess.window;
        let store = match preprocess.store {
            Store::Window => "the window",
            Store::Full => "all HU",
        };
        [
            format!("normalize {}", preprocess.normalize.name()),
            format!("spacing {}", preprocess.spacing.map_or("native".to_owned(), |mm| spacing_text(Some(mm)))),
            format!("window {low} to {high}"),
            format!("{store} stored"),
        ]
    };
    let pairs = settings(one).into_iter().zip(settings(other)).filter(|(one, other)| one != other);
    let (one, other): (Vec<String>, Vec<String>) = pairs.unzip();
    [one.join(", "), other.join(", ")]
}

/// A spacing in words.
pub(crate) fn spacing_text(spacing: Option<[f64; 3]>) -> String {
    match spacing {
        None => "their own spacing".to_owned(),
        Some([x, y, z]) if [y, z].iter().all(|side| side.to_bits() == x.to_bits()) => format!("{x} mm"),
        Some([x, y, z]) => format!("{x} × {y} × {z} mm"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pretrain::PretrainPreset;

    #[test]
    fn only_settings_that_differ_are_described() {
        let hu = PreprocessConfig::default();
        let coarse = PreprocessConfig { spacing: Some([2.0; 3]), ..hu.clone() };
        assert_eq!(differing(&coarse, &hu), ["spacing 2 mm", "spacing 1.5 mm"]);
        let native = PreprocessConfig { spacing: None, window: [0.0, 9.5], store: Store::Full, ..hu.clone() };
        let expected =
            ["spacing native, window 0 to 9.5, all HU stored", "spacing 1.5 mm, window -175 to 250, the window stored"];
        assert_eq!(differing(&native, &hu), expected);
    }

    #[test]
    fn differences_of_scans_are_reported_as_far_as_they_were_recorded() {
        let hu = PreprocessConfig::default();
        let check = |recorded: Option<PreprocessConfig>, cache: &PreprocessConfig, window, expected: &[&str]| {
            let mut config = PretrainPreset::Tiny.config();
            config.preprocess = recorded;
            assert_eq!(TrainedOn::of(&config).differences(cache, window), expected);
        };
        check(Some(hu.clone()), &hu, None, &[]);
        let other = PreprocessConfig { spacing: Some([2.0, 2.0, 3.0]), window: [-100.0, 100.0], ..hu.clone() };
        let spacing = "scans of 1.5 mm, and the cache holds scans of 2 × 2 × 3 mm";
        let window = "the window -175 to 250 HU, and the cache is read with -100 to 100 HU";
        check(Some(hu.clone()), &other, None, &[spacing, window]);
        let window = "the window -175 to 250 HU, and the cache is read with -1000 to 1000 HU";
        check(Some(hu.clone()), &hu, Some([-1000.0, 1000.0]), &[window]);
        let native = PreprocessConfig { spacing: None, ..hu.clone() };
        check(Some(native), &hu, None, &["scans of their own spacing, and the cache holds scans of 1.5 mm"]);
        // A run of an earlier version.
        check(None, &other, None, &[]);
        let normalize = Normalize::Zscore;
        let zscores = PreprocessConfig { normalize, window: normalize.default_window(), ..hu.clone() };
        check(Some(zscores.clone()), &hu, None, &["z-scores, and the cache holds HU"]);
        let narrow = PreprocessConfig { window: [-5.0, 5.0], ..zscores.clone() };
        check(Some(zscores), &narrow, None, &[]);
    }
}
