//! Pruning: reclaims the space of superseded records and of cases that are no longer wanted.
//!
//! Shards are never changed. A shard with something to drop is written again without it, or removed if nothing remains.
//! Chunks are copied without decoding. A copy keeps the generation of its shard, so that it counts against all other
//! records of its case as the original did.
//!
//! # Order, and the state after a crash
//! 1. New shards are written, synced and named. *Until then* all old shards exist; a case in an old and a new shard has
//!    two equal records, and either may count.
//! 2. The manifest lists the shards that stay. *Until then* it lists the old ones, which exist.
//! 3. Old shards are removed. *Until the last is*, a dropped case may still be visible, or an older record of it; the
//!    next prune continues from there.
//!
//! A wanted case has a complete record on disk at every point.
//!
//! # Concurrent processes
//! Runs that add shards share a [`RunLock`]; pruning needs it alone, so that it never removes a shard that a run is about
//! to list. In object storage, which has no locks, each run holds a [`Lease`] instead. Readers with the cache open keep
//! the bytes of removed shards until they close them (on Unix; elsewhere the removal fails, and the next prune repeats
//! it). A process that opens the cache while old shards are removed may get the error of a missing shard, and succeeds
//! when it tries again.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::cache::Cache;
use crate::case::Case;
use crate::durable;
use crate::error::Result;
use crate::lease::{LIFETIME, Lease};
use crate::location::Location;
use crate::lock::FileLock;
use crate::manifest::Manifest;
use crate::options::OpenOptions;
use crate::place::Place;
use crate::shard::Shard;
use crate::shard::rolling::RollingShardWriter;

/// Kind of the leases of runs that may add shards.
const RUN: &str = "run";
/// Kind of the lease of a run that prunes.
const PRUNE: &str = "prune";
/// Pause before the next check for the lease of a run that prunes.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(2);

/// Lock of a run that may add shards to a location, shared with other such runs. Ends with the process; in object
/// storage, [`LIFETIME`] after it if the process was killed.
#[derive(Debug)]
pub struct RunLock {
    location: Location,
    held: Held,
}

#[derive(Debug)]
enum Held {
    File(FileLock),
    Lease(Lease),
}

impl RunLock {
    /// Waits until no run prunes, and keeps others from pruning until it is dropped.
    ///
    /// On a file system without locks this excludes no other run; then only one run at a time may prune.
    ///
    /// # Errors
    /// If the lock file or lease cannot be created or locked.
    pub fn shared(at: impl Into<Location>) -> Result<Self> {
        Self::shared_telling(at, || ())
    }

    /// Calls `tell` before waiting, and otherwise does what [`Self::shared`] does.
    ///
    /// # Errors
    /// If the lock file or lease cannot be created or locked.
    pub fn shared_telling(at: impl Into<Location>, tell: impl FnOnce()) -> Result<Self> {
        let location = at.into();
        if let Some(dir) = location.folder() {
            let path = dir.join(".lock");
            let lock = if let Some(lock) = FileLock::try_shared(&path)? {
                lock
            } else {
                tell();
                FileLock::shared(&path)?
            };
            return Ok(Self { location, held: Held::File(lock) });
        }
        let mut tell = Some(tell);
        loop {
            let lease = Lease::take(&location, RUN, &note(), LIFETIME)?;
            // A run that begins to prune now sees this lease, or this one sees its.
            if lease.others(PRUNE)?.is_empty() {
                return Ok(Self { location, held: Held::Lease(lease) });
            }
            drop(lease);
            if let Some(tell) = tell.take() {
                tell();
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Excludes all other runs; `None` if another run is active.
    fn alone(&self) -> Result<Option<Alone>> {
        match &self.held {
            Held::File(lock) => Ok(lock.try_upgrade()?.then_some(Alone { lease: None })),
            Held::Lease(run) => {
                let lease = Lease::take_alone(&self.location, PRUNE, &note(), LIFETIME)?;
                let is_alone = lease.is_some() && run.others(RUN)?.is_empty();
                Ok(is_alone.then_some(Alone { lease }))
            }
        }
    }
}

/// Exclusive access of a run that prunes.
struct Alone {
    lease: Option<Lease>,
}

impl Alone {
    /// Returns `true` while all other runs are still excluded.
    fn holds(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::is_fresh)
    }
}

/// Note in this process's leases, which names the process in messages.
fn note() -> String {
    format!("process {}", std::process::id())
}

/// A shard and the positions of the records to keep.
type Staying<'a> = (&'a Arc<Shard>, Vec<usize>);

/// Outcome of pruning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Unwanted cases that were dropped, as `DATASET/CASE`; sorted.
    pub cases: Vec<String>,
    /// Number of superseded records of wanted cases dropped.
    pub records: usize,
    /// Number of shards removed because nothing remained in them.
    pub shards_removed: usize,
    /// Number of shards written again without some of their records.
    pub shards_rewritten: usize,
    /// Number of bytes by which the folder shrank.
    pub bytes_freed: u64,
}

/// Changes that drop superseded records and unwanted cases.
struct Plan<'a> {
    /// Outcome, without the bytes freed.
    pruned: Pruned,
    /// Shards with a record to drop.
    doomed: Vec<&'a Arc<Shard>>,
    /// Records to copy, by the generation and the chunk shape of their shards.
    copies: BTreeMap<(u64, [usize; 3]), Vec<Staying<'a>>>,
}

impl<'a> Plan<'a> {
    fn of(cache: &'a Cache, wanted: impl Fn(&Case) -> bool) -> Self {
        let mut pruned = Pruned::default();
        // Positions of the records that stay, by shard.
        let mut staying: BTreeMap<&Path, Vec<usize>> =
            cache.shards().iter().map(|shard| (shard.path(), Vec::new())).collect();
        for case in cache.cases() {
            if wanted(case) {
                staying.entry(case.shard().path()).or_default().push(case.idx());
            } else {
                pruned.cases.push(case.key().to_owned());
            }
        }
        let unwanted: HashSet<String> = pruned.cases.iter().cloned().collect();
        let mut doomed: Vec<&Arc<Shard>> = Vec::new();
        let mut copies: BTreeMap<(u64, [usize; 3]), Vec<Staying<'_>>> = BTreeMap::new();
        for shard in cache.shards() {
            let mut records = staying.remove(shard.path()).unwrap_or_default();
            if records.len() == shard.cases().len() {
                continue;
            }
            let superseded = shard
                .cases()
                .iter()
                .enumerate()
                .filter(|(idx, record)| !records.contains(idx) && !unwanted.contains(&record.key()));
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
        Self { pruned, doomed, copies }
    }
}

/// Drops superseded records, and all records of cases that are not wanted.
///
/// Returns `None` and changes nothing if another run is adding shards. `shard_bytes` limits the size of new shards, as
/// in [`RollingShardWriter`].
///
/// # Errors
/// If a shard is missing or damaged, or the folder cannot be written. The cache is complete either way.
pub fn prune(lock: &RunLock, shard_bytes: u64, wanted: impl Fn(&Case) -> bool) -> Result<Option<Pruned>> {
    let Some(alone) = lock.alone()? else { return Ok(None) };
    let location = &lock.location;
    let place = Place::of(location)?;
    let cache = Cache::open_with(location, OpenOptions::for_one_pass())?;
    let Plan { mut pruned, doomed, copies } = Plan::of(&cache, wanted);
    if doomed.is_empty() {
        return Ok(Some(pruned));
    }
    let mut added = 0;
    for ((generation, _), shards) in copies {
        let mut writer = RollingShardWriter::new(location, generation, 0, shard_bytes);
        for (shard, records) in shards {
            records.into_iter().try_for_each(|idx| writer.push_copy(shard, idx))?;
        }
        added += writer.finish()?.bytes;
    }
    if !alone.holds() {
        // This run was cut off from the store for so long that another may have begun. The next prune drops the copies.
        return Ok(None);
    }
    let names: Vec<String> = doomed.iter().map(|shard| shard.name()).collect();
    Manifest::update(location, |manifest| {
        manifest.shards.retain(|listed| !names.contains(listed));
        // Not lost, but removed.
        manifest.cases.retain(|listed, _| !names.contains(listed));
    })?;
    let mut removed = 0;
    for shard in doomed {
        removed += if place.remove(&shard.name())? { shard.len() } else { 0 };
    }
    if let Some(dir) = location.folder() {
        durable::sync_dir(dir)?;
    }
    pruned.bytes_freed = removed.saturating_sub(added);
    Ok(Some(pruned))
}
