//! DICOM series in plain folders.

use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};

use super::*;
use crate::volume::dicom::testing::{slices, write_series};

fn series(folder: &Path, uid: &str, change: &dyn Fn(usize) -> String) {
    for (number, slice) in slices().into_iter().enumerate() {
        slice.text(tags::SERIES_INSTANCE_UID, VR::UI, uid).write(&folder.join(change(number)));
    }
}

#[test]
fn each_ct_series_is_a_case_named_like_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_series(&data.join("p1/CT"), &slices());
    series(&data.join("p2"), "1.2.4", &|number| format!("a{number}.dcm"));
    series(&data.join("p2"), "1.2.5", &|number| format!("b{number}.DCM"));
    slices()[0].clone().text(tags::MODALITY, VR::CS, "RTSTRUCT").write(&data.join("p2/rt.dcm"));
    std::fs::write(data.join("p2/broken.dcm"), "DICM").unwrap();
    std::fs::write(data.join("LICENSE"), "text").unwrap();
    touch(&data, &["p3.nii.gz"]);
    let listing = survey(&data).unwrap();
    let digest = |uid: &str| blake3::hash(uid.as_bytes()).to_hex()[..8].to_owned();
    let name = |uid| format!("p2/003-Abdomen_1.5___B30f-{}", digest(uid));
    let mut expected = vec!["p1/CT".to_owned(), name("1.2.4"), name("1.2.5"), "p3".to_owned()];
    expected.sort();
    let cases = &listing.datasets[0].cases;
    assert_eq!(cases.iter().map(|case| case.case_id.clone()).collect::<Vec<_>>(), expected);
    assert!(cases.iter().filter(|case| case.case_id != "p3").all(|case| case.files().count() == 4));
    // Masks are exported as CT series too: values decide.
    assert!(cases.iter().all(|case| case.role == crate::case::ImageRole::Assumed));
    let unused: Vec<String> = listing.all_unused().map(|unused| unused.reason.to_string()).collect();
    assert_eq!(unused.len(), 3, "{unused:?}");
    for reason in ["not a volume", "DICOM of modality RTSTRUCT, not a CT image", "not a DICOM file"] {
        assert!(unused.iter().any(|found| found.starts_with(reason)), "{reason}: {unused:?}");
    }
    let alone = survey(&data.join("p1/CT")).unwrap();
    assert_eq!(alone.datasets[0].cases[0].key(), "CT/CT");
}

#[test]
fn series_of_every_modality_are_cases_where_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let of = |folder: &str, modality: &str, class: &str, description: &str| {
        let uid = format!("1.2.{}", folder.len());
        for (number, slice) in slices().into_iter().enumerate() {
            slice
                .text(tags::MODALITY, VR::CS, modality)
                .text(tags::SOP_CLASS_UID, VR::UI, class)
                .text(tags::SERIES_INSTANCE_UID, VR::UI, &uid)
                .text(tags::SERIES_DESCRIPTION, VR::LO, description)
                .write(&data.join(folder).join(number.to_string()));
        }
    };
    of("c", "CT", uids::CT_IMAGE_STORAGE, "Abdomen");
    of("mr", "MR", uids::MR_IMAGE_STORAGE, "t1_tse");
    of("pet", "PT", uids::POSITRON_EMISSION_TOMOGRAPHY_IMAGE_STORAGE, "WB");
    of("loca", "MR", uids::MR_IMAGE_STORAGE, "3-plane Localizer");
    of("photo", "MR", uids::SECONDARY_CAPTURE_IMAGE_STORAGE, "report");
    of("series", "SEG", uids::SEGMENTATION_STORAGE, "liver");
    let cases = |listing: &Listing| -> Vec<String> {
        listing.datasets[0].cases.iter().map(|case| case.case_id.clone()).collect()
    };
    let reasons = |listing: &Listing| -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for unused in listing.all_unused() {
            *reasons.entry(unused.reason.to_string()).or_insert(0) += 1;
        }
        reasons
    };
    let all = survey_of(&data, Modalities::All).unwrap();
    assert_eq!(cases(&all), ["c", "mr", "pet"]);
    let not_an_image = "not an image of a CT, MR, PET or NM series; to use it, convert it to .nii.gz";
    let capture = format!("DICOM of class {} (a screen shot or a report)", uids::SECONDARY_CAPTURE_IMAGE_STORAGE);
    let expected = [
        (format!("DICOM localizer, {not_an_image}"), 4),
        (format!("{capture}, {not_an_image}"), 4),
        (format!("DICOM of modality SEG, {not_an_image}"), 4),
    ];
    assert_eq!(reasons(&all), BTreeMap::from(expected));
    let cts = survey(&data).unwrap();
    assert_eq!(cases(&cts), ["c"]);
    let reasons = reasons(&cts);
    assert_eq!(reasons["DICOM of modality MR, not a CT image; --normalize zscore converts it"], 12, "{reasons:?}");
    assert_eq!(reasons["DICOM of modality PT, not a CT image; --normalize zscore converts it"], 4, "{reasons:?}");
    // A series of one file, as enhanced ones are, is read as what it is.
    let dir = tempfile::tempdir().unwrap();
    let one = slices().swap_remove(0).text(tags::MODALITY, VR::CS, "MR");
    one.text(tags::SOP_CLASS_UID, VR::UI, uids::ENHANCED_MR_IMAGE_STORAGE).write(&dir.path().join("a.dcm"));
    let case = survey_of(dir.path(), Modalities::All).unwrap().datasets[0].cases[0].clone();
    let fault = case.read_info().unwrap_err().reason.to_string();
    assert!(fault.contains("enhanced multi-frame DICOM"), "{fault}");
}

#[test]
fn images_that_lack_what_tells_their_series_count_as_missed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_series(&data, &slices());
    let slice = |name: &str, without| slices()[0].clone().without(without).write(&data.join(name));
    slice("lone.dcm", tags::SERIES_INSTANCE_UID);
    slice("bare.dcm", tags::SOP_CLASS_UID);
    slice("DICOMDIR", tags::MODALITY);
    let listing = survey(&data).unwrap();
    assert_eq!(listing.datasets[0].cases.len(), 1);
    let mut unused: Vec<(Weight, String)> =
        listing.all_unused().map(|unused| (unused.reason.weight(), unused.reason.to_string())).collect();
    unused.sort();
    assert_eq!(
        unused.iter().map(|(weight, _)| *weight).collect::<Vec<_>>(),
        [Weight::Named, Weight::Missed, Weight::Missed]
    );
    for (found, element) in unused.iter().zip(["Modality", "SOPClassUID", "SeriesInstanceUID"]) {
        assert!(found.1.contains(&format!("without the element {element}, ")), "{unused:?}");
    }
}

#[test]
fn a_series_in_several_folders_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    series(&dir.path().join("a"), "1.2.4", &|number| format!("{number}"));
    series(&dir.path().join("b"), "1.2.4", &|number| format!("{number}"));
    series(&dir.path().join("c"), "1.2.5", &|number| format!("{number}"));
    let other = slices()[2].clone().text(tags::SERIES_INSTANCE_UID, VR::UI, "1.2.4").pixels(&[7; 6]);
    other.write(&dir.path().join("b/2"));
    let listing = survey(dir.path()).unwrap();
    assert_eq!(listing.datasets[0].cases.len(), 1);
    let skipped = &listing.datasets[0].skipped;
    assert!(skipped.len() == 2 && skipped[0].reason.contains("its series has files in"), "{skipped:?}");
}

#[test]
fn a_copied_series_is_one_case_with_the_first_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    series(&data.join("raw/p1"), "1.2.4", &|number| format!("{number}.dcm"));
    series(&data.join("copy"), "1.2.4", &|number| format!("IM{}", 9 - number));
    let found = Found { listing: survey(&data).unwrap(), dir };
    let reason = UnusedReason::SameFile { first: data.join("copy/IM6") };
    let files = [0, 1, 2, 3].map(|number| format!("raw/p1/{number}.dcm"));
    let unused: Vec<(&str, UnusedReason)> = files.iter().map(|file| (file.as_str(), reason.clone())).collect();
    found.cases(&["data/copy copy/IM6 -"]).skipped(&[]).unused(&unused);
    // A folder with some of the files does not count as a copy.
    std::fs::remove_file(data.join("raw/p1/3.dcm")).unwrap();
    let listing = survey(&data).unwrap();
    assert_eq!((listing.datasets[0].cases.len(), listing.datasets[0].skipped.len()), (0, 2));
}

#[test]
fn a_series_copied_to_test_data_remains_in_training() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (folder, uid) in [("Testing/p1", "1.2.4"), ("Training/p1", "1.2.4"), ("Testing/p2", "1.2.5")] {
        series(&data.join(folder), uid, &|number| format!("{number}.dcm"));
    }
    let found = Found { listing: survey(&data).unwrap(), dir };
    found.cases(&["data/Training/p1 Training/p1/0.dcm -"]).skipped(&[]);
    for (folder, expected) in [
        ("Testing/p1", UnusedReason::SameFile { first: data.join("Training/p1/0.dcm") }),
        ("Testing/p2", UnusedReason::TestSet),
    ] {
        let unused = found.listing.all_unused().filter(|unused| unused.path.starts_with(data.join(folder)));
        assert!(unused.map(|unused| &unused.reason).eq([&expected; 4]), "{folder}");
    }
}

#[cfg(unix)]
#[test]
fn a_series_linked_to_test_data_remains_in_training() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    series(&data.join("Training/p1"), "1.2.4", &|number| format!("{number}.dcm"));
    std::fs::create_dir_all(data.join("Testing/p1")).unwrap();
    for number in 0..4 {
        let name = format!("p1/{number}.dcm");
        std::fs::hard_link(data.join("Training").join(&name), data.join("Testing").join(&name)).unwrap();
    }
    let found = Found { listing: survey(&data).unwrap(), dir };
    found.cases(&["data/Training/p1 Training/p1/0.dcm -"]).skipped(&[]);
    let same = |unused: &UnusedFile| matches!(unused.reason, UnusedReason::SameFile { .. });
    assert_eq!(found.listing.all_unused().filter(|unused| same(unused)).count(), 4);
}

#[test]
fn a_label_map_next_to_the_only_series_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (folder, uid) in [
        ("p1/dicom", "1.2.1"),
        ("p2", "1.2.2"),
        ("p3/CT", "1.2.3"),
        ("p4/a", "1.2.4"),
        ("p4/b", "1.2.5"),
        ("p5/dicom", "1.2.6"),
        ("p6/dicom", "1.2.7"),
        ("p7/dicom", "1.2.8"),
    ] {
        series(&data.join(folder), uid, &|number| format!("{number}.dcm"));
    }
    // Two series, two label maps, and the name of another case; then a label map that may be that of an MR.
    touch(&data, &["p1/label.nii.gz", "p2/segmentation.nii.gz", "p3/p3_seg.nii.gz"]);
    touch(&data, &["p4/label.nii.gz", "p5/label.nii.gz", "p5/mask.nii.gz", "p6/p9_seg.nii.gz"]);
    touch(&data, &["p7/label.nii.gz", "p7/t1.nii.gz"]);
    let found = Found { listing: survey(&data).unwrap(), dir };
    found
        .cases(&[
            "data/p1/dicom p1/dicom/0.dcm p1/label.nii.gz",
            "data/p2 p2/0.dcm p2/segmentation.nii.gz",
            "data/p3/CT p3/CT/0.dcm p3/p3_seg.nii.gz",
            "data/p4/a p4/a/0.dcm -",
            "data/p4/b p4/b/0.dcm -",
            "data/p5/dicom p5/dicom/0.dcm -",
            "data/p6/dicom p6/dicom/0.dcm -",
            "data/p7/dicom p7/dicom/0.dcm -",
        ])
        .unused(&[
            ("p4/label.nii.gz", UnusedReason::NamedLikeLabel),
            ("p5/label.nii.gz", UnusedReason::NamedLikeLabel),
            ("p5/mask.nii.gz", UnusedReason::NamedLikeLabel),
            ("p6/p9_seg.nii.gz", UnusedReason::NamedLikeLabel),
            ("p7/label.nii.gz", UnusedReason::NamedLikeLabel),
            ("p7/t1.nii.gz", UnusedReason::NamedLikeOtherModality { word: "t1".into() }),
        ]);
}

#[test]
fn label_maps_in_a_folder_of_their_own_are_joined_to_series_by_the_names_of_folders() {
    // NIH Pancreas-CT, of which a part was downloaded, and a patient with two series.
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (folder, uid) in [
        ("Pancreas-CT/PANCREAS_0001/11-24-2015-PANCREAS0001/Pancreas-1", "1.2.1"),
        ("Pancreas-CT/PANCREAS_0002/a", "1.2.2"),
        ("Pancreas-CT/PANCREAS_0002/b", "1.2.3"),
    ] {
        series(&data.join(folder), uid, &|number| format!("{number}.dcm"));
    }
    let labels = [1, 2, 3].map(|number| format!("TCIA_pancreas_labels-02-05-2017/label{number:04}.nii.gz"));
    touch(&data, &[&labels[0], &labels[1], &labels[2]]);
    let found = Found { listing: survey(&data).unwrap(), dir };
    let first = "Pancreas-CT/PANCREAS_0001/11-24-2015-PANCREAS0001/Pancreas-1";
    let image = format!("data/{first} {first}/0.dcm");
    let others = ["a", "b"].map(|name| {
        let folder = format!("Pancreas-CT/PANCREAS_0002/{name}");
        format!("data/{folder} {folder}/0.dcm -")
    });
    found.cases(&[&format!("{image} {}", labels[0]), &others[0], &others[1]]).unused(&[
        (labels[1].as_str(), UnusedReason::NamedLikeLabel),
        (labels[2].as_str(), UnusedReason::NamedLikeLabel),
    ]);
    // Label maps of another kind: a folder of its own, and next to a series.
    for (folder, label) in [("patients/q1/CT", "masks/q1.nii.gz"), ("q1/CT", "q1/label.nii.gz")] {
        let Found { dir, .. } = &found;
        let data = dir.path().join("data");
        series(&data.join(folder), "1.2.4", &|number| format!("{number}.dcm"));
        touch(&data, &[label]);
        let both = survey(&data).unwrap();
        assert!(both.datasets[0].cases.iter().all(|case| case.label.is_none()), "{label}");
        assert_eq!(both.all_unused().filter(|unused| unused.reason == UnusedReason::NamedLikeLabel).count(), 4);
        std::fs::remove_dir_all(data.join(folder)).unwrap();
        std::fs::remove_file(data.join(label)).unwrap();
    }
}

#[test]
fn label_maps_are_those_of_the_series_below_their_folder_whatever_is_next_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (number, folder) in ["p1/a", "p1-b/a", "p1/a-b", "p10", "p2/a"].into_iter().enumerate() {
        series(&data.join(folder), &format!("1.2.{number}"), &|number| format!("{number}.dcm"));
    }
    touch(&data, &["p1-b/label.nii.gz", "p1/label.nii.gz", "p10/label.nii.gz", "p2/label.nii.gz"]);
    let found = Found { listing: survey(&data).unwrap(), dir };
    found
        .cases(&[
            "data/p1-b/a p1-b/a/0.dcm p1-b/label.nii.gz",
            "data/p1/a p1/a/0.dcm -",
            "data/p1/a-b p1/a-b/0.dcm -",
            "data/p10 p10/0.dcm p10/label.nii.gz",
            "data/p2/a p2/a/0.dcm p2/label.nii.gz",
        ])
        .unused(&[("p1/label.nii.gz", UnusedReason::NamedLikeLabel)]);
}

#[cfg(unix)]
#[test]
fn a_series_of_the_hugging_face_hub_has_the_name_of_its_links() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let link = |name: &str, blob: &str| {
        let link = data.join("hub/snapshots/rev").join(name);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(data.join("hub/blobs").join(blob), link).unwrap();
    };
    series(&data.join("hub/blobs"), "1.2.4", &|number| format!("{number}f0e"));
    let mr = slices()[0].clone().text(tags::MODALITY, VR::CS, "MR").text(
        tags::SOP_CLASS_UID,
        VR::UI,
        uids::MR_IMAGE_STORAGE,
    );
    mr.write(&data.join("hub/blobs/9f0e"));
    touch(&data, &["hub/blobs/7f0e"]);
    for number in 0..4 {
        link(&format!("p1/IM{number}"), &format!("{number}f0e"));
    }
    link("p1/mr", "9f0e");
    link("README.md", "7f0e");
    let found = Found { listing: survey(&data).unwrap(), dir };
    let same = |link: &str| UnusedReason::SameFile { first: data.join("hub/snapshots/rev").join(link) };
    found.cases(&["data/hub/snapshots/rev/p1 hub/snapshots/rev/p1/IM0 -"]).unused(&[
        ("hub/blobs/0f0e", same("p1/IM0")),
        ("hub/blobs/1f0e", same("p1/IM1")),
        ("hub/blobs/2f0e", same("p1/IM2")),
        ("hub/blobs/3f0e", same("p1/IM3")),
        ("hub/blobs/7f0e", UnusedReason::NotAVolume),
        ("hub/blobs/9f0e", same("p1/mr")),
        ("hub/snapshots/rev/README.md", UnusedReason::NotAVolume),
        ("hub/snapshots/rev/p1/mr", UnusedReason::NotCtSeries { modality: "MR".into() }),
    ]);
}

#[cfg(unix)]
#[test]
fn a_series_that_several_folders_have_by_links_is_one_case() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    // Files in a store, without endings, and links with names; then named files, a link to their folder, and hard links.
    series(&dir.path().join("blobs"), "1.2.4", &|number| format!("{number}"));
    series(&dir.path().join("raw/p1"), "1.2.5", &|number| format!("{number}.dcm"));
    symlink(dir.path().join("raw/p1"), dir.path().join("again")).unwrap();
    for folder in ["named/p0", "hard"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    for number in 0..4 {
        let link = dir.path().join(format!("named/p0/s{number}.dcm"));
        symlink(dir.path().join(format!("blobs/{number}")), link).unwrap();
        let file = dir.path().join(format!("raw/p1/{number}.dcm"));
        std::fs::hard_link(file, dir.path().join(format!("hard/h{number}"))).unwrap();
    }
    let listing = survey(dir.path()).unwrap();
    let cases: Vec<&str> = listing.datasets[0].cases.iter().map(|case| case.case_id.as_str()).collect();
    assert_eq!((cases, listing.datasets[0].skipped.len()), (vec!["named/p0", "raw/p1"], 0));
    let unused: BTreeMap<&Path, &UnusedReason> =
        listing.all_unused().map(|unused| (unused.path.as_path(), &unused.reason)).collect();
    assert_eq!(unused.len(), 12, "{unused:?}");
    let first = dir.path().join("named/p0/s2.dcm");
    assert_eq!(unused[dir.path().join("blobs/2").as_path()], &UnusedReason::SameFile { first });
    // A folder that has a part of the files may be a series of its own.
    std::fs::remove_file(dir.path().join("hard/h3")).unwrap();
    assert_eq!(survey(dir.path()).unwrap().datasets[0].skipped.len(), 2);
}

#[test]
fn dicom_files_in_a_dataset_of_another_layout_are_named() {
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["Dataset001_A/imagesTr/x_0000.nii", "Dataset001_A/imagesTr/y.dcm"]);
    let listing = survey(dir.path()).unwrap();
    let unused: Vec<_> = listing.all_unused().collect();
    assert!(unused.len() == 1 && unused[0].reason == UnusedReason::DicomInDataset, "{unused:?}");
}

#[test]
fn a_series_without_preambles_is_named_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["a.nii"]);
    // The group of the file's encoding comes first.
    let bare = slices()[0].to_bytes().split_off(132);
    for name in ["old/1", "old/2.dcm"] {
        std::fs::create_dir_all(data.join("old")).unwrap();
        std::fs::write(data.join(name), &bare).unwrap();
    }
    let listing = survey(&data).unwrap();
    let reasons: Vec<&UnusedReason> = listing.all_unused().map(|unused| &unused.reason).collect();
    assert_eq!(reasons, [&UnusedReason::DicomWithoutPreamble, &UnusedReason::DicomWithoutPreamble]);
    assert!(reasons[0].to_string().contains("dcmconv") && reasons[0].weight() == Weight::Missed);
}

#[test]
fn dicom_in_a_folder_of_label_maps_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    write_series(&dir.path().join("p1/CT"), &slices());
    write_series(&dir.path().join("p1/MASKS_DICOM/liver"), &slices());
    // A cohort of a study of outcome prediction, whose scans are not lost without a word.
    write_series(&dir.path().join("prediction_cohort/p2"), &slices());
    let listing = survey(dir.path()).unwrap();
    assert_eq!(listing.datasets[0].cases.len(), 1);
    let reasons: Vec<&UnusedReason> = listing.all_unused().map(|unused| &unused.reason).collect();
    assert_eq!(reasons, [&UnusedReason::DicomLabels; 8]);
    assert_eq!(reasons[0].weight(), Weight::Missed);
}
