//! Label maps that name another case than the only image next to them.

use super::roles::loose_key;

/// Returns true if the stem of a label map names another case than its image and the folder of both: with their words, and with
/// other numbers, as `patient7_seg` next to `patient3_ct`. The folder's name counts where the image's says nothing of the case.
/// Numbers alone, and those of series and the like, name no case: `image_03` and `mask_1`, `CT_3` and `seg_300`, `Series2` and
/// `Series5_seg`. Next to the name of the folder, other numbers are those of series, or dates: `p1_ct_3` and `p1_seg_300` in `p1`.
pub(super) fn is_of_other_case(label: &str, image: &str, folder: &str) -> bool {
    let [label, image, folder] = [label, image, folder].map(words_and_numbers);
    let differs = |(words, numbers): &(Vec<String>, Vec<String>)| {
        *words == label.0 && numbers.len() == label.1.len() && *numbers != label.1
    };
    let has_number = !folder.1.is_empty();
    let has_folders_numbers = |numbers: &[String]| has_number && folder.1.iter().all(|number| numbers.contains(number));
    let names_a_case = label.0.iter().any(|word| !NUMBERED.contains(&word.as_str()));
    if !names_a_case || (folder.0 == label.0 && has_folders_numbers(&label.1)) {
        return false;
    }
    let is_generic = image.0.is_empty() && image.1.is_empty();
    differs(&image) || (is_generic && differs(&folder))
}

/// Words before numbers that are not those of cases.
const NUMBERED: [&str; 10] =
    ["acquisition", "phase", "rater", "reader", "scan", "segment", "series", "ses", "session", "study"];

/// Words of the case part of a stem, and its numbers without leading zeros.
fn words_and_numbers(stem: &str) -> (Vec<String>, Vec<String>) {
    let key = loose_key(stem);
    let (numbers, words): (Vec<&str>, Vec<&str>) =
        key.split('_').filter(|part| !part.is_empty()).partition(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let owned = |parts: Vec<&str>| parts.into_iter().map(|part| part.trim_start_matches('0').to_owned()).collect();
    (owned(words), owned(numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_maps_of_other_cases_are_known_by_their_numbers() {
        for (label, image, folder, expected) in [
            ("segmentation-7", "volume-3", "x", false),
            ("patient7_seg", "patient3_ct", "x", true),
            ("patient7_seg", "patient3_ct", "patient7", false),
            ("p7_seg", "ct", "p1", true),
            ("p7_seg", "p7_ct", "p1", false),
            ("p1_seg", "ct", "P01", false),
            ("p7_seg_300", "p1_ct_3", "p1", true),
            // Numbers of series, segmentations and raters, and dates.
            ("segmentation-7", "volume-3", "case_3", false),
            ("Segmentation_1", "12", "12", false),
            ("mask_1", "image_03", "case_03", false),
            ("SEG_300", "CT_2", "HCC_002", false),
            ("Series5_seg", "Series2", "Study1", false),
            ("p1_seg_300", "p1_ct_3", "p01", false),
            ("20200111_p1_seg", "20200101_p1_ct", "p1", false),
            ("Seg_20200111", "CT_20200101", "p1", false),
            ("label2", "scan1", "p7", false),
            // Words or numbers alone do not say that they are those of a case.
            ("segmentation", "imaging", "case_00001", false),
            ("liver_seg", "ct", "p1", false),
            ("seg_2", "scan_p1", "p1", false),
            ("seg_1", "ct", "002", false),
            ("p1_tumor_seg", "p1_ct", "p1", false),
        ] {
            assert_eq!(is_of_other_case(label, image, folder), expected, "{label} {image} {folder}");
        }
    }
}
