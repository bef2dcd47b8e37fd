//! The caches of a stream, mixed by weight, as given on the command line.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use hiend_cache::Cache;

use super::table::count;
use crate::case::shown;
use crate::program::{StorageArgs, UsageError, note};

/// Opens the caches with their weights, 1 each without any.
///
/// # Errors
/// If there are more or fewer weights than caches, a cache is given twice, flags about object storage are given for
/// caches in folders, or a cache cannot be opened.
pub(super) fn open(
    caches: &[PathBuf],
    weights: &[u32],
    storage: &StorageArgs,
) -> anyhow::Result<Vec<(Arc<Cache>, u32)>> {
    let num_weights = weights.len();
    if num_weights > 0 && num_weights != caches.len() {
        let (weights, caches) = (count(num_weights, "number"), count(caches.len(), "cache"));
        return Err(UsageError::new(format!("--weights has {weights} for {caches}")).into());
    }
    let mut seen = HashSet::new();
    for cache in caches {
        // A URL, or a folder that cannot be looked up, is compared as it is written.
        if !seen.insert(cache.canonicalize().unwrap_or_else(|_| cache.clone())) {
            let cache = shown(cache);
            return Err(
                UsageError::new(format!("{cache} is given twice; --weights gives a cache a larger share")).into()
            );
        }
    }
    if caches.len() == 1 && num_weights == 1 {
        note("warning: --weights has no effect with one cache");
    }
    storage.check(caches.iter().map(PathBuf::as_path))?;
    let weights = weights.iter().copied().chain(std::iter::repeat(1));
    let options = storage.options();
    let open = |(path, weight): (&PathBuf, u32)| Ok((Arc::new(Cache::open_with(path, options.clone())?), weight));
    caches.iter().zip(weights).map(open).collect()
}
