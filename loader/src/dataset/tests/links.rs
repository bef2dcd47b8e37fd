//! Links, hard links and files that are not regular.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn a_link_to_its_parent_is_named_and_each_scan_is_listed_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["a.nii", "b/c.nii"]);
    symlink(&data, data.join("b/up")).unwrap();
    symlink(data.join("a.nii"), data.join("again.nii")).unwrap();
    std::fs::hard_link(data.join("b/c.nii"), data.join("d.nii")).unwrap();
    let found = Found { listing: survey(&data).unwrap(), dir };
    found.cases(&["data/a a.nii -", "data/b/c b/c.nii -"]).unused(&[
        ("again.nii", UnusedReason::SameFile { first: data.join("a.nii") }),
        ("b/up", UnusedReason::LinkLoop { to: data.clone() }),
        ("d.nii", UnusedReason::SameFile { first: data.join("b/c.nii") }),
    ]);
}

#[test]
fn a_scan_linked_to_test_data_remains_in_training() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["test/a.nii", "train/b.nii"]);
    std::fs::hard_link(data.join("test/a.nii"), data.join("train/a.nii")).unwrap();
    let found = Found { listing: survey(&data).unwrap(), dir };
    let same = UnusedReason::SameFile { first: data.join("train/a.nii") };
    found.cases(&["data/train/a train/a.nii -", "data/train/b train/b.nii -"]).unused(&[("test/a.nii", same)]);
}

#[test]
fn a_dataset_of_links_is_a_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["pool/1.nii.gz", "pool/1_liver.nii.gz", "Dataset001_A/imagesTr/own_0000.nii.gz"]);
    touch(&data, &["Dataset001_A/labelsTr/own.nii.gz"]);
    symlink(data.join("pool/1.nii.gz"), data.join("Dataset001_A/imagesTr/x_0000.nii.gz")).unwrap();
    symlink(data.join("pool/1_liver.nii.gz"), data.join("Dataset001_A/labelsTr/x.nii.gz")).unwrap();
    let found = Found { listing: survey(&data).unwrap(), dir };
    let same = |path: &str| UnusedReason::SameFile { first: data.join(path) };
    found
        .cases(&[
            "Dataset001_A/own Dataset001_A/imagesTr/own_0000.nii.gz Dataset001_A/labelsTr/own.nii.gz",
            "Dataset001_A/x Dataset001_A/imagesTr/x_0000.nii.gz Dataset001_A/labelsTr/x.nii.gz",
        ])
        .unused(&[
            ("pool/1.nii.gz", same("Dataset001_A/imagesTr/x_0000.nii.gz")),
            ("pool/1_liver.nii.gz", same("Dataset001_A/labelsTr/x.nii.gz")),
        ]);
}

/// The path as it is written may not leave the data; where a link in the data leads is the choice of whoever placed it.
#[test]
fn a_listed_path_through_a_link_out_of_the_data_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(dir.path(), &["elsewhere/a.nii.gz", "data/truth/a.nii.gz"]);
    std::fs::write(
        data.join("dataset.json"),
        r#"{"training": [{"image": "scans/a.nii.gz", "label": "truth/a.nii.gz"}], "numTraining": 1}"#,
    )
    .unwrap();
    symlink(dir.path().join("elsewhere"), data.join("scans")).unwrap();
    let found = Found { listing: survey(&data).unwrap(), dir };
    found.cases(&["data/a scans/a.nii.gz truth/a.nii.gz"]).unused(&[]);
}

#[test]
fn folders_linked_to_each_other_are_walked_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let names: Vec<String> = (0..12).map(|at| format!("f{at}")).collect();
    for name in &names {
        touch(&data, &[&format!("{name}/{name}.nii")]);
    }
    for from in &names {
        for to in &names {
            symlink(data.join(to), data.join(from).join(format!("to_{to}"))).unwrap();
        }
    }
    let listing = survey(&data).unwrap();
    let mut keys: Vec<String> = names.iter().map(|name| format!("data/{name}/{name}")).collect();
    keys.sort();
    assert_eq!(listing.datasets[0].cases.iter().map(CaseFiles::key).collect::<Vec<_>>(), keys);
}

#[test]
fn a_dangling_link_is_never_taken_for_absent() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["Dataset001_A/imagesTr/x_0000.nii.gz"]);
    touch(&data, &["Dataset001_A/imagesTr/y_0000.nii.gz"]);
    std::fs::create_dir(data.join("Dataset001_A/labelsTr")).unwrap();
    symlink("/gone/x.nii.gz", data.join("Dataset001_A/labelsTr/x.nii.gz")).unwrap();
    symlink("/gone/Dataset002_B", data.join("Dataset002_B")).unwrap();
    let listing = survey(&data).unwrap();
    // The label is not there, but it is the case's.
    assert!(listing.datasets[0].cases[0].label.is_some());
    assert!(listing.all_unused().any(|unused| unused.reason == UnusedReason::DanglingLink));
    std::fs::remove_dir_all(data.join("Dataset001_A/labelsTr")).unwrap();
    symlink("/gone/labelsTr", data.join("Dataset001_A/labelsTr")).unwrap();
    assert!(matches!(survey(&data), Err(DatasetError::Unreadable { .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn odd_files_and_names_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["a.nii.gz"]);
    let fifo = data.join("pipe.nii.gz");
    crate::volume::nifti::testing::make_fifo(&fifo);
    let latin_1 = data.join(std::ffi::OsStr::from_bytes(b"caf\xe9.nii.gz"));
    std::fs::write(&latin_1, b"").unwrap();
    let escape = data.join("red\x1b[31m.nii.gz");
    std::fs::write(&escape, b"").unwrap();
    let listing = survey(&data).unwrap();
    let reason = |path: &Path| listing.all_unused().find(|unused| unused.path == path).map(|unused| &unused.reason);
    assert_eq!(reason(&fifo), Some(&UnusedReason::NotRegular));
    assert_eq!(reason(&latin_1), Some(&UnusedReason::BadName));
    assert_eq!(reason(&escape), Some(&UnusedReason::BadName));
    assert!(listing.all_unused().all(|unused| !unused.to_string().contains('\x1b')));
    assert_eq!(listing.datasets[0].cases.len(), 1);
}
