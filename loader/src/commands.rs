//! What `hiend-shard` does. Only these modules print.

mod convert;
mod progress;
mod stream;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

/// Runs the program: parses the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    // Piping into `head` is no error; ending quietly is what Unix tools do.
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("HIEND_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let result = match &cli.command {
        None => convert::run(&cli.convert),
        Some(Command::Stream(args)) => stream::run(args),
    };
    result.unwrap_or_else(|err| {
        eprintln!("error: {err:#}");
        ExitCode::FAILURE
    })
}

/// A flag that the first Ctrl-C raises; the second one ends the program at once.
fn stop_on_interrupt(message: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\n{message}");
    })?;
    Ok(stop)
}

/// Exit code of a run that was interrupted.
fn interrupted() -> ExitCode {
    ExitCode::from(130)
}
