//! Words in file and folder names that distinguish images from label maps and join the two.

use std::collections::HashSet;

use super::ct_words::{RESAMPLED_CT, has_ct_word};
use super::words::{by_case, parts, pieces};

/// Words that mark a label map. Those of [`WEAK_LABEL_WORDS`] are in names of datasets as well.
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
/// Words of [`LABEL_WORDS`] that begin names of datasets as well, such as `SegTHOR`.
const WEAK_LABEL_WORDS: [&str; 3] = ["seg", "segs", "segm"];
/// Words that mark a CT image and do not belong to the case's name.
const IMAGE_WORDS: [&str; 14] = [
    "ct",
    "cta",
    RESAMPLED_CT,
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
/// Words for an image that has not been changed, which may be a part of a case's name as well.
const ORIGINAL_WORDS: [&str; 3] = ["orig", "org", "original"];
/// Number of a case's first channel at the end of a name.
const FIRST_CHANNEL: &str = "0000";
/// Names of folders of images that have a folder of label maps next to them.
const IMAGE_FOLDERS: [&str; 12] =
    ["images", "image", "img", "imgs", "imaging", "volumes", "volume", "ct", "cts", "scans", "scan", "data"];

/// Beginnings of words, in lower case, for images that have no label maps on purpose.
const UNLABELLED_WORDS: [&str; 2] = ["unlabeled", "unlabelled"];

/// Words for images in the names of folders that have further words.
const IMAGE_FOLDER_WORDS: [&str; 9] = ["img", "imgs", "imaging", "volume", "volumes", "vol", "vols", "scan", "scans"];

/// Words for the parts of a dataset that follow a word for images or label maps.
const SHORT_SPLITS: [(&str, Split); 3] = [("tr", Split::Training), ("ts", Split::Test), ("va", Split::Validation)];
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

/// Largest length in bytes of a word that is looked for in known ones.
const LONGEST_KNOWN: usize = 32;

/// Splits a word in lower case into words of this module, of which it consists: `trainingimg` is `training`, `img`. `None` for
/// all other words.
fn known_words(word: &str) -> Option<Vec<&'static str>> {
    if word.len() > LONGEST_KNOWN { None } else { known_words_of(word, &mut HashSet::new()) }
}

/// Splits the end of a word as [`known_words`] does, without a second look at those of the lengths in `failed`.
fn known_words_of(word: &str, failed: &mut HashSet<usize>) -> Option<Vec<&'static str>> {
    if word.is_empty() {
        return Some(Vec::new());
    }
    if failed.contains(&word.len()) {
        return None;
    }
    let images = IMAGE_WORDS.into_iter().chain(IMAGE_FOLDERS).chain(IMAGE_FOLDER_WORDS);
    let splits = SPLIT_WORDS.into_iter().chain(SHORT_SPLITS).map(|(word, _)| word);
    let mut known = images.chain(LABEL_WORDS).chain(splits);
    let found = known.find_map(|known| {
        let rest = known_words_of(word.strip_prefix(known)?, failed)?;
        Some([vec![known], rest].concat())
    });
    if found.is_none() {
        failed.insert(word.len());
    }
    found
}

fn is_known(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit()) || known_words(word).is_some()
}

/// Words of a folder's name in lower case: split at changes of case as well, and where known words are written as one.
fn folder_words(name: &str) -> Vec<String> {
    let known = |word: &str| -> Option<Vec<String>> {
        known_words(&word.to_lowercase()).map(|known| known.into_iter().map(str::to_owned).collect())
    };
    let of_piece = |piece: &str| {
        known(piece)
            .unwrap_or_else(|| by_case(piece).flat_map(|word| known(&word).unwrap_or_else(|| vec![word])).collect())
    };
    pieces(name).flat_map(of_piece).collect()
}

/// Returns true if a file name's stem is that of a label map.
pub(crate) fn is_label_name(stem: &str) -> bool {
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
    parts.iter().any(is_label) || parts.concat().contains("groundtruth") || is_label_name(name) || ends_as_label(name)
}

/// Returns true if the words of a folder's name, split at changes of case, say that it holds label maps: `TrainingMask`, but not
/// `SegTHOR`.
fn ends_as_label(name: &str) -> bool {
    let words = folder_words(name);
    words.iter().enumerate().any(|(at, word)| {
        let is_weak = WEAK_LABEL_WORDS.contains(&word.as_str());
        LABEL_WORDS.contains(&word.as_str()) && (!is_weak || words[at + 1..].iter().all(|word| is_known(word)))
    })
}

/// Returns true if the name of a folder of label maps has further words, as names of datasets do: `OrganSegmentations`,
/// `HaN-Seg`.
pub(super) fn may_name_dataset(name: &str) -> bool {
    !folder_words(name).iter().all(|word| is_known(word))
}

/// Returns true if a folder's name may be that of a dataset of CTs although it has a word for label maps:
/// `COVID-19-CT-Seg_20cases`.
pub(super) fn may_name_cts(name: &str) -> bool {
    let words = folder_words(name);
    let is_strong = |word: &str| LABEL_WORDS.contains(&word) && !WEAK_LABEL_WORDS.contains(&word);
    let has_ct = has_ct_word(name) || words.iter().any(|word| has_ct_word(word));
    has_ct && may_name_dataset(name) && !words.iter().any(|word| is_strong(word))
}

/// Returns true if a file name's stem says that it is a prediction of a model.
pub(super) fn is_prediction_name(stem: &str) -> bool {
    parts(stem).iter().any(|part| PREDICTION_WORDS.contains(&part.as_str()))
}

/// Returns true if a folder's name says that it holds predictions of a model.
pub(super) fn is_prediction_folder(name: &str) -> bool {
    let is_prediction = |word: &String| PREDICTION_WORDS.contains(&word.as_str());
    parts(name).iter().any(is_prediction) || folder_words(name).iter().any(is_prediction)
}

/// Returns true if a folder's name says that its images have no label maps: `unlabeledCase`.
pub(super) fn is_unlabelled_folder(name: &str) -> bool {
    let is_unlabelled = |word: &String| UNLABELLED_WORDS.iter().any(|known| word.starts_with(known));
    parts(name).iter().any(is_unlabelled) || folder_words(name).iter().any(is_unlabelled)
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

/// Returns true if a folder's name has a word for images, even if it is joined to other words: `TrainingImg`, `imgTr`,
/// `ct_scans`. A word for CT counts only if all other words are known.
pub(super) fn has_image_word(name: &str) -> bool {
    if is_label_folder(name) || is_prediction_folder(name) {
        return false;
    }
    let words = folder_words(name);
    let is_image = |word: &String| word.starts_with("image") || IMAGE_FOLDER_WORDS.contains(&word.as_str());
    let is_ct = |word: &String| ["ct", "cta", "cts"].contains(&word.as_str());
    words.iter().any(is_image) || (words.iter().any(is_ct) && words.iter().all(|word| is_known(word)))
}

/// Returns true if a file's stem has a word for images and none for label maps.
pub(super) fn is_image_name(stem: &str) -> bool {
    let is_image = |part: &String| IMAGE_WORDS.contains(&part.as_str()) && part != FIRST_CHANNEL;
    parts(stem).iter().any(is_image) && !is_label_name(stem)
}

/// Name of a folder without numbers, by which the parts of a set are known: `images-1`, `images-2`.
pub(super) fn without_numbers(name: &str) -> String {
    name.chars().filter(|c| !c.is_ascii_digit()).flat_map(char::to_lowercase).collect()
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
        let (parts, of_folder) = (parts(name), folder_words(name));
        let has = |word: &str| parts.iter().chain(&of_folder).any(|part| part == word);
        let whole = SPLIT_WORDS.into_iter().find(|(word, _)| has(word)).map(|(_, split)| split);
        whole.or_else(|| {
            let mut pairs = of_folder.windows(2).filter(|pair| is_role_word(&pair[0]));
            pairs.find_map(|pair| SHORT_SPLITS.into_iter().find(|(word, _)| pair[1] == *word).map(|(_, split)| split))
        })
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

/// Case part of a stem: its parts without words for images and label maps, and without the number of a first channel. Equal
/// for the image and the label map of a case: `img0001` and `label0001`, `volume-7` and `segmentation-7`, `p1_ct` and
/// `p1_seg`.
pub(super) fn case_key(stem: &str) -> String {
    key_of(stem, is_role_word)
}

/// Case part of a stem as [`case_key`] has it, without words for an unchanged image: equal for `liver-orig001` and
/// `liver-seg001`.
pub(super) fn loose_key(stem: &str) -> String {
    key_of(stem, |part| is_role_word(part) || ORIGINAL_WORDS.contains(&part))
}

/// Case part of the stem of a label map that lies apart from its image, and the parts behind it, which say what is labelled: those
/// from the first word for label maps on (`dataset6_CLINIC_0001_mask_4label`). Nothing is behind a stem that begins with such a
/// word (`label0001`) or has none.
pub(super) fn label_key(stem: &str) -> (String, Vec<String>) {
    let mut head = parts(stem);
    let at = head.iter().position(|part| LABEL_WORDS.contains(&part.as_str())).filter(|at| *at > 0);
    let behind = at.map(|at| head.split_off(at)).unwrap_or_default();
    (loose_key(&head.join("_")), behind)
}

/// Case part of a stem with its number: as [`case_key`], but `0000` remains.
pub(super) fn numbered_key(stem: &str) -> String {
    key_of(stem, |part| part != FIRST_CHANNEL && is_role_word(part))
}

fn key_of(stem: &str, is_left_out: impl Fn(&str) -> bool) -> String {
    parts(stem).into_iter().filter(|part| !is_left_out(part)).collect::<Vec<_>>().join("_")
}

/// Returns true for a word, in lower case, that marks an image or a label map.
pub(super) fn is_role_word(part: &str) -> bool {
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
        for (name, expected) in [
            ("unlabeledCase", true),
            ("FLARE22_UnlabeledCase1-500", true),
            ("Unlabelled", true),
            ("LabeledCase50", false),
            ("labels", false),
        ] {
            assert_eq!(is_unlabelled_folder(name), expected, "{name}");
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
        for name in
            ["TrainingImg", "trainingImages", "TRAINIMAGES", "imgTr", "imgtr", "ct_scans", "CTTrain", "volumes2"]
        {
            assert!(has_image_word(name), "{name}");
        }
        for name in ["TrainingMask", "CT_seg", "CT-ORG", "CTSpine1K", "mastoid", "orig", "LiTS", "ScanPred"] {
            assert!(!has_image_word(name), "{name}");
        }
    }

    #[test]
    fn folders_of_label_maps_are_known_in_any_spelling() {
        for name in ["TrainingMask", "trainingmask", "LiverMasks", "labelsTr", "LiverSeg", "SegTr", "segtrain", "CTSeg"]
        {
            assert!(is_label_folder(name), "{name}");
        }
        for name in ["SegTHOR", "SegRap2023", "mastoid", "orig", "TotalSegmentator", "MaskedCT", "GTVp", "TrainImages"]
        {
            assert!(!is_label_folder(name), "{name}");
        }
        for (name, expected) in
            [("OrganSegmentations", true), ("HaN-Seg", true), ("labelsTr2", false), ("CT_seg", false)]
        {
            assert_eq!(may_name_dataset(name), expected, "{name}");
        }
        for (name, expected) in [
            ("COVID-19-CT-Seg_20cases", true),
            ("AutoSegCT", true),
            ("CT_seg", false),
            ("Lung_Mask", false),
            ("COVID-CT-Mask", false),
        ] {
            assert_eq!(may_name_cts(name), expected, "{name}");
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
            ("labelTr", Some(Split::Training)),
            ("TrainingImg", Some(Split::Training)),
            ("imgTs", Some(Split::Test)),
            ("TestImages", Some(Split::Test)),
            ("imagesTraining", Some(Split::Training)),
            ("LiTS", None),
            ("imagesTr_extra", Some(Split::Training)),
            ("imgimgimgimgimgimgimgimgimgtr", Some(Split::Training)),
            ("imgimgimgimgimgimgimgimgimgimgx", None),
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
        assert_eq!(loose_key("liver-orig001"), loose_key("liver-seg001"));
        assert_ne!(case_key("liver-orig001"), case_key("liver-seg001"));
    }

    #[test]
    fn channels_have_four_digits() {
        assert_eq!(channel("liver_001_0000"), Some(("liver_001", 0)));
        assert_eq!(channel("a_0012"), Some(("a", 12)));
        for stem in ["short_000", "noending", "a_00000", "a_+001", "_0000"] {
            assert_eq!(channel(stem), None, "{stem}");
        }
    }
}
