//! CPU implementations of the models' operations, on slices of floats.
//!
//! Results have the same bits for any number of threads: work is divided into blocks whose size depends on the shapes
//! alone, each block is computed by one thread, and partial sums are added in the order of the blocks. Loops are
//! written for the compiler to vectorise; fused multiply-adds are explicit, so that every processor rounds in the same
//! way.

// Sizes of tensors stay far below 2^52.
#![allow(clippy::cast_precision_loss)]
// Rows are x, y and dy, matrices a, b and c, sizes m, k and n, as in the papers.
#![allow(clippy::many_single_char_names, clippy::similar_names)]
// Tests compare exact values, and round f64 to f32 on purpose.
#![cfg_attr(test, allow(clippy::float_cmp, clippy::cast_possible_truncation))]

pub mod adamw;
pub mod attention;
pub mod buffer;
pub mod columns;
pub mod conv;
pub mod dequantize;
pub mod dice_ce;
pub mod gelu;
pub mod instance_norm;
pub mod layer_norm;
pub mod math;
pub mod output;
pub mod patch_loss;
pub mod product;
pub mod residual;
pub mod resize;
mod rows;
#[cfg(test)]
mod testing;
pub mod transposed;
