//! Commands of `hiend-train`, the only modules of this crate that print.

mod attend;
mod class_names;
mod config;
mod curves;
mod doctor;
mod evaluate;
mod finetune;
mod first_weights;
mod micro_batch;
mod model;
mod observer;
mod outputs;
mod precision;
mod predict;
mod pretrain;
mod ranks;
mod reconstruct;
mod running;
mod scans;
mod signals;
mod source;
mod tally;
mod track;
mod tracking;
mod verify;
mod weights;

use std::fmt::Display;
use std::process::ExitCode;

use clap::CommandFactory as _;
use hiend_loader::program::{
    self, INTERRUPTED, StdoutError, escape_name, print as print_text, print_completions, write_man_pages,
};

use crate::cli::{Cli, Command};
use crate::device::remember_panics;

/// Runs the command given on the command line.
///
/// # Errors
/// Any failure, as a message for the user.
pub fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    // Before a device is opened: panics of its threads are no bugs, and do not end the program.
    remember_panics();
    match &cli.command {
        Some(Command::Pretrain(args)) => pretrain::run(args),
        Some(Command::Finetune(args)) => finetune::run(args),
        Some(Command::Predict(args)) => predict::run(args),
        Some(Command::Evaluate(args)) => evaluate::run(args),
        Some(Command::Verify(args)) => verify::run(args),
        Some(Command::Config(args)) => config::run(args),
        Some(Command::Curves(args)) => curves::run(args),
        Some(Command::Track(args)) => track::run(args),
        Some(Command::Reconstruct(args)) => reconstruct::run(args),
        Some(Command::Attend(args)) => attend::run(args),
        Some(Command::Import(args)) => weights::import(args),
        Some(Command::Export(args)) => weights::export(args),
        Some(Command::Doctor(args)) => doctor::run(args),
        Some(Command::Completions(args)) => {
            print_completions(&Cli::command(), args.shell)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Man(args)) => {
            write_man_pages(Cli::command(), &args.dir)?;
            Ok(ExitCode::SUCCESS)
        }
        None => pretrain::run(&cli.pretrain),
    }
}

/// Prints a line on standard output; see [`program::print`]. Line feeds within it, which come from names of files or
/// cases, are escaped. Use [`print_text`] for several lines.
fn print(line: impl Display) -> Result<bool, StdoutError> {
    program::print(escape_name(&line.to_string()))
}

/// Prints a line on standard error. Line feeds within it are escaped as by [`print`].
fn note(line: impl Display) {
    program::note(escape_name(&line.to_string()));
}
