//! Binary of [`benches::loader_bench`].

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
