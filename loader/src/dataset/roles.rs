//! Words in file and folder names: which tell images from label maps and join the two.

use crate::preprocess::normalize::Normalize;

/// Words that mark a label map.
const LABEL_WORDS: [&str; 23] = [
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
    "prediction",
];
/// Words that mark a CT image and do not belong to the case's name.
const IMAGE_WORDS: [&str; 13] =
    ["ct", "cta", "image", "images", "img", "imgs", "imaging", "volume", "volumes", "vol", "scan", "scans", "0000"];
/// Words that mark an image of another modality.
const OTHER_MODALITIES: [&str; 13] =
    ["mri", "mr", "t1", "t2", "t1w", "t2w", "t1ce", "flair", "dwi", "adc", "pet", "suv", "dose"];
/// Names of folders of images that have a folder of label maps next to them.
const IMAGE_FOLDERS: [&str; 12] =
    ["images", "image", "img", "imgs", "imaging", "volumes", "volume", "ct", "cts", "scans", "scan", "data"];

/// Words of a name in lower case, split at everything that is not a letter or digit.
fn words(name: &str) -> impl Iterator<Item = String> + '_ {
    name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// [`words`], with letters and digits apart: `label0001` is `label`, `0001`.
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

/// True if a file name's stem is that of a label map.
pub(super) fn is_label_name(stem: &str) -> bool {
    parts(stem).iter().any(|part| LABEL_WORDS.contains(&part.as_str()))
}

/// True if a folder's name says that it holds label maps.
pub(super) fn is_label_folder(name: &str) -> bool {
    let lower = name.to_lowercase();
    ["labelstr", "labelsts", "labelsva", "labelsval", "ground_truth"].contains(&lower.as_str()) || is_label_name(name)
}

/// True if a folder's name says that it holds images.
pub(super) fn is_image_folder(name: &str) -> bool {
    IMAGE_FOLDERS.contains(&name.to_lowercase().as_str())
}

/// True if a stem consists of words for images only: `ct`, `imaging`, `image_0000`.
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
    /// Word of a name for which an image is left out.
    pub(super) fn foreign_word(self, stem: &str) -> Option<String> {
        match self {
            Self::Ct => other_modality(stem),
            Self::All => None,
        }
    }
}

/// The word of a name that marks another modality than CT.
fn other_modality(stem: &str) -> Option<String> {
    words(stem).find(|word| OTHER_MODALITIES.contains(&word.as_str()))
}

/// Case part of a stem: its parts without words for images and label maps. Equal for the image and the label
/// map of a case: `img0001` and `label0001`, `volume-7` and `segmentation-7`, `p1_ct` and `p1_seg`.
pub(super) fn case_key(stem: &str) -> String {
    let is_role = |part: &String| LABEL_WORDS.contains(&part.as_str()) || IMAGE_WORDS.contains(&part.as_str());
    parts(stem).into_iter().filter(|part| !is_role(part)).collect::<Vec<_>>().join("_")
}

/// `(case, channel)` of `case_0003`.
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
        for name in ["labelsTr", "segmentations", "Masks", "label", "ground_truth"] {
            assert!(is_label_folder(name), "{name}");
        }
        assert!(!is_label_folder("imagesTr") && !is_label_folder("case_00000"));
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
        assert_eq!(other_modality("patient_1"), None);
    }
}
