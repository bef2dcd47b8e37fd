//! Attacks one reader under libFuzzer, which keeps inputs that reach new code.
//!
//! `tests/fuzz/coverage` builds it with instrumentation and starts it once for each reader.

#![no_main]
#![allow(clippy::print_stderr, reason = "a tool for developers")]

use std::path::Path;
use std::sync::LazyLock;

use hiend_fuzz::Target;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// Environment variable with the name of the reader.
const TARGET: &str = "HIEND_FUZZ_TARGET";

/// Reader to attack, and the folder for its files.
static ATTACK: LazyLock<(Target, TempDir)> = LazyLock::new(|| {
    let known: Vec<&str> = Target::all().iter().map(|target| target.name).collect();
    let target = std::env::var(TARGET).ok().and_then(|name| Target::of_name(&name));
    let Some(target) = target else {
        eprintln!("error: {TARGET}: expected one of {}", known.join(" "));
        std::process::exit(2);
    };
    (target, tempfile::tempdir().unwrap_or_else(|err| panic!("a temporary folder: {err}")))
});

fuzz_target!(
    // Before libFuzzer takes the end of the process for a fault.
    init: {
        LazyLock::force(&ATTACK);
    },
    |bytes: &[u8]| attack(&ATTACK.0, ATTACK.1.path(), bytes)
);

fn attack(target: &Target, scratch: &Path, bytes: &[u8]) {
    target.attack(scratch, bytes);
}
