//! Names of the classes that are evaluated.

use super::{csv, evaluate, fail, folders, write_labels};

#[test]
fn an_ignore_label_in_another_spelling_is_reported() {
    let folder = folders();
    for name in ["labels/a.nii", "predictions/a.nii"] {
        write_labels(&folder.path().join(name), [3, 1, 1], &[0, 1, 2]);
    }
    let description = folder.path().join("dataset.json");
    for (name, is_told) in [("Ignore", true), ("ignored", false)] {
        std::fs::write(&description, format!(r#"{{"labels": {{"background": 0, "body": 1, "{name}": 2}}}}"#)).unwrap();
        let output = evaluate(folder.path(), &["--dataset", &description.to_string_lossy()]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stderr.contains("label 2 is called \"Ignore\" and scored as a class"), is_told, "{stderr}");
    }
}

#[test]
fn names_are_read_from_a_description_alone() {
    let folder = folders();
    for name in ["labels/a.nii", "predictions/a.nii"] {
        write_labels(&folder.path().join(name), [2, 1, 1], &[0, 1]);
    }
    let dataset = folder.path().join("Dataset001_T");
    std::fs::create_dir(&dataset).unwrap();
    fail(
        folder.path(),
        &["--dataset", &dataset.to_string_lossy()],
        "no dataset.json that names classes; --dataset takes",
    );
    let file = dataset.join("dataset.json");
    fail(folder.path(), &["--dataset", &file.to_string_lossy()], "dataset.json: no such file or folder");
    std::fs::write(&file, r#"{"labels": {"background": 0, "liver": 1}}"#).unwrap();
    for path in [&dataset, &file] {
        let lines = csv(folder.path(), &["--dataset", &path.to_string_lossy()]);
        assert_eq!(lines[2], "a,1,liver,1,1,0,0,0,0,1", "{}", path.display());
    }
    std::fs::write(&file, r#"{"name": "T"}"#).unwrap();
    fail(folder.path(), &["--dataset", &file.to_string_lossy()], "names no classes; --dataset takes a dataset.json");
}

#[test]
fn summary_has_no_class_that_neither_dataset_nor_map_has() {
    let folder = folders();
    write_labels(&folder.path().join("labels/a.nii"), [4, 1, 1], &[0, 1, 5, 0]);
    write_labels(&folder.path().join("predictions/a.nii"), [4, 1, 1], &[0, 1, 5, 0]);
    let dataset = folder.path().join("dataset.json");
    std::fs::write(&dataset, r#"{"labels": {"background": 0, "liver": 1, "spleen": 3, "spine": 5}}"#).unwrap();
    let summary = folder.path().join("summary.json");
    let [dataset, summary_path] = [&dataset, &summary].map(|path| path.to_string_lossy());
    let check = |more: &[&str], classes: &[&str], dice: serde_json::Value| {
        let output = evaluate(folder.path(), &[more, &["--summary", &summary_path]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&summary).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text.replace("NaN", "\"NaN\"")).unwrap();
        for metrics in [&json["mean"], &json["metric_per_case"][0]["metrics"]] {
            let keys: Vec<&str> = metrics.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, classes);
        }
        assert_eq!(json["foreground_mean"]["Dice"], dice);
    };
    check(&[], &["1", "5"], 1.0.into());
    // A class of the dataset that no map has is NaN for nnU-Net, and with it the mean.
    check(&["--dataset", &dataset], &["1", "3", "5"], "NaN".into());
}

/// A dataset that names the labels 1, 3 and 5, and two cases of which one has the label 2.
fn with_gaps() -> (tempfile::TempDir, String) {
    let folder = folders();
    for name in ["labels/a.nii", "predictions/a.nii", "labels/b.nii"] {
        write_labels(&folder.path().join(name), [4, 1, 1], &[0, 1, 5, 0]);
    }
    write_labels(&folder.path().join("predictions/b.nii"), [4, 1, 1], &[0, 1, 5, 2]);
    let dataset = folder.path().join("dataset.json");
    std::fs::write(&dataset, r#"{"labels": {"background": 0, "liver": 1, "spleen": 3, "spine": 5}}"#).unwrap();
    let dataset = dataset.to_string_lossy().into_owned();
    (folder, dataset)
}

#[test]
fn numbers_without_a_name_that_no_map_has_are_no_classes() {
    let (folder, dataset) = with_gaps();
    std::fs::remove_file(folder.path().join("labels/b.nii")).unwrap();
    std::fs::remove_file(folder.path().join("predictions/b.nii")).unwrap();
    let output = evaluate(folder.path(), &["--dataset", &dataset]);
    let (table, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(table.lines().last(), Some("1 class that occurs in no map is not listed"), "{table}");
    assert!(!stderr.contains("warning"), "{stderr}");
    let json: serde_json::Value =
        serde_json::from_slice(&evaluate(folder.path(), &["--dataset", &dataset, "--json"]).stdout).unwrap();
    assert_eq!(json["classes"], serde_json::json!(["background", "liver", "spleen", "spine"]));
    let numbers: Vec<&serde_json::Value> =
        json["means"].as_array().unwrap().iter().map(|mean| &mean["class"]).collect();
    assert_eq!(numbers, [0, 1, 3, 5]);
    assert_eq!(json["cases"][0]["classes"].as_array().unwrap().len(), 4);
    let lines = csv(folder.path(), &["--dataset", &dataset]);
    let numbers: Vec<&str> = lines[1..].iter().map(|line| line.split(',').nth(1).unwrap()).collect();
    assert_eq!(numbers, ["0", "1", "3", "5"]);
}

#[test]
fn labels_that_the_dataset_does_not_name_are_reported_and_scored() {
    let (folder, dataset) = with_gaps();
    write_labels(&folder.path().join("labels/a.nii"), [4, 1, 1], &[4, 1, 5, 2]);
    let output = evaluate(folder.path(), &["--dataset", &dataset, "--json"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let told = |side: &str, labels: &str| {
        let line = format!(" labels that {dataset} does not name: {labels}; each is scored as a class of its number");
        stderr.lines().filter(|found| found.contains(side) && found.ends_with(&line)).count()
    };
    assert_eq!(told("labels: the true label maps hold", "2 (1 case), 4 (1 case)"), 1, "{stderr}");
    assert_eq!(told("predictions: the predictions hold", "2 (1 case)"), 1, "{stderr}");
    assert_eq!(stderr.matches("warning").count(), 2, "{stderr}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["classes"], serde_json::json!(["background", "liver", "class 2", "spleen", "class 4", "spine"]));
    assert_eq!((&json["means"][2]["num_missed"], &json["means"][2]["num_only_predicted"]), (&1.into(), &1.into()));
    // Above all labels of the dataset, a label is out of range.
    write_labels(&folder.path().join("labels/a.nii"), [4, 1, 1], &[0, 1, 6, 0]);
    fail(folder.path(), &["--dataset", &dataset], "label 6 is out of range");
}

#[test]
fn labels_of_no_region_are_reported() {
    let (folder, dataset) = with_gaps();
    let json = r#"{"labels": {"background": 0, "whole": [1, 5], "core": [5]}, "regions_class_order": [1, 5]}"#;
    std::fs::write(&dataset, json).unwrap();
    let stderr = String::from_utf8(evaluate(folder.path(), &["--dataset", &dataset]).stderr).unwrap();
    assert!(stderr.contains("does not name: 2 (1 case); they belong to no region and are not scored"), "{stderr}");
}

#[test]
fn tolerances_of_unknown_classes_are_refused_with_the_classes_that_exist() {
    let (folder, dataset) = with_gaps();
    let refused = |tolerance: &str| {
        let output = evaluate(folder.path(), &["--dataset", &dataset, "--tolerance", tolerance]);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let classes = "(the classes are 0 background, 1 liver, 3 spleen, 5 spine)";
    assert_eq!(refused("lever=2"), format!("error: --tolerance: no class `lever`; did you mean `liver`? {classes}\n"));
    assert_eq!(refused("2=2"), format!("error: --tolerance: no class `2` {classes}\n"));
    // The regions' places in the alphabet are no numbers of labels.
    let json = r#"{"labels": {"background": 0, "whole": [1, 5], "core": [5]}, "regions_class_order": [1, 5]}"#;
    std::fs::write(&dataset, json).unwrap();
    let regions = "(the regions are core, whole)";
    assert_eq!(refused("1=2"), format!("error: --tolerance: no region is named `1` {regions}\n"));
    assert_eq!(
        refused("wole=2"),
        format!("error: --tolerance: no region is named `wole`; did you mean `whole`? {regions}\n")
    );
    let flags = ["--dataset", &dataset, "--tolerance", "core=2"];
    assert!(evaluate(folder.path(), &flags).status.success());
}
