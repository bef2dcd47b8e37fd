//! `hiend-train evaluate` on files.

use std::path::Path;
use std::process::{Command, Output};

/// A label map of 8-bit voxels, x fastest, with sides of 1, 1 and 2 mm.
fn write_labels(path: &Path, shape: [u16; 3], voxels: &[u8]) {
    let mut file = vec![0_u8; 352];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348_i32.to_le_bytes());
    for (i, value) in [3, shape[0], shape[1], shape[2], 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * i, &value.to_le_bytes());
    }
    put(70, &2_i16.to_le_bytes());
    put(72, &8_i16.to_le_bytes());
    for (i, value) in [1.0_f32, 1.0, 1.0, 2.0].into_iter().enumerate() {
        put(76 + 4 * i, &value.to_le_bytes());
    }
    put(108, &352.0_f32.to_le_bytes());
    put(344, b"n+1\0");
    file.extend_from_slice(voxels);
    std::fs::write(path, file).unwrap();
}

fn evaluate(folder: &Path, more: &[&str]) -> Output {
    let (labels, predictions) = (folder.join("labels"), folder.join("predictions"));
    Command::new(env!("CARGO_BIN_EXE_hiend-train"))
        .args(["evaluate", "--labels"])
        .arg(labels)
        .arg("--predictions")
        .arg(predictions)
        .args(more)
        .output()
        .unwrap()
}

fn folders() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["labels", "predictions"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn figures_use_the_files_spacing() {
    let folder = folders();
    // One voxel of class 1, predicted one voxel further along z, which is 2 mm.
    write_labels(&folder.path().join("labels/a.nii"), [2, 1, 4], &[0, 0, 1, 0, 0, 0, 0, 0]);
    write_labels(&folder.path().join("predictions/a.nii"), [2, 1, 4], &[0, 0, 0, 0, 1, 0, 0, 0]);
    let csv = folder.path().join("figures.csv");
    let output = evaluate(folder.path(), &["--csv", &csv.to_string_lossy(), "--tolerance-mm", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().contains("surface Dice 2 mm"));
    let csv = std::fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().nth(2), Some("a,1,class 1,0,1,2"));
    assert_eq!(csv.lines().count(), 3);
}

#[test]
fn grids_and_files_that_do_not_match_are_named() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [2, 1, 4], &[0; 8]);
    let check = |expected: &str| {
        let output = evaluate(folder.path(), &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    };
    check("no .nii or .nii.gz file");
    write_labels(&folder.path().join("predictions/b.nii"), [2, 1, 4], &[0; 8]);
    check("no prediction of a");
    write_labels(&folder.path().join("predictions/a.nii"), [2, 2, 2], &[0; 8]);
    check("case a: the label has [2, 1, 4] voxels, the prediction [2, 2, 2]");
}
