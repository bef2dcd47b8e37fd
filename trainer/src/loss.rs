//! Losses and their targets, one per file.

pub mod class_map;
pub mod dice_ce;
pub mod masked_mse;
