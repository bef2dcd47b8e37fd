//! A CUDA device in software: the driver's functions, kernels of PTX text, products by cuBLASLt and graphs by cuDNN, on
//! the CPU.
//!
//! The shared library takes the place of `libcuda.so.1`, `libcublasLt.so.13` and `libcudnn.so.9`, so that the programs for
//! NVIDIA GPUs run on a machine without one (`tests/gpu/emulate`). It shows whether kernels and calls are right, not how
//! fast they are: everything is done when it is queued, in one order, and approximate instructions are computed exactly.
//! Behaviour that real devices leave undefined is an error here: accesses outside of all allocations or without alignment, values of
//! threads that do not take part, threads that wait for others that never come or at different barriers. New memory is filled
//! with ones, which are not numbers. Forms of instructions that are not run are refused when they are reached (`check`).
//!
//! Two devices do not exchange data, instructions for matrix units are not there, and a warp runs until it ends or waits at a
//! barrier, so that a warp that waits for another by reading memory again and again never ends.

#![allow(unsafe_code, reason = "functions of C libraries, and memory that kernels address")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "callers keep the contracts of NVIDIA's functions; addresses of kernels are checked in `machine`"
)]
#![allow(non_snake_case, reason = "names of NVIDIA's functions")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "registers hold bits of several types"
)]
#![allow(clippy::print_stderr, reason = "a driver has no other way to name the instruction at fault")]

mod alu;
mod check;
mod convert;
mod cublaslt;
mod cudnn;
mod driver;
mod float;
mod flow;
mod kernel;
mod machine;
mod memory;
mod parse;
mod settings;
#[cfg(test)]
mod tests;
mod token;
