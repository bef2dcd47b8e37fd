//! Which classes there are: as the configuration lists them, or as the datasets name them.

use std::collections::BTreeMap;

use hiend_cache::Cache;
use thiserror::Error;

/// Why the classes are not known.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ClassesError {
    /// Nobody names them.
    #[error(
        "dataset {dataset} names no classes in its dataset.json; list them as `classes = [...]` in the configuration"
    )]
    Unnamed {
        /// The dataset.
        dataset: String,
    },
    /// Fewer than two.
    #[error("{count} classes; a segmentation needs the background and at least one more")]
    TooFew {
        /// How many.
        count: usize,
    },
    /// Configuration and dataset, or two datasets, differ.
    #[error(
        "{dataset} has {found} classes, {other} has {expected}; take other datasets with stream.include, or another list of classes"
    )]
    Number {
        /// The dataset.
        dataset: String,
        /// Its classes.
        found: usize,
        /// Who says otherwise.
        other: String,
        /// How many it has.
        expected: usize,
    },
}

/// Fills in `classes` if it is empty, from the datasets of these cases; otherwise compares. Returns what the user
/// should look at: classes of other names.
pub fn settle(classes: &mut Vec<String>, cache: &Cache, cases: &[usize]) -> Result<Vec<String>, ClassesError> {
    let datasets: BTreeMap<&str, Vec<String>> = cases
        .iter()
        .map(|&case| cache.cases()[case].record().dataset.as_str())
        .map(|dataset| (dataset, cache.manifest().datasets.get(dataset).map(|info| names(&info.labels))))
        .map(|(dataset, names)| (dataset, names.unwrap_or_default()))
        .collect();
    let mut other = "the configuration".to_owned();
    let mut warnings = Vec::new();
    for (dataset, names) in datasets {
        if classes.is_empty() {
            if names.is_empty() {
                return Err(ClassesError::Unnamed { dataset: dataset.to_owned() });
            }
            *classes = names;
            dataset.clone_into(&mut other);
            continue;
        }
        // A list of one's own is enough where the dataset has none.
        if !names.is_empty() && names.len() != classes.len() {
            let (found, expected) = (names.len(), classes.len());
            return Err(ClassesError::Number { dataset: dataset.to_owned(), found, other, expected });
        }
        let differ = names.iter().zip(classes.iter()).enumerate().skip(1).filter(|(_, (a, b))| plain(a) != plain(b));
        for (class, (theirs, ours)) in differ {
            warnings.push(format!("class {class} is `{theirs}` in dataset {dataset} and `{ours}` in {other}"));
        }
    }
    if classes.len() < 2 {
        return Err(ClassesError::TooFew { count: classes.len() });
    }
    Ok(warnings)
}

/// Names by label from 0 to the highest; labels without a name get one.
fn names(labels: &BTreeMap<u8, String>) -> Vec<String> {
    let Some((&highest, _)) = labels.last_key_value() else { return Vec::new() };
    (0..=highest).map(|class| labels.get(&class).cloned().unwrap_or_else(|| format!("class {class}"))).collect()
}

/// Letters and digits only, in lower case.
fn plain(name: &str) -> String {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}
