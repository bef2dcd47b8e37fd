//! Hi-End-MAE models and their training, on Burn.
//!
//! The only crate that knows tensors and devices. `hiend_loader` makes batches; this crate moves them to a device, trains
//! on them, and writes checkpoints, journal and pictures of a run.

// Sizes, counts and steps stay far below 2^52, so casts between them are exact.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]
// Axes are named x, y, z and the batch size n, as in the papers.
#![allow(clippy::many_single_char_names)]
// Tensors are cheap handles; operations take them by value, as Burn's own do.
#![allow(clippy::needless_pass_by_value)]

mod apart;
pub mod augment;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data_loader;
pub mod device;
#[cfg(any(test, feature = "device-tests"))]
pub mod device_tests;
pub mod distributed;
pub mod doctor;
pub mod feed;
pub mod finetune;
pub mod host_memory;
mod http;
pub mod inference;
pub mod initial_weights;
pub mod journal;
pub mod label_space;
pub mod loss;
pub mod metric;
pub mod model;
pub mod model_source;
pub mod ops;
pub mod optim;
pub mod pretrain;
pub mod report;
pub mod schedule;
mod signals;
pub mod sliding_window;
mod sync;
pub mod testing;
pub mod trained_on;
pub mod training;
pub mod variable;
pub mod vendor;
pub mod weights;
