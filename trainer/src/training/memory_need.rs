//! Lower bound of the memory that an update on a CPU takes, to be compared with the memory that there is.
//!
//! Counted is what has to be in memory at one time whatever the order of operations: parameters, gradients and moments, and
//! the tensors that the backward pass reads. Pre-training with the preset `tiny` took 1.7 times the bound for each crop of
//! 96³ and of 144³ voxels, 2.6 to 3.0 times with gradient checkpointing (growth of peak resident memory with the number of
//! crops, `hiend-train --shards CACHE --preset tiny --max-steps 2 --set stream.crops_per_visit=N`).

use bytesize::ByteSize;

use super::memory_advice::less_memory;
use crate::model::precision::Precision;

/// Bytes of a parameter: value, gradient and two moments in f32.
const PARAM_BYTES: u64 = 16;

/// Numbers of values that an update keeps at the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptValues {
    /// Parameters.
    pub params: usize,
    /// Values for the backward pass of each crop, in the precision of products.
    pub per_crop: usize,
}

impl KeptValues {
    /// Bytes that an update with `crops` crops at a time takes at the least.
    #[must_use]
    pub fn bytes(&self, crops: usize, precision: Precision) -> u64 {
        self.params as u64 * PARAM_BYTES + crops as u64 * self.crop_bytes(precision)
    }

    fn crop_bytes(&self, precision: Precision) -> u64 {
        let value_bytes = if precision == Precision::Bf16 { 2 } else { 4 };
        self.per_crop as u64 * value_bytes
    }

    /// One line that says that an update with `crops` crops at a time does not fit into `limit` bytes, and what to do;
    /// `None` if it may fit.
    #[must_use]
    pub fn shortage(
        &self,
        crops: usize,
        precision: Precision,
        gradient_checkpointing: bool,
        limit: u64,
    ) -> Option<String> {
        let needed = self.bytes(crops, precision);
        if needed <= limit {
            return None;
        }
        let size = |bytes: u64| ByteSize(bytes).display().si();
        let fitting = limit.saturating_sub(self.params as u64 * PARAM_BYTES) / self.crop_bytes(precision).max(1);
        // The advice is half of a number of crops.
        let twice = usize::try_from(fitting).unwrap_or(crops).saturating_mul(2).clamp(1, crops.max(1));
        Some(format!(
            "{crops} crops at a time take at least {}, but this process has {} of memory{}",
            size(needed),
            size(limit),
            less_memory(twice, gradient_checkpointing)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: KeptValues = KeptValues { params: 1_000_000, per_crop: 1_000_000 };

    #[test]
    fn shortage_is_told_with_its_remedies() {
        let shortage = |crops, precision, checkpointing, limit| KEPT.shortage(crops, precision, checkpointing, limit);
        assert_eq!(KEPT.bytes(2, Precision::F32), 24_000_000);
        assert_eq!(shortage(2, Precision::F32, false, 24_000_000), None);
        assert_eq!(shortage(4, Precision::Bf16, false, 24_000_000), None);
        assert_eq!(
            shortage(8, Precision::F32, false, 30_000_000).unwrap(),
            "8 crops at a time take at least 48.0 MB, but this process has 30.0 MB of memory; to use less: \
             --gradient-checkpointing (with --resume, too), or a new run with train.micro_batch = 3"
        );
        let text = shortage(1, Precision::F32, true, 17_000_000).unwrap();
        assert!(text.ends_with("; try a smaller model"), "{text}");
    }
}
