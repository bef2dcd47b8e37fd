//! Integration tests of the trainer, in one binary.

#![allow(clippy::print_stdout, reason = "figures of a comparison, shown with --nocapture")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod careless;
mod command;
mod dicom;
mod evaluate;
mod folder;
mod golden;
mod golden_mae;
mod golden_misc;
mod golden_schedule;
mod golden_unetr;
mod golden_weights;
mod grown_cache;
mod irregular;
mod kernels;
mod look;
mod metric_goldens;
mod nifti;
mod object_storage;
mod observe;
mod origins;
mod panics;
mod precision;
mod predict;
mod pretrain;
mod rank_connections;
mod rank_processes;
mod ranks;
mod report;
mod service;
mod sparse_labels;
mod sums;
mod track;
mod zscore;
