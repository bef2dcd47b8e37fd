//! Probabilities and ranges as a config gives them: checked while parsing, so that a draw cannot fail.

use std::fmt;

use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

/// Why a number in a config cannot be a probability or a range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum RangeError {
    /// Not within 0 and 1.
    #[error("{value} is not a probability: it must lie in [0, 1]")]
    Probability {
        /// What was given.
        value: f64,
    },
    /// Not finite, or the ends are swapped.
    #[error("[{low}, {high}] is not a range: both ends must be finite and the first no greater than the second")]
    Order {
        /// The first end given.
        low: f32,
        /// The second end given.
        high: f32,
    },
    /// Contains zero or negative numbers where only positive ones have a meaning.
    #[error("[{low}, {high}] must lie above zero")]
    Sign {
        /// The first end given.
        low: f32,
        /// The second end given.
        high: f32,
    },
}

/// A number in [0, 1]; in a config, a plain number. Zero switches a transform off.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

impl Probability {
    /// Checks `value`.
    ///
    /// # Errors
    /// [`RangeError::Probability`] outside [0, 1].
    pub const fn new(value: f64) -> Result<Self, RangeError> {
        if value >= 0.0 && value <= 1.0 { Ok(Self(value)) } else { Err(RangeError::Probability { value }) }
    }

    /// A probability known when the program is written.
    ///
    /// # Panics
    /// Outside [0, 1].
    #[must_use]
    pub const fn known(value: f64) -> Self {
        match Self::new(value) {
            Ok(probability) => probability,
            Err(_) => panic!("a known probability lies in [0, 1]"),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// Throws the coin: exactly one draw is taken from `rng`, whatever the probability.
    pub(super) fn throw(self, rng: &mut impl Rng) -> bool {
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

/// A closed interval of finite numbers; in a config, `[low, high]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f32; 2]", into = "[f32; 2]")]
pub struct Range {
    low: f32,
    high: f32,
}

impl Range {
    /// Checks the ends.
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

    /// A range known when the program is written.
    ///
    /// # Panics
    /// Where [`Range::new`] fails.
    #[must_use]
    pub const fn known(low: f32, high: f32) -> Self {
        match Self::new(low, high) {
            Ok(range) => range,
            Err(_) => panic!("a known range has ordered, finite ends"),
        }
    }

    /// The lower end.
    #[must_use]
    pub const fn low(self) -> f32 {
        self.low
    }

    /// The upper end.
    #[must_use]
    pub const fn high(self) -> f32 {
        self.high
    }

    /// Uniform over the range: exactly one draw is taken from `rng`.
    pub(super) fn draw(self, rng: &mut impl Rng) -> f32 {
        // In f64, so that rounding cannot leave the range by more than the last conversion, which the clamp undoes.
        let at = rng.random::<f64>();
        let drawn = f64::from(self.low) + (f64::from(self.high) - f64::from(self.low)) * at;
        (drawn as f32).clamp(self.low, self.high)
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

/// A [`Range`] above zero: for factors, exponents and widths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f32; 2]", into = "[f32; 2]")]
pub struct PositiveRange(Range);

impl PositiveRange {
    /// Checks the ends.
    ///
    /// # Errors
    /// [`RangeError::Order`] as [`Range::new`], [`RangeError::Sign`] if `low` is not above zero.
    pub const fn new(low: f32, high: f32) -> Result<Self, RangeError> {
        match Range::new(low, high) {
            Ok(range) if low > 0.0 => Ok(Self(range)),
            Ok(_) => Err(RangeError::Sign { low, high }),
            Err(error) => Err(error),
        }
    }

    /// A range known when the program is written.
    ///
    /// # Panics
    /// Where [`PositiveRange::new`] fails.
    #[must_use]
    pub const fn known(low: f32, high: f32) -> Self {
        match Self::new(low, high) {
            Ok(range) => range,
            Err(_) => panic!("a known positive range has ordered ends above zero"),
        }
    }

    /// The range without its promise.
    #[must_use]
    pub const fn range(self) -> Range {
        self.0
    }

    /// Uniform over the range.
    pub(super) fn draw(self, rng: &mut impl Rng) -> f32 {
        self.0.draw(rng)
    }

    /// As likely below 1 as above it, uniform within either side: nnU-Net's law for contrast, brightness and gamma.
    ///
    /// A range that lies on one side of 1 is drawn uniformly. Always two draws are taken from `rng`.
    pub(super) fn draw_about_one(self, rng: &mut impl Rng) -> f32 {
        let Range { low, high } = self.0;
        let below = rng.random::<f64>() < 0.5;
        let side = if low >= 1.0 || high <= 1.0 {
            self.0
        } else if below {
            Range { low, high: 1.0 }
        } else {
            Range { low: 1.0, high }
        };
        side.draw(rng)
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

/// Names of the axes that are set, as `x z`.
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
    fn a_config_is_checked_while_it_is_parsed() {
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
    fn draws_about_one_are_halved_by_it() {
        let range = PositiveRange::known(0.7, 1.5);
        let mut rng = DrawId { seed: 1, epoch: 0, case: 0, crop: 0 }.rng(Operation::Gamma);
        let drawn: Vec<f32> = (0..10_000).map(|_| range.draw_about_one(&mut rng)).collect();
        let below = drawn.iter().filter(|&&v| v < 1.0).count();
        assert!((4800..5200).contains(&below), "{below}");
        assert!(drawn.iter().all(|v| (0.7..=1.5).contains(v)));
    }
}
