//! One scan to convert, and why a scan may be left out.

use std::path::{Path, PathBuf};

/// A scan on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CaseFiles {
    /// Name of its dataset.
    pub dataset: String,
    /// Name of the case, unique in its dataset.
    pub case_id: String,
    /// The image.
    pub image: PathBuf,
    /// The label map, if there is one.
    pub label: Option<PathBuf>,
}

impl CaseFiles {
    /// `DATASET/CASE`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.dataset, self.case_id)
    }

    /// Bytes of its files together; a file that cannot be looked at counts nothing.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |data| data.len());
        size(&self.image) + self.label.as_deref().map_or(0, size)
    }
}

/// A case that was not converted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// `DATASET/CASE`.
    pub case: String,
    /// The file at fault.
    pub path: PathBuf,
    /// Why, in one line.
    pub reason: String,
}

impl LeftOut {
    pub(crate) fn new(case: &CaseFiles, path: &Path, reason: impl std::fmt::Display) -> Self {
        Self { case: case.key(), path: path.to_owned(), reason: reason.to_string() }
    }
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.case, self.reason, self.path.display())
    }
}
