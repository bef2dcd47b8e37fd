//! The program `gpu-bench`, which measures the models on a device; see [`benches::gpu_bench`].

use std::process::ExitCode;

use benches::gpu_bench::{Cli, run};
use hiend_loader::program;
use hiend_trainer::device::settle_libdevice;

fn main() -> ExitCode {
    settle_libdevice();
    // Logs to standard error: warnings there name computations that a library did not take over.
    program::main(std::io::stderr, |cli: &Cli| run(cli).map(|()| ExitCode::SUCCESS))
}
