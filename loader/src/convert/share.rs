//! Division of the cases among workers.

use std::path::Path;
use std::time::Duration;

use hiend_cache::lock::FileLock;

use super::ConvertError;
use crate::dataset::Dataset;
use crate::rng::case_key;
use crate::stop::Stop;

/// Time between two attempts to take a share that another process holds.
const RETRY: Duration = Duration::from_millis(200);

/// Keeps the cases that belong to worker `number` of `workers`.
pub fn keep_share(datasets: &mut [Dataset], (number, workers): (usize, usize)) {
    let ours = |key: &str| case_key(key) % workers.max(1) as u64 == number as u64;
    for dataset in datasets {
        dataset.cases.retain(|case| ours(&case.key()));
        dataset.skipped.retain(|skipped| ours(&skipped.case));
    }
}

/// Waits until no other process converts the same share into the cache at `out`, and keeps others from it.
///
/// Where the file system has no locks, two processes may do the same work; the cache is whole in any case.
pub(super) fn hold(out: &Path, (number, workers): (usize, usize), stop: &Stop) -> Result<FileLock, ConvertError> {
    let path = out.join(format!(".convert-{number}-of-{workers}.lock"));
    let mut is_told = false;
    loop {
        if let Some(lock) = FileLock::try_exclusive(&path)? {
            return Ok(lock);
        }
        if stop.is_requested() {
            return Err(ConvertError::StoppedWaiting { path: out.to_owned() });
        }
        if !is_told {
            tracing::info!(cache = %out.display(), "waiting for another conversion into this cache");
            is_told = true;
        }
        std::thread::sleep(RETRY);
    }
}
