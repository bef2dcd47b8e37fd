//! Layout of the sums, which the kernels share with the other implementations.

/// Number of sums of each class.
pub(in crate::ops) const KINDS: u32 = 4;
