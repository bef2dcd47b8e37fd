//! Numbers with their nouns, for messages.

use std::fmt::Display;

/// A whole number with its noun: `1 case`, `2 cases`, `0 classes`. The plural of `noun` takes an `s`, or `es` after an `s`
/// or `ch`.
#[must_use]
pub fn count(number: impl Display + Copy, noun: &str) -> String {
    let number = number.to_string();
    let ending = match number.as_str() {
        "1" => "",
        _ if noun.ends_with('s') || noun.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_follow_their_numbers() {
        assert_eq!(count(1usize, "case"), "1 case");
        assert_eq!(count(0u64, "other rank"), "0 other ranks");
        assert_eq!([1, 2].map(|n| count(n, "class")), ["1 class", "2 classes"]);
        assert_eq!([1, 2].map(|n| count(n, "batch")), ["1 batch", "2 batches"]);
    }
}
