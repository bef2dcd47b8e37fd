//! The shard file, format version 1, byte for byte.
//!
//! All numbers are little-endian. There is no padding: every byte belongs to one of the parts and is either covered by a
//! checksum or compared with a constant, so that any flipped bit is found.
//!
//! ```text
//!            ┌──────────────────────────────────────────────────────────────────────────────┐
//! 0          │ header, 32 bytes                                                             │
//!            │   magic "HIENDSHD" | version u32 = 1 | header length u32 = 32 |              │
//!            │   generation u64 | reserved u32 = 0 | CRC-32C of the 28 bytes before u32     │
//!            ├──────────────────────────────────────────────────────────────────────────────┤
//! 32         │ case 0   image chunks, grid order: stock zstd data, see `codec`              │
//!            │          label chunks, likewise (if the case has labels)                     │
//!            │          index: image entries | label entries (16 bytes each, see `index`)   │
//!            │                 | occupancy (see `occupancy`)                                │
//!            ├──────────────────────────────────────────────────────────────────────────────┤
//!            │ case 1 ...                                                                   │
//!            ├──────────────────────────────────────────────────────────────────────────────┤
//! D          │ directory, L bytes: JSON, UTF-8                                              │
//!            │   {"chunk":[32,32,32],"cases":[CaseRecord ...]}, see `record::CaseRecord`    │
//!            ├──────────────────────────────────────────────────────────────────────────────┤
//! D+L        │ footer, 32 bytes                                                             │
//!            │   D u64 | L u64 | CRC-32C of the directory u32 | version u32 = 1 |           │
//!            │   magic "HIENDEND"                                                           │
//!            └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The checksum of a chunk is in its index entry, the checksum of a case's index in the case's record, the checksum of
//! the records in the footer. Offsets are absolute. A file without a complete footer is not a shard: a writer gives the
//! file its name only after all of its content is on disk ([`writer`]).
//!
//! # Stability
//! Readers accept version 1 and reject every other version by number. A change that old readers would misread gets a new
//! version; this crate will then read both. Optional keys may be added to the records of version 1; readers that do not
//! know them reject the shard with the key's name.
//!
//! # The record that counts
//! Shards are never changed. A case that is converted again is written to a shard with a larger *generation*; the record
//! of the largest generation counts, and among equal ones the record in the shard whose name sorts last. The folder's
//! listing is the whole state of a cache, and any number of processes may add shards to it without communicating.
//!
//! *Correctness.* A run writes with a generation larger than every one it saw at its start. Only records of the same
//! case are ever compared. Two runs that start together and write the same generation, or one that starts late and
//! writes a larger one, agree as long as their cases differ, and the shares of workers (`DATASET/CASE` hashed, modulo
//! their number) do. A later run, with any number of workers, sees all earlier shards and supersedes them. Two runs that
//! convert the *same* case at the same time both write what they read. Generation and name decide between the two
//! records, identically for every reader; if the source changed in between, the next run finds that the record's source
//! differs from the file and converts it again. A run that is killed loses its unfinished shard and nothing else.
//!
//! [`crate::prune`] reclaims space and keeps the generation of the records it copies.

mod layout;
pub(crate) mod open;
pub mod reader;
pub mod rolling;
mod target;
pub mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use layout::{EXTENSION, VERSION};
pub use reader::Shard;

use crate::error::{FileError, Result};
use crate::location::Location;
use crate::place::Place;

/// Paths or URLs of the shards of a cache, sorted by name.
///
/// # Errors
/// If the location cannot be listed: there is no such folder, or it is a web server.
pub fn list_shards(at: impl Into<Location>) -> Result<Vec<PathBuf>> {
    let location = at.into();
    let mut paths = Vec::new();
    if let Some(dir) = location.folder() {
        for entry in std::fs::read_dir(dir).map_err(FileError::at(dir, "list"))? {
            paths.push(entry.map_err(FileError::at(dir, "list"))?.path());
        }
    } else {
        paths.extend(Place::of(&location)?.list("")?.into_iter().map(|file| location.join(&file.name)));
    }
    paths.retain(|path: &PathBuf| is_shard(path));
    paths.sort();
    Ok(paths)
}

/// Returns `true` if a path has the extension of a shard and is not hidden. Hidden files with the extension are
/// reservations of names, which other runs hold while they write (`.name-g0001-w000-0000.shard`), and `._` files of macOS.
pub(crate) fn is_shard(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|extension| extension == EXTENSION)
}

/// The records that count among those of some shards, as shard and position, sorted by `DATASET/CASE`. `shards` are sorted by
/// name, as [`list_shards`] sorts them.
#[must_use]
pub fn live_records(shards: &[Arc<Shard>]) -> Vec<(&Arc<Shard>, usize)> {
    let mut live: BTreeMap<String, (&Arc<Shard>, usize)> = BTreeMap::new();
    for shard in shards {
        for (idx, record) in shard.cases().iter().enumerate() {
            let key = record.key();
            if live.get(&key).is_none_or(|(other, _)| other.generation() <= shard.generation()) {
                live.insert(key, (shard, idx));
            }
        }
    }
    live.into_values().collect()
}

/// Generation that the name of a shard states; `None` for a name of another form.
#[must_use]
pub fn generation_in_name(shard: &Path) -> Option<u64> {
    shard.file_name()?.to_str()?.strip_prefix('g')?.split('-').next()?.parse().ok()
}

/// Opens one shard of a cache by its file name, to read it once.
///
/// # Errors
/// If there is none of this name, or it cannot be read or is not a complete shard.
pub fn open_named(at: impl Into<Location>, name: &str) -> Result<Shard> {
    let location = at.into();
    open::open_one(&Place::of(&location)?, name)
}

/// Renames a damaged shard to a name without the shard extension, so that no program opens it; returns the new path.
///
/// # Errors
/// If the file or object cannot be renamed.
pub fn set_aside(at: impl Into<Location>, shard: &Path) -> Result<PathBuf> {
    let location = at.into();
    let place = Place::of(&location)?;
    let name = shard.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.strip_suffix(EXTENSION).unwrap_or(&name);
    let mut damaged = format!("{stem}damaged");
    for number in 2u32.. {
        if !place.exists(&damaged)? {
            break;
        }
        damaged = format!("{stem}damaged-{number}");
    }
    place.rename(&name, &damaged)?;
    Ok(location.join(&damaged))
}
