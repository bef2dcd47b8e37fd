//! Warnings of work that a library does not take over.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Mutex, PoisonError};

/// Warns of the `consequence` of missing a library, with the reason; once a process for each pair.
pub fn warn_once(consequence: &'static str, reason: &dyn Error) {
    static WARNED: Mutex<BTreeSet<(&str, String)>> = Mutex::new(BTreeSet::new());
    let reason = reason.to_string();
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert((consequence, reason.clone())) {
        tracing::warn!("{consequence}: {reason}");
    }
}
