//! Probabilities and ranges of a configuration, checked while parsing so that sampling cannot fail.

use std::fmt;

use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

/// Error of numbers that are not a valid probability or range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum RangeError {
    /// A number outside [0, 1], or NaN.
    #[error("invalid probability {value}; expected a number in [0, 1]")]
    Probability {
        /// Value as a number.
        value: f64,
    },
    /// A range whose ends are not finite or in the wrong order.
    #[error("invalid range [{low}, {high}]; expected finite ends, the lower one first")]
    Order {
        /// End that was given first.
        low: f32,
        /// End that was given second.
        high: f32,
    },
    /// A range that must lie above zero but does not.
    #[error("invalid range [{low}, {high}]; expected ends above zero")]
    Sign {
        /// End that was given first.
        low: f32,
        /// End that was given second.
        high: f32,
    },
}

/// Probability in [0, 1]; in a configuration, a plain number. Zero switches a transform off.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

impl Probability {
    /// Validates `value`.
    ///
    /// # Errors
    /// [`RangeError::Probability`] outside [0, 1].
    pub const fn new(value: f64) -> Result<Self, RangeError> {
        if value >= 0.0 && value <= 1.0 { Ok(Self(value)) } else { Err(RangeError::Probability { value }) }
    }

    /// Creates a probability from a valid constant.
    ///
    /// # Panics
    /// If `value` lies outside [0, 1].
    #[must_use]
    pub const fn known(value: f64) -> Self {
        match Self::new(value) {
            Ok(probability) => probability,
            Err(_) => panic!("a constant probability lies in [0, 1]"),
        }
    }

    /// Value as a number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Samples whether the event happens. Consumes exactly one number from `rng`, whatever the probability.
    pub(super) fn sample(self, rng: &mut impl Rng) -> bool {
        rng.random::<f64>() < self.0
    }
}

impl TryFrom<f64> for Probability {
    type Error = RangeError;
    fn try_from(value: f64) -> Result<Self, RangeError> {
        Self::new(value)
    }
}

impl From<Probability> for f64 {
    fn from(probability: Probability) -> Self {
        probability.0
    }
}

/// Closed interval with finite ends; in a configuration, `[low, high]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f32; 2]", into = "[f32; 2]")]
pub struct Range {
    low: f32,
    high: f32,
}

impl Range {
    /// Validates the ends.
    ///
    /// # Errors
    /// [`RangeError::Order`] if an end is not finite or `low > high`.
    pub const fn new(low: f32, high: f32) -> Result<Self, RangeError> {
        if low.is_finite() && high.is_finite() && low <= high {
            Ok(Self { low, high })
        } else {
            Err(RangeError::Order { low, high })
        }
    }

    /// Creates a range from valid constants.
    ///
    /// # Panics
    /// If [`Range::new`] fails.
    #[must_use]
    pub const fn known(low: f32, high: f32) -> Self {
        match Self::new(low, high) {
            Ok(range) => range,
            Err(_) => panic!("a constant range has finite ends in order"),
        }
    }

    /// Lower end of the range.
    #[must_use]
    pub const fn low(self) -> f32 {
        self.low
    }

    /// Upper end of the range.
    #[must_use]
    pub const fn high(self) -> f32 {
        self.high
    }

    /// Samples a number uniformly. Consumes exactly one number from `rng`.
    pub(super) fn sample(self, rng: &mut impl Rng) -> f32 {
        // Computed in f64: only the final conversion can leave the range, and the clamp corrects it.
        let at = rng.random::<f64>();
        let value = f64::from(self.low) + (f64::from(self.high) - f64::from(self.low)) * at;
        (value as f32).clamp(self.low, self.high)
    }
}

impl TryFrom<[f32; 2]> for Range {
    type Error = RangeError;
    fn try_from([low, high]: [f32; 2]) -> Result<Self, RangeError> {
        Self::new(low, high)
    }
}

impl From<Range> for [f32; 2] {
    fn from(range: Range) -> Self {
        [range.low, range.high]
    }
}

/// [`Range`] above zero, for factors, exponents and widths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f32; 2]", into = "[f32; 2]")]
pub struct PositiveRange(Range);

impl PositiveRange {
    /// Validates the ends.
    ///
    /// # Errors
    /// [`RangeError::Order`] like [`Range::new`]; [`RangeError::Sign`] if `low` is not above zero.
    pub const fn new(low: f32, high: f32) -> Result<Self, RangeError> {
        match Range::new(low, high) {
            Ok(range) if low > 0.0 => Ok(Self(range)),
            Ok(_) => Err(RangeError::Sign { low, high }),
            Err(error) => Err(error),
        }
    }

    /// Creates a positive range from valid constants.
    ///
    /// # Panics
    /// If [`PositiveRange::new`] fails.
    #[must_use]
    pub const fn known(low: f32, high: f32) -> Self {
        match Self::new(low, high) {
            Ok(range) => range,
            Err(_) => panic!("a constant positive range has ends above zero in order"),
        }
    }

    /// Converts to a [`Range`].
    #[must_use]
    pub const fn range(self) -> Range {
        self.0
    }

    /// Samples a number uniformly. Consumes exactly one number from `rng`.
    pub(super) fn sample(self, rng: &mut impl Rng) -> f32 {
        self.0.sample(rng)
    }

    /// Samples a number that is below 1 as often as above it and uniform on either side, as nnU-Net does for contrast,
    /// brightness and gamma.
    ///
    /// A range on one side of 1 is sampled uniformly. Consumes exactly two numbers from `rng`.
    pub(super) fn sample_about_one(self, rng: &mut impl Rng) -> f32 {
        let Range { low, high } = self.0;
        let below = rng.random::<f64>() < 0.5;
        let side = if low >= 1.0 || high <= 1.0 {
            self.0
        } else if below {
            Range { low, high: 1.0 }
        } else {
            Range { low: 1.0, high }
        };
        side.sample(rng)
    }
}

impl TryFrom<[f32; 2]> for PositiveRange {
    type Error = RangeError;
    fn try_from([low, high]: [f32; 2]) -> Result<Self, RangeError> {
        Self::new(low, high)
    }
}

impl From<PositiveRange> for [f32; 2] {
    fn from(range: PositiveRange) -> Self {
        range.0.into()
    }
}

/// Writes the names of the axes whose element is true, such as ` x z`.
pub(super) fn write_axes(f: &mut fmt::Formatter<'_>, axes: [bool; 3]) -> fmt::Result {
    for (set, name) in axes.into_iter().zip(["x", "y", "z"]) {
        if set {
            write!(f, " {name}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{DrawId, Operation};

    #[test]
    fn invalid_numbers_are_rejected_while_parsing() {
        let check = |text: &str, expected: Option<Range>| {
            assert_eq!(serde_json::from_str::<Range>(text).ok(), expected, "{text}");
        };
        check("[0.5, 1.0]", Some(Range::known(0.5, 1.0)));
        check("[-1.0, -1.0]", Some(Range::known(-1.0, -1.0)));
        check("[1.0, 0.5]", None);
        check("[1.0]", None);
        assert!(serde_json::from_str::<PositiveRange>("[0.0, 1.0]").is_err());
        assert!(serde_json::from_str::<Probability>("1.01").is_err());
        assert!(Probability::new(f64::NAN).is_err());
    }

    #[test]
    fn half_of_the_numbers_about_1_are_below_it() {
        let range = PositiveRange::known(0.7, 1.5);
        let mut rng = DrawId { seed: 1, epoch: 0, case: 0, crop: 0 }.rng(Operation::Gamma);
        let values: Vec<f32> = (0..10_000).map(|_| range.sample_about_one(&mut rng)).collect();
        let below = values.iter().filter(|&&v| v < 1.0).count();
        assert!((4800..5200).contains(&below), "{below}");
        assert!(values.iter().all(|v| (0.7..=1.5).contains(v)));
    }
}
