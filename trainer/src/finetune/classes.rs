//! Classes of a fine-tuning run: listed by the configuration or named by the datasets, and checked against the labels
//! in the cache's cases.

use std::collections::{BTreeMap, BTreeSet};

use hiend_cache::{Cache, DatasetInfo, Manifest, VolumeReader};
use hiend_loader::dataset::misspelt_ignore;
use hiend_loader::plural;
use hiend_loader::program::escape_name;
use thiserror::Error;

use crate::config::finetune::FinetuneConfig;
use crate::label_space::LabelSpace;

/// Name by which nnU-Net's `dataset.json` marks the ignore label.
const IGNORE: &str = "ignore";
/// Origin of settings that the configuration states.
const CONFIGURATION: &str = "the configuration";

/// Error from determining the classes of a fine-tuning run.
#[derive(Debug, Error)]
pub enum ClassesError {
    /// Neither the configuration nor the dataset names classes.
    #[error(
        "dataset {dataset} names no classes in its dataset.json; list them as `classes = [...]` in the configuration"
    )]
    Unnamed {
        /// Name of the dataset.
        dataset: String,
    },
    /// A dataset whose classes are regions.
    #[error(
        "dataset {dataset} defines regions ({regions}), which cannot be trained; list one class for each label as \
         `classes = [...]` in the configuration"
    )]
    Regions {
        /// Name of the dataset.
        dataset: String,
        /// Names of its regions, separated by commas.
        regions: String,
    },
    /// Fewer than two classes.
    #[error("{}; a segmentation needs the background and at least one more", plural::count(count, "class"))]
    TooFew {
        /// Number of classes.
        count: usize,
    },
    /// Configuration and dataset, or two datasets, disagree on the number of classes.
    #[error(
        "{dataset} has {}, {other} has {expected}; select other datasets with stream.include, or list other classes",
        plural::count(found, "class")
    )]
    Number {
        /// Name of the dataset.
        dataset: String,
        /// Number of its classes.
        found: usize,
        /// Dataset or configuration with another number of classes.
        other: String,
        /// Number of classes of `other`.
        expected: usize,
    },
    /// Two datasets name the same label differently.
    #[error(
        "label {label} is `{found}` in dataset {dataset} and `{expected}` in dataset {other}; train on one of them (--set \
         'stream.include=[\"{dataset}\"]'), give both the same labels and names (dataset.json; then run hiend-shard again), \
         or, if they mean the same, list `classes = [...]` in the configuration"
    )]
    Names {
        /// Label value whose names differ.
        label: u8,
        /// Name of one of the two datasets.
        dataset: String,
        /// Name of the label in `dataset`.
        found: String,
        /// Name of the second dataset.
        other: String,
        /// Name of the label in `other`.
        expected: String,
    },
    /// The configuration lists a class of a dataset under another label.
    #[error(
        "label {label} is `{name}` in dataset {dataset}, which the configuration lists as class {listed}; list the classes \
         in the order of the dataset's labels, or select other datasets with stream.include"
    )]
    Order {
        /// Label value in the dataset.
        label: u8,
        /// Name of the dataset.
        dataset: String,
        /// Name of the class.
        name: String,
        /// Index of the class with this name in the configuration.
        listed: usize,
    },
    /// Configuration and dataset, or two datasets, disagree on the ignore label.
    #[error(
        "the ignore label is {found} in dataset {dataset} and {expected} in {other}; {}",
        same_ignore(dataset, other)
    )]
    Ignore {
        /// Name of the dataset.
        dataset: String,
        /// Ignore label of the dataset.
        found: u8,
        /// Configuration or earlier dataset with another ignore label.
        other: String,
        /// Ignore label of `other`.
        expected: u8,
    },
    /// An ignore label that is not above all classes.
    #[error("the ignore label {label} must be higher than every class of {origin} (0 to {last})")]
    IgnoreIsClass {
        /// Configuration or dataset that lists the classes.
        origin: String,
        /// The ignore label.
        label: u8,
        /// The highest class.
        last: usize,
    },
    /// A case holds a label that is not a class of the configuration or the dataset.
    #[error(
        "case {} has {} of label {label}, which is not a class of {origin}; {allowed}; correct the labels or name the class \
         there, and run hiend-shard again if dataset.json changed",
        escape_name(case),
        plural::count(voxels, "voxel")
    )]
    Unknown {
        /// The case, as DATASET/CASE.
        case: String,
        /// Label value that is not a class.
        label: u32,
        /// Number of voxels with this label in the case.
        voxels: u64,
        /// Configuration or dataset that lists the classes.
        origin: String,
        /// Description of the allowed labels.
        allowed: String,
    },
    /// A dataset that does not name label 0, although a case holds it.
    #[error(
        "dataset {} does not name label 0, of which case {} has {}; add \"background\": 0 to the labels in its \
         dataset.json and run hiend-shard again, or list `classes = [...]`, background first, in the configuration",
        escape_name(dataset),
        escape_name(case),
        plural::count(voxels, "voxel")
    )]
    NoBackground {
        /// Name of the dataset.
        dataset: String,
        /// Case of the dataset, as DATASET/CASE.
        case: String,
        /// Number of voxels of label 0 in the case.
        voxels: u64,
    },
    /// The index of a case cannot be read.
    #[error(transparent)]
    Cache(#[from] hiend_cache::Error),
}

/// Classes and ignore label in a configuration, before those of the datasets are filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// True if the configuration lists the classes.
    pub classes: bool,
    /// Ignore label of the configuration.
    pub ignore: Option<u8>,
}

/// Remedy for two ignore labels, that of a dataset and that of `other`.
fn same_ignore(dataset: &str, other: &str) -> String {
    if other == CONFIGURATION {
        return "leave ignore_label out of the configuration, or set it to that of the dataset".to_owned();
    }
    format!("train on one of them (--set 'stream.include=[\"{dataset}\"]'), or give both the same ignore label")
}

impl Given {
    pub(super) fn of(config: &FinetuneConfig) -> Self {
        Self { classes: !config.classes.is_empty(), ignore: config.ignore_label }
    }
}

/// Fills in the classes and the ignore label of `config` from the datasets called `names`, which `manifest` describes;
/// compares those that `config` already states. Returns warnings about classes whose names differ from the
/// configuration.
///
/// Two datasets may name a label differently only if the configuration lists the classes. The background's name is not
/// compared. Case, and spaces or underscores around and between words, are ignored.
///
/// # Errors
/// [`ClassesError`] for everything but an unknown label; see [`check_labels`].
pub(super) fn settle(
    config: &mut FinetuneConfig,
    manifest: &Manifest,
    names: &BTreeSet<&str>,
) -> Result<Vec<String>, ClassesError> {
    let mut settling = Settling::begin(config);
    for &dataset in names {
        settling.add(dataset, manifest.datasets.get(dataset))?;
    }
    settling.finish()
}

/// Classes and ignore label of a configuration, to which datasets are added one by one.
struct Settling<'a> {
    config: &'a mut FinetuneConfig,
    /// True if the configuration lists the classes.
    is_listed: bool,
    /// Origin of the classes: the configuration or a dataset.
    classes_of: String,
    /// Origin of the ignore label.
    ignore_of: String,
    /// The first dataset to name each label, and the name.
    described_first: BTreeMap<u8, (&'a str, &'a str)>,
    /// True if a dataset describes an ignore label.
    has_ignore: bool,
    warnings: Vec<String>,
}

impl<'a> Settling<'a> {
    fn begin(config: &'a mut FinetuneConfig) -> Self {
        Self {
            is_listed: Given::of(config).classes,
            config,
            classes_of: CONFIGURATION.to_owned(),
            ignore_of: CONFIGURATION.to_owned(),
            described_first: BTreeMap::new(),
            has_ignore: false,
            warnings: Vec::new(),
        }
    }

    /// Adds a dataset, which `info` describes.
    fn add(&mut self, dataset: &'a str, info: Option<&'a DatasetInfo>) -> Result<(), ClassesError> {
        if let Some(info) = info.filter(|info| !self.is_listed && !info.regions.is_empty()) {
            let regions = info.regions.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(ClassesError::Regions { dataset: dataset.to_owned(), regions });
        }
        if let Some((label, name)) = info.filter(|_| !self.is_listed).and_then(|info| misspelt_ignore(&info.labels)) {
            self.warnings.push(format!(
                "label {label} of dataset {dataset} is called {name:?} and trained as a class; if its voxels have no annotation, \
                 name it \"{IGNORE}\" in dataset.json and run hiend-shard again"
            ));
        }
        let Described { classes, ignore } = Described::of(dataset, info.map(|info| &info.labels))?;
        if !self.is_listed && classes.is_empty() {
            return Err(ClassesError::Unnamed { dataset: dataset.to_owned() });
        }
        self.add_classes(dataset, classes)?;
        let labels = info.into_iter().flat_map(|info| &info.labels);
        for (&label, name) in labels.filter(|(label, name)| **label > 0 && *name != IGNORE) {
            self.add_name(dataset, label, name)?;
        }
        self.has_ignore |= info.is_some_and(|info| info.ignore.is_some());
        ignore.map_or(Ok(()), |ignore| self.add_ignore(dataset, ignore))
    }

    /// Takes over the classes of the first dataset; compares the number of those of others.
    fn add_classes(&mut self, dataset: &str, classes: Vec<String>) -> Result<(), ClassesError> {
        if self.config.classes.is_empty() {
            self.config.classes = classes;
            dataset.clone_into(&mut self.classes_of);
            return Ok(());
        }
        let (found, expected) = (classes.len(), self.config.classes.len());
        // A list in the configuration is enough where the dataset names no classes.
        if found > 0 && found != expected {
            let (dataset, other) = (dataset.to_owned(), self.classes_of.clone());
            return Err(ClassesError::Number { dataset, found, other, expected });
        }
        Ok(())
    }

    /// Compares a dataset's name for a label with that of the configuration or of the first dataset to name it.
    fn add_name(&mut self, dataset: &'a str, label: u8, name: &'a str) -> Result<(), ClassesError> {
        if self.is_listed {
            self.warnings.extend(against_listed(&self.config.classes, dataset, label, name)?);
            return Ok(());
        }
        match self.described_first.get(&label) {
            Some((other, expected)) if plain(expected) != plain(name) => Err(ClassesError::Names {
                label,
                dataset: dataset.to_owned(),
                found: name.to_owned(),
                other: (*other).to_owned(),
                expected: (*expected).to_owned(),
            }),
            Some(_) => Ok(()),
            None => {
                self.described_first.insert(label, (dataset, name));
                // A dataset may leave labels unnamed that it does not have.
                name.clone_into(&mut self.config.classes[usize::from(label)]);
                Ok(())
            }
        }
    }

    /// Takes over the ignore label of the first dataset that names one, or compares it.
    fn add_ignore(&mut self, dataset: &str, found: u8) -> Result<(), ClassesError> {
        match self.config.ignore_label {
            Some(expected) if expected != found => {
                let (dataset, other) = (dataset.to_owned(), self.ignore_of.clone());
                Err(ClassesError::Ignore { dataset, found, other, expected })
            }
            Some(_) => Ok(()),
            None => {
                self.config.ignore_label = Some(found);
                self.ignore_of = format!("dataset {dataset}");
                Ok(())
            }
        }
    }

    /// Checks classes and ignore label after the last dataset; returns the warnings.
    fn finish(self) -> Result<Vec<String>, ClassesError> {
        let Self { config, classes_of, has_ignore, warnings, .. } = self;
        if let Some(label) = config.ignore_label.filter(|&label| usize::from(label) < config.classes.len()) {
            return Err(ClassesError::IgnoreIsClass { origin: classes_of, label, last: config.classes.len() - 1 });
        }
        // The stream knows the ignore labels of datasets; one that the configuration alone names is passed on.
        if !has_ignore {
            config.stream.ignore_label = config.ignore_label;
        }
        if config.classes.len() < 2 {
            return Err(ClassesError::TooFew { count: config.classes.len() });
        }
        Ok(warnings)
    }
}

/// Compares a dataset's name for a label with the classes listed in the configuration. Returns a warning if the names
/// differ.
///
/// # Errors
/// If the configuration lists a class of this name under another label.
fn against_listed(classes: &[String], dataset: &str, label: u8, name: &str) -> Result<Option<String>, ClassesError> {
    let ours = classes.get(usize::from(label)).filter(|ours| plain(ours) != plain(name));
    let Some(ours) = ours else { return Ok(None) };
    if let Some(listed) = classes.iter().position(|class| plain(class) == plain(name)) {
        return Err(ClassesError::Order { label, dataset: dataset.to_owned(), name: name.to_owned(), listed });
    }
    Ok(Some(format!("class {label} is `{name}` in dataset {dataset} and `{ours}` in the configuration")))
}

/// Checks the labels of all `cases` by the counts in their indices, so that no step is computed with invalid labels.
/// Unless the configuration lists the classes, a label counts as a class only if the case's dataset names it; so does
/// the ignore label, unless the configuration gives it. Returns the labels that occur.
///
/// # Errors
/// The first label that is neither a class nor the ignore label, with its case; or a case whose index cannot be read.
pub(super) fn check_labels(
    space: LabelSpace,
    given: Given,
    cache: &Cache,
    cases: &[usize],
) -> Result<BTreeSet<u8>, ClassesError> {
    let mut reader = VolumeReader::new();
    let mut found = BTreeSet::new();
    for &case in cases {
        let case = &cache.cases()[case];
        let dataset = &case.record().dataset;
        let named = cache.manifest().datasets.get(dataset).map(|info| &info.labels);
        for (label, counts) in &reader.index(case)?.occupancy.classes {
            let is_named = |value: u8| {
                let is_given = if space.ignore() == Some(value) { given.ignore.is_some() } else { given.classes };
                is_given || named.is_none_or(|labels| labels.contains_key(&value))
            };
            let value = u8::try_from(*label).ok();
            if let Some(value) = value.filter(|&value| space.contains(value) && is_named(value)) {
                found.insert(value);
                continue;
            }
            let (case, voxels) = (case.key().to_owned(), counts.total());
            if value == Some(0) {
                return Err(ClassesError::NoBackground { dataset: dataset.clone(), case, voxels });
            }
            let origin =
                if given.classes { "the configuration".to_owned() } else { format!("the dataset.json of {dataset}") };
            let is_gap = value.is_some_and(|value| space.contains(value));
            let allowed = match named.filter(|_| is_gap) {
                Some(named) => {
                    let named: Vec<String> = named.keys().map(u8::to_string).collect();
                    format!("it names the labels {}", named.join(", "))
                }
                None => space.to_string(),
            };
            return Err(ClassesError::Unknown { case, label: *label, voxels, origin, allowed });
        }
    }
    Ok(found)
}

/// Returns a warning about classes missing from every training label map; `found` are the labels that occur. Numbers
/// named neither by the configuration nor by a dataset in `names` do not count as classes.
pub(super) fn never_seen(
    config: &FinetuneConfig,
    given: Given,
    manifest: &Manifest,
    names: &BTreeSet<&str>,
    found: &BTreeSet<u8>,
) -> Option<String> {
    let datasets = || names.iter().filter_map(|name| manifest.datasets.get(*name));
    let is_named = |label: u8| given.classes || datasets().any(|info| info.labels.contains_key(&label));
    let missing: Vec<String> = (0..=u8::MAX)
        .zip(&config.classes)
        .skip(1)
        .filter(|(label, _)| is_named(*label) && !found.contains(label))
        .map(|(label, name)| format!("{label} ({name})"))
        .collect();
    match missing.as_slice() {
        [] => None,
        [class] => Some(format!("class {class} occurs in no label map of the training cases and is not learned")),
        classes => Some(format!(
            "the classes {} occur in no label map of the training cases and are not learned",
            classes.join(", ")
        )),
    }
}

/// Classes and ignore label named by a dataset.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    /// Names from class 0 to the highest; a class without a name is called `class N`.
    classes: Vec<String>,
    ignore: Option<u8>,
}

impl Described {
    fn of(dataset: &str, labels: Option<&BTreeMap<u8, String>>) -> Result<Self, ClassesError> {
        let mut labels = labels.cloned().unwrap_or_default();
        let ignore = labels.iter().find(|(_, name)| *name == IGNORE).map(|(&label, _)| label);
        if let Some(label) = ignore {
            labels.remove(&label);
        }
        let Some((&highest, _)) = labels.last_key_value() else { return Ok(Self { classes: Vec::new(), ignore }) };
        if let Some(label) = ignore.filter(|&label| label < highest) {
            return Err(ClassesError::IgnoreIsClass { origin: dataset.to_owned(), label, last: highest.into() });
        }
        let name = |class| labels.get(&class).cloned().unwrap_or_else(|| format!("class {class}"));
        Ok(Self { classes: (0..=highest).map(name).collect(), ignore })
    }
}

/// Finds the first class whose name does not distinguish it from all others.
#[must_use]
pub fn name_fault(classes: &[String]) -> Option<String> {
    let mut seen: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    classes.iter().enumerate().find_map(|(class, name)| {
        if plain(name).is_empty() {
            return Some(format!("class {class} has an empty name"));
        }
        let (first, spelled) = seen.insert(plain(name), (class, name.as_str()))?;
        let but = if spelled == name.as_str() { "" } else { ", apart from case, spaces and underscores" };
        Some(format!("the classes {first} `{spelled}` and {class} `{name}` have the same name{but}"))
    })
}

/// Converts a name to lower-case words separated by single spaces, treating underscores as spaces.
fn plain(name: &str) -> String {
    let is_space = |letter: char| letter.is_whitespace() || letter == '_';
    let words: Vec<String> = name.split(is_space).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests;
