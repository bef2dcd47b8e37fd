//! Label maps of several organs in one dataset, by their names.
//!
//! Where classes have no names, the value 1 is one class in all label maps of a dataset. Names such as `liver_seg` in one case and
//! `spleen_seg` in another say otherwise. They may also name who made a label map, so that the cases are converted, with a warning.

use std::collections::BTreeSet;

use super::roles::loose_key;
use super::words::parts;
use super::{Dataset, DatasetNote};
use crate::case::{CaseFiles, LabelFiles};
use crate::volume::file_stem;

/// Words for the version or the origin of a label map, whatever it shows: `seg_v2`, `seg_final`.
const VERSION_WORDS: [&str; 6] = ["v", "version", "final", "corrected", "manual", "auto"];

/// Organs whose names in those of cases, or of the folders around them, tell label maps apart. Other words there are names of
/// hospitals and patients.
const ORGANS: [&str; 26] = [
    "airway",
    "aorta",
    "bladder",
    "bone",
    "bowel",
    "brain",
    "colon",
    "duodenum",
    "esophagus",
    "gallbladder",
    "heart",
    "kidney",
    "larynx",
    "liver",
    "lung",
    "pancreas",
    "pelvis",
    "prostate",
    "rectum",
    "rib",
    "spine",
    "spleen",
    "stomach",
    "thyroid",
    "trachea",
    "uterus",
];

impl Dataset {
    /// Renews the note on label maps that are of different organs by their names. There is none where classes have names.
    pub(super) fn renew_label_kinds(&mut self) {
        self.notes.retain(|note| !matches!(note, DatasetNote::LabelKinds { .. }));
        if !self.labels.is_empty() || !self.regions.is_empty() {
            return;
        }
        let labelled = || self.cases.iter().filter_map(Labelled::of);
        let by_words = two_kinds(labelled().map(|case| (case.words(), case)));
        let by_organs = || {
            let organs = labelled().map(|case| (case.organs(), case));
            two_kinds(organs.filter(|(organs, _)| !organs.is_empty()))
        };
        let note = by_words.or_else(by_organs).map(|both| DatasetNote::LabelKinds {
            labels: both.map(|case| case.name.to_owned()),
            cases: both.map(|case| case.files.case_id.clone()),
        });
        self.notes.extend(note);
    }
}

/// A case with a label map.
#[derive(Clone, Copy)]
struct Labelled<'a> {
    files: &'a CaseFiles,
    /// File name of the label map.
    name: &'a str,
}

impl<'a> Labelled<'a> {
    /// The case, unless it has no label map or one mask for each class.
    fn of(files: &'a CaseFiles) -> Option<Self> {
        let Some(LabelFiles::Map(path)) = &files.label else { return None };
        Some(Self { files, name: path.file_name()?.to_str()? })
    }

    /// Words of the label map's name that are neither those of the case nor those for any label map or its version.
    fn words(self) -> BTreeSet<String> {
        let image = self.files.image.file_name().and_then(|name| file_stem(name.to_str()?)).unwrap_or_default();
        let own = parts(&format!("{}/{image}", self.files.case_id));
        let key = loose_key(file_stem(self.name).unwrap_or(self.name));
        let is_other = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit()) || VERSION_WORDS.contains(&word);
        let is_kind = |word: &&str| !is_other(word) && !own.iter().any(|own| own == word);
        key.split('_').filter(is_kind).map(str::to_owned).collect()
    }

    /// Organs in the name of the case.
    fn organs(self) -> BTreeSet<&'static str> {
        let organ = |word: String| {
            let is_it = |organ: &&str| word.strip_prefix(*organ).is_some_and(|rest| rest.is_empty() || rest == "s");
            ORGANS.into_iter().find(is_it)
        };
        parts(&self.files.case_id).into_iter().filter_map(organ).collect()
    }
}

/// The first case, and the first one of another kind; `None` if all are of one kind.
fn two_kinds<'a, K: PartialEq>(mut cases: impl Iterator<Item = (K, Labelled<'a>)>) -> Option<[Labelled<'a>; 2]> {
    let (kind, first) = cases.next()?;
    cases.find(|(other, _)| *other != kind).map(|(_, second)| [first, second])
}
