//! The program `gpu-bench`, which measures the models on a device; see [`benches::gpu_bench`].

use std::process::ExitCode;

use benches::gpu_bench::{Cli, run};
use hiend_loader::program;

fn main() -> ExitCode {
    // With a log: warnings name what a library did not compute.
    program::main(std::io::stderr, |cli: &Cli| run(cli).map(|()| ExitCode::SUCCESS))
}
