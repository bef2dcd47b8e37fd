//! Contradictions in the lists of a `dataset.json`.

use super::*;

fn listed(files: &[&str], lists: &str) -> Found {
    let json = format!(r#"{{"labels": {{"background": 0, "liver": 1}}, {lists}}}"#);
    Found::in_described(files, &[("dataset.json", &json)])
}

#[test]
fn images_of_one_name_in_several_folders_are_cases_named_with_the_folder() {
    listed(
        &["p1/ct.nii", "p1/lab.nii", "p2/ct.nii", "p2/lab.nii", "p2/other.nii"],
        r#""training": [{"image": "p1/ct.nii", "label": "p1/lab.nii"}, {"image": "p2/ct.nii", "label": "p2/lab.nii"},
            {"image": "p2/other.nii"}]"#,
    )
    .cases(&["data/other p2/other.nii -", "data/p1/ct p1/ct.nii p1/lab.nii", "data/p2/ct p2/ct.nii p2/lab.nii"])
    .skipped(&[]);
}

#[test]
fn names_of_images_outside_of_the_folder_of_the_list_hold_no_path_of_the_machine() {
    let json = r#"{"labels": {"background": 0, "liver": 1}, "training": [{"image": "../pool/p1/ct.nii"},
        {"image": "../pool/p2/ct.nii"}]}"#;
    Found::in_described(&["pool/p1/ct.nii", "pool/p2/ct.nii"], &[("lists/dataset.json", json)])
        .cases(&["lists/pool/p1/ct pool/p1/ct.nii -", "lists/pool/p2/ct pool/p2/ct.nii -"])
        .skipped(&[]);
}

#[test]
fn a_list_that_leads_out_of_the_data_leaves_out_its_dataset_only() {
    for path in ["../../outside.nii", "/outside.nii"] {
        let json = format!(r#"{{"training": ["imagesTr/a.nii", {{"image": "imagesTr/b.nii", "label": "{path}"}}]}}"#);
        let files = ["Dataset001_A/imagesTr/a.nii", "Dataset001_A/imagesTr/b.nii", "Dataset002_B/imagesTr/c_0000.nii"];
        let found = Found::in_described(&files, &[("Dataset001_A/dataset.json", &json)]);
        found.cases(&["Dataset002_B/c Dataset002_B/imagesTr/c_0000.nii -"]).skipped(&[]);
        let expected = format!("{path} lies outside ");
        let is_named = |unused: &&UnusedFile| unused.reason.to_string().starts_with(&expected);
        assert_eq!(found.listing.all_unused().filter(is_named).count(), 1, "{path}");
    }
}

#[cfg(unix)]
#[test]
fn a_listed_path_that_no_file_can_have_is_missing() {
    let long = "x".repeat(300);
    for (place, name) in [("imagesTr/a.nii", "b"), ("imagesTr", long.as_str()), (long.as_str(), "b")] {
        listed(&["imagesTr/a.nii"], &format!(r#""training": ["imagesTr/a.nii", "{place}/{name}.nii"]"#))
            .cases(&["data/a imagesTr/a.nii -"])
            .skipped(&[(format!("data/{name}").as_str(), "listed in dataset.json but missing")]);
    }
    for label in [r"labelsTr/b\u0000.nii", "imagesTr/a.nii/b.nii"] {
        let lists = format!(r#""training": ["imagesTr/a.nii", {{"image": "imagesTr/b.nii", "label": "{label}"}}]"#);
        listed(&["imagesTr/a.nii", "imagesTr/b.nii"], &lists)
            .cases(&["data/a imagesTr/a.nii -"])
            .skipped(&[("data/b", "listed in dataset.json but missing")]);
    }
}

#[test]
fn an_image_listed_with_and_without_a_label_map_is_named_as_such() {
    listed(&["a.nii", "b.nii", "l.nii"], r#""training": [{"image": "a.nii", "label": "l.nii"}, "a.nii", "b.nii"]"#)
        .cases(&["data/b b.nii -"])
        .skipped(&[("data/a", "dataset.json lists this image with and without a label map; keep one of the entries")]);
}

#[test]
fn a_label_map_of_two_images_is_told_and_two_label_maps_of_one_image_are_not_chosen_between() {
    let files = ["a.nii", "b.nii", "l.nii", "m.nii"];
    let shared = listed(
        &files[..3],
        r#""training": [{"image": "a.nii", "label": "l.nii"}, {"image": "b.nii", "label": "l.nii"}]"#,
    );
    let notes: Vec<String> = shared.listing.datasets[0].notes.iter().map(ToString::to_string).collect();
    assert!(notes.len() == 1 && notes[0].ends_with("l.nii for a and for b; correct the list"), "{notes:?}");
    let both = r#""training": [{"image": "a.nii", "label": "l.nii"}, {"image": "a.nii", "label": "m.nii"},
        {"image": "a.nii", "label": "m.nii"}, {"image": "b.nii"}]"#;
    listed(&files, both)
        .cases(&["data/b b.nii -"])
        .skipped(&[("data/a", "dataset.json lists two label maps of this image; keep one")]);
}

/// Two lists of files in different orders, as `1, 10, 2` and `1, 2, 10`.
#[test]
fn label_maps_listed_for_other_images_than_those_of_their_names_are_told() {
    let cases = ["1", "2", "10"];
    let files: Vec<String> =
        cases.iter().flat_map(|case| [format!("imagesTr/c{case}.nii"), format!("labelsTr/c{case}.nii")]).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let notes = |labels: [&str; 3]| -> Vec<String> {
        let entry = |(case, label): (&str, &str)| {
            format!(r#"{{"image": "imagesTr/c{case}.nii", "label": "labelsTr/{label}.nii"}}"#)
        };
        let entries: Vec<String> = cases.into_iter().zip(labels).map(entry).collect();
        let found = listed(&files, &format!(r#""training": [{}]"#, entries.join(", ")));
        found.listing.datasets[0].notes.iter().map(ToString::to_string).collect()
    };
    assert!(notes(["c1", "c2", "c10"]).is_empty());
    let told = notes(["c1", "c10", "c2"]);
    let expected = "c2.nii for c10, and the label map with the name of its image for another case, and so for 1 further case; \
                    correct the list if they are mixed up";
    assert!(told.len() == 1 && told[0].ends_with(expected), "{told:?}");
}

#[test]
fn an_image_in_two_lists_is_told() {
    listed(&["a.nii", "b.nii"], r#""training": ["a.nii", "b.nii"], "validation": ["b.nii"], "test": ["a.nii"]"#)
        .cases(&["data/a a.nii -", "data/b b.nii -"])
        .notes(&[
            DatasetNote::AlsoListed { list: "validation", example: "b".into(), count: 1 },
            DatasetNote::AlsoListed { list: "test", example: "a".into(), count: 1 },
            DatasetNote::NoLabels { classes: 1 },
        ]);
}

#[test]
fn a_background_of_another_name_is_told() {
    let notes = |labels: &str| {
        let json = format!(r#"{{"labels": {labels}}}"#);
        let found = Found::in_described(&["imagesTr/a_0000.nii"], &[("dataset.json", &json)]);
        let notes = found.listing.datasets[0].notes.clone();
        notes.into_iter().filter(|note| matches!(note, DatasetNote::BackgroundName { .. })).count()
    };
    assert_eq!(notes(r#"{"liver": 0, "background": 1}"#), 1);
    assert_eq!(notes(r#"{"0": "Background", "1": "liver"}"#), 0);
    assert_eq!(notes(r#"{"liver": 1}"#), 0);
    for name in ["bg", "None", "unlabeled", "Unlabelled", "Clear Label", "clear_label"] {
        assert_eq!(notes(&format!(r#"{{"{name}": 0, "liver": 1}}"#)), 0, "{name}");
    }
    assert_eq!(notes(r#"{"unclear label": 0, "liver": 1}"#), 1);
}

#[test]
fn a_description_in_capital_letters_or_utf_16_is_named() {
    assert_eq!(UnusedReason::DescriptionName.weight(), Weight::Missed);
    // File systems of other systems may not distinguish letters by their case.
    #[cfg(target_os = "linux")]
    Found::in_files(&["Dataset.JSON", "imagesTr/a_0000.nii"])
        .unused(&[("Dataset.JSON", UnusedReason::DescriptionName)]);
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["imagesTr/a_0000.nii"]);
    std::fs::write(dir.path().join("dataset.json"), b"\xff\xfe{\0}\0").unwrap();
    let error = survey(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("the file is in UTF-16; save it as UTF-8"), "{error}");
}
