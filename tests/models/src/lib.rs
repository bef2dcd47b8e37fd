//! Code whose threads wait for each other, compiled for a model checker: the byte budget, reading ahead, the pools of
//! batch buffers, the schedule of the service, and the process group of several ranks.
//!
//! The modules are source files of `hiend-loader` and `hiend-trainer`, compiled here a second time. They name locks, condition
//! variables, atomic numbers and channels by `crate::sync`, which is `std` and flume there and shuttle here ([`sync`]).
//! Shuttle runs a model again and again, chooses the thread that continues at each of these operations, and reports a
//! deadlock, a panic or a failed assertion with the schedule that leads to it. What a thread does between two operations
//! takes no time, and no wait ever times out: a lost wake-up is a deadlock.
//!
//! # Limits
//! Atomic numbers are sequentially consistent here, whatever order the code asks for. [`sync::channel`] is a model of flume, not
//! flume. Connections between ranks are pipes in memory; what arrives through them is handled by the real code, and what is
//! sent by a writer without heartbeats.

#![allow(dead_code, unreachable_pub, reason = "files of other crates, of which models use a part")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::many_single_char_names,
    clippy::needless_pass_by_value,
    reason = "as in the crates of these files"
)]
#![allow(clippy::must_use_candidate, reason = "models are called for what they assert")]

pub mod batch;
#[path = "../../../loader/src/budget.rs"]
pub mod budget;
pub mod budget_model;
pub mod distributed;
pub mod pipeline;
#[path = "../../../loader/src/plural.rs"]
mod plural;
pub mod service;
pub mod stats;
pub mod sync;
