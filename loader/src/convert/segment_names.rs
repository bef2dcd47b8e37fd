//! Names of label values in the header of a label map. 3D Slicer numbers the segments of each file in their order, so that a value
//! may be another class in the next file.

use std::collections::BTreeMap;

use crate::case::{CaseFiles, LabelFiles};
use crate::dataset::Dataset;
use crate::volume::{Format, VolumeInfo, format_of, read_info};

/// Contradiction between the names in the header of a case's label map and those of `dataset.json` or, without any, those in the
/// first label map of the dataset that has some; `None` if there is none.
pub(super) fn finding(case: &CaseFiles, label: &VolumeInfo, dataset: &Dataset) -> Option<String> {
    // One mask for each class has the name of its file.
    if label.names.is_empty() || !matches!(case.label, Some(LabelFiles::Map(_))) {
        return None;
    }
    let (place, known) = if dataset.labels.is_empty() {
        of_first(case, dataset)?
    } else {
        ("dataset.json".to_owned(), dataset.labels.clone())
    };
    label.names.iter().find_map(|(value, name)| {
        let other = known.get(value).filter(|other| plain(other) != plain(name))?;
        Some(format!(
            "the header of the label map calls the value {value} {name:?}, which is {other:?} in {place}; renumber the label map, \
             or correct the name"
        ))
    })
}

/// Place and content of the names in the first label map of a dataset that has some; `None` if that is the case's own.
fn of_first(case: &CaseFiles, dataset: &Dataset) -> Option<(String, BTreeMap<u8, String>)> {
    let mut earlier = dataset.cases.iter().take_while(|other| other.case_id != case.case_id);
    earlier.find_map(|other| {
        let path = other.label.as_ref()?.path();
        // No other format has names.
        let names = (format_of(path) == Format::Nrrd).then(|| read_info(path).ok()).flatten()?.names;
        (!names.is_empty()).then(|| (format!("the label map of {}", other.key()), names))
    })
}

/// Words of a name in small letters, sorted: equal for `left kidney` and `Kidney_Left`.
fn plain(name: &str) -> Vec<String> {
    let name = name.to_lowercase();
    let words = name.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut words: Vec<String> = words.map(str::to_owned).collect();
    words.sort();
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::ImageRole;

    #[test]
    fn the_names_of_a_plain_dataset_are_those_of_its_first_label_map_with_names() {
        let dir = tempfile::tempdir().unwrap();
        let case = |case_id: &str, first: &str| {
            let path = dir.path().join(format!("{case_id}.seg.nrrd"));
            let header = format!(
                "NRRD0004\ntype: uchar\ndimension: 3\nspace: RAS\nsizes: 1 1 1\nencoding: raw\n\
                 space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\
                 Segment0_Name:={first}\nSegment0_LabelValue:=1\n\n\0"
            );
            std::fs::write(&path, header).unwrap();
            CaseFiles {
                dataset: "D".into(),
                case_id: case_id.into(),
                image: dir.path().join(case_id),
                slices: Vec::new(),
                role: ImageRole::Declared,
                label: Some(LabelFiles::Map(path)),
            }
        };
        let cases = vec![case("a", "Segment_1"), case("b", "left_lung"), case("c", "Lung, left"), case("d", "spine")];
        let dataset = Dataset { name: "D".into(), cases, ..Dataset::default() };
        let found = |at: usize| {
            let case: &CaseFiles = &dataset.cases[at];
            finding(case, &read_info(case.label.as_ref().unwrap().path()).unwrap(), &dataset)
        };
        assert_eq!([found(0), found(1), found(2)], [None, None, None]);
        let expected =
            "the header of the label map calls the value 1 \"spine\", which is \"left_lung\" in the label map of D/b; ";
        assert!(found(3).unwrap().starts_with(expected), "{:?}", found(3));
    }
}
