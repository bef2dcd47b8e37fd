//! What `hiend-shard` does. Only these modules print.

mod convert;
mod inspect;
mod plan;
mod progress;
mod replay;
mod stream;
mod verify;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Parser as _;
use comfy_table::{CellAlignment, Table, presets};
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

/// Runs the program: parses the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
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
        Some(Command::Replay(args)) => replay::run(args),
        Some(Command::Inspect(args)) => inspect::run(args),
        Some(Command::Verify(args)) => verify::run(args),
        Some(Command::Plan(args)) => plan::run(args),
    };
    result.unwrap_or_else(|err| {
        eprintln!("error: {err:#}");
        ExitCode::FAILURE
    })
}

/// Writes a line to standard output. A reader that has seen enough (`| head`) and closed the pipe is no failure.
fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => Err(err).context("cannot write to standard output"),
        _ => Ok(()),
    }
}

/// A size for people: `1.4 GB`.
fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// A table in the style of all commands.
fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table
}

/// Names and values, names to the right.
fn facts(rows: impl IntoIterator<Item = (&'static str, String)>) -> Table {
    let mut table = table();
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    align_right(&mut table, [0]);
    table
}

fn align_right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
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
