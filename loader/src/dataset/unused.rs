//! Files that lie in the data and are not converted, each with its reason.

pub(super) mod reason;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::other_file::of_other_file;
use super::pair::later_version;
use super::roles::{
    Split, is_label_folder, is_label_name, is_prediction_folder, is_unlabelled_folder, may_name_dataset,
};
use super::tree::{Folder, TreeFile};

pub use reason::{UnusedFile, UnusedReason, Weight};

/// Lists the files below a folder that were not taken, with `explain`'s reason for volumes.
pub(super) fn rest(
    folder: &Folder,
    taken: &HashSet<PathBuf>,
    explain: impl Fn(&TreeFile) -> UnusedReason,
) -> Vec<UnusedFile> {
    rest_where(folder, |path| !taken.contains(path), explain)
}

/// Lists the files below a folder that are left over, with `explain`'s reason for volumes. Only these files are examined.
pub(super) fn rest_where(
    folder: &Folder,
    is_left: impl Fn(&Path) -> bool,
    explain: impl Fn(&TreeFile) -> UnusedReason,
) -> Vec<UnusedFile> {
    let left = folder.all_files().filter(|file| is_left(&file.path));
    let reason = |file: &TreeFile| {
        let reason = of_other_file(file)?;
        // Probabilities next to the predictions of a model.
        let is_arrays = matches!(reason, UnusedReason::Arrays { .. });
        Some(of_prediction(file, &folder.path).filter(|_| is_arrays).unwrap_or(reason))
    };
    left.map(|file| UnusedFile { path: file.path.clone(), reason: reason(file).unwrap_or_else(|| explain(file)) })
        .collect()
}

/// The reason for a volume outside of the folders that a layout reads, by the names of the folders below `base` that it lies
/// in: predictions, test and validation data are expected, everything else is not.
pub(super) fn apart(file: &TreeFile, base: &Path) -> UnusedReason {
    if let Some(reason) = of_prediction(file, base) {
        return reason;
    }
    let splits: Vec<Split> = folders_below(file, base).iter().filter_map(|name| Split::of(name)).collect();
    if splits.contains(&Split::Test) {
        UnusedReason::TestData
    } else if splits.contains(&Split::Validation) {
        UnusedReason::Validation
    } else {
        of_unlabelled(file, base).unwrap_or(UnusedReason::OutsideDatasets)
    }
}

/// Returns true if a volume, or a folder below `base` that it lies in, is named like label maps.
pub(super) fn is_named_like_label(file: &TreeFile, base: &Path) -> bool {
    file.stem().is_some_and(is_label_name) || folders_below(file, base).iter().any(|name| is_label_folder(name))
}

/// The reason for a file in a folder of predictions below `base`; `None` for other files.
pub(super) fn of_prediction(file: &TreeFile, base: &Path) -> Option<UnusedReason> {
    folders_below(file, base).iter().find_map(|name| prediction_folder(name))
}

/// The reason for an image in a folder of images without label maps below `base`; `None` for other files.
fn of_unlabelled(file: &TreeFile, base: &Path) -> Option<UnusedReason> {
    let folder = folders_below(file, base).into_iter().find(|name| is_unlabelled_folder(name));
    folder.filter(|_| !is_named_like_label(file, base)).map(|folder| UnusedReason::Unlabelled { folder })
}

/// The reason for a label map in a folder below `base` that is named like an earlier version of one of those `used`; `None` for
/// other files.
pub(super) fn of_earlier_labels<'a>(
    file: &TreeFile,
    base: &Path,
    mut used: impl Iterator<Item = &'a Folder>,
) -> Option<UnusedReason> {
    let below = folders_below(file, base);
    let later = later_version(below.first()?)?;
    let is_later = |folder: &Folder| folder.name == later && folder.volumes().next().is_some();
    used.any(is_later).then(|| UnusedReason::EarlierLabels { used: later.to_owned() })
}

/// The reason for the files of a folder that is named like predictions of a model; `None` for other names.
pub(super) fn prediction_folder(name: &str) -> Option<UnusedReason> {
    let folder = || UnusedReason::InPredictionFolder { folder: name.to_owned() };
    is_prediction_folder(name).then(|| if may_name_dataset(name) { folder() } else { UnusedReason::Prediction })
}

/// Names of the folders between `base` and a file.
fn folders_below(file: &TreeFile, base: &Path) -> Vec<String> {
    let below = file.path.parent().and_then(|folder| folder.strip_prefix(base).ok());
    below.into_iter().flatten().map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Returns true if a file lies in the direct subfolder `name` of `folder`, or deeper.
pub(super) fn lies_in(file: &TreeFile, folder: &Path, name: &str) -> bool {
    file.path.starts_with(folder.join(name))
}
