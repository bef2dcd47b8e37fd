//! What the suites and `loader-bench` share: the voxels, the clocks, the contenders and the picture of the result.

pub mod clock;
pub mod volume;
