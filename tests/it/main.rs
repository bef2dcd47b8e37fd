//! Tests across crates: phantoms to shards to batches to weights.

#![allow(clippy::print_stdout, reason = "figures of a comparison, shown with --nocapture")]

mod deploy;
mod fine_tuning;
mod wandb;
mod whole_way;
