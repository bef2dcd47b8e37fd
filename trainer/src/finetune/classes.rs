//! Classes of a fine-tuning: listed by the configuration or named by the datasets, and checked against the labels
//! that the cases of the cache hold.

use std::collections::{BTreeMap, BTreeSet};

use hiend_cache::{Cache, Manifest, VolumeReader};
use hiend_loader::plural;
use thiserror::Error;

use crate::config::finetune::FinetuneConfig;
use crate::label_space::LabelSpace;

/// Name by which nnU-Net's `dataset.json` marks the ignore label.
const IGNORE: &str = "ignore";

/// Errors from settling the classes of a fine-tuning.
#[derive(Debug, Error)]
pub enum ClassesError {
    /// Neither the configuration nor the dataset names classes.
    #[error(
        "dataset {dataset} names no classes in its dataset.json; list them as `classes = [...]` in the configuration"
    )]
    Unnamed {
        /// The dataset.
        dataset: String,
    },
    /// A dataset whose classes are regions.
    #[error(
        "dataset {dataset} defines regions ({regions}), which cannot be trained; list one class for each label as \
         `classes = [...]` in the configuration"
    )]
    Regions {
        /// The dataset.
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
        /// The dataset.
        dataset: String,
        /// Number of its classes.
        found: usize,
        /// Dataset or configuration that disagrees.
        other: String,
        /// Number of classes there.
        expected: usize,
    },
    /// Configuration and dataset, or two datasets, disagree on the ignore label.
    #[error("dataset {dataset} has the ignore label {found}, where {expected} is already that of the run")]
    Ignore {
        /// The dataset.
        dataset: String,
        /// Ignore label of the dataset.
        found: u8,
        /// The ignore label of the configuration or of an earlier dataset.
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
    /// A case holds a label that nothing names.
    #[error(
        "case {case} has {} of label {label}, which is no class of {origin}; {space}; correct the labels or name the class \
         there, and run hiend-shard again if dataset.json changed",
        plural::count(voxels, "voxel")
    )]
    Unknown {
        /// The case, as DATASET/CASE.
        case: String,
        /// The label.
        label: u32,
        /// Number of its voxels in the case.
        voxels: u64,
        /// Configuration or dataset that lists the classes.
        origin: String,
        /// The labels allowed.
        space: LabelSpace,
    },
    /// The index of a case cannot be read.
    #[error(transparent)]
    Cache(#[from] hiend_cache::Error),
}

/// Fills in classes and ignore label of `config` from the datasets called `names`, as `manifest` describes them, where it
/// leaves them open, and compares them where it does not. Returns warnings: classes that are named differently.
///
/// # Errors
/// [`ClassesError`] for everything but an unknown label; see [`check_labels`].
pub(super) fn settle(
    config: &mut FinetuneConfig,
    manifest: &Manifest,
    names: &BTreeSet<&str>,
) -> Result<Vec<String>, ClassesError> {
    let mut other = "the configuration".to_owned();
    let mut warnings = Vec::new();
    let mut described_ignore = None;
    let listed = !config.classes.is_empty();
    for &dataset in names {
        let info = manifest.datasets.get(dataset);
        if let Some(info) = info.filter(|info| !listed && !info.regions.is_empty()) {
            let regions = info.regions.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(ClassesError::Regions { dataset: dataset.to_owned(), regions });
        }
        let described = Described::of(dataset, info.map(|info| &info.labels))?;
        if config.classes.is_empty() {
            if described.classes.is_empty() {
                return Err(ClassesError::Unnamed { dataset: dataset.to_owned() });
            }
            config.classes.clone_from(&described.classes);
            dataset.clone_into(&mut other);
        } else {
            let (found, expected) = (described.classes.len(), config.classes.len());
            // A list in the configuration is enough where the dataset names no classes.
            if found > 0 && found != expected {
                return Err(ClassesError::Number { dataset: dataset.to_owned(), found, other, expected });
            }
            let pairs = described.classes.iter().zip(&config.classes).enumerate().skip(1);
            for (class, (theirs, ours)) in pairs.filter(|(_, (a, b))| plain(a) != plain(b)) {
                warnings.push(format!("class {class} is `{theirs}` in dataset {dataset} and `{ours}` in {other}"));
            }
        }
        described_ignore = described_ignore.or(info.and_then(|info| info.ignore));
        if let Some(found) = described.ignore {
            match config.ignore_label {
                Some(expected) if expected != found => {
                    return Err(ClassesError::Ignore { dataset: dataset.to_owned(), found, expected });
                }
                _ => config.ignore_label = Some(found),
            }
        }
    }
    if let Some(label) = config.ignore_label.filter(|&label| usize::from(label) < config.classes.len()) {
        return Err(ClassesError::IgnoreIsClass { origin: other, label, last: config.classes.len() - 1 });
    }
    // The stream knows the ignore labels of datasets; one that the configuration alone names is passed on.
    if described_ignore.is_none() {
        config.stream.ignore_label = config.ignore_label;
    }
    if config.classes.len() < 2 {
        return Err(ClassesError::TooFew { count: config.classes.len() });
    }
    Ok(warnings)
}

/// Checks the labels of all `cases` by the counts in their index, so that no step is computed on labels that do not
/// belong. `listed` says that the configuration lists the classes; otherwise a label counts as a class only if the
/// case's dataset names it.
///
/// # Errors
/// The first label that is neither a class nor the ignore label, with its case; or a case whose index cannot be read.
pub(super) fn check_labels(
    space: LabelSpace,
    listed: bool,
    cache: &Cache,
    cases: &[usize],
) -> Result<(), ClassesError> {
    let mut reader = VolumeReader::new();
    for &case in cases {
        let case = &cache.cases()[case];
        let dataset = &case.record().dataset;
        let named = cache.manifest().datasets.get(dataset).map(|info| &info.labels);
        for (label, counts) in &reader.index(case)?.occupancy.classes {
            let value = u8::try_from(*label).ok();
            let is_named = |value| listed || named.is_none_or(|labels| labels.contains_key(&value));
            let known =
                value.is_some_and(|value| space.ignore() == Some(value) || (space.contains(value) && is_named(value)));
            if !known {
                let origin =
                    if listed { "the configuration".to_owned() } else { format!("the dataset.json of {dataset}") };
                let (case, voxels) = (case.key().to_owned(), counts.total());
                return Err(ClassesError::Unknown { case, label: *label, voxels, origin, space });
            }
        }
    }
    Ok(())
}

/// Classes and ignore label as a dataset names them.
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

/// Letters and digits of a name, in lower case.
fn plain(name: &str) -> String {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(labels: &[(u8, &str)]) -> Result<Described, ClassesError> {
        Described::of("D", Some(&labels.iter().map(|&(label, name)| (label, name.to_owned())).collect()))
    }

    #[test]
    fn the_ignore_label_is_no_class() {
        let labels = [(0, "background"), (1, "body"), (2, "soft"), (3, "ignore")];
        let expected =
            Described { classes: ["background", "body", "soft"].map(str::to_owned).to_vec(), ignore: Some(3) };
        assert_eq!(described(&labels).unwrap(), expected);
        assert_eq!(described(&labels[..3]).unwrap(), Described { ignore: None, ..expected });
        let error = described(&[(0, "background"), (1, "ignore"), (2, "body")]).unwrap_err().to_string();
        assert_eq!(error, "the ignore label 1 must be higher than every class of D (0 to 2)");
    }
}
