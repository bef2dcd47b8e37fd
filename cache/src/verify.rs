//! Looks at every byte of a cache and says what is wrong with it.
//!
//! Opening a cache checks frames (header, footer, directory) and touches no chunk; a stream checks the chunks that it
//! meets. Here everything is checked: that the parts of a file tile it without a gap, every checksum, that every chunk
//! decodes to the size the grid says, and that the occupancy equals a count of the decoded voxels. A damaged case does
//! not hide the others: all that can still be read is looked at.
//!
//! Shards are read with positioned reads, not mapped: a sector that the disk cannot read is then a fault with a name
//! and not a signal that ends the process.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{Case, VolumeReader, list_shards};
use crate::error::{Error, Result};
use crate::index::{ChunkIndex, Entry};
use crate::manifest::Manifest;
use crate::shard::reader::CaseIndex;
use crate::shard::{EXTENSION, Shard};
use crate::storage::Access;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// `DATASET/CASE`, if the fault lies in one.
    pub case: Option<String>,
    /// `image` or `label`, if the fault lies in one.
    pub array: Option<&'static str>,
    /// Position in the case's chunk index, if the fault lies in a chunk.
    pub chunk: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(case) = &self.case {
            write!(f, "case {case}")?;
            if let Some(array) = self.array {
                write!(f, ", {array}")?;
            }
            if let Some(chunk) = self.chunk {
                write!(f, " chunk {chunk}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

impl Fault {
    fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), case: None, array: None, chunk: None, reason: reason.to_string() }
    }

    fn from_error(path: &Path, err: &Error) -> Self {
        let reason = match err {
            Error::BadShard { reason, .. } | Error::BadManifest { reason, .. } => reason.clone(),
            Error::File(err) => format!("cannot {}: {}", err.action, err.source),
            other => other.to_string(),
        };
        Self::file(path, reason)
    }
}

/// What a first look at a cache finds: the shards to look into, and the faults of those that do not open.
#[derive(Debug)]
pub struct Survey {
    /// Shards whose frame holds together.
    pub shards: Vec<Arc<Shard>>,
    /// Faults of manifest and frames.
    pub faults: Vec<Fault>,
    /// Shards that the manifest does not list yet. No fault: a run that is going on, or was killed, leaves them.
    pub unlisted: usize,
}

/// Opens every shard in `dir` and compares the folder with its manifest.
///
/// # Errors
/// If `dir` cannot be listed, or holds neither manifest nor shards.
pub fn survey(dir: &Path) -> Result<Survey> {
    let paths = list_shards(dir)?;
    let mut faults = Vec::new();
    let manifest_path = dir.join(crate::manifest::FILE_NAME);
    let listed: BTreeSet<PathBuf> = match Manifest::read(dir) {
        Ok(manifest) => {
            let names = manifest.shards.into_iter();
            names.map(|name| dir.join(name)).collect()
        }
        Err(err @ Error::NoCache { .. }) if paths.is_empty() => return Err(err),
        Err(Error::NoCache { .. }) => {
            faults.push(Fault::file(&manifest_path, "missing; run hiend-shard again to make it anew"));
            BTreeSet::new()
        }
        Err(err) => {
            faults.push(Fault::from_error(&manifest_path, &err));
            BTreeSet::new()
        }
    };
    for path in &listed {
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            faults.push(Fault::file(&manifest_path, format!("lists {}, which is no shard's name", path.display())));
        } else if !paths.contains(path) {
            faults.push(Fault::file(path, "listed in manifest.json but missing"));
        }
    }
    let unlisted = paths.iter().filter(|path| !listed.contains(*path)).count();
    let mut shards = Vec::with_capacity(paths.len());
    for path in paths {
        match Shard::open(&path, Access::Pread) {
            Ok(shard) => {
                faults.extend(repeated(&shard));
                shards.push(Arc::new(shard));
            }
            Err(err) => faults.push(Fault::from_error(&path, &err)),
        }
    }
    Ok(Survey { shards, faults, unlisted })
}

/// A shard has at most one record of a case; which of two would count is not defined.
fn repeated(shard: &Shard) -> Vec<Fault> {
    let mut seen = BTreeSet::new();
    let repeated =
        shard.cases().iter().map(super::shard::record::CaseRecord::key).filter(|key| !seen.insert(key.clone()));
    repeated.map(|key| Fault::file(shard.path(), format!("has more than one record of case {key}"))).collect()
}

/// Looks at everything that belongs to record `idx` of a shard.
///
/// Memory is that of one chunk and one case's index, whatever the file says.
#[must_use]
pub fn verify_case(shard: &Arc<Shard>, idx: usize, reader: &mut VolumeReader) -> Vec<Fault> {
    let case = Case::of(shard, idx);
    let mut check = Check { case: &case, faults: Vec::new() };
    match reader.index(&case) {
        Ok(index) => {
            check.tiles(&index);
            let mut expected = Expected::new(&index);
            check.image(&index, reader, &expected);
            check.label(&index, reader, &mut expected);
        }
        Err(Error::BadShard { reason, .. }) => {
            let own = format!("case {}: ", case.key());
            check.fault(None, None, reason.strip_prefix(&own).unwrap_or(&reason).to_owned());
        }
        Err(err) => check.fault(None, None, Fault::from_error(shard.path(), &err).reason),
    }
    check.faults
}

/// Counts that the occupancy states, a row a chunk.
struct Expected {
    foreground: Vec<u32>,
    classes: Vec<Vec<(u32, u32)>>,
}

impl Expected {
    fn new(index: &CaseIndex) -> Self {
        let num_chunks = index.grid.num_chunks();
        let mut expected = Self { foreground: vec![0; num_chunks], classes: vec![Vec::new(); num_chunks] };
        for (chunk, count) in index.occupancy.foreground.iter() {
            expected.foreground[chunk as usize] = count;
        }
        for (class, counts) in &index.occupancy.classes {
            for (chunk, count) in counts.iter() {
                expected.classes[chunk as usize].push((*class, count));
            }
        }
        expected
    }
}

struct Check<'a> {
    case: &'a Case,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, array: Option<&'static str>, chunk: Option<usize>, reason: String) {
        let path = self.case.shard().path().to_owned();
        self.faults.push(Fault { path, case: Some(self.case.key().to_owned()), array, chunk, reason });
    }

    fn chunk_error(&mut self, array: &'static str, chunk: usize, err: Error) {
        let reason = match err {
            Error::CorruptChunk { reason, .. } => reason,
            other => Fault::from_error(self.case.shard().path(), &other).reason,
        };
        self.fault(Some(array), Some(chunk), reason);
    }

    /// Chunks lie one after the other from the first byte of the case to its index, or a byte would go unchecked.
    fn tiles(&mut self, index: &CaseIndex) {
        let span = self.case.record().span;
        let mut at = span.offset;
        let arrays: [(&'static str, Option<&ChunkIndex>); 2] =
            [("image", Some(&index.image)), ("label", index.label.as_ref())];
        for (name, array) in arrays {
            for (chunk, entry) in array.into_iter().flat_map(|array| array.entries.iter().enumerate()) {
                let &Entry::Coded { offset, len, .. } = entry else { continue };
                if offset != at {
                    self.fault(Some(name), Some(chunk), format!("lies at byte {offset} instead of {at}"));
                }
                at = offset + u64::from(len);
            }
        }
        if at != span.index_offset() {
            let end = span.index_offset();
            self.fault(None, None, format!("its chunks end at byte {at}, its index begins at {end}"));
        }
    }

    fn image(&mut self, index: &CaseIndex, reader: &mut VolumeReader, expected: &Expected) {
        let threshold = self.case.record().foreground_above;
        let mut samples = Vec::new();
        for chunk in 0..index.grid.num_chunks() {
            if let Err(err) = reader.image_chunk(self.case, index, chunk, &mut samples) {
                self.chunk_error("image", chunk, err);
                continue;
            }
            let found = samples.iter().filter(|&&s| s > threshold).count();
            let stated = expected.foreground[chunk];
            if found != stated as usize {
                let reason = format!("holds {found} foreground voxels, its occupancy says {stated}");
                self.fault(Some("image"), Some(chunk), reason);
            }
        }
    }

    fn label(&mut self, index: &CaseIndex, reader: &mut VolumeReader, expected: &mut Expected) {
        if index.label.is_none() {
            if expected.classes.iter().any(|classes| !classes.is_empty()) {
                self.fault(None, None, "has class counts but no labels".into());
            }
            return;
        }
        let mut samples = Vec::new();
        for chunk in 0..index.grid.num_chunks() {
            if let Err(err) = reader.label_chunk(self.case, index, chunk, &mut samples) {
                self.chunk_error("label", chunk, err);
                continue;
            }
            let mut counts = [0u32; 256];
            for &s in &samples {
                counts[usize::from(s)] += 1;
            }
            let found: Vec<(u32, u32)> = (0..).zip(counts).filter(|&(_, count)| count > 0).collect();
            let stated = std::mem::take(&mut expected.classes[chunk]);
            if found != stated {
                let reason = format!("holds (class, voxels) {found:?}, its occupancy says {stated:?}");
                self.fault(Some("label"), Some(chunk), reason);
            }
        }
    }
}
