//! Integration tests of the crate, one binary.

mod cases;
mod corruption;
mod format;
#[cfg(target_os = "linux")]
mod irregular;
mod prune;
mod truncation;
