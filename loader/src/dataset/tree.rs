//! One walk through a folder: lists every file once with its identity, follows links, and reports loops and irregular
//! files.
//!
//! A path that cannot be accessed is an error here and nowhere taken for absent. The one exception is a dangling link:
//! named like a volume it stays in the tree, so that its case is skipped with the system's reason when it is read.

use std::collections::HashMap;
use std::fs::Metadata;
use std::path::{Component, Path, PathBuf};

use hiend_cache::{manifest, shard};

use super::DatasetError;
use super::unused::reason::{UnusedFile, UnusedReason};
use crate::volume::file_stem;

/// Folders of operating systems and storage servers, which hold no data of the user.
const SYSTEM_FOLDERS: [&str; 6] =
    ["lost+found", "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"];
/// Folders whose absence changes what a dataset is: a dangling link in place of one is an error.
const LAYOUT_FOLDERS: [&str; 9] =
    ["imagesTr", "labelsTr", "imagesTs", "labelsTs", "img", "label", "images", "labels", "segmentations"];

/// Identity of a file or folder: device and inode, or a hash of the resolved path on systems without them.
pub(super) type FileId = (u64, u64);

#[cfg(unix)]
fn file_id(_: &Path, data: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt as _;
    (data.dev(), data.ino())
}

#[cfg(not(unix))]
fn file_id(path: &Path, _: &Metadata) -> FileId {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let hash = blake3::hash(resolved.as_os_str().as_encoded_bytes());
    let (head, tail) = hash.as_bytes().split_at(8);
    let number = |bytes: &[u8]| bytes.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte));
    (number(head), number(tail))
}

/// A regular file, or a dangling link named like a volume.
#[derive(Clone, Debug)]
pub(super) struct TreeFile {
    pub path: PathBuf,
    /// File name, which is UTF-8 and free of control characters.
    pub name: String,
    /// Identity of the file; `None` for a dangling link.
    pub id: Option<FileId>,
    /// True if the path leads through a link.
    pub is_linked: bool,
}

impl TreeFile {
    /// Name without the ending of a volume; `None` for other files.
    pub(super) fn stem(&self) -> Option<&str> {
        file_stem(&self.name)
    }
}

/// A folder with its content, both sorted by name.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub path: PathBuf,
    pub name: String,
    /// Subfolders except caches.
    pub folders: Vec<Folder>,
    pub files: Vec<TreeFile>,
    /// True if a subfolder is a cache.
    pub has_cache: bool,
}

impl Folder {
    /// The direct subfolder of this name, found by the order of the names.
    pub(super) fn folder(&self, name: &str) -> Option<&Folder> {
        let at = self.folders.binary_search_by(|folder| folder.name.as_str().cmp(name)).ok()?;
        self.folders.get(at)
    }

    /// The volumes directly in this folder, with their stems.
    pub(super) fn volumes(&self) -> impl Iterator<Item = (&TreeFile, &str)> {
        self.files.iter().filter_map(|file| Some((file, file.stem()?)))
    }

    /// All files at any depth, those of subfolders last.
    pub(super) fn all_files(&self) -> Box<dyn Iterator<Item = &TreeFile> + '_> {
        Box::new(self.files.iter().chain(self.folders.iter().flat_map(Folder::all_files)))
    }

    /// The uppermost folders below this one that hold a dataset by what lies in them: `imagesTr`, `imagesTs` or
    /// `dataset.json`.
    pub(super) fn nested_datasets(&self) -> Vec<&Folder> {
        let is_dataset = |folder: &Folder| {
            ["imagesTr", "imagesTs"].into_iter().any(|name| folder.folder(name).is_some())
                || folder.files.iter().any(|file| file.name == "dataset.json")
        };
        let folders = self.folders.iter();
        folders.flat_map(|child| if is_dataset(child) { vec![child] } else { child.nested_datasets() }).collect()
    }

    /// Returns true if all that the folder holds is a manifest and shards.
    fn is_cache(&self) -> bool {
        let is_manifest = |file: &TreeFile| file.name == manifest::FILE_NAME;
        let is_shard = |file: &TreeFile| file.path.extension().is_some_and(|ending| ending == shard::EXTENSION);
        self.folders.is_empty()
            && self.files.iter().any(is_manifest)
            && self.files.iter().any(is_shard)
            && self.files.iter().all(|file| is_manifest(file) || is_shard(file))
    }

    /// Returns true if neither the folder nor any folder below it holds a file or a cache.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.has_cache && self.folders.iter().all(Folder::is_empty)
    }
}

/// Walks through `root`; files that cannot be part of any dataset are appended to `unused`.
pub(super) fn walk(root: &Path, unused: &mut Vec<UnusedFile>) -> Result<Folder, DatasetError> {
    let data = std::fs::metadata(root).map_err(|source| unreadable(root, source))?;
    if !data.is_dir() {
        return Err(DatasetError::NotAFolder { path: root.to_owned() });
    }
    let mut walk = Walk { above: vec![(file_id(root, &data), root.to_owned())], seen: HashMap::new(), unused };
    walk.folder(root, name_of(root), false)
}

fn unreadable(path: &Path, source: std::io::Error) -> DatasetError {
    DatasetError::Unreadable { path: path.to_owned(), source }
}

/// Absolute path of a folder of data, whose last component names a dataset. Links are resolved only in a path with `..`, which
/// has no such component: a folder keeps the name by which it was given.
#[must_use]
pub fn root_of(data: &Path) -> PathBuf {
    let path = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    if path.components().any(|part| part == Component::ParentDir) {
        return std::fs::canonicalize(&path).unwrap_or(path);
    }
    path
}

/// Last component of a path, with `_` in place of control characters: it becomes the name of a dataset.
pub(super) fn name_of(path: &Path) -> String {
    let name = path.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy());
    name.replace(char::is_control, "_")
}

struct Walk<'a> {
    /// Folders that contain the current one.
    above: Vec<(FileId, PathBuf)>,
    /// Folders visited so far, by the first path to them.
    seen: HashMap<FileId, PathBuf>,
    unused: &'a mut Vec<UnusedFile>,
}

impl Walk<'_> {
    fn unused(&mut self, path: &Path, reason: UnusedReason) {
        self.unused.push(UnusedFile { path: path.to_owned(), reason });
    }

    /// Reads a folder and those below it. `is_linked` is true if a link was followed on the way to it.
    fn folder(&mut self, path: &Path, name: String, is_linked: bool) -> Result<Folder, DatasetError> {
        let mut folder =
            Folder { path: path.to_owned(), name, folders: Vec::new(), files: Vec::new(), has_cache: false };
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|source| unreadable(path, source))? {
            let entry = entry.map_err(|source| unreadable(path, source))?;
            let kind = entry.file_type().map_err(|source| unreadable(&entry.path(), source))?;
            entries.push((kind.is_symlink(), entry.path()));
        }
        // Folders themselves come before links to them, so that a scan goes by its own path.
        entries.sort();
        for (is_link, path) in entries {
            self.entry(&path, is_link, is_linked, &mut folder)?;
        }
        folder.files.sort_by(|a, b| a.name.cmp(&b.name));
        folder.folders.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(folder)
    }

    fn entry(&mut self, path: &Path, is_link: bool, is_linked: bool, into: &mut Folder) -> Result<(), DatasetError> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
            self.unused(path, UnusedReason::BadName);
            return Ok(());
        };
        if name.starts_with('.') || SYSTEM_FOLDERS.contains(&name.as_str()) {
            self.unused(path, UnusedReason::Hidden);
            return Ok(());
        }
        if name.chars().any(char::is_control) {
            self.unused(path, UnusedReason::BadName);
            return Ok(());
        }
        let data = match std::fs::metadata(path) {
            Ok(data) => data,
            Err(source) if is_link => {
                if LAYOUT_FOLDERS.contains(&name.as_str()) {
                    return Err(unreadable(path, source));
                }
                if file_stem(&name).is_some() {
                    into.files.push(TreeFile { path: path.to_owned(), name, id: None, is_linked: true });
                } else {
                    self.unused(path, UnusedReason::DanglingLink);
                }
                return Ok(());
            }
            Err(source) => return Err(unreadable(path, source)),
        };
        let id = file_id(path, &data);
        if data.is_file() {
            let is_linked = is_linked || is_link;
            into.files.push(TreeFile { path: path.to_owned(), name, id: Some(id), is_linked });
        } else if !data.is_dir() {
            self.unused(path, UnusedReason::NotRegular);
        } else if let Some((_, first)) = self.above.iter().find(|(above, _)| *above == id) {
            let reason = UnusedReason::LinkLoop { to: first.clone() };
            self.unused(path, reason);
        } else if is_linked && let Some(first) = self.seen.get(&id) {
            // A link met inside a linked folder leads to what was visited already: without this, folders linked to
            // each other would be walked in every order.
            let reason = UnusedReason::SameFile { first: first.clone() };
            self.unused(path, reason);
        } else {
            self.seen.entry(id).or_insert_with(|| path.to_owned());
            self.above.push((id, path.to_owned()));
            let num_unused = self.unused.len();
            let folder = self.folder(path, name, is_linked || is_link)?;
            self.above.pop();
            if folder.is_cache() {
                // The hidden files of a cache are its locks.
                self.unused.truncate(num_unused);
                self.unused(path, UnusedReason::Cache);
                into.has_cache = true;
            } else {
                into.folders.push(folder);
            }
        }
        Ok(())
    }
}
