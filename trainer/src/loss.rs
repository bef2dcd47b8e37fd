//! Losses, one a file.

pub mod masked_mse;
