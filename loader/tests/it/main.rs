//! Integration tests of the loader, in one binary.
//!
//! `tests/metrics.rs` is a separate binary, because its recorder sees every stream of its process.

#![allow(clippy::print_stdout, reason = "figures of a comparison, shown with --nocapture")]

mod cli;
mod coded_chunks;
mod formats;
mod golden;
// Links, FIFOs and names of any bytes are among them.
#[cfg(all(feature = "dicom", target_os = "linux"))]
mod oddities;
#[cfg(feature = "serve")]
mod serve;
mod stream_laws;
mod stream_memory;
mod transform_parity;
mod zscore;
