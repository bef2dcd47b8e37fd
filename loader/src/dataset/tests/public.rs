//! Layouts of public datasets, and of collections of single cases.

use super::*;

#[test]
fn pairs_of_files_are_cases_wherever_they_lie() {
    // One folder with one pair, one with two, and one with a scan.
    Found::in_files(&["a/x.nii", "a/x_seg.nii", "b/y.nii", "b/y_seg.nii", "b/z.nii", "b/z_seg.nii", "c/w.nii"])
        .cases(&[
            "data/a a/x.nii a/x_seg.nii",
            "data/b/y b/y.nii b/y_seg.nii",
            "data/b/z b/z.nii b/z_seg.nii",
            "data/c/w c/w.nii -",
        ])
        .unused(&[])
        .notes(&[DatasetNote::Unlabelled { count: 1, of: 4, example: "c/w".into() }]);
    // A pair at the top.
    Found::in_files(&["x.nii", "x_seg.nii", "b/y.nii", "b/y_seg.nii", "b/z.nii", "b/z_seg.nii", "b/v_seg.nii"])
        .cases(&["data/b/y b/y.nii b/y_seg.nii", "data/b/z b/z.nii b/z_seg.nii", "data/x x.nii x_seg.nii"])
        .unused(&[("b/v_seg.nii", UnusedReason::NamedLikeLabel)]);
    Found::in_files(&["x.nii", "x_seg.nii", "b/y.nii", "b/y_seg.nii"])
        .cases(&["data/b b/y.nii b/y_seg.nii", "data/x x.nii x_seg.nii"])
        .unused(&[]);
    // A scan named like the folder of a case.
    Found::in_files(&["a/x.nii", "a/x_seg.nii", "a.nii", "b.nii"])
        .cases(&["data/a a/x.nii a/x_seg.nii", "data/b b.nii -"])
        .skipped(&[("data/a", "another case of the dataset has this name, by its folder; rename one of them")]);
    // Next to folders that are cases by their names, scans without label maps remain outside.
    Found::in_files(&["k/p/imaging.nii", "k/p/segmentation.nii", "m/y.nii", "m/y_seg.nii", "m/z.nii", "n/v.nii"])
        .cases(&["k/p k/p/imaging.nii k/p/segmentation.nii", "m/y m/y.nii m/y_seg.nii", "m/z m/z.nii -"])
        .unused(&[("n/v.nii", UnusedReason::OutsideDatasets)])
        .notes(&[DatasetNote::Unlabelled { count: 1, of: 2, example: "z".into() }]);
    // Two folders of one name have cases of the same names.
    let of = |folder: &str| ["y", "y_seg", "z", "z_seg"].map(|stem| format!("{folder}/s/{stem}.nii"));
    let files = [of("m"), of("n")].concat();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    Found::in_files(&[&files[..], &["k/p/imaging.nii", "k/p/segmentation.nii"][..]].concat())
        .cases(&[
            "k/p k/p/imaging.nii k/p/segmentation.nii",
            "m-s/y m/s/y.nii m/s/y_seg.nii",
            "m-s/z m/s/z.nii m/s/z_seg.nii",
            "n-s/y n/s/y.nii n/s/y_seg.nii",
            "n-s/z n/s/z.nii n/s/z_seg.nii",
        ])
        .skipped(&[]);
    // Next to datasets of other layouts, all of them do.
    Found::in_files(&["D/imagesTr/a_0000.nii", "m/y.nii", "m/y_seg.nii", "m/z.nii", "m/z_seg.nii"])
        .cases(&["D/a D/imagesTr/a_0000.nii -"]);
}

#[test]
fn cases_left_out_as_test_data_are_not_told_as_unlabelled() {
    let found = Found::in_files(&[
        "Training Batch 1/volume-0.nii",
        "Training Batch 1/segmentation-0.nii",
        "Training Batch 1/volume-1.nii",
        "Training Batch 1/segmentation-1.nii",
        "Training Batch 2/volume-28.nii",
        "Training Batch 2/segmentation-28.nii",
        "LITS-Challenge-Test-Data/test-volume-0.nii",
    ]);
    found.unused(&[("LITS-Challenge-Test-Data/test-volume-0.nii", UnusedReason::TestSet)]);
    let notes: Vec<&DatasetNote> = found.listing.datasets.iter().flat_map(|dataset| &dataset.notes).collect();
    assert!(!notes.iter().any(|note| matches!(note, DatasetNote::Unlabelled { .. })), "{notes:?}");
}

#[test]
fn dicom_in_a_folder_of_predictions_is_told_as_a_prediction() {
    Found::in_files(&["a.nii", "predictions/x.dcm"])
        .cases(&["data/a a.nii -"])
        .unused(&[("predictions/x.dcm", UnusedReason::Prediction)]);
}

#[test]
fn folders_that_nnunet_wrote_hold_no_images() {
    let output = |folder: &str| UnusedReason::NnunetOutput { folder: folder.into() };
    assert_eq!(output("fold_0").weight(), Weight::Named);
    let trained = "nnUNet_results/Dataset001_A/nnUNetTrainer__nnUNetPlans__3d_fullres";
    let [validated, summary] = ["x.nii", "summary.json"].map(|file| format!("{trained}/fold_0/validation/{file}"));
    let found = Found::in_files(&[
        "nnUNet_preprocessed/Dataset001_A/dataset.json",
        "nnUNet_preprocessed/Dataset001_A/gt_segmentations/x.nii",
        "nnUNet_raw/Dataset001_A/imagesTr/x_0000.nii",
        "nnUNet_raw/Dataset001_A/labelsTr/x.nii",
        &validated,
        &summary,
    ]);
    found
        .cases(&["Dataset001_A/x nnUNet_raw/Dataset001_A/imagesTr/x_0000.nii nnUNet_raw/Dataset001_A/labelsTr/x.nii"])
        .unused(&[
            ("nnUNet_preprocessed/Dataset001_A/dataset.json", UnusedReason::NotAVolume),
            ("nnUNet_preprocessed/Dataset001_A/gt_segmentations/x.nii", output("nnUNet_preprocessed")),
            (summary.as_str(), UnusedReason::NotAVolume),
            (validated.as_str(), output("nnUNet_results")),
        ]);
    // A model on its own, and folds of a user.
    Found::in_files(&["a.nii", "m/fold_0/validation/x.nii", "m/fold_all/validation_raw/x.nii"])
        .cases(&["data/a a.nii -"])
        .unused(&[
            ("m/fold_0/validation/x.nii", output("fold_0")),
            ("m/fold_all/validation_raw/x.nii", output("fold_all")),
        ]);
    Found::in_files(&["fold_0/train/a.nii", "fold_0/validation/b.nii"])
        .cases(&["data/fold_0/train/a fold_0/train/a.nii -"])
        .unused(&[("fold_0/validation/b.nii", UnusedReason::Validation)]);
    let error = survey(&found.dir.path().join("data/nnUNet_results")).unwrap_err().to_string();
    assert!(error.contains("written by nnU-Net (nnUNet_results)"), "{error}");
}

#[test]
fn images_and_label_maps_may_have_subfolders_of_the_same_names() {
    // VerSe, whose subject 5 has two scans, and 6 none of its label maps.
    let image = |subject: &str| format!("rawdata/sub-{subject}_ct.nii.gz");
    let label = |subject: &str| format!("derivatives/sub-{subject}_seg-vert_msk.nii.gz");
    let subjects = ["v4/sub-v4", "v5/sub-v5_dir-ax", "v5/sub-v5_dir-iso", "v6/sub-v6"];
    let [a, b, c, d] = subjects.map(image);
    let [la, lb, lc, _] = subjects.map(label);
    let found = Found::in_files(&[&a, &b, &c, &d, &la, &lb, &lc, "derivatives/sub-v7/x_msk.nii.gz", "notes.txt"]);
    found
        .cases(&[
            &format!("data/sub-v4 {a} {la}"),
            &format!("data/sub-v5/sub-v5_dir-ax_ct {b} {lb}"),
            &format!("data/sub-v5/sub-v5_dir-iso_ct {c} {lc}"),
            &format!("data/sub-v6 {d} -"),
        ])
        .unused(&[
            ("derivatives/sub-v7/x_msk.nii.gz", UnusedReason::LabelWithoutImage),
            ("notes.txt", UnusedReason::NotAVolume),
        ])
        .notes(&[DatasetNote::Unlabelled { count: 1, of: 4, example: "sub-v6".into() }]);
    // CTSpine1K, and folders of single cases.
    Found::in_files(&[
        "labels/COLONOG/a_seg.nii",
        "labels/COLONOG/b_seg.nii",
        "volumes/COLONOG/a.nii",
        "volumes/COLONOG/b.nii",
    ])
    .cases(&[
        "data/COLONOG/a volumes/COLONOG/a.nii labels/COLONOG/a_seg.nii",
        "data/COLONOG/b volumes/COLONOG/b.nii labels/COLONOG/b_seg.nii",
    ])
    .unused(&[]);
    Found::in_files(&["images/p1/ct.nii", "labels/p1/seg.nii", "images/p2/ct.nii", "images/p2/t1.nii"])
        .cases(&["data/p1 images/p1/ct.nii labels/p1/seg.nii", "data/p2 images/p2/ct.nii -"])
        .unused(&[("images/p2/t1.nii", UnusedReason::OtherModalityOfCase { word: "t1".into() })]);
}

#[test]
fn a_label_map_in_a_subfolder_is_that_of_the_image_with_its_name() {
    // The subset of a source, with an image and the label map of another one.
    Found::in_files(&["labels/S/b_seg.nii", "labels/T/x_seg.nii", "volumes/S/a.nii", "volumes/T/x.nii"])
        .cases(&["data/S volumes/S/a.nii -", "data/T volumes/T/x.nii labels/T/x_seg.nii"])
        .unused(&[("labels/S/b_seg.nii", UnusedReason::LabelWithoutImage)]);
    // The label map of `a_b` has further words than `a`, but not than `a_b`.
    Found::in_files(&["images/S/a.nii", "images/S/a_b.nii", "labels/S/a_b_seg.nii"])
        .cases(&["data/S/a images/S/a.nii -", "data/S/a_b images/S/a_b.nii labels/S/a_b_seg.nii"])
        .unused(&[]);
    // Masks of the parts of a label map, as in AbdomenAtlas.
    let files = ["image_only/p1/ct.nii", "mask_only/p1/combined_labels.nii", "mask_only/p1/segmentations/liver.nii"];
    Found::in_files(&files)
        .cases(&["data/p1 image_only/p1/ct.nii mask_only/p1/combined_labels.nii"])
        .unused(&[(files[2], UnusedReason::PartOfLabel)]);
    // Two images of the name.
    let files = ["images/S/a.nii", "images/S/a_ct.nii", "images/T/x.nii", "labels/S/a_seg.nii", "labels/T/x_seg.nii"];
    Found::in_files(&files).unused(&[("labels/S/a_seg.nii", UnusedReason::AmbiguousLabel)]);
    // One mask is no label map where other cases have several.
    let masks = ["labels/p1/liver.nii", "labels/p2/liver.nii", "labels/p2/lung.nii"];
    let images = ["images/p1/ct.nii", "images/p2/ct.nii", "images/p3/ct.nii", "labels/p3/seg.nii"];
    Found::in_files(&[&masks[..], &images[..]].concat())
        .cases(&[
            "data/p1 images/p1/ct.nii -",
            "data/p2 images/p2/ct.nii -",
            "data/p3 images/p3/ct.nii labels/p3/seg.nii",
        ])
        .unused(&[
            (masks[0], UnusedReason::LabelWithoutImage),
            (masks[1], UnusedReason::AmbiguousLabel),
            (masks[2], UnusedReason::AmbiguousLabel),
        ]);
    Found::in_files(&[masks[0], masks[1], images[0], "images/p2/p2.nii"])
        .cases(&["data/p1 images/p1/ct.nii labels/p1/liver.nii", "data/p2 images/p2/p2.nii labels/p2/liver.nii"])
        .unused(&[]);
}

#[test]
fn cases_of_empty_folders_do_not_count_as_removed() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, files: &[&str], empty: &str, expected: &str| {
        let data = dir.path().join(name);
        touch(&data, files);
        std::fs::create_dir_all(data.join(empty)).unwrap();
        assert_eq!(survey(&data).unwrap().datasets[0].vacant, [expected]);
    };
    let files = ["images/p1/ct.nii", "labels/p1/seg.nii"];
    check("a", &files, "images/p3", "a/p3");
    check("b", &files, "labels/p4", "b/p4");
    // A study of AutoPET, and a patient.
    let files = ["PETCT_1/s1/CTres.nii.gz", "PETCT_1/s1/SEG.nii.gz"];
    check("c", &files, "PETCT_1/s2", "c/PETCT_1/s2");
    check("d", &files, "PETCT_2", "d/PETCT_2");
}

#[test]
fn originals_have_the_label_maps_of_their_case() {
    let files = ["liver-orig001.mhd", "liver-orig002.mhd", "liver-seg001.mhd", "liver-seg002.mhd"];
    Found::in_files(&files)
        .cases(&[
            "data/liver-orig001 liver-orig001.mhd liver-seg001.mhd",
            "data/liver-orig002 liver-orig002.mhd liver-seg002.mhd",
        ])
        .unused(&[]);
    Found::in_files(&["liver-orig001.nii.gz", "liver-seg001.nii.gz"])
        .cases(&["data/liver-orig001 liver-orig001.nii.gz liver-seg001.nii.gz"]);
    // A label map of the same name comes first.
    Found::in_files(&["p1.nii", "p1_orig.nii", "p1_seg.nii"])
        .cases(&["data/p1 p1.nii p1_seg.nii", "data/p1_orig p1_orig.nii -"]);
}

#[test]
fn the_ct_on_the_grid_of_the_label_map_is_the_image_of_a_study() {
    let study = "PETCT_01/03-23-2003-NA-PET-CT whole body";
    let files = ["CT.nii.gz", "CTres.nii.gz", "PET.nii.gz", "SEG.nii.gz", "SUV.nii.gz"];
    let files = files.map(|file| format!("{study}/{file}"));
    let paths = files.each_ref().map(String::as_str);
    let other = |word: &str| UnusedReason::OtherModalityOfCase { word: word.into() };
    let unused = [
        (paths[0], UnusedReason::OtherGrid { used: "CTres.nii.gz".into() }),
        (paths[2], other("pet")),
        (paths[4], other("suv")),
    ];
    Found::in_files(&paths).cases(&[&format!("data/{study} {} {}", paths[1], paths[3])]).unused(&unused);
    assert!(unused.iter().all(|(_, reason)| reason.weight() == Weight::Named));
}

#[test]
fn datasets_named_like_label_maps_hold_images() {
    // CT-ORG, and COVID-19-CT-Seg without its masks.
    Found::in_files(&["OrganSegmentations/labels-0.nii", "OrganSegmentations/volume-0.nii", "readme.txt"])
        .cases(&["data/OrganSegmentations OrganSegmentations/volume-0.nii OrganSegmentations/labels-0.nii"]);
    Found::in_files(&[
        "OrganSegmentations/labels-0.nii",
        "OrganSegmentations/labels-1.nii",
        "OrganSegmentations/volume-0.nii",
        "OrganSegmentations/volume-1.nii",
    ])
    .cases(&[
        "data/OrganSegmentations/volume-0 OrganSegmentations/volume-0.nii OrganSegmentations/labels-0.nii",
        "data/OrganSegmentations/volume-1 OrganSegmentations/volume-1.nii OrganSegmentations/labels-1.nii",
    ]);
    Found::in_files(&["COVID-19-CT-Seg_20cases/c_1.nii", "COVID-19-CT-Seg_20cases/c_2.nii"]).cases(&[
        "data/COVID-19-CT-Seg_20cases/c_1 COVID-19-CT-Seg_20cases/c_1.nii -",
        "data/COVID-19-CT-Seg_20cases/c_2 COVID-19-CT-Seg_20cases/c_2.nii -",
    ]);
    Found::in_files(&["X-Seg/p_1/p_1_CT.nii", "X-Seg/p_1/p_1_a_seg.nii", "X-Seg/p_1/p_1_b_seg.nii"])
        .cases(&["data/X-Seg/p_1/p_1_CT X-Seg/p_1/p_1_CT.nii -"])
        .unused(&[
            ("X-Seg/p_1/p_1_a_seg.nii", UnusedReason::AmbiguousLabel),
            ("X-Seg/p_1/p_1_b_seg.nii", UnusedReason::AmbiguousLabel),
        ]);
    Found::in_files(&["AutoSegCT/p1.nii", "AutoSegCT/p2.nii"])
        .cases(&["data/AutoSegCT/p1 AutoSegCT/p1.nii -", "data/AutoSegCT/p2 AutoSegCT/p2.nii -"]);
    let pairs = ["p1", "p1_seg", "p2", "p2_seg"].map(|stem| format!("LiverSegmentationChallenge/{stem}.nii"));
    let paths = pairs.each_ref().map(String::as_str);
    Found::in_files(&paths)
        .cases(&[
            &format!("data/LiverSegmentationChallenge/p1 {} {}", paths[0], paths[1]),
            &format!("data/LiverSegmentationChallenge/p2 {} {}", paths[2], paths[3]),
        ])
        .unused(&[]);
    // Folders of label maps and nothing else remain such.
    Found::in_files(&["OrganSegmentations/a.nii", "b.nii", "c.nii"])
        .cases(&["data/b b.nii -", "data/c c.nii -"])
        .unused(&[("OrganSegmentations/a.nii", UnusedReason::NamedLikeLabel)]);
}

#[test]
fn masks_of_organs_at_risk_next_to_their_image_become_classes_by_name() {
    // HaN-Seg.
    let files =
        ["1_IMG_CT", "1_IMG_MR_T1", "1_OAR_Eye.seg", "1_OAR_Lips.seg"].map(|name| format!("S/case_1/case_{name}.nrrd"));
    let paths = files.each_ref().map(String::as_str);
    let second = ["S/case_2/case_2_IMG_CT.nrrd", "S/case_2/case_2_OAR_Lips.seg.nrrd"];
    let found = Found::in_files(&[&paths[..], &second[..]].concat());
    found
        .cases(&["S/case_1 S/case_1/case_1_IMG_CT.nrrd S/case_1", "S/case_2 S/case_2/case_2_IMG_CT.nrrd S/case_2"])
        .unused(&[(paths[1], UnusedReason::OtherModalityOfCase { word: "mr".into() })])
        .notes(&[DatasetNote::MissingMasks {
            example: "case_2".into(),
            missing: vec!["Eye".into()],
            of: 2,
            num_lacking: 1,
        }]);
    let dataset = &found.listing.datasets[0];
    let names = [(0, "background"), (1, "Eye"), (2, "Lips")];
    assert_eq!(dataset.labels, names.map(|(label, name)| (label, name.to_owned())).into());
    let Some(LabelFiles::Masks { masks, .. }) = &dataset.cases[1].label else { panic!("{dataset:?}") };
    assert_eq!(
        masks.iter().map(|mask| (mask.class, found.relative(&mask.path))).collect::<Vec<_>>(),
        [(2, second[1].to_owned())]
    );
}

#[test]
fn two_masks_of_one_name_are_not_united_and_masks_of_a_skipped_case_are_not_listed() {
    let pair =
        ["s0/ct.nii", "s0/segmentations/liver.nii", "s0/segmentations/liver.nii.gz", "s0/segmentations/lung.nii"];
    Found::in_files(&pair).cases(&[]).skipped(&[("data/s0", "two masks named liver; keep one")]).unused(&[]);
    let masks: Vec<String> = (0..256).map(|number| format!("s0/segmentations/organ{number}.nii")).collect();
    let files: Vec<&str> = masks.iter().map(String::as_str).chain(["s0/ct.nii"]).collect();
    Found::in_files(&files)
        .skipped(&[("data/s0", "256 masks in this dataset; a label map holds at most 255 classes")])
        .unused(&[]);
}

#[test]
fn folders_of_an_image_and_a_label_map_in_each_case_folder_are_cases() {
    // PARSE22.
    let of = |case: &str| [format!("train/{case}/image/{case}.nii.gz"), format!("train/{case}/label/{case}.nii.gz")];
    let files = [of("PA000005"), of("PA000016")].concat();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let line = |case: &str| format!("train/{case} train/{case}/image/{case}.nii.gz train/{case}/label/{case}.nii.gz");
    Found::in_files(&files).cases(&[&line("PA000005"), &line("PA000016")]).unused(&[]);
    // Datasets that have one case each.
    Found::in_files(&["A/img/1.nii", "A/label/1.nii", "B/img/1.nii", "B/label/1.nii"])
        .cases(&["A/1 A/img/1.nii A/label/1.nii", "B/1 B/img/1.nii B/label/1.nii"]);
}

#[test]
fn the_folder_of_label_maps_may_have_words_before_its_name() {
    // TopCoW.
    let [ct, mr] = ["ct", "mr"].map(|word| {
        let case = format!("topcow_{word}_001");
        [format!("imagesTr/{case}_0000.nii.gz"), format!("cow_seg_labelsTr/{case}.nii.gz")]
    });
    let files: [&str; 5] = [&ct[0], &ct[1], &mr[0], &mr[1], "roi_loc_labelsTr/topcow_ct_001.txt"];
    let word = || "mr".to_owned();
    let used = DatasetNote::LabelFolder { used: "cow_seg_labelsTr".into(), expected: "labelsTr" };
    Found::in_files(&files)
        .cases(&[&format!("data/topcow_ct_001 {} {}", ct[0], ct[1])])
        .unused(&[
            (files[3], UnusedReason::LabelOfOtherModality { word: word() }),
            (files[2], UnusedReason::OtherModalityOfCase { word: word() }),
            (files[4], UnusedReason::NotAVolume),
        ])
        .notes(&[used]);
    // A CT without the number of a channel is not used.
    let [ct, mr] = ["imagesTr/topcow_ct_001.nii", "imagesTr/topcow_mr_001_0000.nii"];
    Found::in_files(&[ct, mr, "imagesTr/topcow_ct_002_0000.nii"])
        .unused(&[(ct, UnusedReason::NoChannel), (mr, UnusedReason::NamedLikeOtherModality { word: word() })]);
    // Of several, next to `labelsTr`, with other names, and as predictions, none is one.
    let misplaced = || UnusedReason::MisplacedLabel { expected: "labelsTr".into() };
    let image = "imagesTr/a_0000.nii";
    let unlabelled = format!("data/a {image} -");
    Found::in_files(&[image, "x_labelsTr/a.nii", "y_labelsTr/a.nii"])
        .cases(&[&unlabelled])
        .unused(&[("x_labelsTr/a.nii", misplaced()), ("y_labelsTr/a.nii", misplaced())]);
    Found::in_files(&[image, "labelsTr/a.nii", "x_labelsTr/a.nii"])
        .cases(&[&format!("data/a {image} labelsTr/a.nii")])
        .unused(&[("x_labelsTr/a.nii", misplaced())]);
    Found::in_files(&[image, "x_labelsTr/b.nii"]).cases(&[&unlabelled]).unused(&[("x_labelsTr/b.nii", misplaced())]);
    for folder in ["old_labelsTr", "backup-labelsTr", "my_Bak_labelsTr", "v1_labelsTr"] {
        let label = format!("{folder}/a.nii");
        Found::in_files(&[image, &label]).cases(&[&unlabelled]).unused(&[(label.as_str(), misplaced())]).notes(&[]);
    }
    Found::in_files(&[image, "pred_labelsTr/a.nii"])
        .cases(&[&unlabelled])
        .unused(&[("pred_labelsTr/a.nii", UnusedReason::Prediction)]);
}

#[test]
fn label_maps_in_a_folder_of_their_own_are_joined_by_the_names_of_images() {
    // CTPelvic1K.
    let of = |number: usize| {
        let case = format!("dataset6_CLINIC_{number:04}");
        let labels = "CTPelvic1K_dataset6_Anonymized_mask/ipcai2021_dataset6_Anonymized";
        [format!("CTPelvic1K_dataset6_data/{case}_data.nii"), format!("{labels}/{case}_mask_4label.nii")]
    };
    let [[first, first_map], [second, second_map], [gone, gone_map]] = [of(1), of(2), of(3)];
    let key = |image: &str| format!("data/{}", image.trim_end_matches(".nii"));
    let line = |image: &str, label: &str| format!("{} {image} {label}", key(image));
    let found = Found::in_files(&[&first, &first_map, &second, &second_map, &gone_map]);
    found
        .cases(&[&line(&first, &first_map), &line(&second, &second_map)])
        .unused(&[(gone_map.as_str(), UnusedReason::NamedLikeLabel)]);
    // Nothing but its name says that this is an image.
    assert_eq!(found.listing.datasets[0].cases[0].role, crate::case::ImageRole::Assumed);
    // Two label maps of one image, and one of two images.
    let file_name = |path: &str| path.rsplit_once('/').unwrap().1.to_owned();
    let other_map = format!("more/{}", file_name(&first_map));
    Found::in_files(&[&first, &first_map, &other_map]).cases(&[&line(&first, "-")]).unused(&[
        (first_map.as_str(), UnusedReason::NamedLikeLabel),
        (other_map.as_str(), UnusedReason::NamedLikeLabel),
    ]);
    let other = format!("more/{}", file_name(&first));
    Found::in_files(&[&first, &first_map, &other, &gone])
        .cases(&[&line(&first, "-"), &line(&gone, "-"), &line(&other, "-")])
        .unused(&[(first_map.as_str(), UnusedReason::NamedLikeLabel)]);
    // The name of an image of another modality, of a number, and label maps of different kinds.
    for files in [["PET/deep/a1.nii", "masks/in/a1.nii"], ["scans/deep/1.nii", "masks/in/1.nii"]] {
        Found::in_files(&files).unused(&[(files[1], UnusedReason::NamedLikeLabel)]);
    }
    let [liver, lung] = ["m/a1_seg_liver.nii", "m/b1_seg_lung.nii"];
    Found::in_files(&["scans/deep/a1.nii", "scans/deep/b1.nii", liver, lung])
        .unused(&[(liver, UnusedReason::NamedLikeLabel), (lung, UnusedReason::NamedLikeLabel)]);
    // Label maps of different kinds by their folders, and next to a label map in its place: the value 1 would be one class.
    for labels in [
        ["masks/liver/a1.nii", "masks/lung/b1.nii"],
        ["liver_masks/a1.nii", "lung_masks/b1.nii"],
        ["masks/1/a1.nii", "masks/2/b1.nii"],
        ["masks/a1_seg_liver.nii", "masks2/b1_seg_lung.nii"],
    ] {
        Found::in_files(&["scans/deep/a1.nii", "scans/deep/b1.nii", labels[0], labels[1]])
            .cases(&["data/scans/deep/a1 scans/deep/a1.nii -", "data/scans/deep/b1 scans/deep/b1.nii -"])
            .unused(&[(labels[0], UnusedReason::NamedLikeLabel), (labels[1], UnusedReason::NamedLikeLabel)]);
    }
    let parts = ["lung/scans/deep/a1.nii", "lung/masks/in/a1.nii", "liver/scans/deep/b1.nii", "liver/masks/in/b1.nii"];
    Found::in_files(&parts)
        .unused(&[(parts[3], UnusedReason::NamedLikeLabel), (parts[1], UnusedReason::NamedLikeLabel)]);
    Found::in_files(&["scans/deep/a1.nii", "masks/in/a1.nii", "scans/deep/b1.nii", "scans/deep/b1_seg.nii"])
        .unused(&[("masks/in/a1.nii", UnusedReason::NamedLikeLabel)]);
    // Parts of one dataset.
    let parts = ["p1/scans/deep/a1.nii", "p1/masks/in/a1.nii", "p2/scans/deep/b1.nii", "p2/masks/in/b1.nii"];
    let line =
        |image: usize| format!("data/{} {} {}", parts[image].trim_end_matches(".nii"), parts[image], parts[image + 1]);
    Found::in_files(&parts).cases(&[&line(0), &line(2)]).unused(&[]);
    // A folder of label maps elsewhere.
    let derived = "derived/lung/masks/a1.nii";
    Found::in_files(&["scans/deep/a1.nii", derived]).unused(&[(derived, UnusedReason::NamedLikeLabel)]);
}

#[test]
fn images_without_label_maps_next_to_a_dataset_are_told_by_their_folder() {
    // FLARE22.
    let unlabelled = |folder: &str| UnusedReason::Unlabelled { folder: folder.into() };
    // Pre-training would use them.
    assert_eq!(unlabelled("unlabeledCase").weight(), Weight::Missed);
    Found::in_files(&["images/x.nii", "labels/x.nii", "unlabeledCase/u.nii", "unlabeledCase/u_mask.nii"])
        .cases(&["data/x images/x.nii labels/x.nii"])
        .unused(&[
            ("unlabeledCase/u.nii", unlabelled("unlabeledCase")),
            ("unlabeledCase/u_mask.nii", UnusedReason::OutsideDatasets),
        ]);
    let [image, label] = ["images/x_0000.nii", "labels/x.nii"].map(|file| format!("FLARE22_LabeledCase50/{file}"));
    let file = "FLARE22_UnlabeledCase1-500/u_0000.nii";
    Found::in_files(&[&image, &label, file])
        .cases(&[&format!("FLARE22_LabeledCase50/x {image} {label}")])
        .unused(&[(file, unlabelled("FLARE22_UnlabeledCase1-500"))]);
    // On their own, they are cases.
    Found::in_files(&["unlabeledCase/u.nii", "unlabeledCase/v.nii"])
        .cases(&["data/unlabeledCase/u unlabeledCase/u.nii -", "data/unlabeledCase/v unlabeledCase/v.nii -"]);
}
