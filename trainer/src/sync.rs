//! Locks, condition variables, atomic numbers and channels with which the threads of a process group wait for each
//! other.
//!
//! `tests/models` compiles the same source files with a model checker's types under these names, and runs them under
//! many schedules of their threads.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic};

pub(crate) use flume as channel;
