//! Groups the files of a folder into series.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use dicom_dictionary_std::{tags, uids};

use super::super::{VolumeFault, Wanted};
use super::DicomFault;
use super::elements::Elements;
use super::slice::read_elements;

/// Modalities of cross-sections, and the SOP classes of their images. Files of the enhanced classes, which hold all
/// slices in one file, are rejected by name when they are read.
const CROSS_SECTIONS: [(&str, &[&str]); 4] = [
    (
        "CT",
        &[uids::CT_IMAGE_STORAGE, uids::ENHANCED_CT_IMAGE_STORAGE, uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE],
    ),
    (
        "MR",
        &[uids::MR_IMAGE_STORAGE, uids::ENHANCED_MR_IMAGE_STORAGE, uids::LEGACY_CONVERTED_ENHANCED_MR_IMAGE_STORAGE],
    ),
    (
        "PT",
        &[
            uids::POSITRON_EMISSION_TOMOGRAPHY_IMAGE_STORAGE,
            uids::ENHANCED_PET_IMAGE_STORAGE,
            uids::LEGACY_CONVERTED_ENHANCED_PET_IMAGE_STORAGE,
        ],
    ),
    ("NM", &[uids::NUCLEAR_MEDICINE_IMAGE_STORAGE]),
];

/// Words in the description of a series of localizers; MR localizers are not marked in another way.
const LOCALIZER_WORDS: [&str; 4] = ["localizer", "localiser", "scout", "survey"];

/// Returns true for a modality whose images make volumes, as accepted by [`Wanted::CrossSections`].
#[must_use]
pub fn is_cross_section(modality: &str) -> bool {
    CROSS_SECTIONS.iter().any(|(known, _)| *known == modality)
}

/// A series of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Files of the series, sorted by name.
    pub files: Vec<PathBuf>,
    /// `SeriesInstanceUID`.
    pub uid: String,
    /// Name made of number and description, unique in the folder and safe as a file name: `003-abdomen`.
    pub name: String,
}

/// A DICOM file that is not a slice of a wanted series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Reason why the file is not a slice.
    pub reason: Other,
}

/// Reason why a file is not a slice of a wanted series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Other {
    /// A file of another format, such as a text file without an extension.
    NotDicom,
    /// An image on which the scan was planned.
    Localizer,
    /// Another modality, such as `MR` or `SEG`.
    Modality(String),
    /// A file of a wanted modality that is not a cross-section, such as a screenshot.
    Class(String),
    /// A file that lacks an element of all images in a series, such as the directory file of a medium.
    Without(&'static str),
    /// A file that cannot be read.
    Damaged(String),
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDicom => f.write_str("not a DICOM file"),
            Self::Localizer => f.write_str("localizer"),
            Self::Modality(modality) => write!(f, "of modality {modality}"),
            Self::Class(uid) => write!(f, "of class {uid} (a screen shot or a report)"),
            Self::Without(element) => write!(f, "file without the element {element}"),
            Self::Damaged(reason) => f.write_str(reason),
        }
    }
}

/// Files sorted into series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted {
    /// Series of wanted images, by name.
    pub series: Vec<Series>,
    /// All other files.
    pub others: Vec<OtherFile>,
}

/// Returns true if a file of this name may be DICOM: by its extension, or because it has none, like files of scanners
/// and archives (`IM_0001`, `1.2.840.113619.2.55`).
#[must_use]
pub fn is_candidate(name: &str) -> bool {
    if name.starts_with('.') {
        return false;
    }
    match name.rsplit_once('.') {
        None => true,
        Some((_, ending)) => {
            let known = ["dcm", "dicom", "ima"].iter().any(|known| ending.eq_ignore_ascii_case(known));
            known || ending.bytes().all(|byte| byte.is_ascii_digit())
        }
    }
}

/// Sorts files of one folder into CT series by their headers.
#[must_use]
pub fn sort(files: &[PathBuf]) -> Sorted {
    sort_of(files, Wanted::Ct)
}

/// Sorts files of one folder into series of wanted images by their headers.
#[must_use]
pub fn sort_of(files: &[PathBuf], wanted: Wanted) -> Sorted {
    /// Number and description of a series, and its files.
    type Found = (String, String, Vec<PathBuf>);
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut sorted = Sorted::default();
    for path in files {
        match classify(path, wanted) {
            Ok(elements) => {
                let uid = elements.first(tags::SERIES_INSTANCE_UID).unwrap_or_default();
                let number = elements.first(tags::SERIES_NUMBER).unwrap_or_default();
                let description =
                    elements.text(tags::SERIES_DESCRIPTION).map(|parts| parts.join(" ")).unwrap_or_default();
                let (_, _, files) = found.entry(uid).or_insert_with(|| (number, description, Vec::new()));
                files.push(path.clone());
            }
            Err(reason) => sorted.others.push(OtherFile { path: path.clone(), reason }),
        }
    }
    let names: Vec<String> = found.values().map(|(number, description, _)| name(number, description)).collect();
    for ((uid, (.., mut files)), name) in found.into_iter().zip(&names) {
        files.sort();
        let is_unique = names.iter().filter(|other| *other == name).count() == 1 && !name.is_empty();
        let digest = blake3::hash(uid.as_bytes()).to_hex()[..8].to_owned();
        let name = match (is_unique, name.is_empty()) {
            (true, _) => name.clone(),
            (false, true) => digest,
            (false, false) => format!("{name}-{digest}"),
        };
        sorted.series.push(Series { files, uid, name });
    }
    sorted.series.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

/// Builds a name such as `003-abdomen_1.5mm` from number and description, with letters, digits, `.` and `-` kept and
/// everything else replaced by `_`.
fn name(number: &str, description: &str) -> String {
    let number: String = match number.parse::<u32>() {
        Ok(number) => format!("{number:03}"),
        Err(_) => String::new(),
    };
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let description: String = description.chars().take(40).map(safe).collect();
    let description = description.trim_matches(['_', '.']);
    match (number.is_empty(), description.is_empty()) {
        (false, false) => format!("{number}-{description}"),
        (false, true) => number,
        (true, _) => description.to_owned(),
    }
}

/// Reads the elements of an image if it is wanted; returns the reason if it is not.
fn classify(path: &Path, wanted: Wanted) -> Result<Elements, Other> {
    let elements = match read_elements(path) {
        Ok(elements) => elements,
        Err(error) if is_other_format(&error.reason) => {
            let endings = ["dcm", "dicom", "ima"];
            let is_named =
                path.extension().is_some_and(|ending| endings.iter().any(|known| ending.eq_ignore_ascii_case(known)));
            return Err(if is_named { Other::Damaged(error.reason.to_string()) } else { Other::NotDicom });
        }
        Err(error) => return Err(Other::Damaged(error.reason.to_string())),
    };
    let clean = |text: String| text.escape_debug().take(64).collect::<String>();
    let modality = elements.first(tags::MODALITY).ok_or(Other::Without("Modality"))?;
    let known = CROSS_SECTIONS.iter().find(|(known, _)| *known == modality);
    let Some((_, classes)) = known.filter(|(known, _)| wanted == Wanted::CrossSections || *known == "CT") else {
        return Err(Other::Modality(clean(modality)));
    };
    let class = elements.first(tags::SOP_CLASS_UID).ok_or(Other::Without("SOPClassUID"))?;
    if !classes.contains(&class.as_str()) {
        return Err(Other::Class(clean(class)));
    }
    let kind = elements.text(tags::IMAGE_TYPE).unwrap_or_default();
    if kind.iter().any(|part| part == "LOCALIZER") || (modality != "CT" && is_described_as_localizer(&elements)) {
        return Err(Other::Localizer);
    }
    // Last: without it, a scan is missing, which localizers and screen shots are not.
    elements.first(tags::SERIES_INSTANCE_UID).ok_or(Other::Without("SeriesInstanceUID"))?;
    Ok(elements)
}

/// Returns true for faults of files that may be of another format than DICOM.
fn is_other_format(fault: &VolumeFault) -> bool {
    matches!(fault, VolumeFault::Dicom(DicomFault::NotDicom) | VolumeFault::Empty | VolumeFault::StandIn { .. })
}

/// Returns true if the description of a series has a word for localizers.
fn is_described_as_localizer(elements: &Elements) -> bool {
    let description = elements.text(tags::SERIES_DESCRIPTION).map(|parts| parts.join(" ").to_lowercase());
    let description = description.unwrap_or_default();
    description.split(|c: char| !c.is_alphanumeric()).any(|word| LOCALIZER_WORDS.contains(&word))
}
