//! Configuration of a run: one TOML file holds everything that changes a result; all other settings are flags.
//!
//! Text is parsed, checked against the known keys (an unknown key is refused and the nearest known one suggested), and
//! validated. The resolved configuration is saved with the run and compared when the run is resumed.

mod error;
pub mod finetune;
mod key_at_fault;
mod keys;
mod message;
mod micro_batch;
pub mod pretrain;
mod settings;
mod train;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;

pub use error::ConfigError;
use hiend_loader::pipeline::StreamConfig;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::split::Split;
pub(crate) use keys::value_of;
use keys::{check_keys, common_key, flat, value_at};
use message::in_words;
pub use micro_batch::MicroBatch;
use serde::Serialize;
use serde::de::DeserializeOwned;
pub(crate) use settings::contradiction;
use settings::{CHAIN, in_order};
use toml::{Table, Value};
pub use train::{AugmentOn, Convolutions, DecodeOn, TrainConfig};

use crate::optim::AdamWSettings;
use crate::schedule::ScheduleConfig;

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
            let of_section = key_at_fault::in_section(&known, &reason);
            if of_section != reason {
                return parse_error(start(&error), &of_section);
            }
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
            message: in_words(&key_at_fault::in_section(&known, &error.to_string())),
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
    /// of scans in HU, so a missing record does not count as a difference. Nor does it count whether datasets name the ignore
    /// label or the configuration alone, which passes it on to the stream.
    fn changes_since(&self, before: &Self) -> Vec<(String, String, String)> {
        let is_hu = |preprocess: &PreprocessConfig| preprocess.normalize.is_hu();
        let is_unrecorded = before.preprocess().is_none() && self.preprocess().is_some_and(is_hu);
        let mut changes = self.differences(before);
        changes.retain(|(key, ..)| !(is_unrecorded && key.starts_with("preprocess.")));
        // The label of `ignore_label`, which was named by the datasets in one of the two.
        let has_label = flat(&self.to_toml()).contains_key("ignore_label");
        changes.retain(|(key, now, before)| {
            !(has_label && key == "stream.ignore_label" && [now, before].iter().any(|value| *value == "absent"))
        });
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
