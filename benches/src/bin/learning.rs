//! The program `learning`; see [`benches::learning`].

use std::process::ExitCode;

use benches::learning::{Cli, run};
use hiend_loader::program;

fn main() -> ExitCode {
    program::main(std::io::stderr, |cli: &Cli| run(cli).map(|()| ExitCode::SUCCESS))
}
