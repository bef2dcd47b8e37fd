//! `dataset.json`, as nnU-Net (versions 1 and 2) and the Medical Segmentation Decathlon write it.

mod fault;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::DatasetError;
use super::modality::is_ct_channel;
pub use fault::DescriptionFault;

/// Name of the file.
pub(super) const FILE_NAME: &str = "dataset.json";

/// Name of the label of voxels without annotation.
pub(super) const IGNORE: &str = "ignore";

/// Keys that some lists have in place of `label`.
const LABEL_KEYS: [&str; 6] = ["labels", "mask", "masks", "seg", "segmentation", "annotation"];

/// Largest `dataset.json` that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// The parts of a description that conversion uses.
#[derive(Clone, Debug, Default)]
pub(super) struct Description {
    /// Class names by label value, the label to ignore included.
    pub labels: BTreeMap<u8, String>,
    /// Names of regions, and the label values that each unites.
    pub regions: BTreeMap<String, Vec<u8>>,
    /// Label value of voxels without annotation, which nnU-Net calls `ignore`.
    pub ignore: Option<u8>,
    /// Number of training cases claimed.
    pub num_training: Option<u64>,
    /// Names of the channels by their number.
    pub channels: Vec<String>,
    /// Ending of the files that nnU-Net would read. Descriptions of its version 2 have one, and demand channel numbers in
    /// file names.
    pub file_ending: Option<String>,
    /// Cases that the description lists; empty if it lists none.
    pub cases: Vec<ListedCase>,
    /// Files that the description lists for validation.
    pub validation: HashSet<PathBuf>,
    /// Files that the description lists for tests.
    pub test: HashSet<PathBuf>,
}

impl Description {
    /// Returns true if the images have channel numbers: several channels are named, or version 2 of nnU-Net wrote it.
    pub(super) fn demands_channels(&self) -> bool {
        self.file_ending.is_some() || self.channels.len() > 1
    }

    /// Returns true if channels are named, and all of them CTs.
    pub(super) fn has_only_cts(&self) -> bool {
        !self.channels.is_empty() && self.channels.iter().all(|channel| is_ct_channel(channel))
    }
}

/// A case listed in `training` or in `dataset`.
#[derive(Clone, Debug)]
pub(super) struct ListedCase {
    /// Name of the case; `None` where the image's name gives it.
    pub case_id: Option<String>,
    /// Paths of the images, one per channel.
    pub images: Vec<PathBuf>,
    /// The label map.
    pub label: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    labels: InOrder,
    #[serde(default, rename = "numTraining")]
    num_training: Value,
    /// Names of the channels in version 2 of nnU-Net.
    #[serde(default)]
    channel_names: Value,
    /// Names of the channels in version 1 of nnU-Net and in the Decathlon. Converted descriptions may have both keys.
    #[serde(default)]
    modality: Value,
    #[serde(default)]
    file_ending: Option<Value>,
    #[serde(default)]
    training: Value,
    #[serde(default)]
    dataset: Value,
    #[serde(default)]
    validation: Value,
    #[serde(default)]
    test: Value,
}

/// A JSON object with its keys in the file's order.
#[derive(Default)]
struct InOrder(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = InOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(InOrder(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads the description in `folder`; `None` if there is none. `root` is the folder being converted: listed paths may
/// lead anywhere in it and nowhere else.
///
/// # Errors
/// If the file cannot be read, is not JSON, or lists a path outside `root`.
pub(super) fn read(folder: &Path, root: &Path) -> Result<Option<Description>, DatasetError> {
    read_file(&folder.join(FILE_NAME), root)
}

/// Reads a description from a file of any name; the paths that it lists are relative to its folder. Returns `None` if the
/// file does not exist.
///
/// # Errors
/// If the file cannot be read, is not JSON, or lists a path outside `root`.
pub(super) fn read_file(path: &Path, root: &Path) -> Result<Option<Description>, DatasetError> {
    let folder = path.parent().unwrap_or(root);
    let bad = |reason: DescriptionFault| DatasetError::BadDescription { path: path.to_owned(), reason: reason.into() };
    let data = match std::fs::metadata(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound && std::fs::symlink_metadata(path).is_err() => {
            return Ok(None);
        }
        data => data.map_err(|err| bad(DescriptionFault::Unseen(err)))?,
    };
    if !data.is_file() || data.len() > MAX_BYTES {
        return Err(bad(DescriptionFault::NotAFile));
    }
    let bytes = std::fs::read(path).map_err(|err| bad(DescriptionFault::Unreadable(err)))?;
    // Some editors put a byte order mark first, which JSON does not allow.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if [b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| text.starts_with(*mark)) {
        return Err(bad(DescriptionFault::Utf16));
    }
    if text.trim_ascii().is_empty() {
        return Err(bad(DescriptionFault::Empty));
    }
    let raw: Raw = serde_json::from_slice(text).map_err(|err| bad(DescriptionFault::Invalid(err)))?;
    // A list would be taken for the fields in order.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(bad(DescriptionFault::NotAnObject));
    }
    let cases = listed(&raw, folder, root).map_err(&bad)?;
    let mut description = Description {
        num_training: whole(&raw.num_training),
        channels: channels(&raw),
        file_ending: raw.file_ending.map(|ending| ending.as_str().unwrap_or_default().to_lowercase()),
        cases,
        validation: other_files(&raw.validation, folder, root),
        test: other_files(&raw.test, folder, root),
        ..Description::default()
    };
    for (key, value) in &raw.labels.0 {
        add_label(&mut description, key, value).map_err(&bad)?;
    }
    Ok(Some(description))
}

/// Names of the channels in the order of their numbers: those of `channel_names`, else those of `modality`.
fn channels(raw: &Raw) -> Vec<String> {
    let names = |value: &Value| -> Vec<String> {
        let values: Vec<&Value> = match value {
            Value::Object(entries) => {
                let mut entries: Vec<(&String, &Value)> = entries.iter().collect();
                entries.sort_by_key(|(number, _)| number.trim().parse::<u32>().unwrap_or(u32::MAX));
                entries.into_iter().map(|(_, name)| name).collect()
            }
            Value::Array(names) => names.iter().collect(),
            name => vec![name],
        };
        values.into_iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let of_version_2 = names(&raw.channel_names);
    if of_version_2.is_empty() { names(&raw.modality) } else { of_version_2 }
}

/// Reads a whole number, which some descriptions write as a string.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Takes in an entry of `labels`: `"liver": 1` (nnU-Net 2), `"1": "liver"` (nnU-Net 1, Decathlon), or a region,
/// `"tumour": [1, 2]`.
fn add_label(into: &mut Description, key: &str, value: &Value) -> Result<(), DescriptionFault> {
    let label = |value: &Value| -> Option<u8> { u8::try_from(whole(value)?).ok() };
    if let Value::Array(values) = value {
        let labels: Option<Vec<u8>> = values.iter().map(label).collect();
        let region = || DescriptionFault::Region { key: key.to_owned(), value: value.clone() };
        let labels = labels.filter(|labels| !labels.is_empty()).ok_or_else(region)?;
        into.regions.insert(key.to_owned(), labels);
        return Ok(());
    }
    let (label, name) = match (key.trim().parse::<u8>(), value) {
        (Ok(label), Value::String(name)) if name.trim().parse::<u64>().is_err() => (label, name.as_str()),
        _ => {
            let bad = || DescriptionFault::Label { key: key.to_owned(), value: value.clone() };
            let label = label(value).ok_or_else(bad)?;
            // A key that is there twice: other readers of JSON keep one of the two.
            if let Some((&first, _)) = into.labels.iter().find(|(_, name)| name.as_str() == key) {
                return Err(DescriptionFault::TwoValues { name: key.to_owned(), first, second: label });
            }
            (label, key)
        }
    };
    if let Some(first) = into.labels.insert(label, name.to_owned()) {
        return Err(DescriptionFault::SameLabel { first, second: name.to_owned(), label });
    }
    if name == IGNORE {
        into.ignore = Some(label);
    }
    Ok(())
}

/// Cases of `dataset` (nnU-Net 2: an object by case name) or of `training` (nnU-Net 1 and Decathlon: a list).
fn listed(raw: &Raw, folder: &Path, root: &Path) -> Result<Vec<ListedCase>, DescriptionFault> {
    let place = |path: &str| inside(path, folder, root);
    if let Value::Object(cases) = &raw.dataset {
        return cases
            .iter()
            .map(|(case_id, entry)| {
                let images = entry.get("images").and_then(paths).filter(|images| !images.is_empty());
                let images = images.ok_or_else(|| DescriptionFault::NoImages { case_id: case_id.clone() })?;
                Ok(ListedCase {
                    case_id: Some(case_id.clone()),
                    images: images.into_iter().map(place).collect::<Result<_, _>>()?,
                    label: label_of(entry, || format!("dataset: {case_id}"))?.map(place).transpose()?,
                })
            })
            .collect();
    }
    if raw.dataset.is_array() {
        return Err(DescriptionFault::List { key: "dataset", expected: "an object of cases by name" });
    }
    if raw.training.is_object() {
        return Err(DescriptionFault::List { key: "training", expected: "a list of cases" });
    }
    let Value::Array(entries) = &raw.training else { return Ok(Vec::new()) };
    entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            // MONAI lists one path or several.
            let images = paths(entry.get("image").unwrap_or(entry)).filter(|images| !images.is_empty());
            let images = images.ok_or(DescriptionFault::NoImage { index })?;
            let label = label_of(entry, || format!("entry {index} of \"training\""))?.map(place).transpose()?;
            Ok(ListedCase { case_id: None, images: images.into_iter().map(place).collect::<Result<_, _>>()?, label })
        })
        .collect()
}

/// The paths of an entry that lists one path or several; `None` for anything else.
fn paths(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(path) => Some(vec![path.as_str()]),
        Value::Array(paths) => paths.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// The label map of a case; `None` for a case without one. `entry_name` names the case for messages.
fn label_of(entry: &Value, entry_name: impl FnOnce() -> String) -> Result<Option<&str>, DescriptionFault> {
    let Some(value) = entry.get("label").filter(|value| !value.is_null()) else {
        return match LABEL_KEYS.into_iter().find(|key| entry.get(key).is_some_and(|value| !value.is_null())) {
            Some(key) => Err(DescriptionFault::LabelKey { entry: entry_name(), key }),
            None => Ok(None),
        };
    };
    match paths(value).as_deref() {
        Some([]) => Ok(None),
        Some([path]) => Ok(Some(*path)),
        _ => Err(DescriptionFault::LabelPath { entry: entry_name(), value: value.clone() }),
    }
}

/// Files that a list of test or validation cases names. Invalid entries are ignored, because they do no harm.
fn other_files(list: &Value, folder: &Path, root: &Path) -> HashSet<PathBuf> {
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let values = entries.iter().flat_map(|entry| [Some(entry), entry.get("image"), entry.get("label")]).flatten();
    values.filter_map(paths).flatten().filter_map(|path| inside(path, folder, root).ok()).collect()
}

/// The place of a listed path, which may not leave `root`: a description is data and must not make this program read
/// other files. Where no file has the path as it is written, backslashes separate folders, as on Windows.
fn inside(listed: &str, folder: &Path, root: &Path) -> Result<PathBuf, DescriptionFault> {
    let path = resolved(listed, folder, root)?;
    if cfg!(windows) || !listed.contains('\\') || std::fs::symlink_metadata(&path).is_ok() {
        return Ok(path);
    }
    // As written, if it leads elsewhere then.
    Ok(resolved(&listed.replace('\\', "/"), folder, root).unwrap_or(path))
}

/// A listed path without `.` and `..`, if it lies in `root`.
fn resolved(listed: &str, folder: &Path, root: &Path) -> Result<PathBuf, DescriptionFault> {
    let mut path = folder.to_owned();
    for component in Path::new(listed).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::Prefix(_) => path = PathBuf::from(component.as_os_str()),
        }
    }
    if path.starts_with(root) {
        return Ok(path);
    }
    Err(DescriptionFault::Outside { listed: listed.to_owned(), root: root.to_owned() })
}

#[cfg(test)]
mod tests {
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
            (
                r#"{"dataset": {"x": {"images": ["a.nii"], "label": 1}}}"#,
                r#"dataset: x: "label" is 1; expected one path"#,
            ),
            (r#"{"training": [{"image": [], "label": "l.nii"}]}"#, r#"entry 0 of "training" names no image"#),
            (r#"{"training": {"a": "a.nii"}}"#, r#""training": expected a list of cases"#),
            (r#"{"dataset": [{"image": "a.nii"}]}"#, r#""dataset": expected an object of cases by name"#),
            (
                r#"{"training": [{"image": "a.nii", "seg": "l.nii"}]}"#,
                r#"entry 0 of "training" has "seg" and no "label""#,
            ),
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
            (r#"{"labels": {"liver": 1, "liver": 2}}"#, "labels: liver has two values, 1 and 2"),
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
}
