//! Behaviour that `hiend-shard` and `hiend-train` share: command line, log, output, interrupts and exit codes.
//!
//! A program's `main` calls [`main()`] and returns its result. Everything it prints goes through [`print()`] and
//! [`note()`], so that a full disk behind standard output is an error, a closed pipe ends nothing, a closed standard
//! error causes no panic, and no file name sends control characters to a terminal.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed; one line on standard error says why. Also after a panic, on any thread, whose message comes before that line |
//! | 2 ([`USAGE`]) | wrong command line |
//! | 3 ([`SKIPPED`]) | done, with cases skipped or scans not converted |
//! | 130 ([`INTERRUPTED`]) | stopped by Ctrl-C or by SIGTERM (training or prediction that a batch system stops: 75) |
//!
//! Only available with the feature `cli`.

mod advice;
mod command_line;
mod destination;
mod documentation;
pub mod health;
mod interrupt;
mod log;
#[cfg(feature = "serve")]
pub mod metrics_server;
mod output;
mod panics;
mod storage;
mod table;
mod tips;
mod values;
pub mod watchdog;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::fmt::MakeWriter;

pub use crate::caught::catch_panic;
pub use crate::escape::escape_name;
pub use crate::plural::count;
pub use destination::{DestinationError, check_output_file, check_output_folder};
pub use documentation::{CompletionsArgs, ManArgs, print_completions, write_man_pages};
pub use interrupt::{ignores_hangup, interrupt_flag, on_interrupt};
pub use log::{LogError, VARIABLE as LOG_VARIABLE};
pub use output::{StdoutError, escape, is_one_output, note, print};
pub use panics::{Panicked, stop_at_panic, take_panicked};
pub use storage::{AccessArg, RetryArg, StorageArgs};
pub use table::{Table, terminal_width};
pub use values::{
    CodecArg, Expected, Fold, NormalizeArg, OnSuspectArg, Spacing, parse_bytes, parse_fold, parse_rank, parse_shape,
    parse_some_bytes, parse_spacing, parse_window,
};

/// Error of a command-line value that clap cannot detect; it ends the program with [`USAGE`].
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct UsageError(Box<dyn std::error::Error + Send + Sync>);

/// Checks that a file to be written has the extension of its format, so that a mistyped path never replaces another file.
///
/// # Errors
/// If the path has another extension or none.
pub fn check_extension(path: &Path, extension: &'static str) -> Result<(), UsageError> {
    let fits = path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
    let unfit = || UsageError::new(format!("{}: expected a name that ends in .{extension}", path.display()));
    if fits { Ok(()) } else { Err(unfit()) }
}

impl UsageError {
    /// Creates the error from a message, or from the error of a check.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Reads a token from a file: its only line, without surrounding white space.
///
/// # Errors
/// If the file cannot be read, or does not hold one line of visible ASCII.
pub fn read_token(path: &Path) -> anyhow::Result<String> {
    use anyhow::Context as _;
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read the token", path.display()))?;
    let token = text.trim();
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    anyhow::ensure!(is_token, "{}: expected a token, one line of visible ASCII characters", path.display());
    Ok(token.to_owned())
}

/// Exit code for a failure.
const FAILED: u8 = 1;

/// Exit code for a wrong command line.
pub const USAGE: u8 = 2;

/// Exit code for a run that is done but skipped cases.
pub const SKIPPED: u8 = 3;

/// Exit code for a run that was interrupted, as shells report it for Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Runs a program: parses the command line, starts the log, calls `run`, reports its error, returns the exit code.
///
/// `log_writer` makes the writers of log lines, for example [`std::io::stderr`].
pub fn main<C, W>(log_writer: W, run: impl FnOnce(&C) -> anyhow::Result<ExitCode>) -> ExitCode
where
    C: Parser,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    panics::watch();
    interrupt::unblock_signals();
    let cli: C = match command_line::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let code = log::start(log_writer)
        .map_err(|err| UsageError::new(err).into())
        .and_then(|()| panics::as_error(|| run(&cli)))
        .and_then(|code| Ok(output::flush().map(|_| code)?));
    code.unwrap_or_else(|err| {
        // One line, whatever names it quotes.
        note(format_args!("error: {}", escape_name(&error_text(&err))));
        ExitCode::from(error_code(&err))
    })
}

/// Text of an error that ends a program, with advice if there is any.
#[must_use]
pub fn error_text(err: &anyhow::Error) -> String {
    match advice::on(err) {
        Some(advice) => format!("{err:#}; {advice}"),
        None => format!("{err:#}"),
    }
}

/// Exit code of a program that ends with an error.
#[must_use]
pub fn error_code(err: &anyhow::Error) -> u8 {
    if err.is::<UsageError>() { USAGE } else { FAILED }
}
