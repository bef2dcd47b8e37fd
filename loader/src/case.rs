//! Files of a scan to convert, the report of a skipped scan, and lookup of a cache's cases by name.

use std::fmt;
use std::path::{Path, PathBuf};

use hiend_cache::{Cache, Case};

use crate::nearest::nearest_case;
use crate::volume::{Volume, VolumeError, VolumeInfo, detached, read_info, read_volume};

pub use crate::escape::{escape_name, shown};

/// A scan on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CaseFiles {
    /// Name of the dataset.
    pub dataset: String,
    /// Name of the case, unique in its dataset.
    pub case_id: String,
    /// Path of the image; for a DICOM series, path of its first file.
    pub image: PathBuf,
    /// Further files of a DICOM series; empty for other formats.
    pub slices: Vec<PathBuf>,
    /// Evidence that the image file is an image and not a label map.
    pub role: ImageRole,
    /// Files of the label map; `None` for an unlabelled case.
    pub label: Option<LabelFiles>,
}

/// Evidence that a file is an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageRole {
    /// The dataset's layout declares the file an image.
    Declared,
    /// The file may be an image, since nothing marks it as anything else. It is refused if its values are those of a
    /// label map.
    Assumed,
}

/// Files of one label map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LabelFiles {
    /// A single file.
    Map(PathBuf),
    /// One binary mask per class, as in `TotalSegmentator`. Where masks overlap, the one with the higher class wins.
    Masks {
        /// Folder of the masks.
        folder: PathBuf,
        /// Masks in ascending order of class.
        masks: Vec<Mask>,
    },
}

/// A binary mask of one class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mask {
    /// Label value of the class, from 1.
    pub class: u8,
    /// Path of the mask.
    pub path: PathBuf,
}

impl LabelFiles {
    /// Path to name in messages: the label map, or the folder of the masks.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Map(path) | Self::Masks { folder: path, .. } => path,
        }
    }

    /// All files of the label map.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let (map, masks) = match self {
            Self::Map(path) => (Some(path.as_path()), [].as_slice()),
            Self::Masks { masks, .. } => (None, masks.as_slice()),
        };
        map.into_iter().chain(masks.iter().map(|mask| mask.path.as_path()))
    }
}

impl CaseFiles {
    /// `DATASET/CASE`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.dataset, self.case_id)
    }

    /// All files of the case, the image first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.image_files().chain(self.label.iter().flat_map(LabelFiles::files))
    }

    /// The files of the image.
    pub fn image_files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.image.as_path()).chain(self.slices.iter().map(PathBuf::as_path))
    }

    /// Reads the header of the image.
    ///
    /// # Errors
    /// The errors of [`read_info`].
    pub fn read_info(&self) -> Result<VolumeInfo, VolumeError> {
        #[cfg(feature = "dicom")]
        if self.is_series() {
            let files: Vec<PathBuf> = self.image_files().map(PathBuf::from).collect();
            return crate::volume::dicom::read_series_info(&files);
        }
        read_info(&self.image)
    }

    /// Reads the image.
    ///
    /// # Errors
    /// The errors of [`read_volume`].
    pub fn read_volume(&self) -> Result<Volume, VolumeError> {
        #[cfg(feature = "dicom")]
        if self.is_series() {
            let files: Vec<PathBuf> = self.image_files().map(PathBuf::from).collect();
            return crate::volume::read_series(&files);
        }
        read_volume(&self.image)
    }

    /// Returns true for DICOM files of any modality. A path alone refers to the CT series that it belongs to.
    #[cfg(feature = "dicom")]
    fn is_series(&self) -> bool {
        let name = self.image.file_name().and_then(|name| name.to_str());
        let is_candidate = name.is_some_and(crate::volume::dicom::is_candidate);
        !self.slices.is_empty() || (is_candidate && !self.image.is_dir())
    }

    /// Total size of all files of the case, including detached voxel data, in bytes.
    ///
    /// # Errors
    /// If a file is missing or cannot be examined.
    pub fn file_bytes(&self) -> std::io::Result<u64> {
        let sizes = self.files().map(|path| {
            let voxels = detached(path).map(std::fs::metadata).transpose()?;
            Ok(std::fs::metadata(path)?.len() + voxels.map_or(0, |data| data.len()))
        });
        sizes.sum()
    }
}

/// A case that was not converted, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedCase {
    /// `DATASET/CASE`.
    pub case: String,
    /// The file at fault.
    pub path: PathBuf,
    /// The reason in one line.
    pub reason: String,
}

impl SkippedCase {
    pub(crate) fn new(case: &CaseFiles, path: &Path, reason: impl fmt::Display) -> Self {
        Self { case: case.key(), path: path.to_owned(), reason: escape_name(&reason.to_string()).into_owned() }
    }
}

impl fmt::Display for SkippedCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.case, self.reason, shown(&self.path))
    }
}

/// Error of a name that matches no case of a cache, or several.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseNameError {
    /// No case of the cache has this name.
    #[error("{}: no case {name}{}", dir.display(), nearest.as_ref().map(|key| format!("; did you mean {key}?")).unwrap_or_default())]
    Unknown {
        /// Path of the cache.
        dir: PathBuf,
        /// Name to look up.
        name: String,
        /// The most similar name in the cache; `None` if none is similar.
        nearest: Option<String>,
    },
    /// Several datasets have a case of this name.
    #[error("{}: {name} is in several datasets; expected one of {}", dir.display(), keys.join(", "))]
    Ambiguous {
        /// Path of the cache.
        dir: PathBuf,
        /// Name to look up.
        name: String,
        /// Keys of the cases with this name.
        keys: Vec<String>,
    },
}

/// Finds the case of a cache by `DATASET/CASE`, or by `CASE` where that is unique.
///
/// # Errors
/// If the name fits none, or several.
pub fn case_named<'a>(cache: &'a Cache, name: &str) -> Result<&'a Case, CaseNameError> {
    if let Some(case) = cache.case(name) {
        return Ok(case);
    }
    let same: Vec<&Case> = cache.cases().iter().filter(|case| case.record().case_id == name).collect();
    let (dir, name) = (cache.dir().to_owned(), name.to_owned());
    match same.as_slice() {
        [case] => Ok(case),
        [] => {
            let nearest = nearest_case(&name, cache.cases().iter().map(Case::key)).map(str::to_owned);
            Err(CaseNameError::Unknown { dir, name, nearest })
        }
        many => {
            let keys = many.iter().map(|case| case.key().to_owned()).collect();
            Err(CaseNameError::Ambiguous { dir, name, keys })
        }
    }
}
