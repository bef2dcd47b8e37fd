//! Folders that nnU-Net writes: preprocessed data, trained models, and predictions of the validation cases of a fold.

use super::other_file::is_data;
use super::roles::Split;
use super::tree::{Folder, TreeFile};
use super::unused::reason::{UnusedFile, UnusedReason};

/// Folders of nnU-Net's versions 1 and 2 that hold no raw data, in lower case.
const OUTPUTS: [&str; 5] =
    ["nnunet_results", "nnunet_preprocessed", "nnunet_trained_models", "nnunet_raw_cropped", "nnunet_cropped_data"];
/// Beginning of the names of folders of trained models, in lower case.
const TRAINER: &str = "nnunettrainer";

/// Takes the folders that nnU-Net wrote out of a tree, and lists their files as unused.
pub(super) fn take_out(folder: &mut Folder, unused: &mut Vec<UnusedFile>) {
    let mut list = |output: &Folder| {
        let reason = UnusedReason::NnunetOutput { folder: output.name.clone() };
        // By their names: there may be many files, and none is of use.
        let reason = |file: &TreeFile| if is_data(file) { reason.clone() } else { UnusedReason::NotAVolume };
        unused.extend(output.all_files().map(|file| UnusedFile { path: file.path.clone(), reason: reason(file) }));
    };
    if is_output(folder) {
        list(folder);
        folder.folders.clear();
        folder.files.clear();
        return;
    }
    for output in folder.folders.extract_if(.., |child| is_output(child)) {
        list(&output);
    }
    for child in &mut folder.folders {
        take_out(child, unused);
    }
}

fn is_output(folder: &Folder) -> bool {
    let name = folder.name.to_lowercase();
    (OUTPUTS.contains(&name.as_str()) || name.starts_with(TRAINER) || is_fold(folder)) && !has_raw_data(folder)
}

/// Returns true for `fold_0` and `fold_all` that have a folder `validation` but no folder for training, as users' own
/// folds do.
fn is_fold(folder: &Folder) -> bool {
    let number = folder.name.strip_prefix("fold_").unwrap_or_default();
    let is_fold = number == "all" || (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    let is_training = |child: &Folder| Split::of(&child.name) == Some(Split::Training);
    is_fold
        && folder.folders.iter().any(|child| child.name.starts_with("validation"))
        && !folder.folders.iter().any(is_training)
}

fn has_raw_data(folder: &Folder) -> bool {
    ["imagesTr", "imagesTs"].into_iter().any(|name| folder.folder(name).is_some())
        || folder.folders.iter().any(has_raw_data)
}
