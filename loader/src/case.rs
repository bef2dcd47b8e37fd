//! One scan to convert, why a scan may be left out, and converted ones by their names.

use std::path::{Path, PathBuf};

use hiend_cache::{Cache, Case};

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
pub struct SkippedCase {
    /// `DATASET/CASE`.
    pub case: String,
    /// The file at fault.
    pub path: PathBuf,
    /// Why, in one line.
    pub reason: String,
}

impl SkippedCase {
    pub(crate) fn new(case: &CaseFiles, path: &Path, reason: impl std::fmt::Display) -> Self {
        Self { case: case.key(), path: path.to_owned(), reason: reason.to_string() }
    }
}

impl std::fmt::Display for SkippedCase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.case, self.reason, self.path.display())
    }
}

/// The case of a cache that bears this name, given with its dataset or without.
///
/// # Errors
/// If there is none, with the nearest name, or several.
pub fn case_named<'a>(cache: &'a Cache, name: &str) -> Result<&'a Case, String> {
    if let Some(case) = cache.case(name) {
        return Ok(case);
    }
    let same: Vec<&Case> = cache.cases().iter().filter(|case| case.record().case_id == name).collect();
    match same.as_slice() {
        [case] => Ok(case),
        [] => {
            let lower = name.to_lowercase();
            let likeness = |case: &&Case| {
                let (key, id) = (case.key().to_lowercase(), case.record().case_id.to_lowercase());
                strsim::jaro_winkler(&lower, &key).max(strsim::jaro_winkler(&lower, &id))
            };
            let nearest = cache.cases().iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            let hint = nearest.map(|case| format!("; did you mean {}?", case.key())).unwrap_or_default();
            Err(format!("{}: no case {name}{hint}", cache.dir().display()))
        }
        many => {
            let keys: Vec<&str> = many.iter().map(|case| case.key()).collect();
            Err(format!("{}: {name} is in several datasets; say which: {}", cache.dir().display(), keys.join(", ")))
        }
    }
}
