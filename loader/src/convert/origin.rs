//! The folder that each record was made from, so that another dataset of the same name does not replace its scans.
//!
//! A dataset is named after its folder, and many folders are called `imagesTr`. Files in the folder of a record are new
//! versions of its scan, and so are those of a folder that was moved or copied: some of its scans are those of the records.
//! Where none is, the folder is another dataset.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hiend_cache::CaseRecord;

use super::known::Known;
use super::source::source_of;
use super::{ConvertError, ConvertOptions};
use crate::case::{CaseFiles, shown};
use crate::dataset::Dataset;
use crate::plural;

/// Largest number of images compared to find one that both folders have, where no file has the size and time of a record.
const MOST_COMPARED: usize = 3;

/// A case of the data, and the record that the cache has of its name.
type Namesakes<'a> = (&'a CaseFiles, &'a CaseRecord);

/// Absolute path of a folder, without links.
pub(super) fn folder_of(root: &Path) -> PathBuf {
    std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned())
}

/// Cases of a dataset whose names the cache has from another folder, and none of which has the size and time in its record.
/// A conversion compares content, and refuses them unless both folders have a scan in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherFolder {
    /// Name of the dataset.
    pub dataset: String,
    /// Number of such cases, without those of [`ConvertOptions::reconvert`].
    pub count: usize,
    /// One of them, as `DATASET/CASE`.
    pub example: String,
    /// Path of the image that the cache's case of this name was made from.
    pub from: PathBuf,
}

impl fmt::Display for OtherFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dataset, count, example, from } = self;
        let cases = plural::count(*count, "case");
        write!(
            f,
            "{dataset}: {cases} with names that the cache has from another folder, such as {example} from {}, and with other \
             sizes or times; the conversion compares content and refuses other scans, unless --reconvert names them",
            shown(from)
        )
    }
}

/// Checks that no dataset of the data, which was found in `root`, replaces scans that the cache has from another dataset of
/// its name, unless [`ConvertOptions::reconvert`] names them. Records without a folder can be replaced.
pub(super) fn check(
    out: &Path,
    root: &Path,
    datasets: &[Dataset],
    known: &Known,
    options: &ConvertOptions,
) -> Result<(), ConvertError> {
    for (other, cases) in others(root, datasets, known, options) {
        if !have_a_scan_in_common(cases) {
            let OtherFolder { dataset, count, example, from } = other;
            return Err(ConvertError::OtherFolder { path: out.to_owned(), dataset, count, example, from });
        }
    }
    Ok(())
}

/// Finds the datasets that [`check`] accepts or refuses by their content, which this function does not read.
pub(super) fn undecided(
    root: &Path,
    datasets: &[Dataset],
    known: &Known,
    options: &ConvertOptions,
) -> Vec<OtherFolder> {
    others(root, datasets, known, options).map(|(other, _)| other).collect()
}

/// Datasets of the data that sizes and times do not tell to be those of the cache, with their cases.
fn others<'a>(
    root: &'a Path,
    datasets: &'a [Dataset],
    known: &'a Known,
    options: &'a ConvertOptions,
) -> impl Iterator<Item = (OtherFolder, Vec<Namesakes<'a>>)> {
    let (folder, now) = (folder_of(root), SystemTime::now());
    datasets.iter().filter_map(move |dataset| {
        let namesakes = dataset.cases.iter().filter_map(|case| Some((case, known.record(&case.key())?)));
        let is_elsewhere =
            |(_, record): &Namesakes<'_>| image_of(record).is_some_and(|image| !image.starts_with(&folder));
        let elsewhere: Vec<Namesakes<'_>> = namesakes.filter(is_elsewhere).collect();
        let replaced: Vec<&Namesakes<'_>> =
            elsewhere.iter().filter(|(case, _)| !options.reconvert.contains(&case.key())).collect();
        let (case, record) = replaced.first()?;
        let from = image_of(record)?;
        let is_untouched = |(case, record): &Namesakes<'_>| {
            source_of(root, case, now).is_ok_and(|source| known.is_untouched(record, &source))
        };
        if elsewhere.iter().any(is_untouched) {
            return None;
        }
        let (count, example) = (replaced.len(), case.key());
        Some((OtherFolder { dataset: dataset.name.clone(), count, example, from }, elsewhere))
    })
}

/// Path of the image that a record was made from; `None` if its folder is not known.
fn image_of(record: &CaseRecord) -> Option<PathBuf> {
    Some(Path::new(record.source.folder.as_ref()?).join(&record.source.image))
}

/// Returns true if one of the cases has the image of its record, as in a folder that was moved or copied, or if no image can
/// be read: such cases are skipped, and replace nothing.
fn have_a_scan_in_common(mut cases: Vec<Namesakes<'_>>) -> bool {
    cases.sort_by_cached_key(|(case, record)| case.file_bytes().ok() != Some(record.source.bytes));
    let mut num_others = 0;
    for (case, record) in cases {
        match case.read_volume() {
            Ok(image) if image.blake3 == record.source.image_blake3 => return true,
            Ok(_) => num_others += 1,
            Err(_) => {}
        }
        if num_others == MOST_COMPARED {
            return false;
        }
    }
    num_others == 0
}
