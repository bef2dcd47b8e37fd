//! Splits values into packed low bits and byte planes, and joins them again.
//!
//! The two values that share a byte are half a chunk apart (`i` and `i + ceil(n/2)`), not neighbours: packing and
//! unpacking are then plain loops over contiguous arrays, which the compiler turns into vector code.

use serde::{Deserialize, Serialize};

use super::error::CodecError;
use super::voxel::Voxel;

/// Parameters of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planes {
    /// Significant bits of a value, 1 to 16.
    pub bits: u8,
    /// Number of low bits packed separately from the planes: 0 or 4.
    pub raw_bits: u8,
}

impl Planes {
    /// Checks that the low bits can be split off; the caller checks the number of bits.
    pub(super) fn validate(self) -> Result<(), CodecError> {
        match (self.bits, self.raw_bits) {
            (_, 0) | (5.., 4) => Ok(()),
            (bits, raw_bits) => Err(CodecError::RawBits { bits, raw_bits }),
        }
    }

    /// Number of bytes of packed low bits for `n` values.
    #[must_use]
    pub fn low_len(self, n: usize) -> usize {
        if self.raw_bits == 0 { 0 } else { n.div_ceil(2) }
    }

    /// Number of bytes of planes for `n` values.
    #[must_use]
    pub fn high_len(self, n: usize) -> usize {
        n * usize::from((self.bits - self.raw_bits).div_ceil(8))
    }

    /// Writes `packed low bits ++ planes` into `bytes`.
    ///
    /// # Panics
    /// If a value has more than `bits` significant bits.
    #[expect(clippy::cast_possible_truncation, reason = "planes are made of bytes")]
    pub(super) fn split<T: Voxel>(self, values: &[T], bytes: &mut Vec<u8>) {
        let widest = values.iter().map(|s| s.to_u16()).fold(0, |a, b| a | b);
        assert!(u32::from(widest) >> self.bits == 0, "a value exceeds {} bits", self.bits);
        let n = values.len();
        let low_len = self.low_len(n);
        bytes.clear();
        bytes.resize(low_len + self.high_len(n), 0);
        let (low, high) = bytes.split_at_mut(low_len);
        if low_len > 0 {
            let (first, second) = values.split_at(low_len);
            for (byte, a) in low.iter_mut().zip(first) {
                *byte = a.to_u16() as u8 & 15;
            }
            for (byte, b) in low.iter_mut().zip(second) {
                *byte |= (b.to_u16() as u8) << 4;
            }
        }
        let (plane0, plane1) = high.split_at_mut(n);
        for (byte, s) in plane0.iter_mut().zip(values) {
            *byte = (s.to_u16() >> self.raw_bits) as u8;
        }
        for (byte, s) in plane1.iter_mut().zip(values) {
            *byte = (s.to_u16() >> (self.raw_bits + 8)) as u8;
        }
    }

    /// Joins values from packed low bits and planes, whose lengths the caller has checked.
    pub(super) fn join<T: Voxel>(self, low: &[u8], high: &[u8], values: &mut [T]) {
        let n = values.len();
        debug_assert_eq!((low.len(), high.len()), (self.low_len(n), self.high_len(n)));
        let (plane0, plane1) = high.split_at(n);
        match (self.raw_bits, plane1.is_empty()) {
            (0, true) => {
                for (s, &a) in values.iter_mut().zip(plane0) {
                    *s = T::from_u16(u16::from(a));
                }
            }
            (0, false) => {
                for ((s, &a), &b) in values.iter_mut().zip(plane0).zip(plane1) {
                    *s = T::from_u16(u16::from(a) | u16::from(b) << 8);
                }
            }
            (_, one_plane) => {
                let half = low.len();
                let (first, second) = values.split_at_mut(half);
                let (high_first, high_second) = plane0.split_at(half);
                for ((s, &l), &a) in first.iter_mut().zip(low).zip(high_first) {
                    *s = T::from_u16(u16::from(a) << 4 | u16::from(l & 15));
                }
                for ((s, &l), &a) in second.iter_mut().zip(low).zip(high_second) {
                    *s = T::from_u16(u16::from(a) << 4 | u16::from(l >> 4));
                }
                if !one_plane {
                    for (s, &b) in values.iter_mut().zip(plane1) {
                        *s = T::from_u16(s.to_u16() | u16::from(b) << 12);
                    }
                }
            }
        }
    }
}
