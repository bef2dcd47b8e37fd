//! The folder that each record was made from, so that another dataset of the same name does not replace its scans.
//!
//! A dataset is named after its folder, and many folders are called `imagesTr`. Files in the folder of a record are new
//! versions of its scan, and so are those of a folder that was moved or copied: some of its scans are those of the records.
//! Where none is, the folder is another dataset.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hiend_cache::CaseRecord;

use super::known::Known;
use super::source::{looks_the_same, source_of};
use super::{ConvertError, ConvertOptions};
use crate::case::CaseFiles;
use crate::dataset::Dataset;

/// Largest number of images compared to find one that both folders have, where no file has the size and time of a record.
const MOST_COMPARED: usize = 3;

/// A case of the data, and the record that the cache has of its name.
type Namesakes<'a> = (&'a CaseFiles, &'a CaseRecord);

/// Absolute path of a folder, without links.
pub(super) fn folder_of(root: &Path) -> PathBuf {
    std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned())
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
    let folder = folder_of(root);
    for dataset in datasets {
        let namesakes = dataset.cases.iter().filter_map(|case| Some((case, known.record(&case.key())?)));
        let is_elsewhere =
            |(_, record): &Namesakes<'_>| image_of(record).is_some_and(|image| !image.starts_with(&folder));
        let elsewhere: Vec<Namesakes<'_>> = namesakes.filter(is_elsewhere).collect();
        let replaced: Vec<&Namesakes<'_>> =
            elsewhere.iter().filter(|(case, _)| !options.reconvert.contains(&case.key())).collect();
        let Some((case, from)) = replaced.first().and_then(|(case, record)| Some((case, image_of(record)?))) else {
            continue;
        };
        if !is_one_dataset(root, &elsewhere) {
            return Err(ConvertError::OtherFolder {
                path: out.to_owned(),
                dataset: dataset.name.clone(),
                count: replaced.len(),
                example: case.key(),
                from,
            });
        }
    }
    Ok(())
}

/// Path of the image that a record was made from; `None` if its folder is not known.
fn image_of(record: &CaseRecord) -> Option<PathBuf> {
    Some(Path::new(record.source.folder.as_ref()?).join(&record.source.image))
}

/// Returns true if one of the cases has the scan of its record, as in a folder that was moved or copied, or if no image can be
/// read: such cases are skipped, and replace nothing.
fn is_one_dataset(root: &Path, cases: &[Namesakes<'_>]) -> bool {
    let now = SystemTime::now();
    let is_untouched = |(case, record): &Namesakes<'_>| {
        source_of(root, case, now).is_ok_and(|source| looks_the_same(&record.source, &source))
    };
    if cases.iter().any(is_untouched) {
        return true;
    }
    let mut cases = cases.to_vec();
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
