//! Operations of the models on CPUs, on slices of floats.

pub mod conv;
pub mod instance_norm;
pub mod output;
pub mod resize;
pub mod transposed;
