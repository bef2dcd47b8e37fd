//! Configuration of a run: one TOML file holds everything that changes a result; all other settings are flags.
//!
//! Text is parsed, checked against the known keys (an unknown key is refused and the nearest known one suggested), and
//! validated. The resolved configuration is saved with the run and compared when the run is resumed.

mod error;
pub mod finetune;
mod key_at_fault;
mod message;
mod micro_batch;
pub mod pretrain;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::Path;

pub use error::ConfigError;
use hiend_loader::batch::VoxelForm;
use hiend_loader::nearest::nearest;
use hiend_loader::pipeline::StreamConfig;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::split::Split;
use hiend_loader::transform::Chain;
use message::in_words;
pub use micro_batch::MicroBatch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
pub(crate) use settings::contradiction;
use settings::{CHAIN, in_order};
use toml::{Table, Value};

use crate::model::precision::Precision;
use crate::ops::attention::Computation;
use crate::optim::AdamWSettings;
use crate::schedule::ScheduleConfig;

/// Settings that belong to no other section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of initial weights, crops, augmentation and masks. At most 2⁶³ - 1, the maximum of TOML's integers.
    pub seed: u64,
    /// Number of crops on the device at a time. A larger batch is split into parts whose gradients add up to the
    /// batch's, except for rounding; this takes more time and less memory. Absent for the whole batch at once; `"auto"`
    /// for a number that fits into the free memory, chosen when the run begins and saved with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<MicroBatch>,
    /// Decay of the moving average of the weights, such as 0.999. Validation and prediction use the average. Absent for
    /// no average, as in the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Number type of matrix products: `f32`, or `bf16`, which is faster on GPUs. Everything else is f32.
    #[serde(default)]
    pub precision: Precision,
    /// Computation of attention on GPUs: `products`, or `cudnn`, which stores no attention matrix and needs 16-bit
    /// precision. No effect on a CPU.
    #[serde(default)]
    pub attention: Computation,
    /// Processor that computes nnU-Net's augmentations: `cpu`, or `device` if decoding keeps the cores busy. Crops are
    /// the same except for rounding. The recipe's augmentations are always applied while a crop is cut.
    #[serde(default)]
    pub augment_on: AugmentOn,
    /// Processor that decodes chunks and cuts crops from them: `cpu`, or `device`, which then receives chunks as they
    /// are stored. Requires shards of the codec `fast` that this process reads; the chain `nnunet` also requires
    /// `augment_on = "device"`. Labels are always decoded by the CPU. Crops are the same.
    #[serde(default)]
    pub decode_on: DecodeOn,
    /// Kernels of UNETR's convolutions on NVIDIA GPUs: `cudnn`, if it is found, or `burn` for Burn's own, which are
    /// first tuned for minutes. No effect on other devices.
    #[serde(default)]
    pub convolutions: Convolutions,
}

/// Kernels of convolutions on NVIDIA GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Convolutions {
    /// cuDNN, if it is found.
    #[default]
    Cudnn,
    /// Burn's own kernels.
    Burn,
}

impl Convolutions {
    /// Applies the setting to all models of the process.
    pub fn settle(self) {
        crate::ops::conv::leave_to_burn(self == Self::Burn);
    }
}

/// Processor that decodes chunks and cuts crops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeOn {
    /// The loader's threads.
    #[default]
    Cpu,
    /// The device that trains.
    Device,
}

/// Processor that augments crops.
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
    /// Returns settings in which every key is present, optional ones included.
    pub(crate) fn with_every_key() -> Self {
        Self {
            seed: 0,
            micro_batch: Some(MicroBatch::Crops(1)),
            ema_decay: Some(0.999),
            precision: Precision::F32,
            attention: Computation::Products,
            augment_on: AugmentOn::Cpu,
            decode_on: DecodeOn::Cpu,
            convolutions: Convolutions::Cudnn,
        }
    }

    /// Number of crops on the device at a time; `None` for the whole batch, and for `"auto"` before a number was chosen.
    #[must_use]
    pub fn crops_at_a_time(&self) -> Option<usize> {
        self.micro_batch.and_then(MicroBatch::crops)
    }

    /// Form in which the loader delivers voxels for these settings and this augmentation; `is_cpu` is true if the
    /// device is a CPU.
    #[must_use]
    pub fn voxel_form(&self, augment: &Chain, is_cpu: bool) -> VoxelForm {
        if self.decode_on == DecodeOn::Device {
            return VoxelForm::Chunks;
        }
        match (augment.is_linear(), self.augment_on) {
            (true, _) if is_cpu => VoxelForm::Floats,
            (true, _) => VoxelForm::Quantized,
            (false, AugmentOn::Cpu) => VoxelForm::Floats,
            (false, AugmentOn::Device) => VoxelForm::Boxes,
        }
    }

    /// Returns the first setting that is out of range, with the reason.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if i64::try_from(self.seed).is_err() {
            return Some(("seed", format!("{} is larger than 2^63 - 1", self.seed)));
        }
        if self.micro_batch == Some(MicroBatch::Crops(0)) {
            return Some(("micro_batch", "must be at least 1; leave it out for the whole batch".into()));
        }
        if self.attention == Computation::Cudnn && self.precision != Precision::Bf16 {
            let name = self.precision.name();
            return Some(("attention", format!("\"cudnn\" needs train.precision = \"bf16\", which is \"{name}\"")));
        }
        self.ema_decay
            .filter(|decay| !(0.0..1.0).contains(decay))
            .map(|decay| ("ema_decay", format!("{decay} must lie in [0, 1); leave it out for no average")))
    }
}

/// Returns a preprocessing in which every key is present, except the default normalisation, which TOML leaves out.
fn preprocess_with_every_key() -> PreprocessConfig {
    let normalize = Normalize::Zscore;
    PreprocessConfig { window: normalize.default_window(), normalize, ..PreprocessConfig::default() }
}

/// An invalid value: section, key and reason.
pub type Fault = (&'static str, &'static str, String);

/// The common part of the configurations of all kinds of runs.
pub trait RunConfig: Clone + PartialEq + Serialize + DeserializeOwned {
    /// Settings of crops, batches and augmentation.
    fn stream(&self) -> &StreamConfig;

    /// Settings of the optimizer, peak learning rate included.
    fn optim(&self) -> &AdamWSettings;

    /// Length of the run and learning-rate schedule.
    fn schedule(&self) -> &ScheduleConfig;

    /// The remaining settings.
    fn train(&self) -> &TrainConfig;

    /// Selections of cases.
    fn splits(&self) -> Vec<&Split>;

    /// Selections of cases, in the order of [`Self::splits`].
    fn splits_mut(&mut self) -> Vec<&mut Split>;

    /// Preprocessing of the scans, once it has been filled in from the cache.
    fn preprocess(&self) -> Option<&PreprocessConfig>;

    /// Returns the first invalid value in the sections that only this kind of run has.
    fn model_fault(&self) -> Option<Fault>;

    /// Returns a configuration in which every key is present, optional ones included: the list of known keys.
    fn with_every_key() -> Self;

    /// Parses and validates `text`; `origin` names it in errors.
    ///
    /// # Errors
    /// The first error found.
    fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let parse_error = |start: Option<usize>, reason: &str| {
            let before = start.and_then(|start| text.get(..start));
            let line = before.map(|before| format!("line {}: ", before.matches('\n').count() + 1));
            let message = format!("{}{}", line.unwrap_or_default(), in_words(reason));
            ConfigError::Parse { origin: origin.to_owned(), message }
        };
        let start = |error: &toml::de::Error| error.span().map(|span| span.start);
        let table: Table =
            text.parse().map_err(|error: toml::de::Error| parse_error(start(&error), error.message()))?;
        let known = Self::with_every_key().to_toml().parse::<Table>().expect("written by ourselves");
        check_keys("", &table, &known, &known, origin)?;
        let config: Self = toml::from_str(text).map_err(|error: toml::de::Error| {
            // The table's error names the key, that of the text the line.
            let error_of = |table: Table| table.try_into::<Self>().err().map(|error| error.to_string());
            let Some(reason) = error_of(table.clone()) else { return parse_error(start(&error), error.message()) };
            match key_at_fault::narrowed(&table, text, &reason, &error_of) {
                Some((start, reason)) => parse_error(Some(start), &reason),
                None => parse_error(start(&error), &reason),
            }
        })?;
        config.validate(origin)?;
        Ok(config)
    }

    /// Returns the configuration with the values of `settings` (`KEY=VALUE` pairs; keys include their sections). A
    /// changed `stream.augment.chain` starts from that chain's defaults.
    ///
    /// # Errors
    /// The first unknown key or invalid value.
    fn with_settings(&self, settings: &[(String, String)]) -> Result<Self, ConfigError> {
        if settings.is_empty() {
            return Ok(self.clone());
        }
        let pairs = settings.iter().map(|(key, value)| format!("--set {key}={value}"));
        let origin = &pairs.collect::<Vec<_>>().join(" ");
        let mut table = self.to_toml().parse::<Table>().expect("written by ourselves");
        for (key, text) in in_order(settings) {
            let invalid = |reason: &str| ConfigError::Invalid {
                origin: origin.clone(),
                key: key.clone(),
                reason: reason.to_owned(),
            };
            let mut section = &mut table;
            let mut parts = key.split('.').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    let value = value_of(text);
                    if key == CHAIN && section.get(part).is_some_and(|chain| *chain != value) {
                        section.clear();
                    }
                    section.insert(part.to_owned(), value);
                    break;
                }
                let entry = section.entry(part).or_insert_with(|| Value::Table(Table::new()));
                section = entry.as_table_mut().ok_or_else(|| invalid("a value, not a section"))?;
            }
        }
        let known = Self::with_every_key().to_toml().parse::<Table>().expect("written by ourselves");
        check_keys("", &table, &known, &known, origin)?;
        // From the table, not from its text: the error then names the key instead of a line that the user did not
        // write.
        let config: Self = table.try_into().map_err(|error: toml::de::Error| ConfigError::Parse {
            origin: origin.clone(),
            message: in_words(&error.to_string()),
        })?;
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
            .or_else(|| self.train().fault().map(of("train")))
            .or_else(|| self.augment_fault().map(of("train")))
            .or_else(|| self.decode_fault().map(of("train")));
        match fault {
            Some((section, key, reason)) => {
                let key = format!("{section}.{key}").trim_start_matches('.').to_owned();
                Err(ConfigError::Invalid { origin: origin.to_owned(), key, reason })
            }
            None => Ok(()),
        }
    }

    /// Checks all values of a configuration for training; `origin` names it in errors.
    ///
    /// # Errors
    /// The first value out of range, or a number of crops at a time that was left to the program and not chosen.
    fn validate_to_train(&self, origin: &str) -> Result<(), ConfigError> {
        self.validate(origin)?;
        if self.train().micro_batch == Some(MicroBatch::Auto) {
            let reason = "\"auto\" stands for no number yet; give a number of crops".to_owned();
            return Err(ConfigError::Invalid {
                origin: origin.to_owned(),
                key: "train.micro_batch".to_owned(),
                reason,
            });
        }
        Ok(())
    }

    /// Returns the fault of requesting augmentation on the device for a chain that has nothing to do there.
    fn augment_fault(&self) -> Option<(&'static str, String)> {
        let useless = self.train().augment_on == AugmentOn::Device && self.stream().augment.is_linear();
        let reason =
            "\"device\" needs stream.augment.chain = \"nnunet\"; other chains are computed while crops are cut";
        useless.then(|| ("augment_on", reason.to_owned()))
    }

    /// Returns the fault of decoding on the device what the CPU would then have to augment.
    fn decode_fault(&self) -> Option<(&'static str, String)> {
        if self.train().decode_on == DecodeOn::Cpu {
            return None;
        }
        let on_cpu = !self.stream().augment.is_linear() && self.train().augment_on == AugmentOn::Cpu;
        let reason = "\"device\" needs train.augment_on = \"device\" for stream.augment.chain = \"nnunet\", whose crops are made \
             from what is decoded";
        on_cpu.then(|| ("decode_on", reason.to_owned()))
    }

    /// Writes the configuration as TOML.
    fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a TOML form")
    }

    /// Digest of the configuration, 16 hex digits; equal configurations have equal digests.
    fn digest(&self) -> String {
        blake3::hash(self.to_toml().as_bytes()).to_hex()[..16].to_owned()
    }

    /// Lists the keys whose values differ from those of `other`: key, value here, value there. If a value has another
    /// form in `other`, such as a split, the whole value is listed. Paths of the same file with and without its folder
    /// count as equal.
    fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let mut other = other.clone();
        for (theirs, ours) in other.splits_mut().into_iter().zip(self.splits()) {
            align(theirs, ours);
        }
        let texts = [self.to_toml(), other.to_toml()];
        let [ours, theirs] = texts.each_ref().map(|text| text.parse::<Table>().expect("written by ourselves"));
        let [our_values, their_values] = texts.each_ref().map(|text| flat(text));
        let keys: BTreeSet<&String> = our_values.keys().chain(their_values.keys()).collect();
        let differing = keys.into_iter().filter(|key| our_values.get(*key) != their_values.get(*key));
        let differing: BTreeSet<&str> = differing.map(|key| common_key(key, &ours, &theirs)).collect();
        let show =
            |table: &Table, key: &str| value_at(table, key).map_or_else(|| "absent".to_owned(), Value::to_string);
        differing.into_iter().map(|key| (key.to_owned(), show(&ours, key), show(&theirs, key))).collect()
    }

    /// Lists the differences from `before`, with which a run began. Earlier versions did not record the preprocessing
    /// of scans in HU, so a missing record does not count as a difference.
    fn changes_since(&self, before: &Self) -> Vec<(String, String, String)> {
        let is_hu = |preprocess: &PreprocessConfig| preprocess.normalize.is_hu();
        let is_unrecorded = before.preprocess().is_none() && self.preprocess().is_some_and(is_hu);
        let mut changes = self.differences(before);
        changes.retain(|(key, ..)| !(is_unrecorded && key.starts_with("preprocess.")));
        changes
    }
}

/// Reads the text of a configuration file.
///
/// # Errors
/// If the file cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => io::Error::new(ErrorKind::InvalidData, "not UTF-8; save the file as text in UTF-8"),
        _ => error,
    })
}

/// Values by key; keys include their sections.
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

/// Value of a key that includes its sections; `None` if it is absent.
fn value_at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_table()?.get(part))
}

/// Returns `key`, or the key of the value that contains it if only one of two configurations has that part. Whole
/// sections do not count as values.
fn common_key<'a>(key: &'a str, ours: &Table, theirs: &Table) -> &'a str {
    let is_common = value_at(ours, key).is_some() && value_at(theirs, key).is_some();
    match key.rsplit_once('.') {
        Some((value, _)) if !is_common && value.contains('.') => value,
        _ => key,
    }
}

/// Sets the path in `theirs` to that of `ours` if both name one file, one of them without its folder, as earlier
/// versions recorded it. (The digest of the cases reveals whether the content is equal.)
fn align(theirs: &mut Split, ours: &Split) {
    let ends_with = |path: &Path, end: &Path| {
        path.is_absolute() && end.is_relative() && path.ends_with(end.strip_prefix(".").unwrap_or(end))
    };
    let (theirs, ours) = match (theirs, ours) {
        (Split::List(theirs), Split::List(ours)) => (&mut theirs.list, &ours.list),
        (Split::File(theirs), Split::File(ours)) => (&mut theirs.splits, &ours.splits),
        _ => return,
    };
    if ends_with(theirs.as_path(), ours.as_path()) || ends_with(ours.as_path(), theirs.as_path()) {
        theirs.clone_from(ours);
    }
}

/// Parses a value as TOML; other text is a string.
pub(crate) fn value_of(text: &str) -> Value {
    let table = format!("value = {text}").parse::<Table>();
    let value = table.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Finds the known key that an unknown key probably stands for: a similar one in its section, or one with the same name
/// in another section.
fn suggestion(prefix: &str, key: &str, known: &Table, all: &Table) -> Option<String> {
    if let Some(nearest) = nearest(key, known.keys().map(String::as_str)) {
        return Some(format!("{prefix}{nearest}"));
    }
    let all = flat(&toml::to_string(all).expect("a table"));
    all.into_keys().find(|path| path.rsplit('.').next() == Some(key))
}

fn check_keys(prefix: &str, table: &Table, known: &Table, all: &Table, origin: &str) -> Result<(), ConfigError> {
    for (key, value) in table {
        let Some(known_value) = known.get(key) else {
            return Err(ConfigError::UnknownKey {
                origin: origin.to_owned(),
                key: format!("{prefix}{key}"),
                suggestion: suggestion(prefix, key, known, all),
            });
        };
        if let (Value::Table(table), Value::Table(known)) = (value, known_value) {
            // Other augmentation chains and other kinds of splits have other keys; their types check them.
            let other_chain = table.get("chain") != known.get("chain") && known.contains_key("chain");
            if other_chain || key == "split" {
                continue;
            }
            check_keys(&format!("{prefix}{key}."), table, known, all, origin)?;
        }
    }
    Ok(())
}
