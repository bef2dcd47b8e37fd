#[cfg(feature = "dicom")]
mod dicom;
mod kinds;
mod layouts;
#[cfg(unix)]
mod links;
mod lists;
mod names;
mod public;

use super::*;
use crate::case::LabelFiles;

fn touch(root: &Path, files: &[&str]) {
    for (at, file) in files.iter().enumerate() {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, at.to_string()).unwrap();
    }
}

#[test]
fn names_are_read_without_volumes_and_cases() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(names_in(dir.path()).unwrap(), None);
    let path = dir.path().join("dataset.json");
    assert_eq!(names_in(&path).unwrap(), None);
    let text = r#"{"labels": {"background": 0, "liver": 1}, "training": [{"image": "/elsewhere/x.nii"}]}"#;
    std::fs::write(&path, text).unwrap();
    let labels = BTreeMap::from([(0, "background".to_owned()), (1, "liver".to_owned())]);
    let order = vec!["background".to_owned(), "liver".to_owned()];
    let expected = Some(Dataset { labels, order, ..Dataset::default() });
    assert_eq!(names_in(dir.path()).unwrap(), expected);
    assert_eq!(names_in(&path).unwrap(), expected);
}

struct Found {
    dir: tempfile::TempDir,
    listing: Listing,
}

impl Found {
    /// Surveys a folder `data` with these files.
    fn in_files(files: &[&str]) -> Self {
        Self::in_described(files, &[])
    }

    /// Like [`Self::in_files`], with given contents of some files.
    fn in_described(files: &[&str], contents: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        touch(&data, files);
        for (path, text) in contents {
            touch(&data, &[path]);
            std::fs::write(data.join(path), text).unwrap();
        }
        let listing = survey(&data).unwrap();
        Self { dir, listing }
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.dir.path().join("data")).unwrap().display().to_string()
    }

    /// Checks keys, images and label maps of all cases: `KEY IMAGE LABEL`.
    fn cases(&self, expected: &[&str]) -> &Self {
        let line = |case: &CaseFiles| {
            let label = case.label.as_ref().map_or_else(|| "-".into(), |label| self.relative(label.path()));
            format!("{} {} {label}", case.key(), self.relative(&case.image))
        };
        let found: Vec<String> = self.listing.datasets.iter().flat_map(|dataset| &dataset.cases).map(line).collect();
        assert_eq!(found, expected);
        self
    }

    /// Checks all unused files, sorted: `PATH REASON`.
    fn unused(&self, expected: &[(&str, UnusedReason)]) -> &Self {
        let mut found: Vec<(String, UnusedReason)> =
            self.listing.all_unused().map(|unused| (self.relative(&unused.path), unused.reason.clone())).collect();
        found.sort();
        let expected: Vec<(String, UnusedReason)> =
            expected.iter().map(|(path, reason)| ((*path).to_owned(), reason.clone())).collect();
        assert_eq!(found, expected);
        self
    }

    fn skipped(&self, expected: &[(&str, &str)]) -> &Self {
        let skipped = self.listing.datasets.iter().flat_map(|dataset| &dataset.skipped);
        let found: Vec<(&str, &str)> =
            skipped.map(|skipped| (skipped.case.as_str(), skipped.reason.as_str())).collect();
        assert_eq!(found, expected);
        self
    }

    fn notes(&self, expected: &[DatasetNote]) -> &Self {
        let found: Vec<&DatasetNote> = self.listing.datasets.iter().flat_map(|dataset| &dataset.notes).collect();
        assert_eq!(found, expected.iter().collect::<Vec<_>>());
        self
    }
}

#[test]
fn nnunet_datasets_are_found_at_any_depth() {
    let deep = Found::in_described(
        &[
            "nnUNet_raw/Dataset001_A/imagesTr/x_0000.nii.gz",
            "nnUNet_raw/Dataset001_A/imagesTr/._x_0000.nii.gz",
            "nnUNet_raw/Dataset001_A/labelsTr/x.nii.gz",
            "nnUNet_raw/Dataset001_A/imagesTs/t_0000.nii.gz",
            "nnUNet_raw/Dataset002_B/imagesTr/y_0000.nii",
            "nnUNet_raw/Dataset002_B/imagesTr/z_0000.nii.gz",
            "nnUNet_raw/Dataset002_B/imagesTr/z_0001.nii.gz",
        ],
        &[("nnUNet_raw/Dataset001_A/dataset.json", r#"{"labels": {"background": 0, "liver": 1, "both": [1, 2]}}"#)],
    );
    deep.cases(&[
        "Dataset001_A/x nnUNet_raw/Dataset001_A/imagesTr/x_0000.nii.gz nnUNet_raw/Dataset001_A/labelsTr/x.nii.gz",
        "Dataset002_B/y nnUNet_raw/Dataset002_B/imagesTr/y_0000.nii -",
    ])
    .skipped(&[("Dataset002_B/z", several_channels(false))])
    .unused(&[
        ("nnUNet_raw/Dataset001_A/imagesTr/._x_0000.nii.gz", UnusedReason::Hidden),
        ("nnUNet_raw/Dataset001_A/imagesTs/t_0000.nii.gz", UnusedReason::TestData),
    ]);
    let dataset = &deep.listing.datasets[0];
    assert_eq!(dataset.labels, BTreeMap::from([(0, "background".into()), (1, "liver".into())]));
    assert_eq!(dataset.regions, BTreeMap::from([("both".into(), vec![1, 2])]));
    Found::in_files(&["imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz"])
        .cases(&["data/x imagesTr/x_0000.nii.gz labelsTr/x.nii.gz"]);
}

#[test]
fn names_that_nnunet_does_not_know_are_told_and_upper_case_is_read() {
    Found::in_described(
        &[
            "imagesTr/BIG_0000.NII.GZ",
            "imagesTr/ch1_0001.nii.gz",
            "imagesTr/good_0000.nii.gz",
            "imagesTr/noending.nii.gz",
            "imagesTr/short_000.nii.gz",
            "imagesTr/a_0000.mgz",
            "imagesTr/b_0000.tif",
            "labelsTr/good.nii.gz",
            "labelsTr/other.nii.gz",
        ],
        &[("dataset.json", r#"{"numTraining": 24, "file_ending": ".nii.gz"}"#)],
    )
    .cases(&["data/BIG imagesTr/BIG_0000.NII.GZ -", "data/good imagesTr/good_0000.nii.gz labelsTr/good.nii.gz"])
    .unused(&[
        ("imagesTr/a_0000.mgz", UnusedReason::Format { name: "FreeSurfer's MGH" }),
        ("imagesTr/b_0000.tif", UnusedReason::Format { name: "TIFF" }),
        ("imagesTr/ch1_0001.nii.gz", UnusedReason::OtherChannel),
        ("imagesTr/noending.nii.gz", UnusedReason::NoChannel),
        ("imagesTr/short_000.nii.gz", UnusedReason::NoChannel),
        ("labelsTr/other.nii.gz", UnusedReason::LabelWithoutImage),
    ])
    .notes(&[
        DatasetNote::Unlabelled { count: 1, of: 2, example: "BIG".into() },
        DatasetNote::Count { claimed: 24, found: 2 },
    ]);
}

#[test]
fn volumes_of_every_format_are_cases() {
    Found::in_described(
        &["imagesTr/a_0000.nrrd", "imagesTr/B_0000.MHA", "labelsTr/a.nrrd", "labelsTr/B.MHA"],
        &[("dataset.json", r#"{"numTraining": 2, "file_ending": ".nrrd"}"#)],
    )
    .cases(&["data/B imagesTr/B_0000.MHA labelsTr/B.MHA", "data/a imagesTr/a_0000.nrrd labelsTr/a.nrrd"])
    .notes(&[]);
    // LUNA16 and 3D Slicer.
    Found::in_files(&["1.3.6.1.mhd", "1.3.6.1.raw", "p.nhdr", "p.raw.gz", "q.nrrd", "q.seg.nrrd"])
        .cases(&["data/1.3.6.1 1.3.6.1.mhd -", "data/p p.nhdr -", "data/q q.nrrd q.seg.nrrd"])
        .unused(&[("1.3.6.1.raw", UnusedReason::RawVoxels), ("p.raw.gz", UnusedReason::RawVoxels)]);
}

#[test]
fn a_case_in_two_formats_is_read_in_that_of_nnunet() {
    let files = ["imagesTr/a_0000.nii.gz", "imagesTr/a_0000.nrrd", "labelsTr/a.mha", "labelsTr/a.nrrd"];
    for (ending, image, label) in [("nrrd", "nrrd", "nrrd"), ("mha", "nii.gz", "mha")] {
        let description = format!(r#"{{"numTraining": 1, "file_ending": ".{ending}"}}"#);
        let case = format!("data/a imagesTr/a_0000.{image} labelsTr/a.{label}");
        Found::in_described(&files, &[("dataset.json", &description)])
            .cases(&[&case])
            .skipped(&[("data/a", "next to a file of the same case; keep one")]);
    }
}

#[test]
fn names_without_channels_are_read_where_none_has_one() {
    // AMOS: the number is the case's.
    Found::in_files(&["imagesTr/amos_0001.nii.gz", "imagesTr/amos_0002.nii.gz", "labelsTr/amos_0001.nii.gz"]).cases(&[
        "data/amos_0001 imagesTr/amos_0001.nii.gz labelsTr/amos_0001.nii.gz",
        "data/amos_0002 imagesTr/amos_0002.nii.gz -",
    ]);
}

#[test]
fn a_test_set_alone_is_converted() {
    Found::in_files(&["Dataset001_A/imagesTs/x_0000.nii.gz", "Dataset001_A/labelsTs/x.nii.gz"])
        .cases(&["Dataset001_A/x Dataset001_A/imagesTs/x_0000.nii.gz Dataset001_A/labelsTs/x.nii.gz"])
        .unused(&[]);
}

const TRAINING: &str = r#"{"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}, "numTraining": 2,
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, "./imagesTr/gone.nii.gz"]}"#;

#[test]
fn the_decathlon_lists_its_cases() {
    let files = ["imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/extra.nii.gz", "imagesTs/t.nii.gz"];
    let found = Found::in_described(&files, &[("dataset.json", TRAINING)]);
    found
        .cases(&["data/a imagesTr/a.nii.gz labelsTr/a.nii.gz"])
        .skipped(&[("data/gone", "listed in dataset.json but missing")])
        .unused(&[("imagesTr/extra.nii.gz", UnusedReason::NotListed), ("imagesTs/t.nii.gz", UnusedReason::TestData)])
        .notes(&[]);
    assert_eq!(found.listing.datasets[0].labels[&1], "liver");
}

#[test]
fn a_list_without_channels_stands_for_files_with_them() {
    let files = ["Task101_Liver/imagesTr/a_0000.nii.gz", "Task101_Liver/labelsTr/a.nii.gz"];
    Found::in_described(&files, &[("Task101_Liver/dataset.json", TRAINING)])
        .cases(&["Task101_Liver/a Task101_Liver/imagesTr/a_0000.nii.gz Task101_Liver/labelsTr/a.nii.gz"])
        .skipped(&[("Task101_Liver/gone", "listed in dataset.json but missing")]);
    let two_channels = ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"];
    let found = Found::in_described(&two_channels, &[("dataset.json", TRAINING)]);
    found.cases(&[]);
    assert_eq!(found.listing.datasets[0].skipped.len(), 2);
}

#[test]
fn the_dataset_key_of_nnunet_2_lists_files_anywhere_in_the_data() {
    let json = r#"{"labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz", "numTraining": 2, "dataset": {
        "one": {"images": ["../pool/1.nii.gz"], "label": "labelsTr/one.nii.gz"},
        "two": {"images": ["../pool/2.nii.gz", "../pool/2b.nii.gz"], "label": "labelsTr/two.nii.gz"}}}"#;
    let files = [
        "pool/1.nii.gz",
        "pool/2.nii.gz",
        "pool/2b.nii.gz",
        "pool/3.nii.gz",
        "Dataset003_C/labelsTr/one.nii.gz",
        "Dataset004_D/imagesTr/x_0000.nii.gz",
    ];
    let found = Found::in_described(&files, &[("Dataset003_C/dataset.json", json)]);
    found
        .cases(&[
            "Dataset003_C/one pool/1.nii.gz Dataset003_C/labelsTr/one.nii.gz",
            "Dataset004_D/x Dataset004_D/imagesTr/x_0000.nii.gz -",
        ])
        .skipped(&[("Dataset003_C/two", "listed in dataset.json but missing")])
        .unused(&[("pool/3.nii.gz", UnusedReason::OutsideDatasets)]);
    // Files in the folder of another dataset.
    let json = json.replace("../pool/1.", "../Dataset004_D/imagesTs/1.");
    let files = ["Dataset004_D/imagesTs/1.nii.gz", "Dataset004_D/imagesTr/x_0000.nii.gz", files[4]];
    Found::in_described(&files, &[("Dataset003_C/dataset.json", &json)]).unused(&[]);
}

#[test]
fn a_description_that_cannot_be_used_leaves_out_its_dataset_only() {
    let files = [
        "Dataset001_A/imagesTr/x_0000.nii.gz",
        "Dataset001_A/labelsTr/x.nii.gz",
        "Dataset002_B/imagesTr/y_0000.nii.gz",
    ];
    let found = Found::in_described(&files, &[("Dataset001_A/dataset.json", "[]")]);
    let reason = "not a valid description: expected a JSON object".to_owned();
    found
        .cases(&["Dataset002_B/y Dataset002_B/imagesTr/y_0000.nii.gz -"])
        .notes(&[DatasetNote::BadDescription { reason: reason.clone() }])
        .unused(&[
            ("Dataset001_A/dataset.json", UnusedReason::BadDescription { reason }),
            ("Dataset001_A/imagesTr/x_0000.nii.gz", UnusedReason::Undescribed),
            ("Dataset001_A/labelsTr/x.nii.gz", UnusedReason::Undescribed),
        ]);
    // A case without a name is a fault of the list.
    let list = r#"{"training": ["imagesTr/x.txt"]}"#;
    Found::in_described(&files, &[("Dataset001_A/dataset.json", list)])
        .cases(&["Dataset002_B/y Dataset002_B/imagesTr/y_0000.nii.gz -"]);
    // What the cache has of the dataset is not gone from the data.
    assert_eq!(found.listing.datasets[0].vacant, ["Dataset001_A/"]);
    assert_eq!(found.listing.all_unused().map(|unused| unused.reason.weight()).max(), Some(Weight::Missed));
}

#[test]
fn datasets_in_a_folder_that_only_groups_them_are_found_whatever_its_description() {
    let reason = || "not a valid description: expected a JSON object".to_owned();
    let files = ["group/Dataset002_B/imagesTr/y_0000.nii.gz", "group/z.nii.gz"];
    Found::in_described(&files, &[("group/dataset.json", "[]")])
        .cases(&["Dataset002_B/y group/Dataset002_B/imagesTr/y_0000.nii.gz -"])
        .notes(&[DatasetNote::BadDescription { reason: reason() }])
        .unused(&[
            ("group/dataset.json", UnusedReason::BadDescription { reason: reason() }),
            ("group/z.nii.gz", UnusedReason::Undescribed),
        ]);
    // At the top.
    Found::in_described(&["Dataset002_B/imagesTr/y_0000.nii.gz"], &[("dataset.json", "[]")])
        .cases(&["Dataset002_B/y Dataset002_B/imagesTr/y_0000.nii.gz -"]);
    // In the folder of a dataset, as with a description that can be used.
    let files = [
        "Dataset001_A/imagesTr/x_0000.nii.gz",
        "Dataset001_A/more/Dataset002_B/imagesTr/y_0000.nii.gz",
        "Dataset003_C/imagesTr/z_0000.nii.gz",
    ];
    let found = Found::in_described(&files, &[("Dataset001_A/dataset.json", "[]")]);
    found.cases(&["Dataset003_C/z Dataset003_C/imagesTr/z_0000.nii.gz -"]);
    let vacant = ["Dataset001_A/", "Dataset002_B/", "Dataset001_A-more-Dataset002_B/"];
    assert_eq!(found.listing.datasets[0].vacant, vacant);
}

#[test]
fn an_ignore_label_in_another_spelling_is_told_and_remains_a_class() {
    for (name, is_told) in
        [("Ignore", true), ("IGNORE", true), (" ignore", true), ("ignore", false), ("ignored", false)]
    {
        let json = format!(r#"{{"labels": {{"background": 0, "liver": 1, "{name}": 2}}}}"#);
        let files = ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"];
        let found = Found::in_described(&files, &[("dataset.json", &json)]);
        let note = DatasetNote::IgnoreSpelling { label: 2, name: name.to_owned() };
        found.notes(if is_told { std::slice::from_ref(&note) } else { &[] });
        assert_eq!(found.listing.datasets[0].ignore, (name == "ignore").then_some(2), "{name}");
    }
}

#[test]
fn several_channels_are_told_with_their_names() {
    let json = r#"{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0}}"#;
    let found = Found::in_described(&["imagesTr/a_0000.nii.gz"], &[("dataset.json", json)]);
    let note = DatasetNote::Channels { names: vec!["CT".into(), "PET".into()] };
    let text = "dataset.json names 2 channels (CT, PET); only images with one CT channel are read";
    assert_eq!(note.to_string(), text);
    found.cases(&["data/a imagesTr/a_0000.nii.gz -"]).notes(&[note]);
}

#[test]
fn a_dataset_within_another_one_is_named() {
    let within = "Dataset001_A/imagesTr/Dataset002_B";
    let [image, label] = [format!("{within}/imagesTr/y_0000.nii.gz"), format!("{within}/labelsTr/y.nii.gz")];
    let (image, label) = (image.as_str(), label.as_str());
    Found::in_files(&["Dataset001_A/imagesTr/x_0000.nii.gz", image, label])
        .cases(&["Dataset001_A/x Dataset001_A/imagesTr/x_0000.nii.gz -"])
        .unused(&[(image, UnusedReason::NestedDataset), (label, UnusedReason::NestedDataset)]);
}

#[test]
fn a_pair_of_files_keeps_its_name_when_another_one_comes() {
    let first = "data/a a.nii.gz a_seg.nii.gz";
    Found::in_files(&["a.nii.gz", "a_seg.nii.gz"]).cases(&[first]);
    let both = ["a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "b_seg.nii.gz"];
    Found::in_files(&both).cases(&[first, "data/b b.nii.gz b_seg.nii.gz"]);
    // Masks are those of the folder.
    Found::in_files(&["ct.nii.gz", "segmentations/liver.nii.gz"]).cases(&["data/data ct.nii.gz segmentations"]);
}

#[test]
fn totalsegmentator_masks_become_classes_by_name() {
    let found = Found::in_files(&[
        "s0000/ct.nii.gz",
        "s0000/segmentations/liver.nii.gz",
        "s0000/segmentations/spleen.nii.gz",
        "s0001/ct.nii.gz",
        "s0001/segmentations/aorta.nii.gz",
        "s0001/segmentations/liver.nii.gz",
        "s0001/segmentations/spleen.nii.gz",
        "s0002/ct.nii.gz",
        "s0003/mri.nii.gz",
        "meta.csv",
    ]);
    found
        .cases(&[
            "data/s0000 s0000/ct.nii.gz s0000/segmentations",
            "data/s0001 s0001/ct.nii.gz s0001/segmentations",
            "data/s0002 s0002/ct.nii.gz -",
        ])
        .unused(&[("meta.csv", UnusedReason::NotAVolume), ("s0003/mri.nii.gz", UnusedReason::OutsideDatasets)])
        .notes(&[
            DatasetNote::MissingMasks { example: "s0000".into(), missing: vec!["aorta".into()], of: 3, num_lacking: 1 },
            DatasetNote::Unlabelled { count: 1, of: 3, example: "s0002".into() },
        ]);
    let dataset = &found.listing.datasets[0];
    let names = [(0, "background"), (1, "aorta"), (2, "liver"), (3, "spleen")];
    assert_eq!(dataset.labels, names.map(|(label, name)| (label, name.to_owned())).into());
    let Some(LabelFiles::Masks { masks, .. }) = &dataset.cases[0].label else { panic!("{dataset:?}") };
    let classes: Vec<(u8, String)> = masks.iter().map(|mask| (mask.class, found.relative(&mask.path))).collect();
    let expected = [(2, "s0000/segmentations/liver.nii.gz"), (3, "s0000/segmentations/spleen.nii.gz")];
    assert_eq!(classes, expected.map(|(class, path)| (class, path.to_owned())));
}

#[test]
fn kits_has_a_folder_a_case() {
    Found::in_files(&[
        "data/case_00000/imaging.nii.gz",
        "data/case_00000/segmentation.nii.gz",
        "data/case_00000/instances/kidney_instance-1_annotation-1.nii.gz",
        "data/case_00001/imaging.nii.gz",
    ])
    .cases(&[
        "data/case_00000 data/case_00000/imaging.nii.gz data/case_00000/segmentation.nii.gz",
        "data/case_00001 data/case_00001/imaging.nii.gz -",
    ])
    .unused(&[("data/case_00000/instances/kidney_instance-1_annotation-1.nii.gz", UnusedReason::PartOfLabel)]);
    // SegTHOR names the image like the folder.
    Found::in_files(&["train/Patient_01/GT.nii.gz", "train/Patient_01/Patient_01.nii.gz"])
        .cases(&["train/Patient_01 train/Patient_01/Patient_01.nii.gz train/Patient_01/GT.nii.gz"]);
    // One case on its own.
    Found::in_files(&["imaging.nii.gz", "segmentation.nii.gz"])
        .cases(&["data/imaging imaging.nii.gz segmentation.nii.gz"]);
}

#[test]
fn btcv_has_images_next_to_labels() {
    Found::in_files(&[
        "Training/img/img0001.nii.gz",
        "Training/img/img0002.nii.gz",
        "Training/label/label0001.nii.gz",
        "Training/label/label0003.nii.gz",
        "Testing/img/img0061.nii.gz",
    ])
    .cases(&[
        "Training/img0001 Training/img/img0001.nii.gz Training/label/label0001.nii.gz",
        "Training/img0002 Training/img/img0002.nii.gz -",
    ])
    .unused(&[
        ("Testing/img/img0061.nii.gz", UnusedReason::TestData),
        ("Training/label/label0003.nii.gz", UnusedReason::LabelWithoutImage),
    ]);
    Found::in_files(&["images/F_0001_0000.nii.gz", "labels/F_0001.nii.gz"])
        .cases(&["data/F_0001 images/F_0001_0000.nii.gz labels/F_0001.nii.gz"]);
}

#[test]
fn datasets_of_one_name_are_told_apart_by_the_folders_above() {
    Found::in_files(&["a/Dataset001_X/imagesTr/x_0000.nii", "b/Dataset001_X/imagesTr/x_0000.nii", "stray.nii"])
        .cases(&[
            "a-Dataset001_X/x a/Dataset001_X/imagesTr/x_0000.nii -",
            "b-Dataset001_X/x b/Dataset001_X/imagesTr/x_0000.nii -",
        ])
        .unused(&[("stray.nii", UnusedReason::OutsideDatasets)]);
}

#[test]
fn an_empty_folder_is_an_error_that_names_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["notes.txt", "scan.mnc"]);
    let message = find(root.path()).unwrap_err().to_string();
    assert!(message.contains("scan.mnc: MINC is not read"), "{message}");
    let hidden = tempfile::tempdir().unwrap();
    touch(hidden.path(), &["imagesTr/..a_0000.nii.gz", "dataset.csv", "z.txt"]);
    let message = find(hidden.path()).unwrap_err().to_string();
    assert!(message.ends_with("..a_0000.nii.gz: hidden, or a folder of the system"), "{message}");
    assert!(matches!(find(&root.path().join("gone")), Err(DatasetError::Unreadable { .. })));
}

#[test]
fn empty_folders_are_kept_in_mind() {
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["Dataset001_A/imagesTr/x_0000.nii"]);
    std::fs::create_dir(dir.path().join("Dataset002_B")).unwrap();
    let listing = survey(dir.path()).unwrap();
    assert_eq!(listing.datasets[1].vacant, ["Dataset002_B/"]);
    assert_eq!(listing.datasets[1].notes, [DatasetNote::Empty]);
    assert_eq!(find(dir.path()).unwrap().len(), 1);
}

#[test]
fn a_cache_in_the_data_is_one_thing() {
    let cache = ["manifest.json", "g0001-w000-0000.shard", ".lock"];
    // A folder that holds nothing but a cache is not an empty one.
    let [inner, deep] = ["cache", "made/cache"].map(|folder| cache.map(|name| format!("{folder}/{name}")));
    let files: Vec<&str> = inner.iter().chain(&deep).map(String::as_str).chain(["D/imagesTr/x_0000.nii"]).collect();
    let found = Found::in_files(&files);
    let unused = [("cache", UnusedReason::Cache), ("made/cache", UnusedReason::Cache)];
    found.cases(&["D/x D/imagesTr/x_0000.nii -"]).unused(&unused).notes(&[]);
    assert_eq!(found.listing.datasets.len(), 1);
}

#[test]
fn exclusion_is_by_dataset_or_case_name() {
    let found = Found::in_files(&[
        "Dataset001_WORD/imagesTr/a_0000.nii",
        "Dataset002_X/imagesTr/b1_0000.nii",
        "Dataset002_X/imagesTr/c_0000.nii",
    ]);
    let mut datasets = found.listing.datasets;
    // A case counts as known although its dataset is excluded too.
    let (removed, unmatched) = Exclude::new(&["word", "a", "b?", "KITS", "WROD"]).apply(&mut datasets);
    let unmatched: Vec<_> = unmatched.iter().map(|one| (one.pattern.as_str(), one.nearest.as_deref())).collect();
    assert_eq!((removed, unmatched), (2, vec![("KITS", None), ("WROD", Some("Dataset001_WORD"))]));
    assert_eq!(datasets[0].cases[0].case_id, "c");
}

#[test]
fn a_file_in_place_of_the_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["a.nii.gz"]);
    let error = survey(&dir.path().join("a.nii.gz")).unwrap_err().to_string();
    assert!(error.ends_with("a.nii.gz: a file; expected the folder that contains it"), "{error}");
}
