//! Inference over whole volumes.

pub mod export;
pub mod sliding_window;
