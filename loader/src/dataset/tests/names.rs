//! Decisions by the names of files: images, label maps, modalities and channels.

use super::*;

#[test]
fn names_with_control_characters_do_not_become_cases() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["a.nii", "dataset.json"]);
    let description = r#"{"labels": {"background": 0}, "dataset": {"a\nb": {"images": ["a.nii"], "label": "a.nii"}}}"#;
    std::fs::write(data.join("dataset.json"), description).unwrap();
    let error = survey(&data).unwrap_err().to_string();
    assert!(error.ends_with(r#"lists the case "a\nb", whose name has control characters; rename it"#), "{error}");
    #[cfg(unix)]
    {
        let data = dir.path().join("two\nlines");
        touch(&data, &["a.nii"]);
        assert_eq!(survey(&data).unwrap().datasets[0].cases[0].key(), "two_lines/a");
    }
}

#[test]
fn a_dataset_has_the_name_of_its_folder_however_the_path_is_written() {
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["scans/a.nii", "scans/deep/b.nii"]);
    let keys = |path: &str| -> Vec<String> {
        let root = root_of(&dir.path().join(path));
        let listing = survey(&dir.path().join(path)).unwrap();
        let cases: Vec<&CaseFiles> = listing.datasets.iter().flat_map(|dataset| &dataset.cases).collect();
        assert!(cases.iter().all(|case| case.image.starts_with(&root)), "{cases:?}");
        cases.into_iter().map(CaseFiles::key).collect()
    };
    for path in ["scans", "scans/.", "scans/deep/..", "scans/../scans"] {
        assert_eq!(keys(path), ["scans/a", "scans/deep/b"], "{path}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("scans"), dir.path().join("link")).unwrap();
        assert_eq!(keys("link"), ["link/a", "link/deep/b"]);
    }
}

#[test]
fn one_image_and_one_label_map_are_a_case_if_their_names_correspond() {
    for (image, label) in [("p7.nii.gz", "p7_seg.nii.gz"), ("p7_ct.nii", "label.nii"), ("ct.nii", "data_mask.nii")] {
        let name = file_stem(image).unwrap();
        Found::in_files(&[image, label]).cases(&[&format!("data/{name} {image} {label}")]);
    }
    Found::in_files(&["p7.nii.gz", "p8_seg.nii.gz"])
        .cases(&["data/p7 p7.nii.gz -"])
        .unused(&[("p8_seg.nii.gz", UnusedReason::NamedLikeLabel)]);
}

#[test]
fn names_decide_on_the_modality_only_where_nothing_else_tells() {
    let files = ["a_T1.nii.gz", "b.nii.gz", "CT_T1_tumour.nii.gz", "sub-1_PDw.nii.gz"];
    Found::in_files(&files).cases(&["data/CT_T1_tumour CT_T1_tumour.nii.gz -", "data/b b.nii.gz -"]).unused(&[
        ("a_T1.nii.gz", UnusedReason::NamedLikeOtherModality { word: "t1".into() }),
        ("sub-1_PDw.nii.gz", UnusedReason::NamedLikeOtherModality { word: "pdw".into() }),
    ]);
    let described = |channels: &str| {
        let description = format!(r#"{{"channel_names": {channels}, "labels": {{"background": 0}}}}"#);
        Found::in_described(&["a_T1.nii.gz", "b.nii.gz"], &[("dataset.json", &description)])
    };
    described(r#"{"0": "CT"}"#).cases(&["data/a_T1 a_T1.nii.gz -", "data/b b.nii.gz -"]);
    for channels in [r#"{"0": "CT", "1": "T1"}"#, r#"{"0": "MRI"}"#, "{}"] {
        described(channels).cases(&["data/b b.nii.gz -"]);
    }
}

#[test]
fn two_label_maps_of_one_case_are_not_chosen_between() {
    let files = ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/a.nrrd", "imagesTr/b_0000.nii.gz"];
    Found::in_files(&files)
        .cases(&["data/b imagesTr/b_0000.nii.gz -"])
        .skipped(&[("data/a", "two label maps, a.nii.gz and a.nrrd; keep one")]);
    let description =
        r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nrrd", "numTraining": 2}"#;
    Found::in_described(&files, &[("dataset.json", description)])
        .skipped(&[])
        .cases(&["data/a imagesTr/a_0000.nii.gz labelsTr/a.nrrd", "data/b imagesTr/b_0000.nii.gz -"]);
}

#[test]
fn images_of_all_modalities_are_taken_where_they_are_asked_for() {
    let files = ["sub-01_T1w.nii.gz", "IXI002-Guys-0828-T1.nii.gz", "case/flair.nii.gz"];
    let found = Found::in_files(&[&files[..], &["ct.nii"]].concat());
    found.cases(&["data/ct ct.nii -"]);
    let listing = survey_of(&found.dir.path().join("data"), Modalities::All).unwrap();
    Found { listing, dir: found.dir }.cases(&[
        "data/IXI002-Guys-0828-T1 IXI002-Guys-0828-T1.nii.gz -",
        "data/case/flair case/flair.nii.gz -",
        "data/ct ct.nii -",
        "data/sub-01_T1w sub-01_T1w.nii.gz -",
    ]);
    let description =
        r#"{"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 1}"#;
    let found =
        Found::in_described(&["Dataset001_A/imagesTr/a_0000.nii.gz"], &[("Dataset001_A/dataset.json", description)]);
    let notes = |modalities| {
        let listing = survey_of(&found.dir.path().join("data"), modalities).unwrap();
        listing.datasets[0].notes.iter().map(ToString::to_string).filter(|note| note.contains("not CT")).count()
    };
    assert_eq!((notes(Modalities::Ct), notes(Modalities::All)), (1, 0));
}

#[test]
fn plain_folders_join_label_maps_by_name_and_take_no_mask_for_an_image() {
    Found::in_files(&["b/2.nii", "a.nii.gz", "notes.txt"])
        .cases(&["data/a a.nii.gz -", "data/b/2 b/2.nii -"])
        .unused(&[("notes.txt", UnusedReason::NotAVolume)]);
    // LiTS.
    Found::in_files(&["volume-0.nii", "segmentation-0.nii", "volume-1.nii", "segmentation-2.nii", "organs_t1.nii"])
        .cases(&["data/volume-0 volume-0.nii segmentation-0.nii", "data/volume-1 volume-1.nii -"])
        .unused(&[
            ("organs_t1.nii", UnusedReason::NamedLikeOtherModality { word: "t1".into() }),
            ("segmentation-2.nii", UnusedReason::NamedLikeLabel),
        ]);
    let found = Found::in_files(&["p1_ct.nii", "p1_seg.nii", "p1_mask.nii", "masks/p2.nii"]);
    found.cases(&["data/p1_ct p1_ct.nii -"]).unused(&[
        ("masks/p2.nii", UnusedReason::NamedLikeLabel),
        ("p1_mask.nii", UnusedReason::AmbiguousLabel),
        ("p1_seg.nii", UnusedReason::AmbiguousLabel),
    ]);
    assert_eq!(found.listing.datasets[0].cases[0].role, crate::case::ImageRole::Assumed);
}

#[test]
fn further_channels_of_a_plain_folder_are_no_scans() {
    Found::in_files(&["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz", "d.nii.gz"])
        .cases(&["data/b_0000 b_0000.nii.gz -", "data/d d.nii.gz -"])
        .skipped(&[("data/a_0000", several_channels(false))])
        .unused(&[("a_0001.nii.gz", UnusedReason::OtherChannel), ("c_0001.nii.gz", UnusedReason::OtherChannel)]);
    Found::in_files(&["p_0001.nii.gz", "p_0002.nii.gz"])
        .cases(&["data/p_0001 p_0001.nii.gz -", "data/p_0002 p_0002.nii.gz -"]);
}

#[test]
fn a_short_run_of_numbers_is_told_with_the_remedy_in_every_layout() {
    let advice = "rename the files if the numbers count scans";
    let first = |found: &Found| found.listing.datasets[0].skipped[0].reason.clone();
    for folder in ["imagesTr", "images"] {
        let of = |number: usize| format!("{folder}/scan_{number:04}.nii");
        let found = Found::in_files(&[&of(0), &of(1), &of(2), "labelsTr/other.nii"]);
        assert!(first(&found).ends_with(advice), "{folder}: {}", first(&found));
    }
    let files = ["imagesTr/a_0000.nii", "imagesTr/a_0001.nii"];
    let list = r#"{"training": ["imagesTr/a_0000.nii"]}"#;
    assert!(first(&Found::in_described(&files, &[("dataset.json", list)])).ends_with(advice));
    // Channels that are named are channels.
    let named = r#"{"channel_names": {"0": "CT", "1": "PET"}, "file_ending": ".nii", "labels": {"background": 0}}"#;
    assert_eq!(first(&Found::in_described(&files, &[("dataset.json", named)])), several_channels(true));
    assert!(UnusedReason::OtherChannel.to_string().ends_with("rename it if its number counts scans"));
}

#[test]
fn images_of_other_modalities_in_the_folders_of_nnunet_are_named_and_left_out() {
    let other = |word: &str| UnusedReason::NamedLikeOtherModality { word: word.into() };
    Found::in_files(&["imagesTr/c1_T1w_0000.nii", "imagesTr/c2_0000.nii", "labelsTr/c2.nii"])
        .cases(&["data/c2 imagesTr/c2_0000.nii labelsTr/c2.nii"])
        .unused(&[("imagesTr/c1_T1w_0000.nii", other("t1w"))]);
    // The description decides where it says that all images are CTs.
    let description = r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0}}"#;
    Found::in_described(&["imagesTr/c1_T1w_0000.nii"], &[("dataset.json", description)])
        .cases(&["data/c1_T1w imagesTr/c1_T1w_0000.nii -"]);
}

#[test]
fn images_of_other_modalities_next_to_the_ct_of_their_case_are_passed_over() {
    let of_case = |word: &str| UnusedReason::OtherModalityOfCase { word: word.into() };
    let label = |word: &str| UnusedReason::LabelOfOtherModality { word: word.into() };
    assert_eq!((of_case("pt").weight(), label("mr").weight()), (Weight::Named, Weight::Named));
    // HECKTOR: one label map for the CT and the PET. A PET without a CT is told as before.
    for (images, labels) in [("imagesTr", "labelsTr"), ("images", "labels")] {
        let of = |name: &str| format!("{images}/{name}.nii");
        let (ct, pet, alone, map) = (of("A__CT"), of("A__PT"), of("B__PT"), format!("{labels}/A.nii"));
        Found::in_files(&[&ct, &pet, &alone, &map]).cases(&[&format!("data/A__CT {ct} {map}")]).unused(&[
            (pet.as_str(), of_case("pt")),
            (alone.as_str(), UnusedReason::NamedLikeOtherModality { word: "pt".into() }),
        ]);
    }
    // MM-WHS: each modality has a label map.
    let of = |case: &str| ["image", "label"].map(|role| format!("train/{case}_{role}.nii"));
    let [[first, first_map], [second, second_map], [mr, mr_map]] =
        [of("ct_train_1001"), of("ct_train_1002"), of("mr_train_1001")];
    Found::in_files(&[&first, &first_map, &second, &second_map, &mr, &mr_map])
        .cases(&[
            &format!("data/train/ct_train_1001_image {first} {first_map}"),
            &format!("data/train/ct_train_1002_image {second} {second_map}"),
        ])
        .unused(&[(mr.as_str(), of_case("mr")), (mr_map.as_str(), label("mr"))]);
}

#[test]
fn label_maps_of_corresponding_names_are_joined_in_the_folders_of_nnunet() {
    // BTCV as MONAI's tutorial of UNETR has it.
    Found::in_files(&["imagesTr/img0001.nii", "imagesTr/img0002.nii", "labelsTr/label0001.nii"])
        .cases(&["data/img0001 imagesTr/img0001.nii labelsTr/label0001.nii", "data/img0002 imagesTr/img0002.nii -"]);
    // Of two label maps or images, none is chosen.
    Found::in_files(&["imagesTr/a_ct.nii", "labelsTr/a_mask.nii", "labelsTr/a_seg.nii"])
        .cases(&["data/a_ct imagesTr/a_ct.nii -"]);
    Found::in_files(&["imagesTr/a_ct.nii", "imagesTr/a_img.nii", "labelsTr/a_seg.nii"])
        .cases(&["data/a_ct imagesTr/a_ct.nii -", "data/a_img imagesTr/a_img.nii -"]);
}

#[test]
fn an_image_with_and_without_its_channel_number_is_one_case() {
    let reason = "next to a file of the same case; keep one";
    let check = |files: &[&str], case: &str, skipped: &str| {
        let found = Found::in_files(files);
        found.cases(&[case]).skipped(&[(case.split(' ').next().unwrap(), reason)]);
        assert_eq!(found.relative(&found.listing.datasets[0].skipped[0].path), skipped);
    };
    check(
        &["imagesTr/a.nii", "imagesTr/a_0000.nii", "labelsTr/a.nii"],
        "data/a imagesTr/a_0000.nii labelsTr/a.nii",
        "imagesTr/a.nii",
    );
    check(
        &["imagesTr/a_1_0000.nii", "imagesTr/a_1_0000_0000.nii", "labelsTr/a_1_0000.nii"],
        "data/a_1_0000 imagesTr/a_1_0000_0000.nii labelsTr/a_1_0000.nii",
        "imagesTr/a_1_0000.nii",
    );
    check(&["img/a.nii", "img/a_0000.nii", "label/a.nii"], "data/a img/a.nii label/a.nii", "img/a_0000.nii");
}

#[test]
fn files_that_were_volumes_before_are_named_and_make_the_conversion_incomplete() {
    let behind = |ending| UnusedReason::BehindEnding { ending };
    let arrays = UnusedReason::Arrays { name: "NumPy's format" };
    for (reason, weight) in [
        (behind(".nii"), Weight::Missed),
        (UnusedReason::RawWithoutHeader, Weight::Missed),
        (UnusedReason::DicomByContent, Weight::Missed),
        (arrays.clone(), Weight::Named),
    ] {
        assert_eq!(reason.weight(), weight, "{reason}");
    }
    // Headers of this test are not read: one of the name of its voxels counts as theirs.
    Found::in_files(&["a.mhd", "a.raw", "b.RAW", "ok.nii.gz", "ok.nii.gz.md5", "x.nii.gz.part", "pred/x.npz", "y.npz"])
        .cases(&["data/a a.mhd -", "data/ok ok.nii.gz -"])
        .unused(&[
            ("a.raw", UnusedReason::RawVoxels),
            ("b.RAW", UnusedReason::RawWithoutHeader),
            ("ok.nii.gz.md5", UnusedReason::NotAVolume),
            ("pred/x.npz", UnusedReason::Prediction),
            ("x.nii.gz.part", behind(".nii.gz")),
            ("y.npz", arrays.clone()),
        ]);
    Found::in_files(&["imagesTr/a_0000.nii", "predictions/a.npz", "nnUNet_preprocessed/a.npz", "features/a.npz"])
        .unused(&[
            ("features/a.npz", arrays),
            ("nnUNet_preprocessed/a.npz", UnusedReason::NnunetOutput { folder: "nnUNet_preprocessed".into() }),
            ("predictions/a.npz", UnusedReason::Prediction),
        ]);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["a.nii"]);
    for name in ["A1.dc3", "MONO2.img"] {
        std::fs::write(data.join(name), [[0; 128].as_slice(), b"DICM"].concat()).unwrap();
    }
    std::fs::write(data.join("b.nifti"), [[0; 344].as_slice(), b"n+1\0"].concat()).unwrap();
    let nifti = VolumeContent { format: "NIfTI", ending: ".nii" };
    Found { listing: survey(&data).unwrap(), dir }.unused(&[
        ("A1.dc3", UnusedReason::DicomByContent),
        ("MONO2.img", UnusedReason::DicomByContent),
        ("b.nifti", UnusedReason::VolumeByContent(nifti)),
    ]);
}

#[test]
fn cases_are_found_by_name() {
    let listing = Found::in_files(&[
        "Dataset001_A/imagesTr/x_0000.nii.gz",
        "Dataset001_A/imagesTr/y_0000.nii.gz",
        "Dataset002_B/imagesTr/x_0000.nii.gz",
    ])
    .listing;
    let check = |patterns: &[&str], expected: &[&str], unmatched: &[&str]| {
        let (keys, without) = Exclude::new(patterns).matches(&listing.datasets);
        assert_eq!(keys.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{patterns:?}");
        let without: Vec<&str> = without.iter().map(|one| one.pattern.as_str()).collect();
        assert_eq!(without, unmatched, "{patterns:?}");
    };
    check(&["x"], &["Dataset001_A/x", "Dataset002_B/x"], &[]);
    check(&["a", "Dataset002_B/X"], &["Dataset001_A/x", "Dataset001_A/y", "Dataset002_B/x"], &[]);
    check(&["z", "y", "C*"], &["Dataset001_A/y"], &["z", "C*"]);
    check(&["x", "Dataset001_A/x"], &["Dataset001_A/x", "Dataset002_B/x"], &[]);
}

#[test]
fn label_maps_next_to_a_given_folder_of_images_are_told() {
    for (images, labels) in [("imagesTr", "labelsTr"), ("img", "label")] {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &[&format!("D/{images}/a.nii"), &format!("D/{labels}/a.nii")]);
        let notes = |below: &str| survey(&dir.path().join(below)).unwrap().datasets.swap_remove(0).notes;
        let expected = DatasetNote::LabelsBeside { labels: labels.to_owned(), dataset: dir.path().join("D") };
        assert!(notes(&format!("D/{images}")).contains(&expected), "{images}");
        assert!(!notes("D").contains(&expected), "{images}");
    }
}
