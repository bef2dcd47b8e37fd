//! Rule for choices of a library that a run recorded and that cannot be used again: the run ends, unless it may round
//! differently.

use std::sync::atomic::{AtomicBool, Ordering};

/// Remedy named by errors about recorded choices.
pub const REMEDY: &str = "resume with that library and device, or with --other-rounding, which chooses again";

static OTHER_ROUNDING: AtomicBool = AtomicBool::new(false);

/// Lets this process replace recorded choices that cannot be used again, from now on, if `allowed` is set.
pub fn allow_other_rounding(allowed: bool) {
    OTHER_ROUNDING.store(allowed, Ordering::Relaxed);
}

/// Returns true if recorded choices that cannot be used again may be replaced.
#[must_use]
pub fn is_other_rounding_allowed() -> bool {
    OTHER_ROUNDING.load(Ordering::Relaxed)
}
