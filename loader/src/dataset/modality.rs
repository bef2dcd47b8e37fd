//! Modality of an image by words in its name.

use super::ct_words::CT_WORDS;
use super::description::Description;
use super::words::words;
use crate::preprocess::normalize::Normalize;

/// Words that mark an image of another modality: names of modalities, and of sequences as datasets of MR write them.
const OTHER_MODALITIES: [&str; 37] = [
    "mri",
    "mr",
    "mrt",
    "mra",
    "t1",
    "t1w",
    "t1c",
    "t1ce",
    "t1gd",
    "t1n",
    "t1map",
    "t1rho",
    "t2",
    "t2w",
    "t2f",
    "t2s",
    "t2star",
    "t2map",
    "pdw",
    "pdwi",
    "flair",
    "stir",
    "dwi",
    "dti",
    "adc",
    "swi",
    "asl",
    "tof",
    "mprage",
    "mp2rage",
    "vibe",
    "pet",
    "suv",
    "spect",
    "ultrasound",
    "rtdose",
    "dose",
];
/// Words of [`OTHER_MODALITIES`] that count even next to a word for CT: an image named `PET_CT` may be either.
const NEXT_TO_CT: [&str; 2] = ["pet", "suv"];
/// Word for PET that often stands for "patient" too, so it counts only at the end of a name, as in `CHUM-001__PT`.
const PET_AT_END: &str = "pt";
/// Images that a conversion takes, as far as names say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Modalities {
    /// CTs: an image named like one of another modality is left out.
    #[default]
    Ct,
    /// Images of every modality, for z-scores.
    All,
}

impl From<Normalize> for Modalities {
    fn from(normalize: Normalize) -> Self {
        match normalize {
            Normalize::Hu => Self::Ct,
            Normalize::Zscore => Self::All,
        }
    }
}

impl Modalities {
    /// Images to take, by their names, from a dataset with this description: all images if all channels of the
    /// description are CTs. A name decides only if nothing else does.
    pub(super) fn by_name(self, description: Option<&Description>) -> Self {
        match description {
            Some(description) if description.has_only_cts() => Self::All,
            _ => self,
        }
    }

    /// Word of a name for which an image is left out.
    pub(super) fn foreign_word(self, stem: &str) -> Option<String> {
        match self {
            Self::Ct => other_modality(stem),
            Self::All => None,
        }
    }
}

/// The word of a name that marks another modality than CT; `None` also for most names that have a word for CT as well,
/// such as `CT_T1_tumour`. In `PET-CT_001_CT`, the first two words name the study, and the last one the image.
fn other_modality(stem: &str) -> Option<String> {
    let mut words: Vec<String> = words(stem).collect();
    let is_ct_word = |word: &String| CT_WORDS.contains(&word.as_str());
    let is_pet_word = |word: &String| NEXT_TO_CT.contains(&word.as_str());
    let study = words.windows(2).position(|pair| {
        (is_pet_word(&pair[0]) && is_ct_word(&pair[1])) || (is_ct_word(&pair[0]) && is_pet_word(&pair[1]))
    });
    if let Some(at) = study {
        let is_decided = |word: &String| is_ct_word(word) || is_pet_word(word);
        if words[..at].iter().chain(&words[at + 2..]).any(is_decided) {
            words.drain(at..at + 2);
        }
    }
    let is_ct = words.iter().any(is_ct_word);
    let is_other =
        |word: &&String| OTHER_MODALITIES.contains(&word.as_str()) && (!is_ct || NEXT_TO_CT.contains(&word.as_str()));
    let at_end = || words.iter().skip(1).last().filter(|last| !is_ct && *last == PET_AT_END);
    words.iter().find(is_other).or_else(at_end).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_modalities_are_known_by_name() {
        assert_eq!(other_modality("mri"), Some("mri".into()));
        assert_eq!(other_modality("patient_T1"), Some("t1".into()));
        for (name, word) in [("PDw", "pdw"), ("sub-1_T1map", "t1map"), ("a_T2star", "t2star"), ("PET_CT", "pet")] {
            assert_eq!(other_modality(name).as_deref(), Some(word), "{name}");
        }
        for name in ["CHUM-001__PT", "case_7_pt"] {
            assert_eq!(other_modality(name).as_deref(), Some("pt"), "{name}");
        }
        for name in ["PET-CT_001_PET", "CT_PET_7", "case_SUV"] {
            assert!(other_modality(name).is_some(), "{name}");
        }
        for name in ["PET-CT_001_CT", "pet_ct-7_CTres", "PETCT_001"] {
            assert_eq!(other_modality(name), None, "{name}");
        }
        for name in ["CHUM-001__CT", "pt_001", "PT-7-scan", "pt", "pt7", "ct_pt"] {
            assert_eq!(other_modality(name), None, "{name}");
        }
        // A word for CT shows that `T1` is a stage of tumours, and whole words only count.
        for name in ["patient_1", "CT_T1_tumour", "ct-low-dose", "thoracic_cta_t2", "t12_vertebra", "mrs_smith", "pet1"]
        {
            assert_eq!(other_modality(name), None, "{name}");
        }
    }
}
