//! `hiend-train`: see `hiend-train --help`.

use std::process::ExitCode;

use hiend_loader::program;
use hiend_trainer::report::dashboard::terminal::log_writer;
use hiend_trainer::{cli::Cli, commands};

fn main() -> ExitCode {
    end_with_the_pipe();
    program::main(log_writer, |cli: &Cli| commands::run(cli))
}

/// Makes `println!` on a closed pipe (`... | head -1`) end the program quietly instead of with a panic.
fn end_with_the_pipe() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The message of `println!` is the only sign of a closed pipe.
        let message = panic.payload().downcast_ref::<String>();
        if message.is_some_and(|m| m.starts_with("failed printing to stdout") && m.contains("Broken pipe")) {
            std::process::exit(0);
        }
        before(panic);
    }));
}
