//! Gives back the space of records that no longer count, and of cases that are no longer wanted.
//!
//! Shards are never changed, so a shard that holds something to be dropped is written anew without it, or removed if
//! nothing is left. Chunks are copied as they are; nothing is encoded again. A copy keeps the generation of the shard
//! it comes from, so it counts against all other records of its case as the original did.
//!
//! # Order, and what a crash leaves
//! 1. New shards are written, synced and named. *Until here* the old shards are all there; a case that is in an old
//!    and a new shard has two equal records, of which either may count.
//! 2. The manifest lists the shards that stay. *Until here* it listed the old ones, which are there.
//! 3. Old shards are removed. *Until the last* a case that was to be dropped may still be seen, or an older record of
//!    it; the next run with `--prune` goes on where this one ended.
//!
//! At no point does a wanted case have no whole record on disk.
//!
//! # Beside other processes
//! Runs that add shards hold a [`RunLock`] in common; pruning needs it alone, so it never removes what a run is about
//! to list. Readers that have a cache open keep the removed shards' bytes until they close them (on Unix; elsewhere the
//! removal fails, and the next prune repeats it). Who opens a cache at the very moment of step 3 may be told of a file
//! that is gone, and opens it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::Cache;
use crate::durable;
use crate::error::{Error, Result};
use crate::lock::FileLock;
use crate::manifest::Manifest;
use crate::shard::Shard;
use crate::shard::writer::ShardWriter;
use crate::storage::Access;

/// A run's claim that it may add shards to a folder, shared with other runs. Ends with the process.
#[derive(Debug)]
pub struct RunLock {
    dir: PathBuf,
    lock: FileLock,
}

impl RunLock {
    /// Waits until no run prunes, and keeps others from pruning until it is dropped.
    ///
    /// Where the file system has no locks this excludes nobody; then only one run at a time may prune.
    ///
    /// # Errors
    /// If the lock file cannot be created or locked.
    pub fn shared(dir: &Path) -> Result<Self> {
        let lock = FileLock::shared(&dir.join(".lock"))?;
        Ok(Self { dir: dir.to_owned(), lock })
    }
}

/// A shard and which of its records stay.
type Staying<'a> = (&'a Arc<Shard>, Vec<usize>);

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Cases that were not wanted.
    pub cases: usize,
    /// Records of wanted cases that no longer counted.
    pub records: usize,
    /// Shards with nothing left in them.
    pub shards_removed: usize,
    /// Shards written anew without some of their records.
    pub shards_rewritten: usize,
    /// Bytes that the folder holds less than before.
    pub bytes_freed: u64,
}

/// Drops superseded records, and all records of cases whose key is not wanted.
///
/// Returns `None`, having done nothing, if another run is adding shards. New shards grow to about `shard_bytes`.
///
/// # Errors
/// If the cache is not whole, or cannot be written. What is left is a whole cache either way.
pub fn prune(lock: &RunLock, shard_bytes: u64, wanted: impl Fn(&str) -> bool) -> Result<Option<Pruned>> {
    if !lock.lock.try_upgrade()? {
        return Ok(None);
    }
    let dir = lock.dir.clone();
    let cache = Cache::open_with(&dir, Access::Pread)?;
    let mut pruned = Pruned::default();
    // For every shard by name, which of its records stay.
    let mut staying: BTreeMap<&Path, Vec<usize>> =
        cache.shards().iter().map(|shard| (shard.path(), Vec::new())).collect();
    for case in cache.cases() {
        if wanted(case.key()) {
            staying.entry(case.shard().path()).or_default().push(case.idx());
        } else {
            pruned.cases += 1;
        }
    }
    let mut doomed: Vec<&Arc<Shard>> = Vec::new();
    let mut copies: BTreeMap<(u64, [usize; 3]), Vec<Staying<'_>>> = BTreeMap::new();
    for shard in cache.shards() {
        let mut records = staying.remove(shard.path()).unwrap_or_default();
        if records.len() == shard.cases().len() {
            continue;
        }
        let superseded = shard.cases().iter().enumerate().filter(|(idx, record)| {
            let key = record.key();
            wanted(&key) && !records.contains(idx)
        });
        pruned.records += superseded.count();
        doomed.push(shard);
        if records.is_empty() {
            pruned.shards_removed += 1;
        } else {
            pruned.shards_rewritten += 1;
            records.sort_unstable();
            copies.entry((shard.generation(), shard.chunk())).or_default().push((shard, records));
        }
    }
    if doomed.is_empty() {
        return Ok(Some(pruned));
    }
    let mut added = 0;
    for ((generation, _), shards) in copies {
        added += copy(&dir, generation, shard_bytes, &shards)?;
    }
    let names: Vec<_> = doomed.iter().filter_map(|shard| shard.path().file_name()).collect();
    Manifest::update(&dir, |manifest| {
        manifest.shards.retain(|listed| !names.iter().any(|name| *name == listed.as_str()));
    })?;
    let mut removed = 0;
    for shard in doomed {
        let path = shard.path();
        match std::fs::remove_file(path) {
            Ok(()) => removed += shard.len(),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(Error::io(path, "remove")(err)),
        }
    }
    durable::sync_dir(&dir)?;
    pruned.bytes_freed = removed.saturating_sub(added);
    Ok(Some(pruned))
}

/// Copies records into new shards of one generation; returns how many bytes those take.
fn copy(dir: &Path, generation: u64, shard_bytes: u64, shards: &[Staying<'_>]) -> Result<u64> {
    let mut bytes = 0;
    let mut finish = |writer: ShardWriter| -> Result<()> {
        if let Some(path) = writer.finish()? {
            bytes += std::fs::metadata(&path).map_or(0, |data| data.len());
        }
        Ok(())
    };
    let mut writer = ShardWriter::create(dir, generation, 0)?;
    for (shard, records) in shards {
        for &idx in records {
            if !writer.is_empty() && writer.len() + shard.cases()[idx].span.len() > shard_bytes {
                finish(std::mem::replace(&mut writer, ShardWriter::create(dir, generation, 0)?))?;
            }
            writer.push_copy(shard, idx)?;
        }
    }
    finish(writer)?;
    Ok(bytes)
}
