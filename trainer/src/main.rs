//! `hiend-train`: see `hiend-train --help`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use hiend_trainer::report::dashboard::terminal::log_writer;
use hiend_trainer::{cli::Cli, commands};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log_writer).init();
    commands::run(&Cli::parse()).unwrap_or_else(|error| {
        // Nobody may be reading any more; that is no reason to panic.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}
