//! Integration tests of the crate, one binary.

mod cases;
mod corruption;
mod format;
mod prune;
mod truncation;
