//! Finds the cases in a folder, whatever layout it has.
//!
//! | layout | how it is recognised |
//! |---|---|
//! | nnU-Net raw | `imagesTr/CASE_0000.nii.gz`, in the folder itself or in its subfolders (`DatasetXXX_NAME`) |
//! | Medical Segmentation Decathlon | `dataset.json` with a list `training` of `{"image", "label"}` |
//! | plain folder | any other folder that holds `.nii` or `.nii.gz` files, at any depth |

mod decathlon;
mod folder;
mod nnunet;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wildmatch::WildMatch;

use crate::case::{CaseFiles, SkippedCase};

/// A dataset, listed but not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// The folder's name.
    pub name: String,
    /// The cases, sorted.
    pub cases: Vec<CaseFiles>,
    /// Cases that are no use already by their listing.
    pub left_out: Vec<SkippedCase>,
    /// Class names by label value; empty if the dataset names none.
    pub labels: BTreeMap<u8, String>,
}

/// Why a folder cannot be converted at all.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The folder cannot be listed.
    #[error("{}: cannot list this folder", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `dataset.json` cannot be used.
    #[error("{}: {reason}", path.display())]
    BadDescription {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing to convert.
    #[error(
        "{}: no CT volumes here; expected DatasetXXX_NAME/imagesTr/CASE_0000.nii.gz (nnU-Net), a dataset.json \
         (Medical Segmentation Decathlon), or .nii/.nii.gz files",
        path.display()
    )]
    Empty {
        /// The folder.
        path: PathBuf,
    },
}

/// Finds the datasets in `root`, sorted by name.
///
/// # Errors
/// If a folder cannot be listed, a `dataset.json` cannot be read, or there is no volume at all.
pub fn find(root: &Path) -> Result<Vec<Dataset>, DatasetError> {
    let root = &std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let mut datasets = Vec::new();
    if let Some(dataset) = read_one(root)? {
        datasets.push(dataset);
    } else {
        for path in list(root)?.into_iter().filter(|path| path.is_dir()) {
            datasets.extend(read_one(&path)?);
        }
        if datasets.is_empty() {
            datasets.push(folder::read(root)?);
        }
    }
    if datasets.iter().all(|dataset| dataset.cases.is_empty() && dataset.left_out.is_empty()) {
        return Err(DatasetError::Empty { path: root.clone() });
    }
    Ok(datasets)
}

fn read_one(path: &Path) -> Result<Option<Dataset>, DatasetError> {
    if path.join("imagesTr").is_dir() {
        // The Decathlon has imagesTr too, but its names carry no channel number.
        match decathlon::read(path)? {
            Some(dataset) => Ok(Some(dataset)),
            None => nnunet::read(path).map(Some),
        }
    } else {
        Ok(None)
    }
}

/// Datasets and cases not wanted, by name.
///
/// A pattern is a dataset's folder name, that name without its `DatasetXXX_` or `TaskXX_`, or a case's name; `*` and
/// `?` stand for any text and any character. Upper and lower case are the same.
#[derive(Clone, Debug, Default)]
pub struct Exclude {
    patterns: Vec<(String, WildMatch)>,
}

impl Exclude {
    /// From patterns.
    #[must_use]
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Self {
        let compile = |pattern: &S| (pattern.as_ref().to_owned(), WildMatch::new(&pattern.as_ref().to_lowercase()));
        Self { patterns: patterns.iter().map(compile).collect() }
    }

    /// Removes what is not wanted; returns how many cases went, and the patterns that met nothing.
    pub fn apply(&self, datasets: &mut Vec<Dataset>) -> (usize, Vec<String>) {
        let mut met = vec![false; self.patterns.len()];
        let mut removed = 0;
        let mut meets = |names: &[&str]| {
            let mut any = false;
            for ((_, pattern), met) in self.patterns.iter().zip(&mut met) {
                if names.iter().any(|name| pattern.matches(&name.to_lowercase())) {
                    *met = true;
                    any = true;
                }
            }
            any
        };
        datasets.retain_mut(|dataset| {
            if meets(&[&dataset.name, short_name(&dataset.name)]) {
                removed += dataset.cases.len() + dataset.left_out.len();
                return false;
            }
            let before = dataset.cases.len();
            dataset.cases.retain(|case| !meets(&[&case.case_id, &case.key()]));
            removed += before - dataset.cases.len();
            true
        });
        let unmet = self.patterns.iter().zip(&met).filter(|(_, met)| !**met);
        (removed, unmet.map(|((pattern, _), _)| pattern.clone()).collect())
    }
}

/// `BTCV` of `Dataset001_BTCV`, `Liver` of `Task03_Liver`.
fn short_name(name: &str) -> &str {
    match name.split_once('_') {
        Some((head, tail)) if head.starts_with("Dataset") || head.starts_with("Task") => tail,
        _ => name,
    }
}

fn list(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let unreadable = |source| DatasetError::Unreadable { path: path.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // Hidden files are not data: `._x.nii.gz` is what macOS leaves in archives.
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// `case` of `case.nii.gz` or `case.nii`; `None` for other files.
fn nifti_stem(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".nii.gz").or_else(|| name.strip_suffix(".nii")).filter(|stem| !stem.is_empty())
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned())
}

fn read_description(path: &Path) -> Result<Option<serde_json::Value>, DatasetError> {
    let bad = |reason: String| DatasetError::BadDescription { path: path.to_owned(), reason };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|err| bad(format!("not valid JSON: {err}"))),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(bad(format!("cannot read: {err}"))),
    }
}

/// Class names by value from either form of `labels`: `{"liver": 1}` (nnU-Net 2) or `{"1": "liver"}` (Decathlon).
///
/// Regions (`{"tumour": [1, 2]}`) are no classes of their own and are passed over.
fn labels(description: &serde_json::Value) -> BTreeMap<u8, String> {
    let Some(labels) = description.get("labels").and_then(|labels| labels.as_object()) else {
        return BTreeMap::new();
    };
    let entry = |(key, value): (&String, &serde_json::Value)| match (key.parse::<u8>(), value) {
        (Ok(label), serde_json::Value::String(name)) => Some((label, name.clone())),
        (_, value) => {
            let label = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
            Some((u8::try_from(label).ok()?, key.clone()))
        }
    };
    labels.iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
    }

    fn check(files: &[&str], json: Option<(&str, &str)>, expected: &[(&str, bool)]) -> Vec<Dataset> {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), files);
        if let Some((path, text)) = json {
            std::fs::write(root.path().join(path), text).unwrap();
        }
        let datasets = find(root.path()).unwrap();
        let found: Vec<(String, bool)> =
            datasets.iter().flat_map(|d| &d.cases).map(|case| (case.key(), case.label.is_some())).collect();
        let expected: Vec<(String, bool)> = expected.iter().map(|(key, label)| ((*key).to_owned(), *label)).collect();
        let strip = |found: Vec<(String, bool)>| -> Vec<(String, bool)> {
            let top = name_of(root.path());
            found.into_iter().map(|(key, label)| (key.replace(&top, "TOP"), label)).collect()
        };
        assert_eq!(strip(found), expected);
        datasets
    }

    #[test]
    fn nnunet_datasets_are_found_in_a_raw_folder() {
        let datasets = check(
            &[
                "Dataset001_A/imagesTr/x_0000.nii.gz",
                "Dataset001_A/imagesTr/._x_0000.nii.gz",
                "Dataset001_A/labelsTr/x.nii.gz",
                "Dataset001_A/imagesTs/t_0000.nii.gz",
                "Dataset002_B/imagesTr/y_0000.nii",
                "Dataset002_B/imagesTr/z_0000.nii.gz",
                "Dataset002_B/imagesTr/z_0001.nii.gz",
            ],
            Some(("Dataset001_A/dataset.json", r#"{"labels": {"background": 0, "liver": 1, "both": [1, 2]}}"#)),
            &[("Dataset001_A/x", true), ("Dataset002_B/y", false)],
        );
        assert_eq!(datasets[0].labels, BTreeMap::from([(0, "background".into()), (1, "liver".into())]));
        assert_eq!(datasets[1].left_out.len(), 1, "two channels: {:?}", datasets[1].left_out);
    }

    #[test]
    fn one_nnunet_dataset_may_be_given_directly() {
        check(&["imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz"], None, &[("TOP/x", true)]);
    }

    #[test]
    fn the_decathlon_lists_its_cases() {
        let json = r#"{"labels": {"0": "background", "1": "liver"},
            "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, "./imagesTr/gone.nii.gz"]}"#;
        let datasets =
            check(&["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"], Some(("dataset.json", json)), &[("TOP/a", true)]);
        assert_eq!(datasets[0].labels[&1], "liver");
        assert!(datasets[0].left_out[0].reason.contains("missing"), "{:?}", datasets[0].left_out);
    }

    #[test]
    fn any_folder_of_volumes_will_do() {
        check(&["b/2.nii", "a.nii.gz", "notes.txt"], None, &[("TOP/a", false), ("TOP/b/2", false)]);
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["notes.txt"]);
        assert!(matches!(find(root.path()), Err(DatasetError::Empty { .. })));
        assert!(matches!(find(&root.path().join("gone")), Err(DatasetError::Unreadable { .. })));
    }

    #[test]
    fn exclusion_is_by_dataset_or_case_name() {
        let root = tempfile::tempdir().unwrap();
        touch(
            root.path(),
            &[
                "Dataset001_WORD/imagesTr/a_0000.nii",
                "Dataset002_X/imagesTr/b1_0000.nii",
                "Dataset002_X/imagesTr/c_0000.nii",
            ],
        );
        let mut datasets = find(root.path()).unwrap();
        let (removed, unmet) = Exclude::new(&["word", "b?", "AMOS"]).apply(&mut datasets);
        assert_eq!((removed, unmet), (2, vec!["AMOS".to_owned()]));
        assert_eq!(datasets[0].cases[0].case_id, "c");
    }
}
