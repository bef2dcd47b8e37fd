//! Differentiable operations that Burn composes from many, done in one.
//!
//! With `device`, the only files that name a backend: an operation of our own has to say for which ones it is made.

pub mod softmax;
