//! Settings, from the environment.

use std::path::PathBuf;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// `EMULATED_DEVICES`: the number of devices.
pub(crate) fn devices() -> i32 {
    number("EMULATED_DEVICES", 1) as i32
}

/// `EMULATED_MEMORY_GIB`: memory of the devices together, in GiB; returns bytes.
pub(crate) fn memory_bytes() -> u64 {
    number("EMULATED_MEMORY_GIB", 16) << 30
}

/// `EMULATOR_TRACE`: 1 prints each launch.
pub(crate) fn traces() -> bool {
    number("EMULATOR_TRACE", 0) == 1
}

/// `EMULATOR_SKIPS`: 1 computes nothing, so that models of any size run, all results being zeros: for the time of the host and
/// the memory of a step.
pub(crate) fn skips() -> bool {
    number("EMULATOR_SKIPS", 0) == 1
}

/// `EMULATOR_PTX`: a folder for the text of each kernel.
pub(crate) fn ptx_folder() -> Option<PathBuf> {
    std::env::var_os("EMULATOR_PTX").map(PathBuf::from)
}
