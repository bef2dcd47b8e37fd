//! The program `hiend-train`; `hiend-train --help` describes it.

use std::process::ExitCode;

use hiend_loader::program;
use hiend_trainer::report::dashboard::terminal::log_writer;
use hiend_trainer::{cli::Cli, commands, device};

fn main() -> ExitCode {
    device::settle_libdevice();
    program::main(log_writer, |cli: &Cli| commands::run(cli))
}
