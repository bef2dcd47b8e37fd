//! Words in file and folder names that distinguish images from label maps and join the two.

use super::description::Description;
use crate::preprocess::normalize::Normalize;

/// Words that mark a label map.
const LABEL_WORDS: [&str; 25] = [
    "label",
    "labels",
    "labelmap",
    "labelmaps",
    "seg",
    "segs",
    "segm",
    "segmentation",
    "segmentations",
    "mask",
    "masks",
    "msk",
    "gt",
    "groundtruth",
    "annotation",
    "annotations",
    "annot",
    "contour",
    "contours",
    "roi",
    "rois",
    "pred",
    "preds",
    "prediction",
    "predictions",
];
/// Words of [`LABEL_WORDS`] that mark the output of a model. A file with such a name is not an image, and a folder with such a
/// name is not a folder of label maps.
const PREDICTION_WORDS: [&str; 4] = ["pred", "preds", "prediction", "predictions"];
/// Words that mark a CT image and do not belong to the case's name.
const IMAGE_WORDS: [&str; 13] = [
    "ct",
    "cta",
    "image",
    "images",
    "img",
    "imgs",
    "imaging",
    "volume",
    "volumes",
    "vol",
    "scan",
    "scans",
    FIRST_CHANNEL,
];
/// Number of a case's first channel at the end of a name.
const FIRST_CHANNEL: &str = "0000";
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
/// Words of [`OTHER_MODALITIES`] that count even next to a word for CT: `PET_CT` is either of the two.
const NEXT_TO_CT: [&str; 2] = ["pet", "suv"];
/// Word for PET that often stands for "patient" too: it counts at the end of a name only, as in `CHUM-001__PT`.
const PET_AT_END: &str = "pt";
/// Words that mark a CT.
const CT_WORDS: [&str; 2] = ["ct", "cta"];
/// Names of folders of images that have a folder of label maps next to them.
const IMAGE_FOLDERS: [&str; 12] =
    ["images", "image", "img", "imgs", "imaging", "volumes", "volume", "ct", "cts", "scans", "scan", "data"];

/// Words for the parts of a dataset in names of folders, in the order in which they count.
const SPLIT_WORDS: [(&str, Split); 26] = [
    ("train", Split::Training),
    ("training", Split::Training),
    ("trainset", Split::Training),
    ("imagestr", Split::Training),
    ("labelstr", Split::Training),
    ("test", Split::Test),
    ("tests", Split::Test),
    ("testing", Split::Test),
    ("testset", Split::Test),
    ("testdata", Split::Test),
    ("imagests", Split::Test),
    ("labelsts", Split::Test),
    ("imagestest", Split::Test),
    ("labelstest", Split::Test),
    ("inferts", Split::Test),
    ("val", Split::Validation),
    ("valid", Split::Validation),
    ("valset", Split::Validation),
    ("validation", Split::Validation),
    ("validating", Split::Validation),
    ("imagesva", Split::Validation),
    ("labelsva", Split::Validation),
    ("imagesval", Split::Validation),
    ("labelsval", Split::Validation),
    ("imagesvalidation", Split::Validation),
    ("labelsvalidation", Split::Validation),
];

/// Words of a name in lower case, split at everything that is not a letter or digit.
fn words(name: &str) -> impl Iterator<Item = String> + '_ {
    name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Splits as [`words`] does, and between letters and digits too: `label0001` is `label`, `0001`.
fn parts(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for word in words(name) {
        let mut last_is_digit = None;
        for c in word.chars() {
            let is_digit = c.is_ascii_digit();
            match parts.last_mut().filter(|_| last_is_digit == Some(is_digit)) {
                Some(part) => part.push(c),
                None => parts.push(c.into()),
            }
            last_is_digit = Some(is_digit);
        }
    }
    parts
}

/// Returns true if a file name's stem is that of a label map.
pub(super) fn is_label_name(stem: &str) -> bool {
    parts(stem).iter().any(|part| LABEL_WORDS.contains(&part.as_str()))
}

/// Returns true if a folder's name says that it holds label maps: `masks`, `Ground-truth`, and whatever begins with
/// `label`, such as `labelsTr2200`. Folders of labelled scans (`labelled`) hold images, and those of predictions neither.
pub(super) fn is_label_folder(name: &str) -> bool {
    if is_prediction_folder(name) {
        return false;
    }
    let parts = parts(name);
    let is_label = |part: &String| {
        part.starts_with("label") && !["labeled", "labelled"].iter().any(|other| part.starts_with(other))
    };
    parts.iter().any(is_label) || parts.concat().contains("groundtruth") || is_label_name(name)
}

/// Returns true if a folder's name says that it holds predictions of a model.
pub(super) fn is_prediction_folder(name: &str) -> bool {
    parts(name).iter().any(|part| PREDICTION_WORDS.contains(&part.as_str()))
}

/// Returns true if a folder's name says nothing but that it holds images.
pub(super) fn is_image_folder(name: &str) -> bool {
    IMAGE_FOLDERS.contains(&name.to_lowercase().as_str())
}

/// Returns true if a folder's name says, among other things, that it holds images: `imagesTr2200`, `Case_Images`.
pub(super) fn is_like_image_folder(name: &str) -> bool {
    let is_image = parts(name).iter().any(|part| part.starts_with("image"));
    is_image_folder(name) || (is_image && !is_label_folder(name) && !is_prediction_folder(name))
}

/// Part of a dataset by its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    Training,
    Validation,
    Test,
}

impl Split {
    /// The part that a folder's name says; `None` for other names.
    pub(super) fn of(name: &str) -> Option<Self> {
        let parts = parts(name);
        let (_, split) = SPLIT_WORDS.iter().find(|(word, _)| parts.iter().any(|part| part == word))?;
        Some(*split)
    }

    /// Returns true if a folder's name says that its files are kept apart from training.
    pub(super) fn is_apart(name: &str) -> bool {
        matches!(Self::of(name), Some(Self::Validation | Self::Test))
    }
}

/// Returns true if a stem consists of words for images only: `ct`, `imaging`, `image_0000`.
pub(super) fn is_generic_image_name(stem: &str) -> bool {
    parts(stem).iter().all(|part| IMAGE_WORDS.contains(&part.as_str()))
}

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
    /// Images to take by their names from a dataset with this description: those of any name where all its channels are
    /// CTs. A name decides only where nothing else does.
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
/// such as `CT_T1_tumour`.
fn other_modality(stem: &str) -> Option<String> {
    let is_ct = has_ct_word(stem);
    let is_other = |word: &str| OTHER_MODALITIES.contains(&word) && (!is_ct || NEXT_TO_CT.contains(&word));
    let at_end = || words(stem).skip(1).last().filter(|last| !is_ct && last == PET_AT_END);
    words(stem).find(|word| is_other(word)).or_else(at_end)
}

fn has_ct_word(name: &str) -> bool {
    words(name).any(|word| CT_WORDS.contains(&word.as_str()))
}

/// Returns true for a channel name of a CT. nnU-Net treats a channel as a CT if it is named so; the Decathlon writes
/// "CT", others "computed tomography". Positron emission tomography is none.
pub(super) fn is_ct_channel(name: &str) -> bool {
    let words: Vec<String> = words(name).collect();
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    has_ct_word(name) || (has("tomography") && ["computed", "computerized", "computerised"].into_iter().any(has))
}

/// Case part of a stem: its parts without words for images and label maps, and without the number of a first channel. Equal
/// for the image and the label map of a case: `img0001` and `label0001`, `volume-7` and `segmentation-7`, `p1_ct` and
/// `p1_seg`.
pub(super) fn case_key(stem: &str) -> String {
    key_of(stem, is_role_word)
}

/// Case part of a stem with its number: as [`case_key`], but `0000` remains.
pub(super) fn numbered_key(stem: &str) -> String {
    key_of(stem, |part| part != FIRST_CHANNEL && is_role_word(part))
}

fn key_of(stem: &str, is_left_out: impl Fn(&str) -> bool) -> String {
    parts(stem).into_iter().filter(|part| !is_left_out(part)).collect::<Vec<_>>().join("_")
}

fn is_role_word(part: &str) -> bool {
    LABEL_WORDS.contains(&part) || IMAGE_WORDS.contains(&part)
}

/// Splits `case_0003` into the case and the channel.
pub(super) fn channel(stem: &str) -> Option<(&str, u16)> {
    let (case_id, channel) = stem.rsplit_once('_')?;
    let is_channel = channel.len() == 4 && channel.bytes().all(|byte| byte.is_ascii_digit());
    Some((case_id, channel.parse().ok().filter(|_| is_channel && !case_id.is_empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_maps_are_known_by_name() {
        for name in ["label0001", "case_1_seg", "GT", "p1-mask", "segmentation", "liver_mask", "segmentation-12"] {
            assert!(is_label_name(name), "{name}");
        }
        for name in ["img0001", "volume-12", "imaging", "ct", "liver_001", "SegTHOR_01", "masked_man", "gtr_1"] {
            assert!(!is_label_name(name), "{name}");
        }
        for name in ["labelsTr", "segmentations", "Masks", "label", "ground_truth", "Ground-truth", "GroundTruth"] {
            assert!(is_label_folder(name), "{name}");
        }
        for name in ["labelsTr2200", "labelTr", "labels_final", "averaged-training-labels", "Label2022"] {
            assert!(is_label_folder(name), "{name}");
        }
        for name in ["imagesTr", "case_00000", "labelled", "LabeledCase50", "unlabeled"] {
            assert!(!is_label_folder(name), "{name}");
        }
        for name in ["predictions", "pred", "labels_pred", "Prediction-5", "image_preds"] {
            assert!(is_prediction_folder(name) && !is_label_folder(name) && !is_like_image_folder(name), "{name}");
        }
    }

    #[test]
    fn folders_of_images_are_known_by_name() {
        for name in ["images", "CTs", "img", "imagesTr2200", "Case_Images", "averaged-training-images"] {
            assert!(is_like_image_folder(name), "{name}");
        }
        for name in ["image_labels", "masks", "case_00000", "predictions"] {
            assert!(!is_like_image_folder(name), "{name}");
        }
    }

    #[test]
    fn parts_of_a_dataset_are_known_by_whole_words() {
        for (name, split) in [
            ("imagesTr", Some(Split::Training)),
            ("train_val", Some(Split::Training)),
            ("imagesTs", Some(Split::Test)),
            ("inferTs", Some(Split::Test)),
            ("Testing", Some(Split::Test)),
            ("images-test2", Some(Split::Test)),
            ("imagesVa", Some(Split::Validation)),
            ("labelsVal", Some(Split::Validation)),
            ("val", Some(Split::Validation)),
            ("testis", None),
            ("latest", None),
            ("valve", None),
            ("labelTr", None),
            ("imagesTr_extra", Some(Split::Training)),
        ] {
            assert_eq!(Split::of(name), split, "{name}");
        }
    }

    #[test]
    fn an_image_and_its_label_map_have_the_same_key() {
        for (image, label, key) in [
            ("img0001", "label0001", "0001"),
            ("volume-7", "segmentation-7", "7"),
            ("p1_ct", "p1_seg", "p1"),
            ("FLARE22_Tr_0001_0000", "FLARE22_Tr_0001", "flare_22_tr_0001"),
            ("imaging", "segmentation", ""),
        ] {
            assert_eq!((case_key(image), case_key(label)), (key.replace("p1", "p_1"), key.replace("p1", "p_1")));
        }
        assert_ne!(case_key("a_1"), case_key("a_2"));
    }

    #[test]
    fn channels_have_four_digits() {
        assert_eq!(channel("liver_001_0000"), Some(("liver_001", 0)));
        assert_eq!(channel("a_0012"), Some(("a", 12)));
        for stem in ["short_000", "noending", "a_00000", "a_+001", "_0000"] {
            assert_eq!(channel(stem), None, "{stem}");
        }
    }

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
    fn channels_of_ct_are_known_by_whole_words() {
        for name in ["CT", "ct_portal", "Low-dose CT", "computed tomography", "Computerized Tomography (chest)"] {
            assert!(is_ct_channel(name), "{name}");
        }
        for name in ["MRI", "T1", "PDw", "positron emission tomography", "OCT", "actual", "noNorm"] {
            assert!(!is_ct_channel(name), "{name}");
        }
    }
}
