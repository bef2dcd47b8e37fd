//! Division of the cases among workers.

use std::time::Duration;

use hiend_cache::Location;
use hiend_cache::lease::{LIFETIME, Lease};
use hiend_cache::lock::FileLock;

use super::ConvertError;
use crate::dataset::Dataset;
use crate::rng::case_key;
use crate::stop::Stop;

/// Time between two attempts to take a share that another process holds.
const RETRY: Duration = Duration::from_millis(200);
/// Number of attempts to lock a file for each attempt to take a lease, which costs a few requests.
const LEASE_EVERY: u32 = 10;

/// A share that no other process converts at the same time.
pub(super) enum Held {
    /// Share of a cache in a folder.
    File { _lock: FileLock },
    /// Share of a cache in object storage.
    Lease { _lease: Lease },
}

/// Keeps the cases that belong to worker `number` of `workers`.
pub fn keep_share(datasets: &mut [Dataset], (number, workers): (usize, usize)) {
    for dataset in datasets {
        dataset.cases.retain(|case| is_in_share(&case.key(), (number, workers)));
        dataset.skipped.retain(|skipped| is_in_share(&skipped.case, (number, workers)));
    }
}

/// Returns true if the case belongs to worker `number` of `workers`.
pub(super) fn is_in_share(key: &str, (number, workers): (usize, usize)) -> bool {
    case_key(key) % workers.max(1) as u64 == number as u64
}

/// Waits until no other process converts the same share into the cache at `location`, and excludes others.
///
/// Where the file system has no locks, two processes may do the same work; the cache stays intact in any case.
pub(super) fn hold(location: &Location, share: (usize, usize), stop: &Stop) -> Result<Held, ConvertError> {
    let mut is_told = false;
    for attempt in 0u32.. {
        if let Some(held) = try_hold(location, share, attempt)? {
            return Ok(held);
        }
        if stop.is_requested() {
            break;
        }
        if !is_told {
            let (number, workers) = share;
            let killed = match location.folder() {
                Some(_) => String::new(),
                None => format!(
                    "; one that was killed loses its share {} s after its last sign of life",
                    LIFETIME.as_secs()
                ),
            };
            tracing::info!(
                cache = %location,
                "waiting for another conversion of share {number} of {workers} into this cache{killed}"
            );
            is_told = true;
        }
        std::thread::sleep(RETRY);
    }
    Err(ConvertError::StoppedWaiting { path: location.as_path().to_owned() })
}

fn try_hold(
    location: &Location,
    (number, workers): (usize, usize),
    attempt: u32,
) -> Result<Option<Held>, ConvertError> {
    if let Some(dir) = location.folder() {
        let lock = FileLock::try_exclusive(&dir.join(format!(".convert-{number}-of-{workers}.lock")))?;
        if let Some(lock) = lock.as_ref().filter(|lock| !lock.is_effective()) {
            tracing::warn!(
                "{} cannot be locked: make sure that no other conversion writes into this cache, above all with --prune \
                 or --compact",
                lock.path().display()
            );
        }
        return Ok(lock.map(|lock| Held::File { _lock: lock }));
    }
    // Two processes that try at the same time both fail; their numbers keep them from doing so again and again.
    if !attempt.is_multiple_of(LEASE_EVERY + std::process::id() % LEASE_EVERY) {
        return Ok(None);
    }
    let (kind, note) = (format!("share-{number}-of-{workers}"), format!("process {}", std::process::id()));
    let lease = Lease::take_alone(location, &kind, &note, LIFETIME)?;
    Ok(lease.map(|lease| Held::Lease { _lease: lease }))
}
