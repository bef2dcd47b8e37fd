//! Ctrl-C and SIGTERM: the first one asks the program to stop, the second one ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use super::{INTERRUPTED, note};

/// Calls `first` on the first Ctrl-C (or SIGTERM, SIGHUP). The second one calls `before_exit` and ends the process
/// with [`INTERRUPTED`].
///
/// # Errors
/// If the handler cannot be installed: a process has one.
pub fn on_interrupt(
    first: impl FnOnce() + Send + 'static,
    before_exit: impl Fn() + Send + 'static,
) -> anyhow::Result<()> {
    let mut first = Some(first);
    ctrlc::set_handler(move || {
        if let Some(first) = first.take() {
            return first();
        }
        before_exit();
        std::process::exit(INTERRUPTED.into());
    })
    .context("cannot install the handler for Ctrl-C")
}

/// A flag that the first Ctrl-C sets; `message` then tells the user what happens next.
///
/// # Errors
/// If the handler cannot be installed.
pub fn interrupt_flag(message: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let first = move || {
        flag.store(true, Ordering::Relaxed);
        note(format_args!("\n{message}"));
    };
    on_interrupt(first, || ())?;
    Ok(stop)
}
