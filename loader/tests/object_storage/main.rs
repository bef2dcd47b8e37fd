//! Caches in object storage, through the programs and an S3-compatible server on this machine.
//!
//! The server is Python's package `moto`, installed once into a virtual environment in the target folder by the interpreter
//! that `HIEND_PYTHON` names, or else `python3`. Where that is not possible, the tests report themselves as ignored; with
//! `CI` set to `true` they fail.

#![allow(clippy::print_stderr, reason = "a test program says why its tests are ignored")]

mod place;
mod proxy;
mod server;
#[cfg(feature = "serve")]
mod serving;
mod tests;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Most of these tests wait, for repeated requests and for claims to expire.
    args.test_threads.get_or_insert(8);
    let server = if args.list { Err("not started for a listing".to_owned()) } else { server::Server::start() };
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let all = tests::ALL.into_iter();
    #[cfg(feature = "serve")]
    let all = all.chain(serving::ALL);
    let trials: Vec<Trial> = match &server {
        Ok(server) => {
            let address = server.address();
            let trial = |(name, test): tests::NamedTest| {
                Trial::test(name, move || {
                    test(address);
                    Ok(())
                })
            };
            all.map(trial).collect()
        }
        Err(reason) => {
            let reason = reason.clone();
            let trial = |(name, _): tests::NamedTest| {
                let reason = reason.clone();
                Trial::test(name, move || Err(reason.into())).with_ignored_flag(!in_ci)
            };
            all.map(trial).collect()
        }
    };
    if let Err(reason) = &server
        && !args.list
    {
        eprintln!("no S3 server: {reason}");
    }
    let conclusion = libtest_mimic::run(&args, trials);
    drop(server);
    conclusion.exit_code()
}
