//! DICOM series in plain folders.

use dicom_core::VR;
use dicom_dictionary_std::tags;

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
    let unused: Vec<String> = listing.all_unused().map(|unused| unused.reason.to_string()).collect();
    assert_eq!(unused.len(), 3, "{unused:?}");
    for reason in ["not a volume", "DICOM of modality RTSTRUCT, not a CT image", "not a DICOM file"] {
        assert!(unused.iter().any(|found| found.starts_with(reason)), "{reason}: {unused:?}");
    }
    let alone = survey(&data.join("p1/CT")).unwrap();
    assert_eq!(alone.datasets[0].cases[0].key(), "CT/CT");
}

#[test]
fn a_series_in_several_folders_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    series(&dir.path().join("a"), "1.2.4", &|number| format!("{number}"));
    series(&dir.path().join("b"), "1.2.4", &|number| format!("{number}"));
    series(&dir.path().join("c"), "1.2.5", &|number| format!("{number}"));
    let listing = survey(dir.path()).unwrap();
    assert_eq!(listing.datasets[0].cases.len(), 1);
    let skipped = &listing.datasets[0].skipped;
    assert!(skipped.len() == 2 && skipped[0].reason.contains("its series has files in"), "{skipped:?}");
}

#[test]
fn dicom_files_in_a_dataset_of_another_layout_are_named() {
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["Dataset001_A/imagesTr/x_0000.nii", "Dataset001_A/imagesTr/y.dcm"]);
    let listing = survey(dir.path()).unwrap();
    let unused: Vec<_> = listing.all_unused().collect();
    assert!(unused.len() == 1 && unused[0].reason == UnusedReason::DicomInDataset, "{unused:?}");
}
