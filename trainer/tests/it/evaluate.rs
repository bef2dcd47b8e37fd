//! Tests of `hiend-train evaluate` on files.

mod names;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use hiend_loader::volume::{read_info, write_like};

use crate::nifti;

/// Writes a label map with sides of 1, 1 and 2 mm, x fastest.
fn write_labels(path: &Path, shape: [u16; 3], voxels: &[i16]) {
    nifti::write(path, shape, [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]], voxels);
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

/// Checks that an evaluation fails with `expected` on standard error.
fn fail(folder: &Path, more: &[&str], expected: &str) {
    let output = evaluate(folder, more);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
}

/// Evaluates and returns the lines of the CSV.
fn csv(folder: &Path, more: &[&str]) -> Vec<String> {
    let path = folder.join("metrics.csv");
    let output = evaluate(folder, &[more, &["--csv", &path.to_string_lossy()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn folders() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["labels", "predictions"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn distances_use_the_spacing_of_the_files() {
    let folder = folders();
    // One voxel of class 1, predicted one voxel further along z, which is 2 mm.
    write_labels(&folder.path().join("labels/a.nii"), [2, 1, 4], &[0, 0, 1, 0, 0, 0, 0, 0]);
    write_labels(&folder.path().join("predictions/a.nii"), [2, 1, 4], &[0, 0, 0, 0, 1, 0, 0, 0]);
    let output = evaluate(folder.path(), &["--tolerance-mm", "2"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("surface Dice 2 mm"));
    let lines = csv(folder.path(), &["--tolerance-mm", "2"]);
    assert_eq!((lines.len(), lines[2].as_str()), (3, "a,1,class 1,0,1,2,2,0,0,2"));
}

#[test]
fn hidden_files_are_passed_over_and_upper_case_endings_are_read() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.NII"), [2, 1, 1], &[0, 1]);
    write_labels(&folder.path().join("predictions/a.nii"), [2, 1, 1], &[0, 1]);
    for name in ["labels/._a.nii", "predictions/._b.nii.gz"] {
        std::fs::write(folder.path().join(name), b"\0\x05\x16\x07").unwrap();
    }
    assert_eq!(csv(folder.path(), &[])[1..], ["a,0,class 0,1,,,,,,", "a,1,class 1,1,1,0,0,0,0,1"]);
}

#[test]
fn label_and_prediction_may_have_different_formats() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [2, 1, 1], &[0, 1]);
    let info = read_info(&folder.path().join("labels/a.nii")).unwrap();
    write_like(&folder.path().join("labels/b.nrrd"), &info, &[0u8, 1]).unwrap();
    for name in ["a.mha", "b.nii.gz"] {
        write_like(&folder.path().join("predictions").join(name), &info, &[0u8, 1]).unwrap();
    }
    let lines = csv(folder.path(), &[]);
    assert_eq!(lines.iter().filter(|line| line.ends_with("class 1,1,1,0,0,0,0,1")).count(), 2, "{lines:?}");
}

#[test]
fn ignored_voxels_count_for_no_metric() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [6, 1, 1], &[0, 1, 1, 3, 3, 3]);
    write_labels(&folder.path().join("predictions/a.nii"), [6, 1, 1], &[0, 1, 0, 1, 2, 0]);
    let dataset = folder.path().join("Dataset001_T");
    std::fs::create_dir_all(dataset.join("imagesTr")).unwrap();
    write_labels(&dataset.join("imagesTr/a_0000.nii"), [6, 1, 1], &[0; 6]);
    let json = r#"{"labels": {"background": 0, "body": 1, "soft": 2, "ignore": 3}}"#;
    std::fs::write(dataset.join("dataset.json"), json).unwrap();
    let third = 2.0 / 3.0;
    // Of three surface voxels one lies 1 mm off; the prediction is smaller by one voxel of 2 mm³.
    let body = format!("a,1,body,{third},1,0.95,{},-0.002,-50,1", 1.0 / 3.0);
    let expected = [format!("a,0,background,{third},,,,,,"), body, "a,2,soft,,,,,,,1".to_owned()];
    assert_eq!(csv(folder.path(), &["--dataset", &dataset.to_string_lossy()])[1..], expected);
    // One of two surface voxels of the label is 1 mm from the prediction: the 95th percentile lies between 0 and 1 mm.
    // Without the dataset, by the flag; class 2 occurs at an ignored voxel.
    let expected = expected.map(|line| line.replace("background", "class 0").replace("body", "class 1"));
    let expected = expected.map(|line| line.replace("soft", "class 2"));
    assert_eq!(csv(folder.path(), &["--ignore-label", "3"])[1..], expected);
    let told = |label: &str| String::from_utf8(evaluate(folder.path(), &["--ignore-label", label]).stderr).unwrap();
    assert!(!told("3").contains("no effect"));
    assert!(told("99").contains("warning: --ignore-label 99 has no effect: no scored label map holds it"));
    // Without either it is a class like any other, and missed.
    assert_eq!(csv(folder.path(), &[])[4], "a,3,class 3,0,0,,,-0.006,-100,1");
}

#[test]
fn regions_of_a_dataset_are_scored_as_regions() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [4, 1, 1], &[0, 1, 2, 2]);
    write_labels(&folder.path().join("predictions/a.nii"), [4, 1, 1], &[0, 2, 2, 2]);
    let dataset = folder.path().join("Dataset001_T");
    std::fs::create_dir_all(dataset.join("imagesTr")).unwrap();
    write_labels(&dataset.join("imagesTr/a_0000.nii"), [4, 1, 1], &[0; 4]);
    let json = r#"{"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}"#;
    std::fs::write(dataset.join("dataset.json"), json).unwrap();
    // Of the three voxels of core that are predicted, one lies 1 mm from the true ones. The order is that of dataset.json.
    let core = format!("a,2,core,0.8,1,{},0.2,0.002,50,1", 0.95_f64 * 2.0 - 1.0);
    let expected = ["a,0,background,1,,,,,,", "a,1,whole,1,1,0,0,0,0,1", core.as_str()];
    assert_eq!(csv(folder.path(), &["--dataset", &dataset.to_string_lossy()])[1..], expected);
    let output = evaluate(folder.path(), &["--json", "--dataset", &dataset.to_string_lossy()]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["classes"][1], &json["cases"][0]["classes"][2]["dice"]), (&"whole".into(), &0.8.into()));
}

#[test]
fn region_of_one_label_has_the_key_of_nnunet() {
    let folder = folders();
    for name in ["labels/a.nii", "predictions/a.nii"] {
        write_labels(&folder.path().join(name), [4, 1, 1], &[0, 1, 2, 2]);
    }
    let dataset = folder.path().join("Dataset001_T");
    std::fs::create_dir_all(dataset.join("imagesTr")).unwrap();
    write_labels(&dataset.join("imagesTr/a_0000.nii"), [4, 1, 1], &[0; 4]);
    let json =
        r#"{"labels": {"background": 0, "whole": [2, 1], "core": [2], "rim": 3}, "regions_class_order": [1, 2, 3]}"#;
    std::fs::write(dataset.join("dataset.json"), json).unwrap();
    let summary = folder.path().join("summary.json");
    let [dataset, summary_path] = [&dataset, &summary].map(|path| path.to_string_lossy());
    let lines = csv(folder.path(), &["--dataset", &dataset, "--summary", &summary_path]);
    assert!(lines[2].starts_with("a,1,whole,1,") && lines[3].starts_with("a,2,core,1,"), "{lines:?}");
    // The entries of dataset.json in Python's form, as nnU-Net 2.8 writes and reads them.
    // NaN is Python's extension of JSON: rim is in no map.
    let text = std::fs::read_to_string(&summary).unwrap().replace("NaN", "null");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for metrics in [&json["mean"], &json["metric_per_case"][0]["metrics"]] {
        let keys: BTreeSet<&str> = metrics.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["(2, 1)", "(2,)", "3"]));
    }
    let table = String::from_utf8(evaluate(folder.path(), &["--dataset", &dataset]).stdout).unwrap();
    assert!(table.contains("core") && !table.contains('('), "{table}");
}

#[test]
fn label_maps_are_never_replaced() {
    let folder = folders();
    for name in ["labels/a.nii", "predictions/a.nii"] {
        write_labels(&folder.path().join(name), [2, 1, 1], &[0, 1]);
    }
    for name in ["labels/a.nii", "predictions/a.nii"] {
        let path = folder.path().join(name);
        let before = std::fs::read(&path).unwrap();
        fail(folder.path(), &["--csv", &path.to_string_lossy()], "would replace a label map");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[test]
fn places_of_the_results_are_checked_before_the_first_case() {
    let folder = folders();
    for name in ["labels/a.nii", "predictions/a.nii"] {
        write_labels(&folder.path().join(name), [2, 1, 1], &[0, 1]);
    }
    std::fs::write(folder.path().join("file"), b"").unwrap();
    std::fs::create_dir(folder.path().join("folder.csv")).unwrap();
    for (flag, name, expected) in [
        ("--csv", "none/x.csv", "none does not exist; create it"),
        ("--csv", "file/x.csv", "file is not a folder"),
        ("--csv", "folder.csv", "a folder; expected the name of a file"),
        ("--summary", "none/x.json", "none does not exist; create it"),
        ("--report", "file", "file is not a folder"),
        ("--report", "file/report", "file is not a folder"),
    ] {
        let output = evaluate(folder.path(), &[flag, &folder.path().join(name).to_string_lossy()]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag} {name}: {stderr}");
        // Exactly one line: the error precedes any line about the first case.
        assert!(stderr.contains(expected) && stderr.lines().count() == 1, "{flag} {name}: {stderr}");
        assert!(output.stdout.is_empty(), "{flag} {name}");
    }
}

#[test]
fn missing_files_and_other_grids_are_named() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [2, 1, 4], &[0; 8]);
    fail(folder.path(), &[], "no label map in this folder");
    write_labels(&folder.path().join("predictions/b.nii"), [2, 1, 4], &[0; 8]);
    fail(folder.path(), &[], "no prediction of a");
    write_labels(&folder.path().join("predictions/a.nii"), [2, 2, 2], &[0; 8]);
    fail(
        folder.path(),
        &[],
        "predictions/a.nii: case a: the label has [2, 1, 4] voxels, the prediction [2, 2, 2]; expected the same voxels",
    );
    let shifted = [[1.0, 0.0, 0.0, 3.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]];
    nifti::write(&folder.path().join("predictions/a.nii"), [2, 1, 4], shifted, &[0; 8]);
    fail(folder.path(), &[], "case a: label and prediction lie 3.00 mm (");
}

#[test]
fn a_prediction_less_than_a_voxel_off_its_label_is_compared_voxel_by_voxel() {
    let folder = folders();
    let voxels = [0, 0, 1, 0, 1, 2, 0, 0];
    write_labels(&folder.path().join("labels/a.nii"), [2, 1, 4], &voxels);
    let apart =
        "predictions/a.nii: case a: label and prediction lie 0.50 mm (0.50 voxels) apart by their headers; compared";
    for (x_mm, told) in [(0.05, None), (0.5, Some(apart))] {
        let affine = [[1.0, 0.0, 0.0, x_mm], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]];
        nifti::write(&folder.path().join("predictions/a.nii"), [2, 1, 4], affine, &voxels);
        let stderr = String::from_utf8(evaluate(folder.path(), &[]).stderr).unwrap();
        assert!(told.map_or(!stderr.contains("apart"), |told| stderr.contains(told)), "{stderr}");
        let lines = csv(folder.path(), &[]);
        assert!(lines[1..].iter().all(|line| line.split(',').nth(3) == Some("1")), "{lines:?}");
    }
}

#[test]
fn distances_on_a_sheared_grid_are_reported_as_those_of_an_upright_one() {
    let folder = folders();
    for (z, told) in [([0.0, 2.0], false), ([1.2, 1.6], true)] {
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, z[0], 0.0], [0.0, 0.0, z[1], 0.0]];
        for name in ["labels", "predictions"] {
            nifti::write(&folder.path().join(name).join("a.nii"), [2, 1, 4], affine, &[0, 0, 1, 0, 1, 0, 0, 0]);
        }
        let stderr = String::from_utf8(evaluate(folder.path(), &[]).stderr).unwrap();
        let expected = "labels/a.nii: case a: axes up to 36.9 degrees from perpendicular (gantry tilt?); distances and volumes \
                        are measured as if they were perpendicular";
        assert_eq!(stderr.matches(expected).count(), usize::from(told), "{stderr}");
        assert_eq!(stderr.contains("perpendicular"), told, "{stderr}");
    }
}

#[test]
fn axes_of_a_prediction_may_have_any_order_and_direction() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [2, 1, 4], &[0, 0, 1, 0, 1, 2, 0, 0]);
    write_labels(&folder.path().join("predictions/a.nii"), [2, 1, 4], &[0, 0, 1, 1, 1, 0, 0, 0]);
    let expected = csv(folder.path(), &[]);
    // The same prediction with its axes along -z, x and y.
    let axes = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [-2.0, 0.0, 0.0, 6.0]];
    nifti::write(&folder.path().join("predictions/a.nii"), [4, 2, 1], axes, &[0, 1, 1, 0, 0, 0, 1, 0]);
    assert_eq!(csv(folder.path(), &[]), expected);
}

#[test]
fn predictions_without_a_label_are_reported() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [2, 1, 1], &[0, 1]);
    for case in ["a", "y", "z"] {
        write_labels(&folder.path().join(format!("predictions/{case}.nii")), [2, 1, 1], &[0, 1]);
    }
    let output = evaluate(folder.path(), &["--json"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("predictions: not scored, no label: y, z"), "{stderr}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["num_unlabelled_predictions"], json["cases"].as_array().unwrap().len()), (&2.into(), 1));
    for case in ["y", "z"] {
        std::fs::remove_file(folder.path().join(format!("predictions/{case}.nii"))).unwrap();
    }
    let output = evaluate(folder.path(), &["--json"]);
    assert!(!String::from_utf8(output.stderr).unwrap().contains("warning"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["num_unlabelled_predictions"], 0);
}

#[test]
fn labels_without_a_prediction_are_left_out_only_on_request() {
    let folder = folders();
    for case in ["a", "b", "c"] {
        write_labels(&folder.path().join(format!("labels/{case}.nii")), [2, 1, 1], &[0, 1]);
    }
    write_labels(&folder.path().join("predictions/b.nii"), [2, 1, 1], &[0, 1]);
    fail(folder.path(), &[], "no prediction of a, c; predict them too, or score only the others by --partial");
    let output = evaluate(folder.path(), &["--partial", "--json"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("not scored, no prediction: a, c"), "{stderr}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["num_unpredicted_labels"], &json["num_unlabelled_predictions"]), (&2.into(), &0.into()));
    assert_eq!((json["cases"].as_array().unwrap().len(), &json["cases"][0]["case_id"]), (1, &"b".into()), "{json}");
    // A folder of other cases is not a part.
    std::fs::rename(folder.path().join("predictions/b.nii"), folder.path().join("predictions/x.nii")).unwrap();
    fail(folder.path(), &["--partial"], "no prediction of a, b, c; expected files with the labels' names");
}

#[test]
fn tolerances_by_class_and_areas_are_taken_from_flags() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [1, 1, 6], &[0, 1, 0, 0, 2, 0]);
    write_labels(&folder.path().join("predictions/a.nii"), [1, 1, 6], &[1, 0, 0, 0, 0, 2]);
    let surface_dice = |more: &[&str]| -> Vec<String> {
        let value = |line: &String| line.split(',').nth(4).unwrap().parse::<f64>().unwrap();
        csv(folder.path(), more)[2..].iter().map(|line| format!("{:.3}", value(line))).collect()
    };
    assert_eq!(surface_dice(&[]), ["0.000", "0.000"]);
    assert_eq!(surface_dice(&["--tolerance", "2=2"]), ["0.000", "1.000"]);
    assert_eq!(surface_dice(&["--tolerance", "class 1=2", "--tolerance-mm", "0.5"]), ["1.000", "0.000"]);
    // Voxels of 1 x 1 x 2 mm lie one voxel apart along z: half of the elements at their corners coincide.
    assert_eq!(surface_dice(&["--surface", "area"]), ["0.500", "0.500"]);
    let refused = |more: &[&str], expected: &str| {
        let output = evaluate(folder.path(), more);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(expected), "{stderr}");
    };
    refused(&["--tolerance", "0=1"], "the surface of the background is not measured");
    refused(&["--tolerance", "1=1", "--tolerance", "class 1=2"], "the class has a tolerance already");
    refused(&["--tolerance", "liver=1"], "no class `liver` (the classes are 0 to 255)");
    refused(&["--tolerance", "liver"], "expected CLASS=MM");
    let stderr = String::from_utf8(evaluate(folder.path(), &["--tolerance", "7=1"]).stderr).unwrap();
    assert!(stderr.contains("--tolerance of class 7 has no effect: no map holds a label above 2"), "{stderr}");
}

#[test]
fn two_sets_of_predictions_are_compared_case_by_case() {
    let folder = folders();
    std::fs::create_dir(folder.path().join("better")).unwrap();
    for (case, worse, better) in
        [("a", [0, 1, 0, 0], [0, 1, 1, 0]), ("b", [1, 1, 0, 0], [0, 1, 1, 0]), ("c", [0, 0, 0, 1], [1, 1, 1, 0])]
    {
        write_labels(&folder.path().join(format!("labels/{case}.nii")), [4, 1, 1], &[0, 1, 1, 0]);
        write_labels(&folder.path().join(format!("predictions/{case}.nii")), [4, 1, 1], &worse);
        write_labels(&folder.path().join(format!("better/{case}.nii")), [4, 1, 1], &better);
    }
    let compare = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_hiend-train"))
            .args(["evaluate", "--labels"])
            .arg(folder.path().join("labels"))
            .arg("--compare")
            .args([folder.path().join("predictions"), folder.path().join("better")])
            .args(more)
            .output()
            .unwrap()
    };
    let output = compare(&["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let dice = &json["mean_fg_dice"];
    let close = |value: &serde_json::Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-12;
    // Dice 2/3, 1/2 and 0 against 1, 1 and 4/5.
    assert!(close(&dice["mean_difference"], (2.8 - 2.0 / 3.0 - 0.5) / 3.0), "{dice}");
    assert!(dice["num_pairs"] == 3 && close(&dice["p_value"], 0.25), "{dice}");
    let table = String::from_utf8(compare(&[]).stdout).unwrap();
    assert!(table.lines().last().unwrap().contains("+0.5444"), "{table}");
    assert_eq!(compare(&["--csv", "x.csv"]).status.code(), Some(2));
    // A second pair would be ignored.
    assert_eq!(compare(&["--compare", "a", "b"]).status.code(), Some(2));
}

#[test]
fn report_shows_the_worst_cases_first() {
    let folder = folders();
    for (case, pred) in [("good", [0, 1, 1, 0]), ("fair", [0, 1, 0, 0]), ("poor", [1, 0, 0, 0])] {
        write_labels(&folder.path().join(format!("labels/{case}.nii")), [2, 1, 2], &[0, 1, 1, 0]);
        write_labels(&folder.path().join(format!("predictions/{case}.nii")), [2, 1, 2], &pred);
    }
    let report = folder.path().join("report");
    let output = evaluate(folder.path(), &["--report", &report.to_string_lossy()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(report.join("index.html")).unwrap();
    // Slices of the two cases that are not perfect, each in the slice with the most wrong voxels.
    let captions = ["poor: mean foreground Dice 0.0000, slice 0", "fair: mean foreground Dice 0.6667, slice 1"];
    let places = captions.map(|caption| html.find(caption).unwrap_or_else(|| panic!("{caption} in {html}")));
    assert!(places[0] < places[1]);
    assert_eq!((html.matches("<svg").count(), html.matches("data:image/png").count()), (2, 2));
    assert!(html.contains(r#"<td>good</td><td class="number">1.0000</td>"#), "{html}");
}

#[test]
fn report_names_the_ignore_label_and_its_hatching() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [4, 1, 1], &[0, 1, 1, 3]);
    write_labels(&folder.path().join("predictions/a.nii"), [4, 1, 1], &[0, 1, 0, 1]);
    let report = folder.path().join("report");
    let html = |more: &[&str]| {
        let output = evaluate(folder.path(), &[more, &["--report", &report.to_string_lossy()]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_to_string(report.join("index.html")).unwrap()
    };
    assert!(!html(&[]).contains("ignored (hatched)"));
    let ignoring = html(&["--ignore-label", "3"]);
    assert!(ignoring.contains("ignore label, whose voxels are not scored") && ignoring.contains("ignored (hatched)"));
}

#[test]
fn ignore_label_that_leaves_no_class_is_refused() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [4, 1, 1], &[0, 1, 1, 0]);
    write_labels(&folder.path().join("predictions/a.nii"), [4, 1, 1], &[0, 0, 0, 0]);
    for label in ["0", "1"] {
        let summary = folder.path().join("summary.json");
        let output = evaluate(folder.path(), &["--ignore-label", label, "--summary", &summary.to_string_lossy()]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&format!("--ignore-label {label} leaves no class to score")), "{stderr}");
    }
}

#[test]
fn a_summary_in_the_form_of_nnunet_is_written() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [4, 1, 1], &[0, 1, 1, 0]);
    write_labels(&folder.path().join("predictions/a.nii"), [4, 1, 1], &[0, 1, 2, 0]);
    let summary = folder.path().join("summary.json");
    let output = evaluate(folder.path(), &["--summary", &summary.to_string_lossy()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&summary).unwrap()).unwrap();
    let metrics = &json["metric_per_case"][0]["metrics"];
    assert_eq!((&metrics["1"]["TP"], &metrics["1"]["FN"], &metrics["2"]["Dice"]), (&1.into(), &1.into(), &0.0.into()));
    assert_eq!(json["foreground_mean"]["FP"], serde_json::json!(0.5));
    fail(
        folder.path(),
        &["--summary", &folder.path().join("labels/a.nii").to_string_lossy()],
        "would replace a label map",
    );
}
