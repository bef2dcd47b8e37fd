//! `dataset.json`, as nnU-Net (versions 1 and 2) and the Medical Segmentation Decathlon write it.

mod fault;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::DatasetError;
use super::ct_words::is_ct_channel;
pub use fault::DescriptionFault;

/// Name of the file.
pub(super) const FILE_NAME: &str = "dataset.json";

/// Name of the label of voxels without annotation.
const IGNORE: &str = "ignore";

/// Names of label 0 that mean the background, in lower case and with spaces between words.
const BACKGROUND_NAMES: [&str; 6] = ["background", "bg", "none", "unlabeled", "unlabelled", "clear label"];

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
    /// Names of labels and regions in the file's order, by which nnU-Net numbers regions.
    pub order: Vec<String>,
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

    /// Refuses a second class or region of a name, of which other readers keep one. `second` is its value.
    fn refuse_second(&self, name: &str, second: &str) -> Result<(), DescriptionFault> {
        let class = self.labels.iter().find(|(_, known)| *known == name).map(|(label, _)| label.to_string());
        let first = class.or_else(|| self.regions.get(name).map(|labels| format!("{labels:?}")));
        match first {
            Some(first) => Err(DescriptionFault::Twice { name: name.to_owned(), first, second: second.to_owned() }),
            None => Ok(()),
        }
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

/// Returns true if the name of a label says that it is the background.
pub(super) fn is_background(name: &str) -> bool {
    BACKGROUND_NAMES.contains(&name.trim().to_lowercase().replace(['_', '-'], " ").as_str())
}

/// Finds the label whose name is `ignore`, by which nnU-Net marks voxels without annotation, in another spelling: `Ignore`, or
/// with spaces around. It is a class for nnU-Net and for this crate.
#[must_use]
pub fn misspelt_ignore(labels: &BTreeMap<u8, String>) -> Option<(u8, &str)> {
    let is_misspelt = |name: &str| name != IGNORE && name.trim().eq_ignore_ascii_case(IGNORE);
    labels.iter().find(|(_, name)| is_misspelt(name)).map(|(&label, name)| (label, name.as_str()))
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
        into.refuse_second(key, &format!("{labels:?}"))?;
        into.regions.insert(key.to_owned(), labels);
        into.order.push(key.to_owned());
        return Ok(());
    }
    let (label, name) = match (key.trim().parse::<u8>(), value) {
        (Ok(label), Value::String(name)) if name.trim().parse::<u64>().is_err() => (label, name.as_str()),
        _ => {
            let bad = || DescriptionFault::Label { key: key.to_owned(), value: value.clone() };
            (label(value).ok_or_else(bad)?, key)
        }
    };
    into.refuse_second(name, &label.to_string())?;
    if let Some(first) = into.labels.insert(label, name.to_owned()) {
        return Err(DescriptionFault::SameLabel { first, second: name.to_owned(), label });
    }
    into.order.push(name.to_owned());
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
/// other files. Links are followed, because they are not part of the description: whoever places one chooses its target.
/// Where no file has the path as it is written, backslashes separate folders, as on Windows.
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
mod tests;
