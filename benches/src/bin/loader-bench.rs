//! Binary of [`benches::loader_bench`].

#![allow(clippy::print_stderr, reason = "a tool for developers")]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match benches::loader_bench::run(&benches::loader_bench::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
