//! Training losses, one a file.

pub mod dice_ce;
