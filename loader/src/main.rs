//! `hiend-shard`: see [`hiend_loader::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    hiend_loader::commands::main()
}
