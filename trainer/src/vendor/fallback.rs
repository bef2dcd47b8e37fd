//! Warnings of work that a library does not take over.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Mutex, PoisonError};

static WARNED: Mutex<BTreeSet<(&str, String)>> = Mutex::new(BTreeSet::new());

/// Warnings given by this process so far, each with the consequence and its reason.
#[must_use]
pub fn warned() -> Vec<String> {
    let warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    warned.iter().map(|(consequence, reason)| format!("{consequence}: {reason}")).collect()
}

/// Warns of the `consequence` of a missing library, with the reason, once per process for each pair.
pub fn warn_once(consequence: &'static str, reason: &dyn Error) {
    let reason = reason.to_string();
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert((consequence, reason.clone())) {
        tracing::warn!("{consequence}: {reason}");
    }
}
