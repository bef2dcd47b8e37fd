//! Opens a cache (the shards in a folder or under a bucket's prefix) and selects the live record of each case.

use std::path::Path;
use std::sync::Arc;

use crate::case::Case;
use crate::error::{Error, Result};
use crate::location::Location;
use crate::lookup;
use crate::manifest::Manifest;
use crate::options::OpenOptions;
use crate::place::Place;
use crate::shard::open::open_all;
use crate::shard::{Shard, list_shards, live_records};

/// An open cache. Cheap to share between threads; each thread reads with a [`VolumeReader`](crate::VolumeReader) of its
/// own.
#[derive(Debug)]
pub struct Cache {
    location: Location,
    manifest: Manifest,
    shards: Vec<Arc<Shard>>,
    cases: Vec<Case>,
    /// Copies of this cache's bytes, if it lies in object storage.
    #[cfg(feature = "object-store")]
    on_disk: Option<Arc<crate::disk_cache::DiskCache>>,
}

impl Cache {
    /// Opens a cache: a local one with memory-mapped shards, one in object storage through the default disk cache.
    ///
    /// # Errors
    /// If there is no cache, a shard is missing or damaged, or the disk cache cannot be used.
    pub fn open(at: impl Into<Location>) -> Result<Self> {
        Self::open_with(at, OpenOptions::default())
    }

    /// Opens a cache with the given access to its shards.
    ///
    /// # Errors
    /// If there is no cache, a shard is missing or damaged, or the disk cache cannot be used.
    pub fn open_with(at: impl Into<Location>, options: impl Into<OpenOptions>) -> Result<Self> {
        let (cache, mut faults) = Self::salvage(at, options)?;
        if faults.is_empty() { Ok(cache) } else { Err(faults.swap_remove(0)) }
    }

    /// Opens the intact shards of a cache; returns the errors of the others next to it.
    ///
    /// For programs that convert the lost cases again. Training on the rest would be training on other data.
    ///
    /// # Errors
    /// If there is no cache, or its location cannot be read.
    pub fn salvage(at: impl Into<Location>, options: impl Into<OpenOptions>) -> Result<(Self, Vec<Error>)> {
        let (location, options) = (at.into(), options.into());
        let place = Place::with_retry(&location, options.retry.unwrap_or(location.retry()))?;
        let manifest = Manifest::read_in(&place, &location)?;
        Self::of_manifest(location, &place, manifest, &options)
    }

    /// Opens the intact shards of a cache as [`Self::salvage`] does; a missing manifest counts as an empty one.
    ///
    /// For programs that write the manifest again from the shards.
    ///
    /// # Errors
    /// If there is neither a manifest nor a shard, or the location cannot be read.
    pub fn salvage_unlisted(at: impl Into<Location>, options: impl Into<OpenOptions>) -> Result<(Self, Vec<Error>)> {
        let (location, options) = (at.into(), options.into());
        let place = Place::with_retry(&location, options.retry.unwrap_or(location.retry()))?;
        let manifest = match Manifest::read_in(&place, &location) {
            Err(missing @ Error::NoCache { .. }) => {
                let is_there = location.folder().map_or(Ok(true), lookup::exists)?;
                if !is_there || list_shards(&location)?.is_empty() {
                    return Err(missing);
                }
                Manifest::default()
            }
            read => read?,
        };
        Self::of_manifest(location, &place, manifest, &options)
    }

    /// Opens the shards that are there or listed in the manifest.
    fn of_manifest(
        location: Location,
        place: &Place,
        manifest: Manifest,
        options: &OpenOptions,
    ) -> Result<(Self, Vec<Error>)> {
        let opened = open_all(place, &manifest.shards, options)?;
        let mut faults: Vec<Error> = opened.missing.into_iter().map(|path| Error::MissingShard { path }).collect();
        let mut shards = Vec::with_capacity(opened.shards.len());
        for (_, shard) in opened.shards {
            match shard {
                Ok(shard) => shards.push(Arc::new(shard)),
                Err(fault) => faults.push(fault),
            }
        }
        let cases = live_records(&shards).into_iter().map(|(shard, idx)| Case::of(shard, idx)).collect();
        let cache = Self {
            location,
            manifest,
            shards,
            cases,
            #[cfg(feature = "object-store")]
            on_disk: opened.disk_cache,
        };
        Ok((cache, faults))
    }

    /// Location of the cache.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Path of the folder; for a cache in object storage, the URL in the form of a path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.location.as_path()
    }

    /// Disk cache that keeps copies of this cache's bytes; `None` for a local cache.
    #[cfg(feature = "object-store")]
    #[must_use]
    pub fn disk_cache(&self) -> Option<&Arc<crate::disk_cache::DiskCache>> {
        self.on_disk.as_ref()
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

    /// Live cases, sorted by [`Case::key`]: one record per case, superseded ones left out.
    #[must_use]
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Case with this key; `None` if the cache has none.
    #[must_use]
    pub fn case(&self, key: &str) -> Option<&Case> {
        self.cases.binary_search_by(|case| case.key().cmp(key)).ok().map(|at| &self.cases[at])
    }

    /// Leaves out the cases for which `keep` returns false, as if the cache did not hold them; no file changes. Their records
    /// count as superseded ([`Self::superseded_bytes`]).
    #[must_use]
    pub fn with_cases(mut self, keep: impl FnMut(&Case) -> bool) -> Self {
        self.cases.retain(keep);
        self
    }

    /// Number of bytes of superseded records: those of cases that were converted again.
    #[must_use]
    pub fn superseded_bytes(&self) -> u64 {
        let stored: u64 = self.shards.iter().flat_map(|shard| shard.cases()).map(|case| case.span.len()).sum();
        stored.saturating_sub(self.cases.iter().map(|case| case.record().span.len()).sum())
    }

    /// Digest of the content: names, sources and parameters of the live cases, as 32 hex digits.
    ///
    /// Caches with equal digests hold the same voxels.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for case in &self.cases {
            case.hash_into(&mut hasher);
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}
