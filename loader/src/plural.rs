//! Numbers with their nouns and units, for messages.

use std::fmt::Display;
use std::time::Duration;

/// Formats a whole number with its noun: `1 case`, `2 cases`, `0 classes`. The plural of `noun` takes an `s`, or `es`
/// after an `s` or a soft `ch`.
#[must_use]
pub fn count(number: impl Display + Copy, noun: &str) -> String {
    let number = number.to_string();
    let ending = match number.as_str() {
        "1" => "",
        _ if noun.ends_with('s') || noun.ends_with("ch") && !noun.ends_with("epoch") => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}

/// Formats a duration with at most two units: `8 s`, `3 min 10 s`, `2 h 05 min`, `4 d 03 h`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{minutes} min {:02} s", secs % 60),
        3600..86_400 => format!("{hours} h {minutes:02} min"),
        _ => format!("{days} d {hours:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_at_most_two_units() {
        let check = |secs, expected: &str| assert_eq!(duration(Duration::from_secs(secs)), expected);
        check(59, "59 s");
        check(61, "1 min 01 s");
        check(3600 * 5 + 125, "5 h 02 min");
        check(86_400 * 2 + 3 * 3600, "2 d 03 h");
    }

    #[test]
    fn nouns_follow_their_numbers() {
        assert_eq!(count(1usize, "case"), "1 case");
        assert_eq!(count(0u64, "other rank"), "0 other ranks");
        assert_eq!([1, 2].map(|n| count(n, "class")), ["1 class", "2 classes"]);
        assert_eq!([1, 2].map(|n| count(n, "batch")), ["1 batch", "2 batches"]);
        assert_eq!([1, 2].map(|n| count(n, "epoch")), ["1 epoch", "2 epochs"]);
    }
}
