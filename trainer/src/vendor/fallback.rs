//! Warnings of work that a library does not take over.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Warns of the `consequence` of missing a library, with the reason; once a process for each pair.
pub fn warn_once(consequence: &'static str, reason: &str) {
    static WARNED: Mutex<BTreeSet<(&str, String)>> = Mutex::new(BTreeSet::new());
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert((consequence, reason.to_owned())) {
        tracing::warn!("{consequence}: {reason}");
    }
}
