//! Caches of the Hugging Face hub: `blobs` holds files named by their hashes, and `snapshots/REVISION` links to them under their
//! own names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::tree::{FileId, Folder};

/// Links to the files of all such caches in a folder.
#[derive(Default)]
pub(super) struct HubLinks(HashMap<PathBuf, PathBuf>);

impl HubLinks {
    /// Finds the caches in a folder, at any depth.
    pub(super) fn of(root: &Folder) -> Self {
        let mut links = Self::default();
        links.collect(root);
        links
    }

    /// The first link to a file in `blobs`; `None` for all other files.
    pub(super) fn link(&self, path: &Path) -> Option<&Path> {
        self.0.get(path).map(PathBuf::as_path)
    }

    fn collect(&mut self, folder: &Folder) {
        if let (Some(blobs), Some(snapshots)) = (folder.folder("blobs"), folder.folder("snapshots")) {
            let mut by_id: HashMap<FileId, &Path> = HashMap::new();
            for file in snapshots.all_files().filter(|file| file.is_linked) {
                if let Some(id) = file.id {
                    by_id.entry(id).or_insert(&file.path);
                }
            }
            for blob in &blobs.files {
                if let Some(link) = blob.id.and_then(|id| by_id.get(&id)) {
                    self.0.insert(blob.path.clone(), (*link).to_owned());
                }
            }
        }
        for child in &folder.folders {
            self.collect(child);
        }
    }
}
