use super::*;

fn parse(text: &str) -> Result<Description, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dataset.json"), text).unwrap();
    read(dir.path(), dir.path()).map(Option::unwrap).map_err(|err| err.to_string())
}

fn names(labels: &[(u8, &str)]) -> BTreeMap<u8, String> {
    labels.iter().map(|(label, name)| (*label, (*name).to_owned())).collect()
}

#[test]
fn labels_are_read_in_both_forms() {
    let expected = names(&[(0, "background"), (1, "liver")]);
    for text in [
        r#"{"labels": {"background": 0, "liver": 1}}"#,
        r#"{"labels": {"0": "background", "1": "liver"}}"#,
        r#"{"labels": {"background": "0", "liver": "1"}}"#,
        "\u{feff}{\"labels\": {\"background\": 0, \"liver\": 1}}",
    ] {
        assert_eq!(parse(text).unwrap().labels, expected, "{text}");
    }
}

#[test]
fn the_ignore_label_and_regions_are_kept_apart() {
    let description = parse(
        r#"{"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "bone": 3, "ignore": 4},
            "regions_class_order": [1, 2, 3]}"#,
    )
    .unwrap();
    assert_eq!(description.labels, names(&[(0, "background"), (3, "bone"), (4, "ignore")]));
    assert_eq!(description.ignore, Some(4));
    let regions = BTreeMap::from([("core".into(), vec![2, 3]), ("whole".into(), vec![1, 2, 3])]);
    assert_eq!(description.regions, regions);
    assert_eq!(description.order, ["background", "whole", "core", "bone", "ignore"]);
}

#[test]
fn channels_of_both_versions_are_read_and_those_of_version_2_preferred() {
    for (text, expected) in [
        (r#"{"channel_names": {"0": "CT"}, "modality": {"0": "MRI"}}"#, vec!["CT"]),
        (r#"{"modality": {"0": "MRI"}, "channel_names": {"0": "CT"}}"#, vec!["CT"]),
        (r#"{"channel_names": {}, "modality": {"0": "MRI"}}"#, vec!["MRI"]),
        (r#"{"channel_names": ["CT", "PET"]}"#, vec!["CT", "PET"]),
        (r#"{"modality": "CT"}"#, vec!["CT"]),
        (r#"{"channel_names": {"10": "c", "2": "b", "0": "a"}}"#, vec!["a", "b", "c"]),
        ("{}", vec![]),
    ] {
        assert_eq!(parse(text).unwrap().channels, expected, "{text}");
    }
}

#[test]
fn numbers_of_cases_are_read_in_both_forms() {
    for (value, expected) in [("3", Some(3)), (r#""3""#, Some(3)), (r#""three""#, None), ("null", None)] {
        assert_eq!(parse(&format!(r#"{{"numTraining": {value}}}"#)).unwrap().num_training, expected, "{value}");
    }
}

#[test]
fn one_path_may_be_a_list() {
    let check = |text: &str, expected: &[(usize, Option<&str>)]| {
        let cases = parse(text).unwrap().cases;
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let found: Vec<(usize, Option<String>)> =
            cases.iter().map(|case| (case.images.len(), case.label.as_deref().map(name))).collect();
        let expected: Vec<(usize, Option<String>)> =
            expected.iter().map(|(images, label)| (*images, label.map(str::to_owned))).collect();
        assert_eq!(found, expected, "{text}");
    };
    check(
        r#"{"training": [{"image": ["a.nii"], "label": ["l.nii"]}, {"image": ["a.nii", "b.nii"], "label": "m.nii"},
            {"image": "c.nii", "label": null}, {"image": "d.nii", "label": []}]}"#,
        &[(1, Some("l.nii")), (2, Some("m.nii")), (1, None), (1, None)],
    );
    check(r#"{"dataset": {"a": {"images": "a.nii", "label": ["l.nii"]}}}"#, &[(1, Some("l.nii"))]);
}

#[test]
fn a_label_map_that_is_no_path_is_refused() {
    for (text, reason) in [
        (
            r#"{"training": [{"image": "a.nii", "label": ["l.nii", "m.nii"]}]}"#,
            r#"entry 0 of "training": "label" is ["l.nii","m.nii"]; expected one path"#,
        ),
        (r#"{"dataset": {"x": {"images": ["a.nii"], "label": 1}}}"#, r#"dataset: x: "label" is 1; expected one path"#),
        (r#"{"training": [{"image": [], "label": "l.nii"}]}"#, r#"entry 0 of "training" names no image"#),
        (r#"{"training": {"a": "a.nii"}}"#, r#""training": expected a list of cases"#),
        (r#"{"dataset": [{"image": "a.nii"}]}"#, r#""dataset": expected an object of cases by name"#),
        (r#"{"training": [{"image": "a.nii", "seg": "l.nii"}]}"#, r#"entry 0 of "training" has "seg" and no "label""#),
    ] {
        let message = parse(text).unwrap_err();
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn files_listed_for_validation_and_tests_are_known() {
    let text = r#"{"validation": [{"image": "v.nii", "label": ["l.nii"]}, 3], "test": ["t.nii", "../../u.nii"]}"#;
    let description = parse(text).unwrap();
    let names = |files: &HashSet<PathBuf>| {
        let mut names: Vec<String> =
            files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&description.validation), ["l.nii", "v.nii"]);
    assert_eq!(names(&description.test), ["t.nii"]);
}

#[test]
fn unusable_labels_are_refused() {
    for (text, reason) in [
        (r#"{"labels": {"liver": 256}}"#, "labels: liver: 256; expected whole numbers from 0 to 255"),
        (r#"{"labels": {"liver": -1}}"#, "labels: liver: -1;"),
        (r#"{"labels": {"liver": [1, 2.5]}}"#, "labels: region liver: [1,2.5];"),
        (r#"{"labels": {"liver": 1, "spleen": 1}}"#, "liver and spleen both have the value 1"),
        (r#"{"labels": ["liver"]}"#, "expected an object of labels"),
        (r#"{"labels": {"whole": []}}"#, "labels: region whole: [];"),
        (r#"{"labels": {"liver": 1, "liver": 2}}"#, "labels: liver is there twice, with the values 1 and 2; keep"),
        (r#"{"labels": {"liver": 1, "liver": 1}}"#, "liver is there twice, with the values 1 and 1"),
        (r#"{"labels": {"1": "liver", "2": "liver"}}"#, "liver is there twice, with the values 1 and 2"),
        (r#"{"labels": {"a": [1], "a": [1, 2]}}"#, "a is there twice, with the values [1] and [1, 2]"),
        (r#"{"labels": {"a": 1, "a": [1, 2]}}"#, "a is there twice, with the values 1 and [1, 2]"),
        ("{", "not a valid description"),
        ("[]", "not a valid description: expected a JSON object"),
        (" \n", "the file is empty; expected a JSON object"),
    ] {
        let message = parse(text).unwrap_err();
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn listed_paths_stay_in_the_folder_being_converted() {
    let dir = tempfile::tempdir().unwrap();
    let (root, folder) = (dir.path(), dir.path().join("a"));
    assert_eq!(inside("./imagesTr/x.nii", &folder, root).unwrap(), folder.join("imagesTr/x.nii"));
    assert_eq!(inside("../b/x.nii", &folder, root).unwrap(), root.join("b/x.nii"));
    let absolute = folder.join("x.nii").display().to_string();
    assert_eq!(inside(&absolute, &folder, root).unwrap(), folder.join("x.nii"));
    for path in ["../../x.nii", "/etc/passwd", "../../../../../../../../../../etc/passwd"] {
        assert!(inside(path, &folder, root).unwrap_err().to_string().contains("lies outside"), "{path}");
    }
    #[cfg(unix)]
    {
        let spelt = ".\\imagesTr\\x.nii";
        assert_eq!(inside(spelt, &folder, root).unwrap(), folder.join("imagesTr/x.nii"));
        // A file whose name has backslashes.
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(spelt), "").unwrap();
        assert_eq!(inside(spelt, &folder, root).unwrap(), folder.join(spelt));
        assert_eq!(inside("..\\..\\x.nii", &folder, root).unwrap(), folder.join("..\\..\\x.nii"));
    }
    let text = r#"{"dataset": {"x": {"images": ["/etc/passwd"], "label": "x.nii"}}}"#;
    assert!(parse(text).unwrap_err().contains("/etc/passwd lies outside"));
}

#[test]
fn errors_are_one_line_whatever_the_file_holds() {
    for text in [
        r#"{"labels": {"li\nver": 300}}"#,
        r#"{"labels": {"li\nver": [300]}}"#,
        r#"{"labels": {"li\nver": 1, "spleen": 1}}"#,
        r#"{"labels": {"li\nver": 1, "1": "li\nver"}}"#,
        r#"{"dataset": {"a\nb": {}}}"#,
        r#"{"dataset": {"a\nb": {"images": ["a.nii"], "labels": "a.nii"}}}"#,
        r#"{"dataset": {"a\nb": {"images": ["a.nii"], "label": 1}}}"#,
        r#"{"training": ["/a\nb.nii"]}"#,
    ] {
        let error = parse(text).map(drop).unwrap_err();
        assert!(error.contains(r"\n") && !error.contains('\n'), "{error}");
    }
}
