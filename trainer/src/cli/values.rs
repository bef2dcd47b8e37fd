//! Parsers of numbers on the command line, with their valid ranges.

use std::str::FromStr;

use hiend_loader::program::Expected;

/// Parses a whole number of at least 1.
///
/// # Errors
/// If the text is another number or none.
pub(super) fn parse_positive<T: FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, Expected> {
    let value = text.parse::<T>().ok().filter(|value| *value >= T::from(1));
    value.ok_or(Expected("a whole number from 1 on"))
}

/// Parses a whole number of at least 0 into an unsigned type.
///
/// # Errors
/// If the text is another number or none.
pub(super) fn parse_whole<T: FromStr>(text: &str) -> Result<T, Expected> {
    text.parse::<T>().ok().ok_or(Expected("a whole number from 0 on"))
}

/// Parses a number of bootstrap resamples. Fewer than 100 have no 2.5% at either end, and their interval may lie beside the
/// mean.
///
/// # Errors
/// If the text is not 0, and not a whole number from 100 to a million.
pub(super) fn parse_resamples(text: &str) -> Result<u32, Expected> {
    let value = text.parse().ok().filter(|value| matches!(value, 0 | 100..=1_000_000));
    value.ok_or(Expected("0 for no intervals, or a whole number from 100 to 1000000"))
}

/// Parses a fraction from 0 to less than 1.
///
/// # Errors
/// If the text is another number or none.
pub(super) fn parse_fraction(text: &str) -> Result<f64, Expected> {
    number(text, |value| (0.0..1.0).contains(&value)).ok_or(Expected("a fraction from 0 to less than 1"))
}

/// Parses a fraction above 0 and below 1.
///
/// # Errors
/// If the text is another number or none.
pub(super) fn parse_proper_fraction(text: &str) -> Result<f64, Expected> {
    number(text, |value| value > 0.0 && value < 1.0).ok_or(Expected("a fraction above 0 and below 1"))
}

/// Parses a distance in mm.
///
/// # Errors
/// If the text is not a number of 0 or more.
pub(super) fn parse_mm(text: &str) -> Result<f64, Expected> {
    number(text, |value| value.is_finite() && value >= 0.0).ok_or(Expected("a distance in mm of 0 or more"))
}

fn number(text: &str, is_valid: impl Fn(f64) -> bool) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|&value| is_valid(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_begin_at_0_or_1() {
        assert_eq!((parse_whole::<u64>("0"), parse_positive::<usize>("1")), (Ok(0), Ok(1)));
        assert!(parse_positive::<u64>("0").is_err());
        for text in ["-1", "", "1.5", "x", "99999999999999999999"] {
            assert!(parse_whole::<u64>(text).is_err() && parse_positive::<usize>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn resamples_are_none_or_enough_for_an_interval() {
        for (text, expected) in [("0", 0), ("100", 100), ("1000000", 1_000_000)] {
            assert_eq!(parse_resamples(text), Ok(expected));
        }
        for text in ["1", "99", "1000001", "-1", "x", ""] {
            assert!(parse_resamples(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let check = |parse: fn(&str) -> Result<f64, Expected>, valid: &[&str], invalid: &[&str]| {
            for text in valid {
                assert!(parse(text).is_ok(), "{text}");
            }
            for text in invalid.iter().chain(&["", "x", "-1", "-0.1", "NaN", "inf", "-inf"]) {
                assert!(parse(text).is_err(), "{text}");
            }
        };
        check(parse_fraction, &["0", "0.5", "0.999"], &["1", "1.5"]);
        check(parse_proper_fraction, &["0.5", "0.999"], &["0", "1", "1.5"]);
        check(parse_mm, &["0", "0.5", "30"], &[]);
    }
}
