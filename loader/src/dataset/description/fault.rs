//! Faults of a `dataset.json`.

use std::path::PathBuf;

use serde_json::Value;

use super::MAX_BYTES;
use crate::case::{escape_name, shown};

/// Values that a label may have, for messages.
const LABEL_VALUES: &str = "expected whole numbers from 0 to 255";

/// Reason why a description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionFault {
    /// The path cannot be accessed.
    #[error("cannot be accessed: {0}")]
    Unseen(std::io::Error),
    /// A folder, a device, or a file that is too large.
    #[error("expected a regular file of at most {MAX_BYTES} bytes")]
    NotAFile,
    /// The file cannot be read.
    #[error("cannot read: {0}")]
    Unreadable(std::io::Error),
    /// A file that holds only white space.
    #[error("the file is empty; expected a JSON object")]
    Empty,
    /// Text in an encoding that JSON does not allow.
    #[error("the file is in UTF-16; save it as UTF-8")]
    Utf16,
    /// Content that is not JSON, or lacks the form of a description.
    #[error("not a valid description: {}", escaped(.0))]
    Invalid(serde_json::Error),
    /// JSON that is not an object.
    #[error("not a valid description: expected a JSON object")]
    NotAnObject,
    /// A label whose value is out of range.
    #[error("labels: {}: {value}; {LABEL_VALUES}", escape_name(key))]
    Label {
        /// Key of the entry.
        key: String,
        /// Value of the label as in `dataset.json`.
        value: Value,
    },
    /// A region of label values that are out of range.
    #[error("labels: region {}: {value}; {LABEL_VALUES}", escape_name(key))]
    Region {
        /// Name of the region.
        key: String,
        /// Values of the region as in `dataset.json`.
        value: Value,
    },
    /// Two classes with the same label value.
    #[error("labels: {} and {} both have the value {label}", escape_name(first), escape_name(second))]
    SameLabel {
        /// Name of the class that comes first.
        first: String,
        /// Name of the second class.
        second: String,
        /// Label value that both classes have.
        label: u8,
    },
    /// Two classes or regions of the same name.
    #[error("labels: {} is there twice, with the values {first} and {second}; keep one", escape_name(name))]
    Twice {
        /// Name of both.
        name: String,
        /// Label value, or list of them, that comes first.
        first: String,
        /// The other one.
        second: String,
    },
    /// A list of cases in another form.
    #[error("{key:?}: expected {expected}")]
    List {
        /// Key of the list.
        key: &'static str,
        /// Form of the list, for messages.
        expected: &'static str,
    },
    /// A case whose label map has another key than `label`.
    #[error("{} has {key:?} and no \"label\"; rename the key", escape_name(entry))]
    LabelKey {
        /// Name of the entry, for the message.
        entry: String,
        /// The key in `dataset.json`.
        key: &'static str,
    },
    /// A case of `dataset` without images.
    #[error("dataset: {}: expected a list \"images\" of paths", escape_name(case_id))]
    NoImages {
        /// Name of the case in `dataset.json`.
        case_id: String,
    },
    /// An entry of `training` without an image.
    #[error("entry {index} of \"training\" names no image")]
    NoImage {
        /// Position in the list, from 0.
        index: usize,
    },
    /// A label map entry that is not a single path.
    #[error("{}: \"label\" is {value}; expected one path", escape_name(entry))]
    LabelPath {
        /// Name of the entry, for the message.
        entry: String,
        /// Value of `label` as in `dataset.json`.
        value: Value,
    },
    /// A path that leads outside the folder being converted.
    #[error("{} lies outside {}; convert a folder that contains both", escape_name(listed), shown(root))]
    Outside {
        /// The path as it is listed.
        listed: String,
        /// The folder being converted.
        root: PathBuf,
    },
    /// An image without the ending of a volume.
    #[error("{}: listed as an image, but not named .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd", shown(path))]
    NotAVolume {
        /// Path of the listed image.
        path: PathBuf,
    },
    /// A case whose name cannot be shown on a line.
    #[error("lists the case {case_id:?}, whose name has control characters; rename it")]
    ControlCharacters {
        /// Name of the case in `dataset.json`.
        case_id: String,
    },
}

/// Message of the parser, which may quote a key with a line break.
fn escaped(error: &serde_json::Error) -> String {
    escape_name(&error.to_string()).into_owned()
}
