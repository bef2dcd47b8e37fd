//! Measures the models on a device; see [`benches::gpu_bench`].

#![allow(clippy::print_stderr, reason = "a tool for developers")]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match benches::gpu_bench::run(&benches::gpu_bench::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
