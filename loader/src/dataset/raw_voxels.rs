//! Files of raw voxels whose header was lost.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::other_file::RAW_ENDINGS;
use super::tree::Folder;
use super::{Listing, UnusedFile, UnusedReason};
use crate::volume::{detached, file_stem};

/// Gives files of raw voxels another reason where no header names them and none of their name is next to them.
pub(super) fn tell_lost(tree: &Folder, listing: &mut Listing) {
    if listing.all_unused().all(|unused| unused.reason != UnusedReason::RawVoxels) {
        return;
    }
    let headers: HashSet<PathBuf> =
        tree.all_files().filter_map(|file| Some(file.path.with_file_name(file_stem(&file.name)?))).collect();
    let has_header = |path: &Path| without_ending(path).is_some_and(|path| headers.contains(&path));
    let all = listing.datasets.iter_mut().flat_map(|dataset| &mut dataset.unused).chain(&mut listing.unused);
    let is_alone = |unused: &&mut UnusedFile| unused.reason == UnusedReason::RawVoxels && !has_header(&unused.path);
    let alone: Vec<&mut UnusedFile> = all.filter(is_alone).collect();
    if alone.is_empty() {
        return;
    }
    // Headers are read only for these: most have the name of their voxels.
    let named: HashSet<PathBuf> = tree.all_files().filter_map(|file| detached(&file.path)).collect();
    for unused in alone.into_iter().filter(|unused| !named.contains(&unused.path)) {
        unused.reason = UnusedReason::RawWithoutHeader;
    }
}

/// Path of a file of raw voxels without its ending.
fn without_ending(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let ending = RAW_ENDINGS.into_iter().find(|ending| name.to_lowercase().ends_with(ending))?;
    Some(path.with_file_name(name.get(..name.len() - ending.len())?))
}
