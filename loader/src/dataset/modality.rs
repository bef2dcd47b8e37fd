//! Modality of an image by words in its name.

use std::collections::HashSet;

use super::ct_words::{CT_WORDS, has_ct_word};
use super::description::Description;
use super::roles::is_role_word;
use super::unused::reason::UnusedReason;
use super::words::words;
use crate::case::CaseFiles;
use crate::preprocess::normalize::Normalize;
use crate::volume::file_stem;

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

/// Images that a conversion takes, as far as names tell.
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

/// Converted cases of a folder by the names of their CTs without the words for modalities: `CHUM-001` for `CHUM-001__CT`. Only
/// names with a word for CT count, because it shows that such words of the other names mean modalities, too.
pub(super) struct CtCases(HashSet<Vec<String>>);

impl CtCases {
    /// Collects the names of the cases' images.
    pub(super) fn of(cases: &[CaseFiles]) -> Self {
        let stems = cases.iter().filter_map(|case| file_stem(case.image.file_name()?.to_str()?));
        Self(stems.filter(|stem| has_ct_word(stem) && other_modality(stem).is_none()).map(without_modality).collect())
    }

    /// The reason not to convert an image whose name has a `word` for another modality.
    pub(super) fn of_image(&self, stem: &str, word: String) -> UnusedReason {
        if self.has(stem) {
            UnusedReason::OtherModalityOfCase { word }
        } else {
            UnusedReason::NamedLikeOtherModality { word }
        }
    }

    /// The reason not to use a label map, where its name has the `word` for another modality than CT and is otherwise that of a
    /// CT, as `topcow_mr_001` is next to `topcow_ct_001`; `None` for all other label maps.
    pub(super) fn of_label(&self, stem: &str, word: Option<String>) -> Option<UnusedReason> {
        word.filter(|_| self.has(stem)).map(|word| UnusedReason::LabelOfOtherModality { word })
    }

    fn has(&self, stem: &str) -> bool {
        self.0.contains(&without_modality(stem))
    }
}

/// Words of a name, in lower case, without those for modalities, images and label maps and the number of a first channel.
fn without_modality(stem: &str) -> Vec<String> {
    let is_left_out = |word: &str| OTHER_MODALITIES.contains(&word) || is_role_word(word);
    let mut words: Vec<String> = words(stem).filter(|word| !is_left_out(word)).collect();
    words.pop_if(|last| *last == PET_AT_END);
    words
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
    use crate::case::ImageRole;

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

    #[test]
    fn images_of_other_modalities_are_joined_to_the_cts_of_their_cases() {
        let cts = ["CHUM-001__CT", "topcow_ct_001_0000", "ct_train_1001_image", "p7", "q_PET_CT"];
        let cts = cts.map(|stem| CaseFiles {
            dataset: "D".into(),
            case_id: stem.into(),
            image: format!("{stem}.nii.gz").into(),
            slices: Vec::new(),
            role: ImageRole::Assumed,
            label: None,
        });
        let cts = CtCases::of(&cts);
        for name in ["CHUM-001__PT", "topcow_mr_001_0000", "topcow_mr_001", "mr_train_1001_label"] {
            assert!(cts.has(name), "{name}");
        }
        // A scan without a word for CT may be of any modality, and `t1` a time.
        for name in ["CHUM-002__PT", "topcow_mr_002", "p7_t1", "q_t1"] {
            assert!(!cts.has(name), "{name}");
        }
    }
}
