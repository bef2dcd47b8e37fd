//! State of a folder at one moment: its contents, and the part known to be on disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

/// Unit in which a file's content reaches the disk, in bytes.
const BLOCK_LEN: usize = 512;

/// Number of a file or folder, which it keeps when it is renamed.
pub(crate) type Inode = u64;
/// Names in a folder.
pub(crate) type Names = BTreeMap<OsString, Inode>;

/// Content of a file.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// Content at the last sync; `None` if there was none.
    pub synced: Option<Arc<[u8]>>,
    /// Current content.
    pub now: Arc<[u8]>,
}

/// Names in a folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folder {
    /// Names in the folder at its last sync.
    pub synced: Names,
    /// Current names.
    pub now: Names,
}

/// State of a folder and everything below it.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub root: Inode,
    pub files: HashMap<Inode, Content>,
    pub folders: HashMap<Inode, Folder>,
    /// Number of results that had been reported as done.
    pub num_reported: usize,
    /// Description of the operation that was about to happen.
    pub before: String,
}

/// Part of the unsynced data that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// None, as after a kill.
    Nothing,
    /// All data that was not synced, as after a power cut long after the last write-back.
    Everything,
    /// A random part of the unsynced data, selected by this seed.
    Random(u64),
}

impl Loss {
    /// Loss for a seed: everything for one seed in eight, a random part for the others.
    pub(crate) fn of_seed(seed: u64) -> Self {
        if seed.is_multiple_of(8) { Self::Everything } else { Self::Random(seed) }
    }
}

impl Image {
    /// Builds, in the folder `target`, which must not exist, a state that the loss could leave.
    pub(crate) fn leave(&self, loss: Loss, target: &Path) {
        let seed = if let Loss::Random(seed) = loss { seed } else { 0 };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Some power cuts lose nearly everything, others hardly anything.
        let kept = match loss {
            Loss::Nothing => 1.0,
            Loss::Everything => 0.0,
            Loss::Random(_) => [0.1, 0.5, 0.9][rng.random_range(0..3usize)],
        };
        let mut cut = Cut { image: self, rng, kept, happened: HashMap::new(), open: HashSet::new() };
        cut.folder(self.root, target);
    }

    /// Returns `true` if a folder currently has this inode under any name.
    fn is_named(&self, inode: Inode) -> bool {
        self.folders.values().any(|folder| folder.now.values().any(|&other| other == inode))
    }
}

struct Cut<'a> {
    image: &'a Image,
    rng: ChaCha8Rng,
    /// Probability that a change that was not synced is on disk.
    kept: f64,
    /// For each file and folder whose names changed, true if the change is on disk.
    happened: HashMap<Inode, bool>,
    /// Folders being built, to detect cycles.
    open: HashSet<Inode>,
}

impl Cut<'_> {
    fn is_kept(&mut self) -> bool {
        self.rng.random_bool(self.kept)
    }

    fn has_happened(&mut self, inode: Inode) -> bool {
        if let Some(&happened) = self.happened.get(&inode) {
            return happened;
        }
        let happened = self.is_kept();
        self.happened.insert(inode, happened);
        happened
    }

    /// Finds the file or folder that a name refers to after the cut, if any.
    fn named(&mut self, synced: Option<Inode>, now: Option<Inode>) -> Option<Inode> {
        if synced == now {
            return now;
        }
        if let Some(new) = now.filter(|&new| self.has_happened(new)) {
            return Some(new);
        }
        let old = synced?;
        // It left its name by a removal or a rename of its own, or was replaced by one that did not happen.
        let left = now.is_none() || self.image.is_named(old);
        if left && self.has_happened(old) { None } else { Some(old) }
    }

    fn folder(&mut self, inode: Inode, target: &Path) {
        std::fs::create_dir(target).unwrap();
        if !self.open.insert(inode) {
            return;
        }
        let Folder { synced, now } = self.image.folders[&inode].clone();
        let mut names: Vec<&OsStr> = synced.keys().chain(now.keys()).map(OsString::as_os_str).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let Some(inode) = self.named(synced.get(name).copied(), now.get(name).copied()) else { continue };
            let path = target.join(name);
            match self.image.files.get(&inode) {
                Some(content) => std::fs::write(path, self.content(content)).unwrap(),
                None => self.folder(inode, &path),
            }
        }
        self.open.remove(&inode);
    }

    fn content(&mut self, content: &Content) -> Vec<u8> {
        let Content { synced, now } = content;
        let old: &[u8] = synced.as_deref().unwrap_or_default();
        if *old == **now || self.kept >= 1.0 {
            return now.to_vec();
        }
        if self.kept <= 0.0 {
            return old.to_vec();
        }
        let (shorter, longer) = (old.len().min(now.len()), old.len().max(now.len()));
        let len = match self.rng.random_range(0..3u8) {
            0 => old.len(),
            1 => now.len(),
            _ => self.rng.random_range(shorter..=longer),
        };
        let mut bytes = vec![0; len];
        for at in (0..len).step_by(BLOCK_LEN) {
            let block = &mut bytes[at..(at + BLOCK_LEN).min(len)];
            // A block that was never written reads as zeros.
            let source: &[u8] = if self.is_kept() { now } else { old };
            let available = source.len().saturating_sub(at).min(block.len());
            block[..available].copy_from_slice(&source[at.min(source.len())..][..available]);
        }
        bytes
    }
}
