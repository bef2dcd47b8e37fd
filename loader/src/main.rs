//! The program `hiend-shard`; `hiend-shard --help` describes it.

use std::process::ExitCode;

fn main() -> ExitCode {
    hiend_loader::commands::main()
}
