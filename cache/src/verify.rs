//! Verification: checks every byte of a cache and describes each fault.
//!
//! Opening a cache checks frames (header, footer, directory) and reads no chunk; a stream checks the chunks it reads.
//! Verification checks everything: that the parts of a file tile it without a gap, every checksum, that every chunk
//! decodes to the size of the grid, and that the occupancy equals a count of the decoded voxels. A damaged case does not
//! hide the others: everything that is readable is checked.
//!
//! Shards are read with positioned reads, not mapped, so that an unreadable sector is the fault of one chunk. Objects are
//! read from their store, past any disk cache.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::case::{Case, VolumeReader};
use crate::damage::{ShardError, escaped};
use crate::error::{Error, FileError, Result};
use crate::index::{ChunkIndex, Entry};
use crate::location::Location;
use crate::manifest::{FILE_NAME, Manifest};
use crate::options::OpenOptions;
use crate::place::Place;
use crate::record::CaseRecord;
use crate::shard::open::open_all;
use crate::shard::reader::CaseIndex;
use crate::shard::{Shard, is_shard};

/// A corruption found by verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the file.
    pub path: PathBuf,
    /// `DATASET/CASE`; `None` for a fault outside the cases.
    pub case: Option<String>,
    /// `image` or `label`; `None` for a fault outside the arrays.
    pub array: Option<&'static str>,
    /// Number of the chunk in grid order; `None` for a fault outside the chunks.
    pub chunk: Option<usize>,
    /// Description of the fault.
    pub reason: String,
    /// `true` if bytes could not be read, so that nothing is known about them: a refused permission, a network that is away.
    pub unread: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(case) = &self.case {
            write!(f, "case {}", escaped(case))?;
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
        Self { path: path.to_owned(), case: None, array: None, chunk: None, reason: reason.to_string(), unread: false }
    }

    fn from_error(path: &Path, err: &Error) -> Self {
        let reason = match err {
            Error::BadShard { reason, .. } => reason.to_string(),
            Error::BadManifest { reason, .. } => reason.to_string(),
            Error::File(err) => format!("cannot {}: {}", err.action, err.source),
            other => other.to_string(),
        };
        Self { unread: matches!(err, Error::File(err) if is_unread(err)), ..Self::file(path, reason) }
    }
}

/// Returns `true` for an error that says nothing about the bytes of a file. A disk that has lost a sector answers with
/// `EIO`, which is damage.
fn is_unread(err: &FileError) -> bool {
    let kind = err.source.kind();
    let is_damage = matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
        || err.source.raw_os_error() == Some(libc::EIO);
    !is_damage || is_object(&err.path)
}

/// Returns `true` for the URL of an object or a cache.
fn is_object(path: &Path) -> bool {
    Location::from(path).url().is_some()
}

/// First pass over a cache: the shards that open, and the faults of the others.
#[derive(Debug)]
pub struct Survey {
    /// Shards whose frame is intact.
    pub shards: Vec<Arc<Shard>>,
    /// Faults of the manifest and of frames.
    pub faults: Vec<Fault>,
    /// Number of shards that the manifest does not list. Not a fault: a run in progress or a killed one leaves them.
    pub unlisted: usize,
    /// Error of object storage that does not answer. Shards that it concerns are neither in `shards` nor in `faults`.
    pub failure: Option<Error>,
}

/// Opens every shard of a cache and compares its location with its manifest.
///
/// # Errors
/// If the location cannot be listed, holds neither manifest nor shards, or is in object storage and its manifest cannot be
/// read.
pub fn survey(at: impl Into<Location>) -> Result<Survey> {
    let location = at.into();
    let place = Place::of(&location)?;
    let mut faults = Vec::new();
    let manifest_path = location.join(FILE_NAME);
    let is_remote = location.url().is_some();
    let read = match Manifest::read_in(&place, &location) {
        Err(err @ Error::File(_)) if is_remote => return Err(err),
        read => read,
    };
    let is_known = matches!(read, Ok(_) | Err(Error::NoCache { .. }));
    let listed = read.as_ref().map(|manifest| manifest.shards.clone()).unwrap_or_default();
    let opened = open_all(&place, &listed, &OpenOptions::for_one_pass())?;
    match read {
        Ok(_) => {}
        Err(err @ Error::NoCache { .. }) if opened.shards.is_empty() => return Err(err),
        Err(Error::NoCache { .. }) => faults.push(Fault::file(&manifest_path, "missing")),
        Err(err) => faults.push(Fault::from_error(&manifest_path, &err)),
    }
    let listed: BTreeSet<PathBuf> = listed.iter().map(|name| location.join(name)).collect();
    for path in &listed {
        if !is_shard(path) {
            faults.push(Fault::file(&manifest_path, format!("lists {}, which is not a shard name", path.display())));
        } else if opened.missing.contains(path) {
            faults.push(Fault::file(path, "listed in manifest.json but missing"));
        }
    }
    let unlisted = opened.shards.iter().filter(|(path, _)| is_known && !listed.contains(path)).count();
    let (mut shards, mut failure) = (Vec::with_capacity(opened.shards.len()), None);
    for (path, shard) in opened.shards {
        match shard {
            Ok(shard) => {
                faults.extend(repeated(&shard));
                shards.push(Arc::new(shard));
            }
            Err(err @ Error::File(_)) if is_remote => failure = failure.or(Some(err)),
            Err(err) => faults.push(Fault::from_error(&path, &err)),
        }
    }
    Ok(Survey { shards, faults, unlisted, failure })
}

/// Faults of cases with more than one record in a shard: it is undefined which record is live.
fn repeated(shard: &Shard) -> Vec<Fault> {
    let mut seen = BTreeSet::new();
    let repeated = shard.cases().iter().map(CaseRecord::key).filter(|key| !seen.insert(key.clone()));
    repeated.map(|key| Fault::file(shard.path(), format!("has more than one record of case {key}"))).collect()
}

/// Checks every byte of record `idx` of a shard.
///
/// Takes the memory of one chunk and one case's index, whatever the file contains.
#[must_use]
pub fn verify_case(shard: &Arc<Shard>, idx: usize, reader: &mut VolumeReader) -> Vec<Fault> {
    let case = Case::of(shard, idx);
    let mut check = Check { case: &case, faults: Vec::new() };
    match reader.index(&case) {
        Ok(index) => {
            check.tiles(&index);
            let mut expected = Expected::new(&index);
            check.image(&index, reader, &expected);
            if !check.is_unread() {
                check.label(&index, reader, &mut expected);
            }
        }
        Err(Error::BadShard { reason: ShardError::Case { error, .. }, .. }) => {
            check.fault(None, None, error.to_string());
        }
        Err(err) => check.error(None, None, &err),
    }
    check.faults
}

/// Counts stated by the occupancy, one element per chunk.
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

/// Verification of one case.
struct Check<'a> {
    case: &'a Case,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, array: Option<&'static str>, chunk: Option<usize>, reason: String) {
        let path = self.case.shard().path().to_owned();
        self.faults.push(Fault { path, case: Some(self.case.key().to_owned()), array, chunk, reason, unread: false });
    }

    fn error(&mut self, array: Option<&'static str>, chunk: Option<usize>, err: &Error) {
        let case = Some(self.case.key().to_owned());
        self.faults.push(Fault { case, array, chunk, ..Fault::from_error(self.case.shard().path(), err) });
    }

    fn chunk_error(&mut self, array: &'static str, chunk: usize, err: &Error) {
        match err {
            Error::CorruptChunk { reason, .. } => self.fault(Some(array), Some(chunk), reason.to_string()),
            other => self.error(Some(array), Some(chunk), other),
        }
    }

    /// Returns `true` once bytes could not be read. The rest of the case is then left alone: a store that does not answer is
    /// waited for at each request.
    fn is_unread(&self) -> bool {
        self.faults.last().is_some_and(|fault| fault.unread)
    }

    /// Checks that the chunks tile the bytes from the start of the case to its index, so that none goes unchecked.
    fn tiles(&mut self, index: &CaseIndex) {
        let span = self.case.record().span;
        let mut at = span.offset;
        let arrays: [(&'static str, Option<&ChunkIndex>); 2] =
            [("image", Some(&index.image)), ("label", index.label.as_ref())];
        for (name, array) in arrays {
            for (chunk, entry) in array.into_iter().flat_map(|array| array.entries.iter().enumerate()) {
                let &Entry::Coded { offset, len, .. } = entry else { continue };
                if offset != at {
                    self.fault(Some(name), Some(chunk), format!("at byte {offset}; expected {at}"));
                }
                at = offset + u64::from(len);
            }
        }
        if at != span.index_offset() {
            let end = span.index_offset();
            self.fault(None, None, format!("chunks end at byte {at}; the index begins at {end}"));
        }
    }

    fn image(&mut self, index: &CaseIndex, reader: &mut VolumeReader, expected: &Expected) {
        let threshold = self.case.record().foreground_above;
        let mut values = Vec::new();
        for chunk in 0..index.grid.num_chunks() {
            if let Err(err) = reader.image_chunk(self.case, index, chunk, &mut values) {
                self.chunk_error("image", chunk, &err);
                if self.is_unread() {
                    return;
                }
                continue;
            }
            let found = values.iter().filter(|&&value| value > threshold).count();
            let stated = expected.foreground[chunk];
            if found != stated as usize {
                let reason = format!("has {found} foreground voxels; its occupancy states {stated}");
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
        let mut values = Vec::new();
        for chunk in 0..index.grid.num_chunks() {
            if let Err(err) = reader.label_chunk(self.case, index, chunk, &mut values) {
                self.chunk_error("label", chunk, &err);
                if self.is_unread() {
                    return;
                }
                continue;
            }
            let mut counts = [0u32; 256];
            for &value in &values {
                counts[usize::from(value)] += 1;
            }
            let found: Vec<(u32, u32)> = (0..).zip(counts).filter(|&(_, count)| count > 0).collect();
            let stated = std::mem::take(&mut expected.classes[chunk]);
            if found != stated {
                let reason = format!("has (class, voxels) {found:?}; its occupancy states {stated:?}");
                self.fault(Some("label"), Some(chunk), reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_reading_are_told_from_damage() {
        let unread = |path: &str, source: io::Error| {
            Fault::from_error(Path::new(path), &FileError::at(path, "read")(source).into()).unread
        };
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::TimedOut, io::ErrorKind::Other] {
            assert!(unread("cache/a.shard", kind.into()), "{kind:?}");
        }
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData] {
            assert!(!unread("cache/a.shard", kind.into()), "{kind:?}");
            // Removed, replaced or cut on the way: the object may be whole.
            assert!(unread("s3://bucket/a.shard", kind.into()), "{kind:?}");
        }
        assert!(!unread("cache/a.shard", io::Error::from_raw_os_error(libc::EIO)));
        let damaged = Error::BadShard { path: "a.shard".into(), reason: ShardError::Magic };
        assert!(!Fault::from_error(Path::new("a.shard"), &damaged).unread);
    }

    #[test]
    fn a_manifest_that_cannot_be_read_says_nothing_about_shards() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
        std::fs::write(dir.path().join("g0001-w000-0000.shard"), b"damaged").unwrap();
        let survey = survey(dir.path()).unwrap();
        let unread: Vec<bool> = survey.faults.iter().map(|fault| fault.unread).collect();
        assert_eq!((survey.unlisted, unread), (0, vec![true, false]), "{:?}", survey.faults);
    }
}
