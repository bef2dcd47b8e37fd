//! Panics that the caller handles as errors: those of a library that panics where a device fails, or on a damaged file.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// True while the thread is in [`catch_panic`].
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work`. A panic in it becomes an error that the caller handles, and does not end the process.
///
/// Panics on other threads that `work` waits for are not meant: programs end at these.
///
/// # Errors
/// The message of the panic.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = CATCHES.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHES.set(before);
    result.map_err(|panic| text_of(&*panic))
}

/// Returns true if a panic of this thread would become an error of [`catch_panic`].
#[cfg(feature = "cli")]
pub(crate) fn is_caught() -> bool {
    CATCHES.get()
}

/// Message of a caught panic.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
