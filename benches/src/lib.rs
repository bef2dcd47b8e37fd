//! What the suites and `loader-bench` share: the voxels, the clocks, the contenders and the picture of the result.

#![allow(clippy::cast_possible_wrap, reason = "lengths of volumes, as C libraries want them")]

pub mod chart;
pub mod clock;
pub mod contender;
pub mod loader_bench;
pub mod volume;
