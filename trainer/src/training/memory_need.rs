//! Lower bound on the memory of a step, to be compared with the available memory, and the expected memory, which
//! determines the number of crops at a time.
//!
//! The bound counts everything that must be in memory at one time, whatever the order of operations: parameters,
//! gradients and moments, and the tensors that the backward pass reads. Pre-training with the preset `tiny` took 1.7
//! times the bound for each crop of 96³ and of 144³ voxels, 2.6 to 3.0 times with gradient checkpointing (growth of
//! peak resident memory with the number of crops, `hiend-train --shards CACHE --preset tiny --max-steps 2 --set
//! stream.crops_per_visit=N`). An earlier state of the code took 2.1 times the bound for `vit-l-p12` with 192 crops in
//! bf16 on an H100 (docs/gpu.md). Fine-tuning with the preset `tiny` on a CPU took 2.7 times the bound for a crop of
//! 96³ voxels (two crops against one, one step).

use bytesize::ByteSize;

use super::memory_advice::less_memory;
use crate::model::precision::Precision;

/// Number of bytes per parameter: value, gradient and two moments in f32.
const PARAM_BYTES: u64 = 16;

/// Part of the free memory that the chosen number of crops may fill, in percent.
const FILLED_PERCENT: u64 = 90;

/// Minimum numbers of values that a step keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptValues {
    /// Number of parameters.
    pub params: usize,
    /// Number of values kept for the backward pass of each crop, in the precision of products.
    pub per_crop: usize,
    /// Expected memory of a crop, in percent of the memory of its kept values.
    pub expected_percent: u64,
}

impl KeptValues {
    /// Minimum number of bytes that a step with `crops` crops at a time takes.
    #[must_use]
    pub fn bytes(&self, crops: usize, precision: Precision) -> u64 {
        self.params as u64 * PARAM_BYTES + crops as u64 * self.crop_bytes(precision)
    }

    /// Expected number of bytes that a step with `crops` crops at a time takes.
    #[must_use]
    pub fn expected_bytes(&self, crops: usize, precision: Precision) -> u64 {
        self.params as u64 * PARAM_BYTES + crops as u64 * self.crop_bytes(precision) * self.expected_percent / 100
    }

    /// Largest number of crops at a time whose step is expected to fit into nine tenths of `free` bytes; `None` if one
    /// crop does not. Micro-batches have equal sizes, and their number is a power of two if such a number fits, so that
    /// several ranks give the same bits as one process.
    #[must_use]
    pub fn fitting(&self, crops: usize, precision: Precision, free: u64) -> Option<usize> {
        let limit = free / 100 * FILLED_PERCENT;
        let fits = |part: &usize| self.expected_bytes(*part, precision) <= limit;
        let halve = |part: &usize| (*part > 1 && part.is_multiple_of(2)).then_some(part / 2);
        let halved = std::iter::successors(Some(crops), halve).find(fits);
        halved.or_else(|| (1..crops).rev().filter(|&part| crops.is_multiple_of(part)).find(fits))
    }

    fn crop_bytes(&self, precision: Precision) -> u64 {
        let value_bytes = if precision == Precision::Bf16 { 2 } else { 4 };
        self.per_crop as u64 * value_bytes
    }

    /// Message, in one line, that a step with `crops` crops at a time does not fit into `limit` bytes, with advice;
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

    const KEPT: KeptValues = KeptValues { params: 1_000_000, per_crop: 1_000_000, expected_percent: 225 };

    #[test]
    fn largest_number_of_equal_parts_fits_into_free_memory() {
        // 16 MB of parameters, and 9 MB of each crop in f32.
        let check = |crops, free_mb: u64, expected| {
            let free = free_mb * 1_000_000;
            assert_eq!(KEPT.fitting(crops, Precision::F32, free), expected, "{crops} crops, {free_mb} MB");
        };
        assert_eq!(KEPT.expected_bytes(4, Precision::F32), 52_000_000);
        check(4, 1000, Some(4));
        // Nine tenths of 57 MB are less than 52 MB.
        check(4, 57, Some(2));
        check(4, 58, Some(4));
        check(192, 200, Some(12));
        check(192, 60, Some(3));
        // Seven parts: 7 is odd, so that halving ends there.
        check(14, 60, Some(2));
        check(14, 88, Some(7));
        check(7, 60, Some(1));
        check(1, 28, Some(1));
        check(192, 27, None);
        let larger = KeptValues { expected_percent: 300, ..KEPT };
        assert_eq!(larger.fitting(8, Precision::F32, 58_000_000), Some(2));
        assert_eq!(KEPT.fitting(8, Precision::Bf16, 58_000_000), Some(8));
    }

    #[test]
    fn shortage_is_reported_with_its_remedies() {
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
