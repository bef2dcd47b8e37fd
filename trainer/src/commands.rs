//! What the subcommands do. The only place of this crate that prints.

mod attend;
mod evaluate;
mod model;
mod pretrain;
mod reconstruct;
mod scans;
mod weights;

use std::process::ExitCode;

use crate::cli::{Cli, Command};

/// The run was interrupted and can go on: the shell's code for Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Does what was typed.
///
/// # Errors
/// Whatever failed, for the user to read.
pub fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Some(Command::Pretrain(args)) => pretrain::run(args),
        Some(Command::Evaluate(args)) => evaluate::run(args),

        Some(Command::Reconstruct(args)) => reconstruct::run(args),
        Some(Command::Attend(args)) => attend::run(args),
        Some(Command::Import(args)) => weights::import(args),
        Some(Command::Export(args)) => weights::export(args),

        None => pretrain::run(&cli.pretrain),
    }
}
