//! Numbers with a 64-bit mantissa, the x87 format that `NumPy` calls `longdouble`.
//!
//! nibabel computes a quaternion's rotation in this format and rounds once at the end. Doubles would give matrices that
//! differ in the last bit, which is enough shear to decide which of two equally near voxels is read.

/// A number as the sum of two doubles: `high` is the number rounded to a double, `low` holds the other eleven bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extended {
    high: f64,
    low: f64,
}

impl Extended {
    /// The number equal to a double.
    pub(super) fn new(value: f64) -> Self {
        Self { high: value, low: 0.0 }
    }

    /// Rounds the sum of two numbers to 64 bits; `large` must be far larger than `small`.
    fn round(large: f64, small: f64) -> Self {
        let high = large + small;
        let low = small - (high - large);
        if high == 0.0 {
            return Self::new(0.0);
        }
        // Adding and subtracting a number whose last bit has the wanted weight rounds to that weight.
        let exponent = high.abs().to_bits() >> 52;
        let below = u64::from(high.abs().to_bits().trailing_zeros() >= 52 && (low < 0.0) == (high > 0.0) && low != 0.0);
        let anchor = 1.5 * f64::from_bits(exponent.saturating_sub(63 - 52 + below) << 52);
        let low = (low + anchor) - anchor;
        Self { high: high + low, low: low - ((high + low) - high) }
    }

    pub(super) fn add(self, other: Self) -> Self {
        let sum = self.high + other.high;
        let back = sum - self.high;
        let error = (self.high - (sum - back)) + (other.high - back);
        Self::round(sum, error + (self.low + other.low))
    }

    pub(super) fn sub(self, other: Self) -> Self {
        self.add(Self { high: -other.high, low: -other.low })
    }

    pub(super) fn mul(self, other: Self) -> Self {
        let (large, small) = self.exact_product(other);
        Self::round(large, small)
    }

    /// The product before rounding to 64 bits, as the sum of two doubles.
    fn exact_product(self, other: Self) -> (f64, f64) {
        let product = self.high * other.high;
        let error = self.high.mul_add(other.high, -product);
        (product, error + (self.high * other.low + self.low * other.high) + self.low * other.low)
    }

    pub(super) fn div(self, other: Self) -> Self {
        let quotient = self.high / other.high;
        let (large, small) = Self::new(quotient).exact_product(other);
        let rest = (self.high - large) - small + self.low;
        let mut small = rest / other.high;
        // The remainder beyond a double's bits decides ties, as in 2 / (1 - 2^-64). An odd last bit represents it.
        let left = ((-small).mul_add(other.high, rest) - small * other.low) * other.high.signum();
        if left != 0.0 && small.to_bits() & 1 == 0 {
            small = if left > 0.0 { small.next_up() } else { small.next_down() };
        }
        Self::round(quotient, small)
    }

    pub(super) fn sqrt(self) -> Self {
        if self.high <= 0.0 {
            return Self::new(0.0);
        }
        let root = self.high.sqrt();
        let rest = (-root).mul_add(root, self.high) + self.low;
        Self::round(root, rest / (2.0 * root))
    }

    /// The nearest double.
    pub(super) fn to_f64(self) -> f64 {
        self.high + self.low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_are_rounded_to_64_bits() {
        let one = Extended::new(1.0);
        let eps = |exponent: i32| Extended::new(2f64.powi(exponent));
        assert_eq!(one.add(eps(-63)).low.to_bits(), 2f64.powi(-63).to_bits());
        assert_eq!(one.add(eps(-65)).low.to_bits(), 0f64.to_bits());
        // Below 1 the last bit has half the weight.
        assert_eq!(one.sub(eps(-64)).low.to_bits(), (-(2f64.powi(-64))).to_bits());
        assert_eq!(one.sub(eps(-66)).low.to_bits(), 0f64.to_bits());
    }

    #[test]
    fn a_quotient_just_above_a_tie_rounds_up() {
        let below_one = Extended::new(1.0).sub(Extended::new(2f64.powi(-64)));
        let quotient = Extended::new(2.0).div(below_one);
        assert_eq!((quotient.high, quotient.low), (2.0, 2f64.powi(-62)));
    }

    proptest! {
        #[test]
        fn inverse_operations_restore_the_number(a in 0.1f64..2.0, b in 0.1f64..2.0) {
            let (a, b) = (Extended::new(a), Extended::new(b));
            let near = |x: Extended, y: Extended| x.sub(y).to_f64().abs() < 2f64.powi(-60);
            prop_assert!(near(a.mul(b).div(b), a));
            prop_assert!(near(a.sqrt().mul(a.sqrt()), a));
            prop_assert!(near(a.add(b).sub(b), a));
        }
    }
}
