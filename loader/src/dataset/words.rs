//! Words of file and folder names.

/// Words of a name in lower case, split at everything that is not a letter or digit.
pub(super) fn words(name: &str) -> impl Iterator<Item = String> + '_ {
    separate(name).map(str::to_lowercase)
}

/// Splits as [`words`] does, and between letters and digits too: `label0001` is `label`, `0001`.
pub(super) fn parts(name: &str) -> Vec<String> {
    pieces(name).map(str::to_lowercase).collect()
}

/// Splits as [`parts`] does, without a change to lower case.
pub(super) fn pieces(name: &str) -> impl Iterator<Item = &str> {
    separate(name).flat_map(|word| split(word, |chars, at| is_digit_border(chars[at - 1], chars[at])))
}

/// Splits a word where its case changes, into lower case: `TrainingImg` is `training`, `img`, and `CTScans` is `ct`, `scans`.
/// A plural of capitals stays whole: `CTs`.
pub(super) fn by_case(word: &str) -> impl Iterator<Item = String> + '_ {
    split(word, is_case_border).into_iter().map(str::to_lowercase)
}

fn separate(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn is_digit_border(before: char, here: char) -> bool {
    before.is_ascii_digit() != here.is_ascii_digit()
}

fn is_case_border(chars: &[char], at: usize) -> bool {
    let (before, here) = (chars[at - 1], chars[at]);
    let is_lower = |at: usize| chars.get(at).is_some_and(|c| c.is_lowercase());
    let begins_after_capitals = before.is_uppercase() && is_lower(at + 1) && is_lower(at + 2);
    here.is_uppercase() && (before.is_lowercase() || begins_after_capitals)
}

/// Splits a nonempty word before each character, except the first, for whose position `is_border` returns true.
fn split(word: &str, is_border: impl Fn(&[char], usize) -> bool) -> Vec<&str> {
    let (places, chars): (Vec<usize>, Vec<char>) = word.char_indices().unzip();
    let mut borders = vec![0];
    borders.extend((1..chars.len()).filter(|&at| is_border(&chars, at)).map(|at| places[at]));
    borders.push(word.len());
    borders.windows(2).map(|ends| &word[ends[0]..ends[1]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_digits_and_at_changes_of_case() {
        assert_eq!(words("sub-01_T1w.é").collect::<Vec<_>>(), ["sub", "01", "t1w", "é"]);
        assert_eq!(parts("label0001-Éa2b"), ["label", "0001", "éa", "2", "b"]);
        for (word, expected) in [
            ("TrainingImg", "training img"),
            ("trainingImages", "training images"),
            ("CTScans", "ct scans"),
            ("CTs", "cts"),
            ("ROIs", "rois"),
            ("GTVp", "gtvp"),
            ("mastoid", "mastoid"),
            ("orig", "orig"),
            ("É", "é"),
        ] {
            assert_eq!(by_case(word).collect::<Vec<_>>().join(" "), expected, "{word}");
        }
        assert!(parts("").is_empty() && parts("_-").is_empty());
    }
}
