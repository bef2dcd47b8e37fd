//! Losses and the targets they take, one a file.

pub mod class_map;
pub mod dice_ce;
pub mod masked_mse;
