//! Places of label maps: existing files, and places that cannot be written.

use std::fs;
use std::process::Command;

use super::{Folder, SHAPE, ball, write_scan};
use crate::dicom;

#[test]
fn finished_scans_are_left_out_by_request() {
    let folder = Folder::new();
    for name in ["a", "b"] {
        write_scan(&folder.at(&format!("scans/{name}_0000.nii")), [0.0; 3]);
    }
    folder.check("scans/a_0000.nii", "out", &[], 0, "");
    let before = fs::read(folder.at("out/a.nii.gz")).unwrap();
    let output = folder.predict("scans", "out", &["--skip-existing"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.ends_with("out; 1 scan finished before\n"), "{stdout}");
    assert_eq!(fs::read(folder.at("out/a.nii.gz")).unwrap(), before);
    assert!(folder.at("out/b.nii.gz").exists());
    folder.check("scans", "out", &["--skip-existing"], 0, "");
    folder.check("scans", "out", &["--skip-existing", "--overwrite"], 2, "cannot be used with");
    // A label map that was cut short is not finished.
    fs::write(folder.at("out/a.nii.gz"), &before[..before.len() / 2]).unwrap();
    folder.check("scans", "out", &["--skip-existing"], 1, "not a finished prediction of");
    assert_eq!(fs::read(folder.at("out/a.nii.gz")).unwrap(), before[..before.len() / 2]);
}

#[test]
fn no_input_is_replaced_and_existing_files_are_found_before_computing() {
    let folder = Folder::new();
    for name in ["a", "b"] {
        // Named like the label map that it must not become; nothing is read before the names are checked.
        write_scan(&folder.at(&format!("scans/{name}.nii.gz")), [0.0; 3]);
    }
    let before = fs::read(folder.at("scans/a.nii.gz")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        folder.check("scans", "scans", more, 1, "is the folder of the scan");
        assert_eq!(fs::read(folder.at("scans/a.nii.gz")).unwrap(), before);
    }
    fs::create_dir(folder.at("out")).unwrap();
    fs::write(folder.at("out/b.nii.gz"), b"by hand").unwrap();
    folder.check("scans", "out", &[], 1, "b.nii.gz exists; --skip-existing keeps it, --overwrite replaces it");
    assert!(!folder.at("out/a.nii.gz").exists(), "nothing is computed before");
}

#[test]
fn label_maps_are_not_written_among_the_scans() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a_0000.nii.gz"), [0.0; 3]);
    dicom::write_series(&folder.at("d"), SHAPE, &ball());
    for (input, out) in [("scans", "scans"), ("scans/a_0000.nii.gz", "scans/../scans"), ("d", "d")] {
        folder.check(input, out, &[], 1, "where label maps would count as scans; choose another one, such as ");
    }
    assert!(!folder.at("scans/a.nii.gz").exists() && !folder.at("d/d.nii.gz").exists());
    folder.check("scans", "scans/predictions", &[], 0, "");
    folder.check("scans", "scans/predictions", &["--skip-existing"], 0, "");
    // A pattern of the shell, `scans/*`, gives the folder as an input.
    let out = folder.at("scans/predictions").to_string_lossy().into_owned();
    let more = [out.as_str(), "--skip-existing"];
    folder.check("scans/a_0000.nii.gz", "scans/predictions", &more, 0, "the folder of --out; passed over");
}

#[test]
fn a_file_in_place_of_the_folder_is_refused_before_the_model_is_read() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a.nii"), [0.0; 3]);
    fs::write(folder.at("file"), b"").unwrap();
    for out in ["file", "file/out"] {
        folder.check("scans", out, &[], 1, "file is not a folder; choose another path for the results");
        folder.check("scans", out, &["--model", "none"], 1, "file is not a folder");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_files_is_refused_before_computing() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a.nii"), [0.0; 3]);
    // A folder in which no user, root included, can make a file.
    let output = Command::new(env!("CARGO_BIN_EXE_hiend-train"))
        .args(["predict", "--device", "cpu", "--out", "/proc/self/fdinfo", "--model"])
        .arg(folder.at("run"))
        .arg(folder.at("scans"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/proc/self/fdinfo: cannot write the label maps of 1 scan,"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
