//! The program `hiend-serve`; `hiend-serve --help` describes it.

use std::process::ExitCode;

fn main() -> ExitCode {
    hiend_loader::commands::serve_main()
}
