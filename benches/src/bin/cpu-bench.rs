//! Binary of [`benches::cpu_bench`].

#![allow(clippy::print_stderr, reason = "a tool for developers")]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match benches::cpu_bench::run(&benches::cpu_bench::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
