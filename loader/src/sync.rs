//! Locks, condition variables, atomic numbers and channels of the code whose threads wait for each other.
//!
//! `tests/models` compiles the same source files with the types of a model checker under these names, and runs them under
//! many orders of their threads.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic};

pub(crate) use flume as channel;
