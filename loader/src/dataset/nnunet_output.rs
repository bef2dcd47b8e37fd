//! Folders that nnU-Net writes: preprocessed data, trained models, and predictions of the validation cases of a fold.

use std::collections::HashSet;

use super::roles::Split;
use super::tree::Folder;
use super::unused::{UnusedFile, UnusedReason, rest};

/// Folders of nnU-Net's versions 1 and 2 that hold no raw data, in lower case.
const OUTPUTS: [&str; 5] =
    ["nnunet_results", "nnunet_preprocessed", "nnunet_trained_models", "nnunet_raw_cropped", "nnunet_cropped_data"];
/// Beginning of the names of folders of trained models, in lower case.
const TRAINER: &str = "nnunettrainer";

/// Takes the folders that nnU-Net wrote out of a tree, and lists their files as unused.
pub(super) fn take_out(folder: &mut Folder, unused: &mut Vec<UnusedFile>) {
    let mut list = |output: &Folder| {
        let reason = UnusedReason::NnunetOutput { folder: output.name.clone() };
        let mut files = rest(output, &HashSet::new(), |_| reason.clone());
        let is_data =
            |file: &&mut UnusedFile| matches!(file.reason, UnusedReason::Arrays { .. } | UnusedReason::RawVoxels);
        files.iter_mut().filter(is_data).for_each(|file| file.reason = reason.clone());
        unused.extend(files);
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
