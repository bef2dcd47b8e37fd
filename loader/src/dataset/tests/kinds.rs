//! Classes of label maps and masks by their names, and label maps of other cases.

use super::*;

/// Notes on all datasets, as text.
fn notes(files: &[&str]) -> Vec<String> {
    let found = Found::in_files(files);
    found.listing.datasets.iter().flat_map(|dataset| &dataset.notes).map(ToString::to_string).collect()
}

#[test]
fn masks_whose_names_differ_in_capital_letters_are_of_one_class() {
    let found = Found::in_files(&[
        "s0/ct.nii",
        "s0/segmentations/kidney.nii",
        "s0/segmentations/liver.nii",
        "s1/ct.nii",
        "s1/segmentations/Kidney.nii",
        "s1/segmentations/liver.nii",
    ]);
    found.cases(&["data/s0 s0/ct.nii s0/segmentations", "data/s1 s1/ct.nii s1/segmentations"]).unused(&[]).notes(&[]);
    let dataset = &found.listing.datasets[0];
    let names = [(0, "background"), (1, "Kidney"), (2, "liver")];
    assert_eq!(dataset.labels, names.map(|(label, name)| (label, name.to_owned())).into());
    for case in &dataset.cases {
        let Some(LabelFiles::Masks { masks, .. }) = &case.label else { panic!("{case:?}") };
        assert_eq!(masks.iter().map(|mask| mask.class).collect::<Vec<_>>(), [1, 2], "{case:?}");
    }
    let files = ["s0/ct.nii", "s0/segmentations/Kidney.nii", "s0/segmentations/kidney.nii.gz"];
    Found::in_files(&files).cases(&[]).skipped(&[("data/s0", "two masks named kidney; keep one")]).unused(&[]);
}

#[test]
fn missing_masks_are_named() {
    let masks = ["a", "b", "c", "d", "e", "f"].map(|name| format!("s0/segmentations/{name}.nii"));
    let whole: Vec<&str> = masks.iter().map(String::as_str).chain(["s0/ct.nii"]).collect();
    let lacking = ["s1/ct.nii", "s1/segmentations/b.nii", "s1/segmentations/c.nii"];
    let expected = "s1 has 2 of 6 masks, without a, d, e, f; missing ones count as background";
    assert_eq!(notes(&[&whole[..], &lacking].concat()), [expected]);
    let more = ["s1/ct.nii", "s1/segmentations/g.nii", "s2/ct.nii", "s2/segmentations/a.nii"];
    let expected = "s1 has 1 of 7 masks, without a, b, c, d, e and 1 more; missing ones count as background, also those of 2 \
                    other cases";
    assert_eq!(notes(&[&whole[..], &more].concat()), [expected]);
}

#[test]
fn label_maps_named_like_different_organs_are_reported() {
    let check = |files: &[&str], expected: &str| {
        let (told, found) = (format!("such as {expected}: the value 1 is one class in all of a dataset"), notes(files));
        assert!(found.len() == 1 && found[0].contains(&told), "{told}: {found:?}");
    };
    let files = ["c1/ct.nii", "c1/liver_seg.nii", "c2/ct.nii", "c2/spleen_seg.nii"];
    check(&files, "liver_seg.nii of c1 and spleen_seg.nii of c2");
    let files = ["images/p1/p1.nii", "images/p2/p2.nii", "labels/p1/liver.nii", "labels/p2/spleen.nii"];
    check(&files, "liver.nii of p1 and spleen.nii of p2");
    // Folders or names of cases tell of organs.
    let files = ["liver/a.nii", "liver/a_seg.nii", "liver/b.nii", "liver/b_seg.nii"];
    let others = ["spleen/c.nii", "spleen/c_seg.nii", "spleen/d.nii", "spleen/d_seg.nii"];
    check(&[files, others].concat(), "a_seg.nii of liver/a and c_seg.nii of spleen/c");
    let files = ["lungs_1.nii", "lungs_1_seg.nii", "kidney_2.nii", "kidney_2_seg.nii"];
    check(&files, "kidney_2_seg.nii of kidney_2 and lungs_1_seg.nii of lungs_1");
}

#[test]
fn other_words_in_names_of_label_maps_are_no_organs() {
    for files in [
        ["p1/ct.nii", "p1/liver_seg.nii", "p2/ct.nii", "p2/LIVER_mask.nii"],
        ["p1/ct.nii", "p1/seg_rater1.nii", "p2/ct.nii", "p2/seg_rater2.nii"],
        ["p1/ct.nii", "p1/seg_v2.nii", "p2/ct.nii", "p2/seg_final.nii"],
        ["p1/anna_ct.nii", "p1/anna_seg.nii", "p2/bob_ct.nii", "p2/bob_seg.nii"],
        ["hospitalA/x.nii", "hospitalA/x_seg.nii", "hospitalB/y.nii", "hospitalB/y_seg.nii"],
        ["liver-orig001.nii", "liver-seg001.nii", "liver-orig002.nii", "liver-seg002.nii"],
    ] {
        assert!(notes(&files).is_empty(), "{files:?}: {:?}", notes(&files));
    }
    let files = ["c1/ct.nii", "c1/liver_seg.nii", "c2/ct.nii", "c2/spleen_seg.nii"];
    let named = [("dataset.json", r#"{"labels": {"background": 0, "liver": 1, "spleen": 2}}"#)];
    Found::in_described(&files, &named).notes(&[]);
    // The note goes with the cases.
    let mut found = Found::in_files(&files);
    Exclude::new(&["c2"]).apply(&mut found.listing.datasets);
    found.notes(&[]);
}

#[test]
fn cases_in_a_folder_for_tests_next_to_others_are_reported() {
    let told = "in a folder named like data for tests or validation (";
    let check = |files: &[&str], expected: Option<&str>| {
        let notes = notes(files);
        let found = notes.iter().find(|note| note.contains(told));
        assert_eq!(found.map(|note| note.split(" in ").next().unwrap()), expected, "{files:?}: {notes:?}");
    };
    check(&["a.nii", "test/b.nii", "test/c.nii"], Some("2 cases"));
    check(&["p1/ct.nii", "p1/seg.nii", "x_test/ct.nii", "x_test/seg.nii"], Some("1 case"));
    check(&["test/b.nii", "val/c.nii"], None);
    check(&["train/a.nii", "test/b.nii"], None);
    check(&["Dataset005_Test/imagesTr/a_0000.nii", "Dataset006_B/imagesTr/b_0000.nii"], None);
    // The note goes with the cases.
    let mut found = Found::in_files(&["a.nii", "test/b.nii"]);
    Exclude::new(&["test/b"]).apply(&mut found.listing.datasets);
    found.notes(&[]);
}

#[test]
fn predictions_next_to_their_images_are_no_label_maps() {
    for (image, prediction, case) in [
        ("a.nii", "a_pred.nii", "data/a"),
        ("volume-1.nii", "prediction-1.nii", "data/volume-1"),
        ("c1/ct.nii", "c1/pred.nii", "data/c1"),
        ("images/a.nii", "labels/a_pred.nii", "data/a"),
        ("imagesTr/a_0000.nii", "labelsTr/a_pred.nii", "data/a"),
    ] {
        Found::in_files(&[image, prediction])
            .cases(&[&format!("{case} {image} -")])
            .unused(&[(prediction, UnusedReason::PredictedLabels)]);
    }
    let listed = r#"{"training": [{"image": "a.nii", "label": "a_pred.nii"}]}"#;
    Found::in_described(&["a.nii", "a_pred.nii"], &[("dataset.json", listed)]).cases(&["data/a a.nii a_pred.nii"]);
    // The word is a part of the case's name.
    Found::in_files(&["imagesTr/prediction_1_0000.nii", "labelsTr/prediction_1.nii"])
        .cases(&["data/prediction_1 imagesTr/prediction_1_0000.nii labelsTr/prediction_1.nii"])
        .unused(&[]);
}

#[test]
fn a_label_map_goes_to_the_image_of_its_name_next_to_one_with_a_general_name() {
    let files = ["p1/contrast.nii", "p1/contrast_label.nii", "p1/ct.nii", "p2/ct.nii", "p2/label.nii"];
    let found = Found::in_files(&files);
    let cases: Vec<&CaseFiles> = found.listing.datasets.iter().flat_map(|dataset| &dataset.cases).collect();
    let label_of = |image: &str| {
        let case = cases.iter().find(|case| found.relative(&case.image) == image);
        case.and_then(|case| case.label.as_ref()).map(|label| found.relative(label.path()))
    };
    let expected = [("p1/contrast.nii", Some("p1/contrast_label.nii")), ("p2/ct.nii", Some("p2/label.nii"))];
    for (image, label) in expected {
        assert_eq!(label_of(image).as_deref(), label, "{image}");
    }
    found.unused(&[("p1/ct.nii", UnusedReason::OutsideDatasets)]);
}

/// Masks of the parts of a label map are expected; scans are not.
#[test]
fn scans_within_a_case_folder_are_no_masks() {
    let files = ["p1/ct.nii", "p1/followup/ct.nii", "p1/followup/seg.nii", "p1/parts/liver.nii", "p1/seg.nii"];
    Found::in_files(&files).cases(&["data/p1 p1/ct.nii p1/seg.nii"]).unused(&[
        (files[1], UnusedReason::OutsideDatasets),
        (files[2], UnusedReason::PartOfLabel),
        (files[3], UnusedReason::PartOfLabel),
    ]);
}

/// A dataset that was downloaded or moved in part leaves such folders.
#[test]
fn a_label_map_named_like_another_case_is_not_that_of_the_only_image_next_to_it() {
    Found::in_files(&["ok.nii", "ok_seg.nii", "x/segmentation-7.nii", "x/volume-3.nii"])
        .cases(&["data/ok ok.nii ok_seg.nii", "data/x x/volume-3.nii x/segmentation-7.nii"])
        .unused(&[]);
    Found::in_files(&["p1/ct.nii", "p1/p7_seg.nii", "p2/ct.nii", "p2/p2_seg.nii"])
        .cases(&["data/p1 p1/ct.nii -", "data/p2 p2/ct.nii p2/p2_seg.nii"])
        .unused(&[("p1/p7_seg.nii", UnusedReason::LabelWithoutImage)]);
    // PARSE22.
    let whole = ["A3", "A4"].map(|case| [format!("{case}/image/{case}.nii"), format!("{case}/label/{case}.nii")]);
    let whole: Vec<&str> = whole.iter().flatten().map(String::as_str).collect();
    Found::in_files(&[&whole[..], &["A1/image/A1.nii", "A1/label/A2.nii"]].concat())
        .cases(&[
            "A1/A1 A1/image/A1.nii -",
            "data/A3 A3/image/A3.nii A3/label/A3.nii",
            "data/A4 A4/image/A4.nii A4/label/A4.nii",
        ])
        .unused(&[("A1/label/A2.nii", UnusedReason::LabelWithoutImage)]);
    // Other words, or numbers of something else, are no names of cases.
    Found::in_files(&["p1/ct.nii", "p1/liver_seg_2.nii"]).cases(&["data/p1 p1/ct.nii p1/liver_seg_2.nii"]).unused(&[]);
    Found::in_files(&["p1/CT_3.nii", "p1/seg_300.nii"]).cases(&["data/p1 p1/CT_3.nii p1/seg_300.nii"]).unused(&[]);
}
