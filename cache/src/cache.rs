//! A cache: the shards of a folder, opened, and the cases that count.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::case::Case;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::shard::{Shard, list_shards};
use crate::storage::Access;

/// An open cache. Cheap to share between threads; each thread reads with a [`VolumeReader`](crate::VolumeReader) of its
/// own.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<Arc<Shard>>,
    cases: Vec<Case>,
}

impl Cache {
    /// Opens the cache in `dir` with memory-mapped shards.
    ///
    /// # Errors
    /// If there is no cache, or a shard is missing or damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_with(dir, Access::Mmap)
    }

    /// Opens the cache in `dir` with the given access to its shards.
    ///
    /// # Errors
    /// If there is no cache, or a shard is missing or damaged.
    pub fn open_with(dir: &Path, access: Access) -> Result<Self> {
        let (cache, mut faults) = Self::salvage(dir, access)?;
        if faults.is_empty() { Ok(cache) } else { Err(faults.swap_remove(0)) }
    }

    /// Opens the intact shards of the cache in `dir`; returns the errors of the others next to it.
    ///
    /// For programs that convert the lost cases again. Training on the rest would be training on other data.
    ///
    /// # Errors
    /// If there is no cache, or its folder cannot be read.
    pub fn salvage(dir: &Path, access: Access) -> Result<(Self, Vec<Error>)> {
        let manifest = Manifest::read(dir)?;
        let paths = list_shards(dir)?;
        let listed = manifest.shards.iter().map(|name| dir.join(name));
        let missing = listed.filter(|path| paths.binary_search(path).is_err());
        let mut faults: Vec<Error> = missing.map(|path| Error::MissingShard { path }).collect();
        let mut shards = Vec::with_capacity(paths.len());
        for path in paths {
            match Shard::open(&path, access) {
                Ok(shard) => shards.push(Arc::new(shard)),
                Err(fault) => faults.push(fault),
            }
        }
        let cases = live_cases(&shards);
        Ok((Self { dir: dir.to_owned(), manifest, shards, cases }, faults))
    }

    /// Path of the folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Manifest as it was when the cache was opened.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Open shards, sorted by name.
    #[must_use]
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// Cases that count, sorted by [`Case::key`].
    #[must_use]
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Case with this key; `None` if the cache has none.
    #[must_use]
    pub fn case(&self, key: &str) -> Option<&Case> {
        self.cases.binary_search_by(|case| case.key().cmp(key)).ok().map(|at| &self.cases[at])
    }

    /// Number of bytes of superseded records: those of cases that were converted again.
    #[must_use]
    pub fn superseded_bytes(&self) -> u64 {
        let stored: u64 = self.shards.iter().flat_map(|shard| shard.cases()).map(|case| case.span.len()).sum();
        stored.saturating_sub(self.cases.iter().map(|case| case.record().span.len()).sum())
    }

    /// Digest of the content: names, sources and parameters of the cases that count, as 32 hex digits.
    ///
    /// Caches with equal digests hold the same voxels.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for case in &self.cases {
            let record = case.record();
            let label = record.source.label_blake3.as_deref().unwrap_or_default();
            for part in [case.key(), &record.source.image_blake3, label, &record.parameters] {
                hasher.update(part.as_bytes());
                hasher.update(&[0]);
            }
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// Selects one record per case: that of the largest generation, and among equal ones that of the shard sorted last.
fn live_cases(shards: &[Arc<Shard>]) -> Vec<Case> {
    let mut live: BTreeMap<String, (u64, Case)> = BTreeMap::new();
    for shard in shards {
        for (idx, record) in shard.cases().iter().enumerate() {
            let key = record.key();
            if live.get(&key).is_none_or(|&(generation, _)| generation <= shard.generation()) {
                live.insert(key, (shard.generation(), Case::of(shard, idx)));
            }
        }
    }
    live.into_values().map(|(_, case)| case).collect()
}
