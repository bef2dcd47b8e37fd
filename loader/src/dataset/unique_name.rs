//! Different names for datasets whose folders have the same name.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::tree::name_of;
use super::{Dataset, DatasetError};

/// Name of a dataset whose folder has the name of another one: all folders below `root`, joined.
pub(super) fn joined_name(path: &Path, root: &Path) -> String {
    let parts = path.strip_prefix(root).unwrap_or(path).iter().map(|part| part.to_string_lossy());
    let joined = parts.collect::<Vec<_>>().join("-");
    if joined.is_empty() { name_of(path) } else { joined }
}

/// Gives datasets of the same name the names of the folders above them as well.
pub(super) fn unique_names(found: Vec<(PathBuf, Dataset)>, root: &Path) -> Result<Vec<Dataset>, DatasetError> {
    let mut count: HashMap<String, usize> = HashMap::new();
    for (_, dataset) in &found {
        *count.entry(dataset.name.clone()).or_default() += 1;
    }
    let mut datasets: Vec<Dataset> = Vec::with_capacity(found.len());
    let mut names: HashSet<String> = HashSet::new();
    for (path, mut dataset) in found {
        if count[&dataset.name] > 1 {
            dataset.rename(&joined_name(&path, root));
        }
        if !names.insert(dataset.name.clone()) {
            return Err(DatasetError::SameName { path: root.to_owned(), name: dataset.name });
        }
        datasets.push(dataset);
    }
    Ok(datasets)
}
