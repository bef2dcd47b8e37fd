//! What the subcommands do. The only place of this crate that prints.

mod attend;
mod curves;
mod evaluate;
mod finetune;
mod model;
mod predict;
mod pretrain;
mod reconstruct;
mod running;
mod scans;
mod weights;

use std::process::ExitCode;

use crate::cli::{Cli, Command};

/// The run was interrupted and can go on: the shell's code for Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Done, with some cases left out.
const LEFT_OUT: u8 = 3;

/// Does what was typed.
///
/// # Errors
/// Whatever failed, for the user to read.
pub fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Some(Command::Pretrain(args)) => pretrain::run(args),
        Some(Command::Finetune(args)) => finetune::run(args),
        Some(Command::Predict(args)) => predict::run(args),
        Some(Command::Evaluate(args)) => evaluate::run(args),
        Some(Command::Curves(args)) => curves::run(args),
        Some(Command::Reconstruct(args)) => reconstruct::run(args),
        Some(Command::Attend(args)) => attend::run(args),
        Some(Command::Import(args)) => weights::import(args),
        Some(Command::Export(args)) => weights::export(args),
        None => pretrain::run(&cli.pretrain),
    }
}
