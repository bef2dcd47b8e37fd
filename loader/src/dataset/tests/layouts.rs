//! Layouts with folders and lists of their own kinds, and the reasons for files outside of them.

use super::*;

/// Contents of the files of a dataset without `dataset.json`.
const UNDESCRIBED: &[(&str, &str)] = &[];

fn misplaced() -> UnusedReason {
    UnusedReason::MisplacedLabel { expected: "labelsTr".into() }
}

#[test]
fn only_folders_of_tests_hold_test_data() {
    let found = Found::in_files(&[
        "Dataset001_X/imagesTr/a_0000.nii.gz",
        "Dataset001_X/imagesTr_extra/z_0000.nii.gz",
        "Dataset001_X/imagesTs/t_0000.nii.gz",
        "Dataset001_X/labelTr/a.nii.gz",
        "Dataset001_X/labelsTs/t.nii.gz",
        "Dataset001_X/more/a_seg.nii.gz",
        "test/t.nii.gz",
        "test.nii.gz",
        "val/v.nii.gz",
    ]);
    found.cases(&["Dataset001_X/a Dataset001_X/imagesTr/a_0000.nii.gz -"]).unused(&[
        ("Dataset001_X/imagesTr_extra/z_0000.nii.gz", UnusedReason::OutsideDatasets),
        ("Dataset001_X/imagesTs/t_0000.nii.gz", UnusedReason::TestData),
        ("Dataset001_X/labelTr/a.nii.gz", misplaced()),
        ("Dataset001_X/labelsTs/t.nii.gz", UnusedReason::TestData),
        ("Dataset001_X/more/a_seg.nii.gz", misplaced()),
        ("test.nii.gz", UnusedReason::OutsideDatasets),
        ("test/t.nii.gz", UnusedReason::TestData),
        ("val/v.nii.gz", UnusedReason::Validation),
    ]);
    assert_eq!(misplaced().weight(), Weight::Missed);
    assert!(UnusedReason::Validation.weight() > Weight::Counted);
}

#[test]
fn the_names_of_folders_above_the_data_say_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("test/data");
    touch(&data, &["Dataset001_X/imagesTr/a_0000.nii.gz", "stray/b.nii.gz"]);
    let listing = survey(&data).unwrap();
    let reasons: Vec<&UnusedReason> = listing.all_unused().map(|unused| &unused.reason).collect();
    assert_eq!(reasons, [&UnusedReason::OutsideDatasets]);
}

#[test]
fn validation_sets_are_named() {
    // WORD by its folders, AMOS by its list.
    let files = ["imagesTr/a.nii.gz", "imagesVal/v.nii.gz", "labelsTr/a.nii.gz", "labelsVal/v.nii.gz"];
    let cases = ["data/a imagesTr/a.nii.gz labelsTr/a.nii.gz"];
    let unused = [("imagesVal/v.nii.gz", UnusedReason::Validation), ("labelsVal/v.nii.gz", UnusedReason::Validation)];
    Found::in_files(&files).cases(&cases).unused(&unused);
    let list = r#"{"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "validation": [{"image": "imagesTr/v.nii.gz", "label": "labelsTr/v.nii.gz"}], "test": ["imagesTr/t.nii.gz"]}"#;
    let files =
        ["imagesTr/a.nii.gz", "imagesTr/t.nii.gz", "imagesTr/v.nii.gz", "labelsTr/a.nii.gz", "labelsTr/v.nii.gz"];
    Found::in_described(&files, &[("dataset.json", list)]).cases(&cases).unused(&[
        ("imagesTr/t.nii.gz", UnusedReason::TestData),
        ("imagesTr/v.nii.gz", UnusedReason::Validation),
        ("labelsTr/v.nii.gz", UnusedReason::Validation),
    ]);
    // In a folder of their own, they are cases.
    Found::in_files(&["imagesVal/v.nii.gz", "labelsVal/v.nii.gz"])
        .cases(&["data/v imagesVal/v.nii.gz labelsVal/v.nii.gz"])
        .unused(&[]);
}

#[test]
fn files_next_to_listed_ones_are_not_listed_in_whatever_folder() {
    let list = r#"{"training": [{"image": ["scans/a.nii.gz"], "label": ["truth/a.nii.gz"]}], "numTraining": "1"}"#;
    let files =
        ["scans/a.nii.gz", "scans/b.nii.gz", "truth/a.nii.gz", "truth/b.nii.gz", "other/c.nii.gz", "imagesTs/t.nii.gz"];
    Found::in_described(&files, &[("dataset.json", list)])
        .cases(&["data/a scans/a.nii.gz truth/a.nii.gz"])
        .unused(&[
            ("imagesTs/t.nii.gz", UnusedReason::TestData),
            ("other/c.nii.gz", UnusedReason::OutsideDatasets),
            ("scans/b.nii.gz", UnusedReason::NotListed),
            ("truth/b.nii.gz", UnusedReason::NotListed),
        ])
        .notes(&[]);
    let counted = list.replace(r#""1""#, r#""2""#);
    Found::in_described(&files, &[("dataset.json", &counted)]).notes(&[DatasetNote::Count { claimed: 2, found: 1 }]);
}

#[test]
fn named_classes_without_any_label_map_are_told() {
    let classes = r#"{"labels": {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}}"#;
    let note = DatasetNote::NoLabels { classes: 2 };
    assert_eq!(note.to_string(), "dataset.json names 2 classes, but no case has a label map");
    let list = classes.replace("}}", r#"}, "training": ["imagesTr/a_0000.nii.gz"]}"#);
    for (files, json) in [
        (vec!["imagesTr/a_0000.nii.gz", "labelTr/a.nii.gz"], classes),
        (vec!["imagesTr/a_0000.nii.gz", "labelsTr/b.nii.gz"], classes),
        (vec!["imagesTr/a_0000.nii.gz"], list.as_str()),
        (vec!["a.nii.gz", "b_seg.nii.gz"], classes),
    ] {
        Found::in_described(&files, &[("dataset.json", json)]).notes(std::slice::from_ref(&note));
    }
    let background = r#"{"labels": {"background": 0}}"#;
    Found::in_described(&["imagesTr/a_0000.nii.gz"], &[("dataset.json", background)]).notes(&[]);
    let found = Found::in_described(&["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"], &[("dataset.json", classes)]);
    found.notes(&[]);
}

#[test]
fn numbers_that_label_maps_have_too_count_cases_in_every_layout() {
    let numbers = ["scan_0000", "scan_0001", "scan_0002"];
    let files = |images: &str, labels: &str| -> Vec<String> {
        let images = numbers.iter().map(move |stem| format!("{images}/{stem}.nii.gz"));
        images.chain(numbers.iter().map(|stem| format!("{labels}/{stem}.nii.gz"))).collect()
    };
    let cases = |images: &str, labels: &str| -> Vec<String> {
        let case = |stem: &&str| format!("data/{stem} {images}/{stem}.nii.gz {labels}/{stem}.nii.gz");
        numbers.iter().map(case).collect()
    };
    let entry = |stem: &&str| format!(r#"{{"image": "imagesTr/{stem}.nii.gz", "label": "labelsTr/{stem}.nii.gz"}}"#);
    let list = format!(r#"{{"training": [{}]}}"#, numbers.iter().map(entry).collect::<Vec<_>>().join(", "));
    let described: &[(&str, &str)] = &[("dataset.json", list.as_str())];
    for (images, labels, contents) in
        [("imagesTr", "labelsTr", UNDESCRIBED), ("images", "labels", UNDESCRIBED), ("imagesTr", "labelsTr", described)]
    {
        let (files, cases) = (files(images, labels), cases(images, labels));
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
        Found::in_described(&files, contents).cases(&cases).skipped(&[]).unused(&[]);
    }
    Found::in_files(&["scan_0000.nii.gz", "scan_0000_seg.nii.gz", "scan_0001.nii.gz", "scan_0001_seg.nii.gz"]).cases(
        &[
            "data/scan_0000 scan_0000.nii.gz scan_0000_seg.nii.gz",
            "data/scan_0001 scan_0001.nii.gz scan_0001_seg.nii.gz",
        ],
    );
}

#[test]
fn the_only_number_of_a_name_is_a_channel_though_the_label_map_has_it() {
    Found::in_files(&["images/a_0000.nii", "labels/a_0000.nii"])
        .cases(&["data/a images/a_0000.nii labels/a_0000.nii"])
        .unused(&[]);
    let list = r#"{"training": [{"image": "scans/a_0000.nii", "label": "truth/a_0000.nii"}]}"#;
    Found::in_described(&["scans/a_0000.nii", "truth/a_0000.nii"], &[("dataset.json", list)])
        .cases(&["data/a scans/a_0000.nii truth/a_0000.nii"]);
    // As nnU-Net names it.
    Found::in_files(&["imagesTr/a_0000.nii", "labelsTr/a_0000.nii"])
        .cases(&["data/a_0000 imagesTr/a_0000.nii labelsTr/a_0000.nii"]);
}

#[test]
fn no_image_of_a_case_with_several_channels_is_passed_over() {
    let several = several_channels(false);
    Found::in_files(&[
        "images/a_0000.nii",
        "images/a_0001.nii",
        "images/b_0000.nii",
        "images/c_0001.nii",
        "labels/b.nii",
    ])
    .cases(&["data/b images/b_0000.nii labels/b.nii"])
    .skipped(&[("data/a", several)])
    .unused(&[("images/c_0001.nii", UnusedReason::OtherChannel)]);
    // A second channel that is not listed.
    let list = r#"{"training": ["imagesTr/a_0000.nii"]}"#;
    Found::in_described(&["imagesTr/a_0000.nii", "imagesTr/a_0001.nii"], &[("dataset.json", list)])
        .cases(&[])
        .skipped(&[("data/a", several)])
        .unused(&[]);
}

#[test]
fn long_runs_of_numbers_count_cases_without_label_maps_too() {
    let files: Vec<String> = (0..9).map(|number| format!("imagesTr/scan_{number:04}.nii")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let described: &[(&str, &str)] = &[("dataset.json", r#"{"file_ending": ".nii", "labels": {"background": 0}}"#)];
    for contents in [UNDESCRIBED, described] {
        let found = Found::in_described(&files, contents);
        found.skipped(&[]).unused(&[]);
        assert_eq!(found.listing.datasets[0].cases.len(), 9);
        assert_eq!(found.listing.datasets[0].cases[0].case_id, "scan_0000");
    }
}

#[test]
fn volumes_in_subfolders_are_told_as_such() {
    let of = |folder: &str| UnusedReason::InSubfolder { of: folder.into() };
    Found::in_files(&["imagesTr/x/x_0000.nii.gz", "imagesTr/y_0000.nii.gz", "labelsTr/x/x.nii.gz"])
        .cases(&["data/y imagesTr/y_0000.nii.gz -"])
        .unused(&[("imagesTr/x/x_0000.nii.gz", of("imagesTr")), ("labelsTr/x/x.nii.gz", of("labelsTr"))]);
    Found::in_files(&["images/more/x.nii.gz", "images/y.nii.gz", "labels/more/x.nii.gz", "labels/y.nii.gz"])
        .cases(&["data/y images/y.nii.gz labels/y.nii.gz"])
        .unused(&[("images/more/x.nii.gz", of("images")), ("labels/more/x.nii.gz", of("labels"))]);
    assert_eq!(of("imagesTr").to_string(), "in a subfolder of imagesTr; expected directly in imagesTr");
}

#[test]
fn folders_of_images_and_label_maps_may_have_further_words() {
    for (images, labels) in [
        ("imagesTr2200", "labelsTr2200"),
        ("averaged-training-images", "averaged-training-labels"),
        ("Case_Images", "Case_Masks"),
        ("CTs", "Ground-truth"),
        ("TrainingImg", "TrainingMask"),
        ("trainingImages", "trainingLabels"),
        ("TrainImages", "TrainMasks"),
        ("imgTr", "segTr"),
        ("IMGTR", "LABELTR"),
        ("Image", "Mask"),
        ("CT", "Seg"),
        ("volumes", "segmentations"),
        ("imagesTraining", "labelsTraining"),
        ("ct_scans", "LiverSeg"),
    ] {
        let (image, label) = (format!("{images}/x_0000.nii"), format!("{labels}/x.nii"));
        Found::in_files(&[&image, &label]).cases(&[&format!("data/x {image} {label}")]).unused(&[]);
    }
    // A name without further words counts first.
    Found::in_files(&["images/x.nii", "images_raw/x.nii", "labels/x.nii", "labelsTs/t.nii"])
        .cases(&["data/x images/x.nii labels/x.nii"])
        .unused(&[("images_raw/x.nii", UnusedReason::OutsideDatasets), ("labelsTs/t.nii", UnusedReason::TestData)]);
    // Of several, none is chosen.
    Found::in_files(&["images1/x.nii", "images2/x.nii", "labelsTr/x.nii"])
        .cases(&["data/images1/x images1/x.nii -", "data/images2/x images2/x.nii -"])
        .unused(&[("labelsTr/x.nii", UnusedReason::NamedLikeLabel)]);
}

#[test]
fn numbered_folders_of_different_cases_are_parts_of_one() {
    // RibFrac, and AbdomenCT-1K.
    let files = [
        "train-images-1/RibFrac1-image.nii",
        "train-images-2/RibFrac2-image.nii",
        "train-labels-1/RibFrac1-label.nii",
        "train-labels-2/RibFrac2-label.nii",
    ];
    Found::in_files(&files)
        .cases(&[
            "data/RibFrac1-image train-images-1/RibFrac1-image.nii train-labels-1/RibFrac1-label.nii",
            "data/RibFrac2-image train-images-2/RibFrac2-image.nii train-labels-2/RibFrac2-label.nii",
        ])
        .unused(&[]);
    Found::in_files(&["CT-1K-ImagePart1/Case_1_0000.nii", "CT-1K-ImagePart2/Case_2_0000.nii", "Mask/Case_1.nii"])
        .cases(&[
            "data/Case_1 CT-1K-ImagePart1/Case_1_0000.nii Mask/Case_1.nii",
            "data/Case_2 CT-1K-ImagePart2/Case_2_0000.nii -",
        ]);
}

#[test]
fn images_are_found_by_the_names_of_label_maps_next_to_them() {
    // LUNA16.
    let found = Found::in_files(&["subset0/1.2.mhd", "subset1/1.3.mhd", "seg-lungs-LUNA16/1.2.mhd"]);
    found.cases(&["data/1.2 subset0/1.2.mhd seg-lungs-LUNA16/1.2.mhd", "data/1.3 subset1/1.3.mhd -"]);
    // Nothing but the names of files says that these are images.
    assert_eq!(found.listing.datasets[0].cases[0].role, crate::case::ImageRole::Assumed);
    // Names of other modalities, and other names.
    for folder in ["PET", "T1w"] {
        let file = format!("{folder}/x.nii");
        Found::in_files(&[&file, "labels/x.nii"]).unused(&[("labels/x.nii", UnusedReason::NamedLikeLabel)]);
    }
    Found::in_files(&["scanner/x.nii", "labels/y.nii"]).cases(&["data/scanner/x scanner/x.nii -"]);
    // Two folders with such names.
    Found::in_files(&["portal/x.nii", "native/x.nii", "labels/x.nii"])
        .cases(&["data/native/x native/x.nii -", "data/portal/x portal/x.nii -"]);
}

#[test]
fn of_several_folders_of_label_maps_for_the_same_images_none_is_chosen() {
    for images in ["COVID-19-CT-Seg_20cases", "ct_scans"] {
        let image = format!("{images}/coronacases_org_001.nii");
        let labels = ["Infection_Mask", "Lung_Mask", "Lung_and_Infection_Mask"];
        let files = labels.map(|folder| format!("{folder}/coronacases_001.nii"));
        let folders = "Infection_Mask, Lung_and_Infection_Mask, Lung_Mask".to_owned();
        let competing = UnusedReason::CompetingLabels { folders: folders.clone() };
        assert_eq!(competing.weight(), Weight::Missed);
        Found::in_files(&[&image, &files[0], &files[1], &files[2]])
            .cases(&[&format!("data/coronacases_org_001 {image} -")])
            .unused(&[
                (files[0].as_str(), competing.clone()),
                (files[1].as_str(), competing.clone()),
                (files[2].as_str(), competing.clone()),
            ])
            .notes(&[DatasetNote::CompetingLabels { folders }]);
        // With one of them.
        Found::in_files(&[&image, &files[1]])
            .cases(&[&format!("data/coronacases_org_001 {image} {}", files[1])])
            .unused(&[])
            .notes(&[]);
    }
    // Label maps of other images do not compete.
    Found::in_files(&["images/x.nii", "labels/x.nii", "masks_old/y.nii"])
        .cases(&["data/x images/x.nii labels/x.nii"])
        .unused(&[("masks_old/y.nii", UnusedReason::OutsideDatasets)]);
}

#[test]
fn an_earlier_version_of_the_folder_of_label_maps_does_not_compete() {
    for earlier in ["labels_old", "labels-backup", "labels.bak", "labels_V1"] {
        let file = format!("{earlier}/x.nii");
        Found::in_files(&["images/x.nii", "labels/x.nii", &file])
            .cases(&["data/x images/x.nii labels/x.nii"])
            .unused(&[(file.as_str(), UnusedReason::EarlierLabels { used: "labels".into() })])
            .notes(&[]);
    }
    let of_nnunet = UnusedReason::EarlierLabels { used: "labelsTr".into() };
    assert_eq!(of_nnunet.weight(), Weight::Named);
    Found::in_files(&["imagesTr/x_0000.nii", "labelsTr/x.nii", "labelsTr_old/x.nii"])
        .cases(&["data/x imagesTr/x_0000.nii labelsTr/x.nii"])
        .unused(&[("labelsTr_old/x.nii", of_nnunet)]);
    // Without label maps in the later folder, they are missed.
    Found::in_files(&["imagesTr/x_0000.nii", "labelsTr/notes.txt", "labelsTr_old/x.nii"])
        .unused(&[("labelsTr/notes.txt", UnusedReason::NotAVolume), ("labelsTr_old/x.nii", misplaced())]);
    // Without a folder of the plain name, none is known to be the later one.
    Found::in_files(&["images/x.nii", "labels_v1/x.nii", "labels_v2/x.nii"]).cases(&["data/x images/x.nii -"]);
}

#[test]
fn predictions_are_neither_images_nor_label_maps() {
    let predicted = UnusedReason::Prediction;
    assert_eq!(predicted.weight(), Weight::Counted);
    Found::in_files(&["img/a.nii", "label/a.nii", "predictions/a.nii"])
        .cases(&["data/a img/a.nii label/a.nii"])
        .unused(&[("predictions/a.nii", predicted.clone())]);
    Found::in_files(&["s0/ct.nii", "s0/predictions/liver.nii", "s0/segmentations/liver.nii"])
        .cases(&["data/s0 s0/ct.nii s0/segmentations"])
        .unused(&[("s0/predictions/liver.nii", predicted.clone())]);
    Found::in_files(&["images/a.nii", "predictions/a.nii"])
        .cases(&["data/images/a images/a.nii -"])
        .unused(&[("predictions/a.nii", predicted.clone())]);
    Found::in_files(&["imagesTr/a_0000.nii", "inferTs/t.nii", "labelsTr/a.nii", "predictions/a.nii"])
        .cases(&["data/a imagesTr/a_0000.nii labelsTr/a.nii"])
        .unused(&[("inferTs/t.nii", UnusedReason::TestData), ("predictions/a.nii", predicted)]);
    // A study of outcome prediction has a name of its own.
    let study = UnusedReason::InPredictionFolder { folder: "prediction_study".into() };
    assert_eq!(study.weight(), Weight::Named);
    Found::in_files(&["ok.nii", "prediction_study/a.nii"])
        .cases(&["data/ok ok.nii -"])
        .unused(&[("prediction_study/a.nii", study.clone())]);
    Found::in_files(&["imagesTr/a_0000.nii", "prediction_study/a.nii"]).unused(&[("prediction_study/a.nii", study)]);
}

#[test]
fn images_and_label_maps_may_be_divided_alike() {
    let found = Found::in_files(&[
        "images/test/t.nii",
        "images/train/a.nii",
        "images/val/v.nii",
        "labels/train/a.nii",
        "labels/train/b.nii",
        "labels/val/v.nii",
        "more/imagesTr/m_0000.nii",
        "notes.txt",
        "z.nii",
    ]);
    found.cases(&["data/a images/train/a.nii labels/train/a.nii", "more/m more/imagesTr/m_0000.nii -"]).unused(&[
        ("images/test/t.nii", UnusedReason::TestData),
        ("images/val/v.nii", UnusedReason::Validation),
        ("labels/train/b.nii", UnusedReason::LabelWithoutImage),
        ("labels/val/v.nii", UnusedReason::Validation),
        ("notes.txt", UnusedReason::NotAVolume),
        ("z.nii", UnusedReason::OutsideDatasets),
    ]);
    // Without training data, each part is a dataset.
    Found::in_files(&["images/test/t.nii", "images/val/v.nii", "labels/test/t.nii", "labels/val/v.nii"])
        .cases(&["data-test/t images/test/t.nii labels/test/t.nii", "data-val/v images/val/v.nii labels/val/v.nii"]);
    // Several datasets have their own names, and so have several parts for training.
    Found::in_files(&["a/images/train/x.nii", "a/labels/train/x.nii", "b/img/train/x.nii", "b/label/train/x.nii"])
        .cases(&["a/x a/images/train/x.nii a/labels/train/x.nii", "b/x b/img/train/x.nii b/label/train/x.nii"]);
    Found::in_files(&["images/train1/x.nii", "images/train2/x.nii", "labels/train1/x.nii", "labels/train2/x.nii"])
        .cases(&[
            "data-train1/x images/train1/x.nii labels/train1/x.nii",
            "data-train2/x images/train2/x.nii labels/train2/x.nii",
        ]);
    // Folders of single cases are not parts of a dataset.
    Found::in_files(&["images/p1/ct.nii", "labels/p2/seg.nii"])
        .cases(&["data/images/p1/ct images/p1/ct.nii -"])
        .unused(&[("labels/p2/seg.nii", UnusedReason::NamedLikeLabel)]);
}

#[test]
fn parts_that_are_not_there_are_vacant() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, files: &[&str], empty: &str, expected: &[&str]| {
        let data = dir.path().join(name);
        touch(&data, files);
        std::fs::create_dir_all(data.join(empty)).unwrap();
        let listing = survey(&data).unwrap();
        let vacant: Vec<&String> = listing.datasets.iter().flat_map(|dataset| &dataset.vacant).collect();
        for prefix in expected {
            assert!(vacant.iter().any(|vacant| vacant == prefix), "{name}: {vacant:?}");
        }
        listing
    };
    let listing = check("a", &["D/images/train/x.nii", "Dataset002_E/imagesTr/y_0000.nii"], "D/labels/train", &["D/"]);
    let notes: Vec<&DatasetNote> = listing.datasets.iter().flat_map(|dataset| &dataset.notes).collect();
    assert_eq!(notes, [&DatasetNote::EmptyPart { folder: "labels".into() }]);
    // At the top, where the images are in no layout, and with all label maps on one disk.
    check("b", &["images/train/x.nii"], "labels/train", &["b/"]);
    check("c", &["D/images/train/x.nii"], "D/labels", &["D/"]);
    // Next to a part that is there.
    let files = ["D/images/train/x.nii", "D/images/val/v.nii", "D/labels/val/v.nii"];
    check("d", &files, "D/labels/train", &["D/"]);
    // With a description that cannot be used.
    let data = dir.path().join("e");
    touch(&data, &["D/dataset.json", "Dataset002_E/imagesTr/y_0000.nii"]);
    std::fs::write(data.join("D/dataset.json"), "[]").unwrap();
    let files = ["D/images/val/v.nii", "D/labels/val/v.nii"];
    check("e", &files, "D/images/train", &["D/", "D-val/"]);
}

#[test]
fn several_label_maps_of_the_only_image_are_ambiguous() {
    // KiTS21.
    let kits = [
        "case_0/aggregated_AND_seg.nii.gz",
        "case_0/aggregated_MAJ_seg.nii.gz",
        "case_0/imaging.nii.gz",
        "case_0/segmentations/kidney_instance-1_annotation-1.nii.gz",
    ];
    let unused = [
        (kits[0], UnusedReason::AmbiguousLabel),
        (kits[1], UnusedReason::AmbiguousLabel),
        (kits[3], UnusedReason::AmbiguousLabel),
    ];
    Found::in_files(&kits).cases(&["data/case_0/imaging case_0/imaging.nii.gz -"]).unused(&unused);
    // Next to a case with one label map.
    let files = [&kits[..], &["case_1/imaging.nii.gz", "case_1/segmentation.nii.gz"]].concat();
    Found::in_files(&files)
        .cases(&["data/case_0 case_0/imaging.nii.gz -", "data/case_1 case_1/imaging.nii.gz case_1/segmentation.nii.gz"])
        .unused(&unused);
    Found::in_files(&["p7.nii", "p7_kidney_seg.nii", "p7_liver_seg.nii", "p8_seg.nii"])
        .cases(&["data/p7 p7.nii -"])
        .unused(&[
            ("p7_kidney_seg.nii", UnusedReason::AmbiguousLabel),
            ("p7_liver_seg.nii", UnusedReason::AmbiguousLabel),
            ("p8_seg.nii", UnusedReason::NamedLikeLabel),
        ]);
    // Each image may have one of them.
    Found::in_files(&["p1.nii", "p2.nii", "x_seg.nii", "y_seg.nii"])
        .unused(&[("x_seg.nii", UnusedReason::NamedLikeLabel), ("y_seg.nii", UnusedReason::NamedLikeLabel)]);
}

#[test]
fn dicom_without_an_ending_is_named_next_to_other_formats() {
    let image = "Dataset001_A/imagesTr/x_0000.nii";
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &[image, "LICENSE", "pacs/z.dcm.gz"]);
    let whole = [[0; 128].as_slice(), b"DICM"].concat();
    let whole = whole.as_slice();
    let bare: &[u8] = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100\x08\x00\x08\x00CS\x08\x00ORIGINAL";
    for (path, bytes) in [
        ("pacs/IM0000", whole),
        ("pacs/1.2.840.1", whole),
        ("Dataset001_A/imagesTr/IM0001", whole),
        ("pacs/old", bare),
        ("pacs/table.csv", whole),
    ] {
        std::fs::create_dir_all(data.join(path).parent().unwrap()).unwrap();
        std::fs::write(data.join(path), bytes).unwrap();
    }
    let found = Found { listing: survey(&data).unwrap(), dir };
    found.unused(&[
        ("Dataset001_A/imagesTr/IM0001", UnusedReason::DicomInDataset),
        ("LICENSE", UnusedReason::NotAVolume),
        ("pacs/1.2.840.1", UnusedReason::DicomInDataset),
        ("pacs/IM0000", UnusedReason::DicomInDataset),
        ("pacs/old", UnusedReason::DicomWithoutPreamble),
        ("pacs/table.csv", UnusedReason::NotAVolume),
        ("pacs/z.dcm.gz", UnusedReason::Format { name: "DICOM compressed with gzip" }),
    ]);
}

#[test]
fn test_and_validation_data_of_any_layout_are_kept_apart_from_training() {
    // Pairs of folders, folders of cases, plain folders and whole datasets.
    Found::in_files(&[
        "Raw/Training/img/a.nii",
        "Raw/Training/label/a.nii",
        "Raw/Testing/img/t.nii",
        "Raw/Testing/label/t.nii",
    ])
    .cases(&["Training/a Raw/Training/img/a.nii Raw/Training/label/a.nii"])
    .unused(&[("Raw/Testing/img/t.nii", UnusedReason::TestSet), ("Raw/Testing/label/t.nii", UnusedReason::TestSet)]);
    Found::in_files(&["train/a.nii", "val/v.nii", "test/t.nii"])
        .cases(&["data/train/a train/a.nii -"])
        .unused(&[("test/t.nii", UnusedReason::TestSet), ("val/v.nii", UnusedReason::Validation)]);
    Found::in_files(&["train/Dataset001_A/imagesTr/a_0000.nii", "validation/Dataset002_B/imagesTr/b_0000.nii"])
        .cases(&["Dataset001_A/a train/Dataset001_A/imagesTr/a_0000.nii -"])
        .unused(&[("validation/Dataset002_B/imagesTr/b_0000.nii", UnusedReason::Validation)]);
    // Without training data next to them, and in datasets of that name, they are data like others.
    Found::in_files(&["test/t.nii", "more/m.nii"]).cases(&["data/more/m more/m.nii -", "data/test/t test/t.nii -"]);
    Found::in_files(&["Dataset001_Train/imagesTr/a_0000.nii", "Dataset002_Test/imagesTr/b_0000.nii"]).cases(&[
        "Dataset001_Train/a Dataset001_Train/imagesTr/a_0000.nii -",
        "Dataset002_Test/b Dataset002_Test/imagesTr/b_0000.nii -",
    ]);
    assert!(UnusedReason::TestSet.weight() > Weight::Counted);
}
