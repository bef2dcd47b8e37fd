//! Records a folder's states from the announcements of its operations.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use hiend_cache::durable::operation::{Observation, Observer, Operation, observe};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::image::{Content, Folder, Image, Inode, Names};

/// An error injected into an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// Number of the operation.
    pub operation: usize,
    /// Number of the system's error.
    pub errno: i32,
}

/// Selection of operations.
pub(crate) type Selection = fn(&Operation<'_>) -> bool;

/// Events of a recording.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    /// Number of the operation before which the program dies; it and all later ones fail.
    pub die_before: Option<usize>,
    /// Error of one operation.
    pub fault: Option<Fault>,
    /// Seed of short writes; without one, every write is complete.
    pub short_writes: Option<u64>,
    /// True to keep an image of the state before every operation, not only before death.
    pub every_image: bool,
    /// Syncs that the disk only pretends to perform.
    pub ignored_sync: Option<Selection>,
}

/// Observer of a folder's operations.
pub(crate) struct Recorder {
    root: PathBuf,
    plan: Plan,
    state: Mutex<State>,
}

struct State {
    known: HashMap<Inode, Known>,
    root: Inode,
    num_operations: usize,
    num_reported: usize,
    is_dead: bool,
    images: Vec<Image>,
    pending: HashMap<ThreadId, Pending>,
    short_writes: Option<ChaCha8Rng>,
}

/// A file or folder that was seen. The open handle prevents its inode from being reused.
struct Known {
    handle: File,
    kind: Kind,
}

enum Kind {
    File { synced: Option<Arc<[u8]>>, last: Arc<[u8]> },
    Folder { synced: Names },
}

/// A sync in progress, which makes durable what was present before it.
enum Pending {
    File(Inode, Arc<[u8]>),
    Folder(Inode, Names),
}

impl Recorder {
    /// Starts to observe a folder, whose whole content counts as synced. Ends when the observation is dropped.
    pub(crate) fn start(root: &Path, plan: Plan) -> (Arc<Self>, Observation) {
        let mut state = State {
            known: HashMap::new(),
            root: std::fs::metadata(root).unwrap().ino(),
            num_operations: 0,
            num_reported: 0,
            is_dead: false,
            images: Vec::new(),
            pending: HashMap::new(),
            short_writes: plan.short_writes.map(ChaCha8Rng::seed_from_u64),
        };
        let image = state.scan(root, "the beginning");
        for (inode, known) in &mut state.known {
            match &mut known.kind {
                Kind::File { synced, last } => *synced = Some(Arc::clone(last)),
                Kind::Folder { synced } => synced.clone_from(&image.folders[inode].now),
            }
        }
        let recorder = Arc::new(Self { root: root.to_owned(), plan, state: Mutex::new(state) });
        let observation = observe(root, Arc::clone(&recorder) as Arc<dyn Observer>);
        (recorder, observation)
    }

    /// Counts one more result that was reported as done.
    pub(crate) fn report(&self) {
        self.state.lock().unwrap().num_reported += 1;
    }

    /// Number of operations so far.
    pub(crate) fn num_operations(&self) -> usize {
        self.state.lock().unwrap().num_operations
    }

    /// Images that were kept, and one of the end unless the program died.
    pub(crate) fn images(&self) -> Vec<Image> {
        let mut state = self.state.lock().unwrap();
        if !state.is_dead {
            let end = state.scan(&self.root, "the end");
            state.images.push(end);
        }
        std::mem::take(&mut state.images)
    }
}

impl Observer for Recorder {
    fn before(&self, operation: &Operation<'_>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.is_dead {
            return Err(io::Error::other("the program is dead"));
        }
        let number = state.num_operations;
        state.num_operations += 1;
        let description = format!("operation {number}, {operation:?}");
        let image = state.scan(&self.root, &description);
        let pending = match operation {
            Operation::SyncFile { path } => std::fs::metadata(path)
                .ok()
                .map(|data| Pending::File(data.ino(), Arc::clone(&image.files[&data.ino()].now))),
            Operation::SyncDir { path } => std::fs::metadata(path)
                .ok()
                .map(|data| Pending::Folder(data.ino(), image.folders[&data.ino()].now.clone())),
            _ => None,
        };
        let dies = self.plan.die_before == Some(number);
        if dies || self.plan.every_image {
            state.images.push(image);
        }
        if dies {
            state.is_dead = true;
            return Err(io::Error::other("the program is dead"));
        }
        if let Some(fault) = self.plan.fault.filter(|fault| fault.operation == number) {
            return Err(io::Error::from_raw_os_error(fault.errno));
        }
        if let Some(pending) = pending.filter(|_| !self.plan.ignored_sync.is_some_and(|ignored| ignored(operation))) {
            state.pending.insert(std::thread::current().id(), pending);
        }
        Ok(())
    }

    fn after(&self, _: &Operation<'_>) {
        let mut state = self.state.lock().unwrap();
        let pending = state.pending.remove(&std::thread::current().id());
        match pending {
            Some(Pending::File(inode, content)) => {
                if let Some(Known { kind: Kind::File { synced, .. }, .. }) = state.known.get_mut(&inode) {
                    *synced = Some(content);
                }
            }
            Some(Pending::Folder(inode, names)) => {
                if let Some(Known { kind: Kind::Folder { synced }, .. }) = state.known.get_mut(&inode) {
                    *synced = names;
                }
            }
            None => {}
        }
    }

    fn write_len(&self, _: &Path, len: usize) -> usize {
        let mut state = self.state.lock().unwrap();
        let Some(rng) = &mut state.short_writes else { return len };
        if len > 1 && rng.random_bool(0.5) { rng.random_range(1..len) } else { len }
    }
}

impl State {
    /// Reads the whole folder.
    fn scan(&mut self, root: &Path, before: &str) -> Image {
        let mut now = HashMap::new();
        self.look_at(root, &mut now);
        let mut image = Image {
            root: self.root,
            files: HashMap::new(),
            folders: HashMap::new(),
            num_reported: self.num_reported,
            before: before.to_owned(),
        };
        // A removed folder has no names any more; a removed file keeps its content, in case the removal is lost.
        let mut referenced: HashSet<Inode> = HashSet::from([self.root]);
        referenced.extend(now.values().flat_map(|names: &Names| names.values()));
        for known in self.known.values() {
            if let Kind::Folder { synced } = &known.kind {
                referenced.extend(synced.values());
            }
        }
        self.known.retain(|inode, _| referenced.contains(inode));
        for (&inode, known) in &mut self.known {
            match &mut known.kind {
                Kind::File { synced, last } => {
                    let content = read(&known.handle);
                    if **last != *content {
                        *last = content.into();
                    }
                    image.files.insert(inode, Content { synced: synced.clone(), now: Arc::clone(last) });
                }
                Kind::Folder { synced } => {
                    let now = now.remove(&inode).unwrap_or_default();
                    image.folders.insert(inode, Folder { synced: synced.clone(), now });
                }
            }
        }
        image
    }

    /// Collects the names in a folder and everything below it, and opens new files.
    fn look_at(&mut self, folder: &Path, now: &mut HashMap<Inode, Names>) {
        // Whatever disappears meanwhile is gone.
        let Ok(handle) = File::open(folder) else { return };
        let Ok(inode) = handle.metadata().map(|data| data.ino()) else { return };
        self.known.entry(inode).or_insert(Known { handle, kind: Kind::Folder { synced: Names::new() } });
        let mut names = Names::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(data) = std::fs::symlink_metadata(&path) else { continue };
            if data.is_dir() {
                self.look_at(&path, now);
            } else if data.is_file() && !self.known.contains_key(&data.ino()) {
                let Ok(handle) = File::open(&path) else { continue };
                let kind = Kind::File { synced: None, last: Arc::from([]) };
                self.known.insert(data.ino(), Known { handle, kind });
            }
            names.insert(entry.file_name(), data.ino());
        }
        now.insert(inode, names);
    }
}

fn read(file: &File) -> Vec<u8> {
    let len = file.metadata().map_or(0, |data| usize::try_from(data.len()).unwrap());
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        match file.read_at(&mut bytes[at..], at as u64) {
            Ok(0) | Err(_) => break,
            Ok(count) => at += count,
        }
    }
    bytes.truncate(at);
    bytes
}
