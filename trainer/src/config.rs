//! One TOML file describes a pre-training completely: what changes a result is in it, everything else is a flag.
//!
//! Text is parsed, checked against the known keys (an unknown one is refused, with the nearest known one named), and
//! validated. The resolved configuration is saved with the run and compared when the run goes on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::optim::AdamWSettings;
use crate::schedule::{ScheduleConfig, Unit};
use crate::stream_config::StreamConfig;

/// Everything that decides what a pre-training results in, but the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Sizes of the model.
    pub model: HiEndMaeConfig,
    /// Crops, batches, augmentation.
    pub stream: StreamConfig,
    /// The optimizer and its peak learning rate.
    pub optim: AdamWSettings,
    /// Length, and the course of the learning rate.
    pub schedule: ScheduleConfig,
    /// The rest.
    pub train: TrainConfig,
}

/// What belongs to no other section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Decides first weights, crops, augmentation and masks. At most 2⁶³ - 1, as TOML's integers are.
    pub seed: u64,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No TOML, or a value of the wrong type, or a key missing.
    #[error("{origin}: {message}")]
    Parse {
        /// Which file.
        origin: String,
        /// What the parser says, in one line.
        message: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// Which file.
        origin: String,
        /// With its sections.
        key: String,
        /// The nearest key there is.
        suggestion: Option<String>,
    },
    /// A value out of range.
    #[error("{origin}: {key}: {reason}")]
    Invalid {
        /// Which file.
        origin: String,
        /// With its section.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// Configurations that come with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The paper's model.
    VitLP12,
    /// The paper's model, patches of 16 voxels.
    VitLP16,
    /// The paper's base model, patches of 16 voxels.
    VitBP16,
    /// For CPUs.
    Tiny,
}

impl Preset {
    /// All of them, the largest first.
    pub const ALL: [Self; 4] = [Self::VitLP12, Self::VitLP16, Self::VitBP16, Self::Tiny];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VitLP12 => "vit-l-p12",
            Self::VitLP16 => "vit-l-p16",
            Self::VitBP16 => "vit-b-p16",
            Self::Tiny => "tiny",
        }
    }

    /// The file in `configs/pretrain/`, built into the program.
    #[must_use]
    pub fn toml(self) -> &'static str {
        match self {
            Self::VitLP12 => include_str!("../../configs/pretrain/vit-l-p12.toml"),
            Self::VitLP16 => include_str!("../../configs/pretrain/vit-l-p16.toml"),
            Self::VitBP16 => include_str!("../../configs/pretrain/vit-b-p16.toml"),
            Self::Tiny => include_str!("../../configs/pretrain/tiny.toml"),
        }
    }

    /// Its configuration.
    ///
    /// # Panics
    /// Never: a test parses every preset.
    #[must_use]
    pub fn config(self) -> PretrainConfig {
        PretrainConfig::parse(self.toml(), self.name()).expect("presets are valid")
    }
}

impl PretrainConfig {
    /// Reads and validates `text`; `origin` names it in errors.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let parse_error = |message: &str| {
            // The parser draws its message over several lines; the first says where, the last says what.
            let message = message.trim().replace(['\n', '\r'], " ");
            ConfigError::Parse { origin: origin.to_owned(), message }
        };
        let table: Table = text.parse().map_err(|e: toml::de::Error| parse_error(e.message()))?;
        refuse_unknown_keys(&table, origin)?;
        let config: Self = toml::from_str(text).map_err(|e| parse_error(&e.to_string()))?;
        config.validate(origin)?;
        Ok(config)
    }

    /// Checks all values; `origin` names the configuration in errors.
    ///
    /// # Errors
    /// The first value out of range.
    pub fn validate(&self, origin: &str) -> Result<(), ConfigError> {
        let invalid = |section: &str, key: &str, reason: String| {
            Err(ConfigError::Invalid { origin: origin.to_owned(), key: format!("{section}.{key}"), reason })
        };
        let stream = &self.stream;
        if let Err(error) = self.model.validate(stream.crop_size) {
            return invalid("model", error.key, error.reason);
        }
        if stream.crops_per_visit == 0 {
            return invalid("stream", "crops_per_visit", "must be at least 1".into());
        }
        if stream.visits_per_batch == 0 {
            return invalid("stream", "visits_per_batch", "must be at least 1".into());
        }
        if let Some((key, reason)) = self.optim.fault() {
            return invalid("optim", key, reason);
        }
        if let Some((key, reason)) = self.schedule.fault() {
            return invalid("schedule", key, reason);
        }
        if i64::try_from(self.train.seed).is_err() {
            return invalid("train", "seed", format!("{} is larger than 2^63 - 1", self.train.seed));
        }
        Ok(())
    }

    /// As a file.
    ///
    /// # Panics
    /// Never for a validated configuration.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a TOML form")
    }

    /// Digest of everything in it; equal configurations have equal digests. 16 hex digits.
    #[must_use]
    pub fn digest(&self) -> String {
        blake3::hash(self.to_toml().as_bytes()).to_hex()[..16].to_owned()
    }

    /// Keys whose values differ from those of `other`: key, value here, value there.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let (ours, theirs) = (self.flat(), other.flat());
        let show = |value: Option<&String>| value.cloned().unwrap_or_else(|| "absent".to_owned());
        let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter()
            .filter(|key| ours.get(*key) != theirs.get(*key))
            .map(|key| (key.clone(), show(ours.get(key)), show(theirs.get(key))))
            .collect()
    }

    fn flat(&self) -> BTreeMap<String, String> {
        fn walk(prefix: &str, table: &Table, flat: &mut BTreeMap<String, String>) {
            for (key, value) in table {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                match value {
                    Value::Table(table) => walk(&path, table, flat),
                    value => {
                        flat.insert(path, value.to_string());
                    }
                }
            }
        }
        let mut flat = BTreeMap::new();
        walk("", &self.to_toml().parse().expect("written by ourselves"), &mut flat);
        flat
    }

    /// A configuration in which every key is present, optional ones too: the list of what is known.
    fn with_every_key() -> Self {
        Self {
            model: HiEndMaeConfig::tiny(),
            stream: StreamConfig::default(),
            optim: AdamWSettings { clip_norm: Some(1.0), ..AdamWSettings::pretrain() },
            schedule: ScheduleConfig { unit: Unit::Epoch, total: 1000, warmup: 10 },
            train: TrainConfig { seed: 0 },
        }
    }
}

fn refuse_unknown_keys(table: &Table, origin: &str) -> Result<(), ConfigError> {
    let known = PretrainConfig::with_every_key().to_toml().parse::<Table>().expect("written by ourselves");
    check_keys("", table, &known, origin)
}

fn check_keys(prefix: &str, table: &Table, known: &Table, origin: &str) -> Result<(), ConfigError> {
    for (key, value) in table {
        let Some(known_value) = known.get(key) else {
            let similarity = |candidate: &&String| strsim::jaro_winkler(key, candidate);
            let nearest = known.keys().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
            return Err(ConfigError::UnknownKey {
                origin: origin.to_owned(),
                key: format!("{prefix}{key}"),
                // Below this, names share no more than chance; a wrong hint is worse than none.
                suggestion: nearest.filter(|k| similarity(k) > 0.7).map(|k| format!("{prefix}{k}")),
            });
        };
        if let (Value::Table(table), Value::Table(known)) = (value, known_value) {
            check_keys(&format!("{prefix}{key}."), table, known, origin)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_the_recipe() {
        let models = [
            HiEndMaeConfig::vit_l_p12(),
            HiEndMaeConfig::vit_l_p16(),
            HiEndMaeConfig::vit_b_p16(),
            HiEndMaeConfig::tiny(),
        ];
        for (preset, model) in Preset::ALL.into_iter().zip(models) {
            let config = preset.config();
            assert_eq!(config.model, model, "{}", preset.name());
            if preset != Preset::Tiny {
                assert_eq!(config.stream, StreamConfig::default());
                assert_eq!(config.optim, AdamWSettings::pretrain());
                assert_eq!(config.schedule, ScheduleConfig { unit: Unit::Epoch, total: 1000, warmup: 10 });
            }
        }
    }

    #[test]
    fn the_smoke_config_is_valid() {
        PretrainConfig::parse(include_str!("../../configs/smoke.toml"), "configs/smoke.toml").unwrap();
    }

    #[test]
    fn writing_and_reading_gives_the_same() {
        let config = PretrainConfig::with_every_key();
        assert_eq!(PretrainConfig::parse(&config.to_toml(), "test").unwrap(), config);
        assert_eq!(config.differences(&config), []);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |from: &str, to: &str, expected: &str| {
            let text = Preset::Tiny.toml();
            assert!(text.contains(from), "{from}");
            let message = PretrainConfig::parse(&text.replacen(from, to, 1), "x.toml").unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
            assert!(!message.contains('\n'), "{message}");
        };
        check("mask_ratio", "mask_rate", "x.toml: unknown key `model.mask_rate`; did you mean `model.mask_ratio`?");
        check("[optim]", "[optimizer]", "x.toml: unknown key `optimizer`; did you mean `optim`?");
        check("probability", "probabilty", "x.toml: unknown key `stream.augment.flip.probabilty`; did you mean");
        check("[train]", "[zzz]", "x.toml: unknown key `zzz`");
        check("crop_size = [96, 96, 96]", "crop_size = [96, 96, 97]", "x.toml: model.patch_size: 12 does not divide");
        check("crop_size = [96, 96, 96]", "crop_size = 96", "x.toml: ");
        check("warmup = ", "warmup = 9000000 #", "x.toml: schedule.warmup: 9000000 must be less");
        check("seed = 0", "", "x.toml: ");
    }

    #[test]
    fn differences_name_the_key() {
        let config = Preset::Tiny.config();
        let mut other = config.clone();
        other.optim.lr *= 2.0;
        other.optim.clip_norm = Some(1.0);
        let keys: Vec<String> = config.differences(&other).into_iter().map(|d| d.0).collect();
        assert_eq!(keys, ["optim.clip_norm", "optim.lr"]);
        assert_ne!(config.digest(), other.digest());
    }
}
