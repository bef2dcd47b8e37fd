//! The program `cpu-bench`; see [`benches::cpu_bench`].

use std::process::ExitCode;

use benches::cpu_bench::{Cli, run};
use hiend_loader::program;

fn main() -> ExitCode {
    program::main(std::io::stderr, |cli: &Cli| run(cli).map(|()| ExitCode::SUCCESS))
}
