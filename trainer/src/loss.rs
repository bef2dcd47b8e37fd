//! Losses, one a file.

pub mod dice_ce;
pub mod masked_mse;
