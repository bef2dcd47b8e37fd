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
