//! Scans that a prediction finds among files and folders.

use std::fs;

use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::volume::read_labels;
use hiend_trainer::config::finetune::FinetuneConfig;
use hiend_trainer::inference::scan_files::Scans;

use super::{Folder, SHAPE, ball, config, write_scan};
use crate::dicom;

#[test]
fn dicom_series_of_mr_are_scans_of_a_model_for_z_scores_only() {
    let folder = Folder::new();
    dicom::write_mr_series(&folder.at("d"), SHAPE, &ball());
    folder.check("d", "out", &[], 1, "DICOM of modality MR, not a CT");
    let normalize = Normalize::Zscore;
    let preprocess = PreprocessConfig {
        spacing: Some([6.0; 3]),
        window: normalize.default_window(),
        normalize,
        ..PreprocessConfig::default()
    };
    let folder = Folder(tempfile::tempdir().unwrap());
    folder.add_run("run", 0, &FinetuneConfig { preprocess: Some(preprocess), ..config() });
    dicom::write_mr_series(&folder.at("d"), SHAPE, &ball());
    folder.check("d", "out", &[], 0, "");
    assert_eq!(read_labels(&folder.at("out/d.nii.gz")).unwrap().info.shape, SHAPE.map(usize::from));
    let output = folder.predict("d/IM3", "out", &["--skip-existing"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 scan finished before"), "{output:?}");
}

#[test]
fn parts_of_a_study_next_to_a_series_are_passed_over_and_named() {
    let folder = Folder::new();
    let find = || Scans::find(&[folder.at("d")], Normalize::Hu).unwrap();
    let skipped = |scans: &Scans| scans.skipped.iter().map(|scan| scan.reason.clone()).collect::<Vec<_>>();
    fs::create_dir(folder.at("d")).unwrap();
    dicom::write_other(&folder.at("d/DICOMDIR"), None);
    for (name, modality) in [("plan", "RTSTRUCT"), ("seg.dcm", "SEG"), ("sr1", "SR"), ("sr2", "SR")] {
        dicom::write_other(&folder.at(&format!("d/{name}")), Some(modality));
    }
    // Without a series, one of them may be what was meant.
    let alone = find();
    let reasons = [
        "DICOM file without the element Modality, not a CT",
        "DICOM of modality RTSTRUCT, not a CT",
        "DICOM of modality SEG, not a CT",
        "DICOM of modality SR, not a CT",
    ];
    assert_eq!((skipped(&alone), alone.remarks()), (reasons.map(str::to_owned).to_vec(), vec![]));

    dicom::write_series(&folder.at("d"), SHAPE, &ball());
    let next_to_a_series = find();
    let names = ["DICOMDIR", "plan", "seg.dcm", "sr1 and 1 more"];
    // With their folder, which may be one of several.
    let remark =
        |(name, reason): (&str, &str)| format!("{}: {reason}; passed over", folder.at("d").join(name).display());
    let remarks: Vec<String> = names.into_iter().zip(reasons).map(remark).collect();
    assert_eq!((next_to_a_series.remarks(), skipped(&next_to_a_series)), (remarks, vec![]));
    folder.check("d", "out", &[], 0, "sr1 and 1 more: DICOM of modality SR, not a CT; passed over");
    assert!(folder.at("out/d.nii.gz").exists());

    // A CT image that belongs to no class of images is a scan that is missing.
    dicom::write_other(&folder.at("d/bare"), Some("CT"));
    assert_eq!(skipped(&find()), ["DICOM file without the element SOPClassUID"]);
}

#[test]
fn parts_of_a_study_that_are_given_by_name_are_passed_over_next_to_a_series() {
    let folder = Folder::new();
    dicom::write_series(&folder.at("d"), SHAPE, &ball());
    dicom::write_other(&folder.at("d/report"), Some("SR"));
    dicom::write_other(&folder.at("d/report2"), Some("SR"));
    dicom::write_other(&folder.at("lone"), Some("SR"));
    let at = |name: &str| folder.at(name);
    let find = |names: &[&str]| Scans::find(&names.iter().map(|name| at(name)).collect::<Vec<_>>(), Normalize::Hu);
    let remark = format!("{} and 1 more: DICOM of modality SR, not a CT; passed over", at("d/report").display());
    // As a pattern of the shell gives them; with their folder, once.
    for names in [&["d/IM0", "d/IM1", "d/report", "d/report2"][..], &["d", "d/report"]] {
        let scans = find(names).unwrap();
        assert_eq!(
            (scans.files.len(), scans.skipped.len(), scans.remarks()),
            (1, 0, vec![remark.clone()]),
            "{names:?}"
        );
    }
    // Alone, it is what was meant.
    let error = find(&["d/report"]).unwrap_err().to_string();
    assert!(error.contains("d/report: neither named .nii"), "{error}");
    let scans = find(&["d/IM0", "lone"]).unwrap();
    assert_eq!((scans.files.len(), scans.skipped[0].reason.as_str()), (1, "DICOM of modality SR, not a CT"));
    let report = at("d/report").display().to_string();
    folder.check("d/IM0", "out", &[&report], 0, "d/report: DICOM of modality SR, not a CT; passed over");
}

#[test]
fn a_second_channel_is_refused() {
    let folder = Folder::new();
    for name in ["c_0000", "c_0001", "d_0000"] {
        write_scan(&folder.at(&format!("scans/{name}.nii")), [0.0; 3]);
    }
    write_scan(&folder.at("scans/e_0001.nii"), [0.0; 3]);
    folder.check("scans", "out", &[], 3, "c: skipped: numbered like a case of several channels (_0000, _0001)");
    assert!(folder.at("out/d.nii.gz").exists() && !folder.at("out/c.nii.gz").exists());
    assert!(!folder.at("out/c_0001.nii.gz").exists() && !folder.at("out/e_0001.nii.gz").exists());
    folder.check("scans/c_0001.nii", "other", &[], 1, "c (c_0001.nii): skipped: further channel of a case");
}

#[cfg(unix)]
#[test]
fn files_that_cannot_be_read_are_skipped_and_subfolders_named() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a_0000.nii"), [0.0; 3]);
    fs::write(folder.at("scans/b.nrrd"), b"NRRD0004").unwrap();
    std::os::unix::fs::symlink(folder.at("gone"), folder.at("scans/c.nii.gz")).unwrap();
    fs::create_dir(folder.at("scans/more")).unwrap();
    for expected in [
        "b.nrrd: header without the field `sizes`",
        "c.nii.gz: skipped: cannot follow",
        "more: a subfolder, not searched",
    ] {
        folder.check("scans", "out", &["--overwrite"], 3, expected);
    }
    assert!(folder.at("out/a.nii.gz").exists());
}

#[cfg(unix)]
#[test]
fn names_with_line_feeds_and_control_characters_stay_on_their_line() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a\nb.nii"), [0.0; 3]);
    fs::write(folder.at("scans/c\n\u{1b}[2J.nii"), b"no scan").unwrap();
    let output = folder.predict("scans", "out", &[]);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stdout.lines().any(|line| line.starts_with("1/2 a\\nb: ")), "{stdout}");
    assert!(stderr.lines().any(|line| line.starts_with("2/2 c\\n\\u{1b}[2J: skipped: ")), "{stderr}");
    assert!(folder.at("out/a\nb.nii.gz").exists());
    // The error that ends a command is one line, too.
    folder.check("scans", "out", &[], 1, "a\\nb.nii.gz exists; --skip-existing keeps it, --overwrite replaces it");
}
