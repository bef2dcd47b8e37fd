//! `hiend-train`: see `hiend-train --help`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use hiend_trainer::report::dashboard::terminal::log_writer;
use hiend_trainer::{cli::Cli, commands};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    end_with_the_pipe();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log_writer).init();
    commands::run(&Cli::parse()).unwrap_or_else(|error| {
        // Nobody may be reading any more; that is no reason to panic.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// From here on, output that nobody reads any more (`... | head -1`) ends the program quietly, as it ends any other,
/// instead of with a panic. For commands that print results; whoever trains writes so that it can fail.
fn end_with_the_pipe() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What `println!` panics with; there is no other sign of it.
        let message = panic.payload().downcast_ref::<String>();
        if message.is_some_and(|m| m.starts_with("failed printing to stdout") && m.contains("Broken pipe")) {
            std::process::exit(BROKEN_PIPE);
        }
        before(panic);
    }));
}

/// What a shell reports for a program that SIGPIPE ended.
const BROKEN_PIPE: i32 = 141;
