//! The commands of `hiend-shard`.

mod caches;
mod convert;
mod inspect;
mod not_in_data;
mod plan;
mod progress;
mod replay;
#[cfg(feature = "serve")]
mod serve;
mod stream;
mod table;
mod task;
mod unused;
mod verify;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::program;

#[cfg(feature = "serve")]
pub use serve::{command as serve_command, main as serve_main};

/// Runs the program `hiend-shard` with the command line of the process; returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    program::main(std::io::stderr, run)
}

/// Definition of the command line of `hiend-shard`.
#[must_use]
pub fn shard_command() -> clap::Command {
    use clap::CommandFactory as _;
    Cli::command()
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        None => convert::run(&cli.convert),
        Some(Command::Convert(args)) => convert::run(args),
        Some(Command::Stream(args)) => stream::run(args),
        Some(Command::Replay(args)) => replay::run(args),
        Some(Command::Inspect(args)) => inspect::run(args),
        Some(Command::Verify(args)) => verify::run(args),
        Some(Command::Plan(args)) => plan::run(args),
        Some(Command::Completions(args)) => {
            program::print_completions(&shard_command(), args.shell).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Man(args)) => program::write_man_pages(shard_command(), &args.dir).map(|()| ExitCode::SUCCESS),
    }
}
