//! Binary of [`benches::learning`].

#![allow(clippy::print_stderr, reason = "a tool for developers")]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match benches::learning::run(&benches::learning::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
