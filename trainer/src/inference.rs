//! Inference over whole volumes.

pub mod sliding_window;
