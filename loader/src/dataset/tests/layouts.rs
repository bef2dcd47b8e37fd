//! Layouts with folders and lists of their own kinds, and the reasons for files outside of them.

use super::*;

/// Contents of the files of a dataset without `dataset.json`.
const UNDESCRIBED: &[(&str, &str)] = &[];

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
fn no_image_of_a_case_with_several_channels_is_passed_over() {
    let several = "has more than one channel; one is expected";
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
