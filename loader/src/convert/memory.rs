//! Estimates the memory that converting a case takes, and checks whether the system has it.

use crate::preprocess::{PreprocessConfig, resampled_shape};
use crate::volume::VolumeInfo;

/// Memory in bytes that converting a case takes: its files, their content in the files' own data types, the result
/// (2 bytes per voxel, 1 for labels) and its coded form, which is smaller.
#[must_use]
pub fn memory_needed(
    file_bytes: u64,
    image: &VolumeInfo,
    label: Option<&VolumeInfo>,
    config: &PreprocessConfig,
) -> u64 {
    let inflated = image.data_bytes + label.map_or(0, |info| 2 * info.data_bytes);
    let voxels: u64 = resampled_shape(image, config).iter().map(|&n| n as u64).product();
    file_bytes + inflated + voxels * if label.is_some() { 4 } else { 3 }
}

/// A case whose memory the system does not grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "needs {} MiB of memory, which the system does not grant; free some, use fewer --jobs, or raise the limit (ulimit -v)",
    needed.div_ceil(1 << 20)
)]
pub(super) struct NoMemory {
    /// Estimate by [`memory_needed`], in bytes.
    pub needed: u64,
}

/// Returns true if the system would grant `bytes` of memory now.
///
/// The memory is returned at once. Later allocations of the case abort the process if they fail, so this check turns
/// most such failures (an address space limited by `ulimit -v`, no overcommitment) into a skipped case.
pub(super) fn is_available(bytes: u64) -> bool {
    let mut probe: Vec<u8> = Vec::new();
    let is_granted = usize::try_from(bytes).is_ok_and(|bytes| probe.try_reserve_exact(bytes).is_ok());
    // Keeps the compiler from removing an allocation that nothing uses.
    std::hint::black_box(&probe);
    is_granted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_the_address_space_is_not_available() {
        assert!(is_available(1 << 20));
        assert!(!is_available(1 << 60));
        let text = NoMemory { needed: (3 << 20) + 1 }.to_string();
        assert!(text.starts_with("needs 4 MiB of memory"), "{text}");
    }
}
