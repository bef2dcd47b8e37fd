//! The program `loader-bench`; see [`benches::loader_bench`].

use std::process::ExitCode;

use benches::loader_bench::{Cli, run};
use hiend_loader::program;

fn main() -> ExitCode {
    program::main(std::io::stderr, |cli: &Cli| run(cli).map(|()| ExitCode::SUCCESS))
}
