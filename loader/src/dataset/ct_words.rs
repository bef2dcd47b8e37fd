//! Words that mark a CT in the name of an image, or of a channel in `dataset.json`.

use super::words::words;

/// Name of a CT on the grid of a PET and of its label map, as in `AutoPET`.
pub(super) const RESAMPLED_CT: &str = "ctres";

/// Words that mark a CT.
pub(super) const CT_WORDS: [&str; 3] = ["ct", "cta", RESAMPLED_CT];

/// Returns true if a name has a word for CT.
pub(super) fn has_ct_word(name: &str) -> bool {
    words(name).any(|word| CT_WORDS.contains(&word.as_str()))
}

/// Returns true for a channel name of a CT. nnU-Net treats a channel as a CT if it is named so; the Decathlon writes
/// "CT", others "computed tomography". Positron emission tomography does not count.
pub(super) fn is_ct_channel(name: &str) -> bool {
    let words: Vec<String> = words(name).collect();
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    has_ct_word(name) || (has("tomography") && ["computed", "computerized", "computerised"].into_iter().any(has))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_ct_are_known_by_whole_words() {
        for name in ["CT", "ct_portal", "Low-dose CT", "computed tomography", "Computerized Tomography (chest)"] {
            assert!(is_ct_channel(name), "{name}");
        }
        for name in ["MRI", "T1", "PDw", "positron emission tomography", "OCT", "actual", "noNorm"] {
            assert!(!is_ct_channel(name), "{name}");
        }
    }
}
