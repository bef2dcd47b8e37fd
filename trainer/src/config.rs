//! One TOML file describes a run completely: what changes a result is in it, everything else is a flag.
//!
//! Text is parsed, checked against the known keys (an unknown one is refused, with the nearest known one named), and
//! validated. The resolved configuration is saved with the run and compared when the run goes on.

pub mod finetune;
pub mod pretrain;

use std::collections::{BTreeMap, BTreeSet};

use hiend_loader::batch::VoxelForm;
use hiend_loader::pipeline::StreamConfig;
use hiend_loader::transform::Chain;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::model::precision::Precision;
use crate::optim::AdamWSettings;
use crate::schedule::ScheduleConfig;

/// What belongs to no other section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Decides first weights, crops, augmentation and masks. At most 2⁶³ - 1, as TOML's integers are.
    pub seed: u64,
    /// Crops on the device at a time. A batch of more is taken in parts whose gradients add up to the batch's own, but
    /// for rounding: it costs time, and saves memory. Absent for the whole batch at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Share of the old value in the moving average of the weights, such as 0.999. The average is what is validated
    /// and predicted with. Absent for none, as in the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// The type in which matrix products are taken: `f32`, or `bf16` as GPUs are fast in. Everything else is f32.
    #[serde(default)]
    pub precision: Precision,
    /// Where nnU-Net's chain is computed: `cpu`, or `device` where decoding keeps the cores busy enough. Crops are the
    /// same but for rounding. The recipe's chain is always part of the copy that cuts a crop.
    #[serde(default)]
    pub augment_on: AugmentOn,
}

/// Which processor augments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AugmentOn {
    /// The loader's threads.
    #[default]
    Cpu,
    /// The device that trains.
    Device,
}

impl TrainConfig {
    /// One in which every key is present, optional ones too.
    pub(crate) fn with_every_key() -> Self {
        Self {
            seed: 0,
            micro_batch: Some(1),
            ema_decay: Some(0.999),
            precision: Precision::F32,
            augment_on: AugmentOn::Cpu,
        }
    }

    /// What a loader is to hand on for these settings and this augmentation, on a CPU or not.
    #[must_use]
    pub fn voxel_form(&self, augment: &Chain, is_cpu: bool) -> VoxelForm {
        match (augment.is_linear(), self.augment_on) {
            (true, _) if is_cpu => VoxelForm::Floats,
            (true, _) => VoxelForm::Quantized,
            (false, AugmentOn::Cpu) => VoxelForm::Floats,
            (false, AugmentOn::Device) => VoxelForm::Boxes,
        }
    }

    /// The first setting out of range, with the reason.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if i64::try_from(self.seed).is_err() {
            return Some(("seed", format!("{} is larger than 2^63 - 1", self.seed)));
        }
        if self.micro_batch == Some(0) {
            return Some(("micro_batch", "must be at least 1; leave it out for the whole batch".into()));
        }
        self.ema_decay
            .filter(|decay| !(0.0..1.0).contains(decay))
            .map(|decay| ("ema_decay", format!("{decay} must lie in [0, 1); leave it out for no average")))
    }
}

/// A section, a key in it, and what is wrong with its value.
pub type Fault = (&'static str, &'static str, String);

/// What the configurations of all kinds of runs have in common.
pub trait RunConfig: Clone + PartialEq + Serialize + DeserializeOwned {
    /// Crops, batches, augmentation.
    fn stream(&self) -> &StreamConfig;

    /// The optimizer and its peak learning rate.
    fn optim(&self) -> &AdamWSettings;

    /// Length, and the course of the learning rate.
    fn schedule(&self) -> &ScheduleConfig;

    /// The rest.
    fn train(&self) -> &TrainConfig;

    /// What is wrong with the sections that only this kind of run has.
    fn model_fault(&self) -> Option<Fault>;

    /// A configuration in which every key is present, optional ones too: the list of what is known.
    fn with_every_key() -> Self;

    /// Reads and validates `text`; `origin` names it in errors.
    ///
    /// # Errors
    /// The first thing wrong with it.
    fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let parse_error = |message: &str| {
            // The parser draws its message over several lines; the first says where, the last says what.
            let message = message.trim().replace(['\n', '\r'], " ");
            ConfigError::Parse { origin: origin.to_owned(), message }
        };
        let table: Table = text.parse().map_err(|e: toml::de::Error| parse_error(e.message()))?;
        let known = Self::with_every_key().to_toml().parse::<Table>().expect("written by ourselves");
        check_keys("", &table, &known, origin)?;
        let config: Self = toml::from_str(text).map_err(|e| parse_error(&e.to_string()))?;
        config.validate(origin)?;
        Ok(config)
    }

    /// Checks all values; `origin` names the configuration in errors.
    ///
    /// # Errors
    /// The first value out of range.
    fn validate(&self, origin: &str) -> Result<(), ConfigError> {
        let of = |section: &'static str| move |(key, reason)| (section, key, reason);
        let fault = self
            .model_fault()
            .or_else(|| self.stream().validate().err().map(of("stream")))
            .or_else(|| self.optim().fault().map(of("optim")))
            .or_else(|| self.schedule().fault().map(of("schedule")))
            .or_else(|| self.train().fault().map(of("train")));
        match fault {
            Some((section, key, reason)) => {
                Err(ConfigError::Invalid { origin: origin.to_owned(), key: format!("{section}.{key}"), reason })
            }
            None => Ok(()),
        }
    }

    /// As a file.
    ///
    /// # Panics
    /// Never for a validated configuration.
    fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a TOML form")
    }

    /// Digest of everything in it; equal configurations have equal digests. 16 hex digits.
    fn digest(&self) -> String {
        blake3::hash(self.to_toml().as_bytes()).to_hex()[..16].to_owned()
    }

    /// Keys whose values differ from those of `other`: key, value here, value there.
    fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let (ours, theirs) = (flat(&self.to_toml()), flat(&other.to_toml()));
        let show = |value: Option<&String>| value.cloned().unwrap_or_else(|| "absent".to_owned());
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter()
            .filter(|key| ours.get(*key) != theirs.get(*key))
            .map(|key| (key.clone(), show(ours.get(key)), show(theirs.get(key))))
            .collect()
    }
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

/// Values by key with its sections.
fn flat(toml: &str) -> BTreeMap<String, String> {
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
    walk("", &toml.parse().expect("written by ourselves"), &mut flat);
    flat
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
            // Another chain of augmentations, or another way to split, has other keys; its own type checks them.
            let other_chain = table.get("chain") != known.get("chain") && known.contains_key("chain");
            if other_chain || key == "split" {
                continue;
            }
            check_keys(&format!("{prefix}{key}."), table, known, origin)?;
        }
    }
    Ok(())
}
