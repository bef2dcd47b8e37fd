//! Datasets whose `dataset.json` lists the cases: the Medical Segmentation Decathlon and nnU-Net 1 (`training`), and
//! nnU-Net 2 (`dataset`).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::description::{Description, ListedCase};
use super::roles::channel;
use super::tree::Folder;
use super::unused::{UnusedReason, lies_in, rest};
use super::{Dataset, DatasetError, DescriptionFault};
use crate::case::{CaseFiles, ImageRole, LabelFiles, SkippedCase};
use crate::volume::file_stem;

/// The dataset, and all files that it lists, wherever they lie. `None` if the description lists no cases.
///
/// # Errors
/// If a listed file cannot be looked at, or an entry has no usable name.
pub(super) fn read(
    folder: &Folder,
    description: &Description,
) -> Result<Option<(Dataset, HashSet<PathBuf>)>, DatasetError> {
    if description.cases.is_empty() {
        return Ok(None);
    }
    let mut dataset = Dataset::described(folder.name.clone(), Some(description));
    let mut taken: HashSet<PathBuf> = HashSet::new();
    let mut first_of: HashMap<String, PathBuf> = HashMap::new();
    for listed in &description.cases {
        let ListedCase { case_id, images, label } = listed;
        let image = with_channel(&images[0])?;
        let Some(case_id) = case_id.clone().or_else(|| case_id_of(&image)) else {
            let reason = Box::new(DescriptionFault::NotAVolume { path: images[0].clone() });
            return Err(DatasetError::BadDescription { path: folder.path.join("dataset.json"), reason });
        };
        if case_id.chars().any(char::is_control) {
            let reason = Box::new(DescriptionFault::ControlCharacters { case_id });
            return Err(DatasetError::BadDescription { path: folder.path.join("dataset.json"), reason });
        }
        taken.extend(images.iter().cloned().chain([image.clone()]).chain(label.clone()));
        let case = CaseFiles {
            dataset: dataset.name.clone(),
            case_id,
            image,
            slices: Vec::new(),
            role: ImageRole::Declared,
            label: label.clone().map(LabelFiles::Map),
        };
        let second = second_channel(&case.image)?;
        let mut missing = None;
        for path in case.files() {
            if missing.is_none() && !exists(path)? {
                missing = Some(path.to_owned());
            }
        }
        if let Some(first) = first_of.insert(case.case_id.clone(), case.image.clone()) {
            if first != case.image {
                let reason = "dataset.json lists two images of this name";
                dataset.skipped.push(SkippedCase::new(&case, &case.image, reason));
            }
        } else if let Some(path) = missing {
            dataset.skipped.push(SkippedCase::new(&case, &path, "listed in dataset.json but missing"));
        } else if images.len() > 1 || second.is_some() {
            taken.extend(second);
            dataset.skipped.push(SkippedCase::new(&case, &case.image, "has more than one channel; one is expected"));
        } else {
            dataset.cases.push(case);
        }
    }
    dataset.cases.sort();
    dataset.unused = rest(folder, &taken, |file| {
        let is_training = ["imagesTr", "labelsTr"].into_iter().any(|name| lies_in(file, &folder.path, name));
        if is_training { UnusedReason::NotListed } else { UnusedReason::TestData }
    });
    if let Some(claimed) = description.num_training {
        dataset.note_count(claimed);
    }
    Ok(Some((dataset, taken)))
}

/// Path of a listed image: nnU-Net 1 lists `case.nii.gz` for the file `case_0000.nii.gz`.
fn with_channel(listed: &Path) -> Result<PathBuf, DatasetError> {
    if !exists(listed)?
        && let Some(path) = beside(listed, "_0000")
        && exists(&path)?
    {
        return Ok(path);
    }
    Ok(listed.to_owned())
}

/// The second channel of an image with a channel number, if there is one.
fn second_channel(image: &Path) -> Result<Option<PathBuf>, DatasetError> {
    let name = image.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((case_id, 0)) = file_stem(name).and_then(channel) else { return Ok(None) };
    let path = image.with_file_name(name.replacen(&format!("{case_id}_0000"), &format!("{case_id}_0001"), 1));
    Ok(exists(&path)?.then_some(path))
}

/// The path with something appended to its stem.
fn beside(path: &Path, suffix: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = file_stem(name)?;
    Some(path.with_file_name(format!("{stem}{suffix}{}", &name[stem.len()..])))
}

fn case_id_of(image: &Path) -> Option<String> {
    let stem = file_stem(image.file_name()?.to_str()?)?;
    Some(match channel(stem) {
        Some((case_id, 0)) => case_id.to_owned(),
        _ => stem.to_owned(),
    })
}

/// True if something has this name, be it a dangling link.
fn exists(path: &Path) -> Result<bool, DatasetError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DatasetError::Unreadable { path: path.to_owned(), source }),
    }
}
