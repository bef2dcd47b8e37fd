//! Cases with which a run began, recorded in its folder: a resumed run leaves out those that were added to the cache since,
//! and names those that are missing or changed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hiend_cache::{Cache, FileError, durable, regular};
use hiend_loader::program::escape_name;
use serde::{Deserialize, Serialize};

/// File name of the cases with which a run began.
pub const CASES: &str = "cases.json";
/// Largest number of cases of one kind that a message names.
const MOST_NAMED: usize = 3;

/// All cases of a cache by name, each with the digest of its sources and parameters. Folds depend on all of them, on those
/// of datasets that the run does not select too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunCases(BTreeMap<String, String>);

/// Content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// Digest of all cases, by which damage is found.
    digest: String,
    /// Digest of each case, by name.
    cases: BTreeMap<String, String>,
}

/// Errors from reading the cases with which a run began.
#[derive(Debug, thiserror::Error)]
pub enum RunCasesError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file does not hold what was written.
    #[error(
        "{}: its content is not what the run wrote; restore the file, or delete it: the run then resumes with a cache of exactly \
         its own cases, and with no other",
        path.display()
    )]
    Damaged {
        /// Path of the file.
        path: PathBuf,
    },
}

impl RunCases {
    /// Lists the cases of a cache.
    #[must_use]
    pub fn of(cache: &Cache) -> Self {
        Self(cache.cases().iter().map(|case| (case.key().to_owned(), case.digest())).collect())
    }

    /// Reads the cases with which the run in `run_dir` began; `None` if it recorded none, as runs of earlier versions and
    /// those on loader servers.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn read(run_dir: &Path) -> Result<Option<Self>, RunCasesError> {
        let path = run_dir.join(CASES);
        let bytes = match regular::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::at(path, "read")(error).into()),
        };
        match serde_json::from_slice(&bytes) {
            Ok(Saved { digest, cases }) if digest == digest_of(&cases) => Ok(Some(Self(cases))),
            Ok(_) | Err(_) => Err(RunCasesError::Damaged { path }),
        }
    }

    /// Writes the cases to a file, completely or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), FileError> {
        let saved = Saved { digest: digest_of(&self.0), cases: self.0.clone() };
        let mut text = serde_json::to_string_pretty(&saved).expect("every field has a JSON form");
        text.push('\n');
        durable::write(path, text.as_bytes())
    }

    /// Number of cases.
    #[must_use]
    pub fn num_cases(&self) -> usize {
        self.0.len()
    }

    /// Compares these cases, with which a run began, with the cases `now`.
    #[must_use]
    pub fn changes(&self, now: &Self) -> CaseChanges {
        let mut changes = CaseChanges::default();
        for (name, digest) in &self.0 {
            match now.0.get(name) {
                Some(found) if found == digest => {}
                Some(_) => changes.changed.push(name.clone()),
                None => changes.missing.push(name.clone()),
            }
        }
        changes.added = now.0.keys().filter(|name| !self.0.contains_key(*name)).cloned().collect();
        changes
    }

    /// Leaves out the cases of a cache that are not among these, and returns their number. A cache with none of these stays as
    /// it is. Whether the run can resume without the cases that are missing or changed is decided by the digest of the stream.
    #[must_use]
    pub fn without_added(&self, cache: Cache) -> (Cache, usize) {
        let num_cases = cache.cases().len();
        if !cache.cases().iter().any(|case| self.0.contains_key(case.key())) {
            return (cache, 0);
        }
        let cache = cache.with_cases(|case| self.0.contains_key(case.key()));
        let num_added = num_cases - cache.cases().len();
        (cache, num_added)
    }
}

/// Digest of names and digests of cases, as 32 hex digits.
fn digest_of(cases: &BTreeMap<String, String>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in cases.iter().flat_map(|(name, digest)| [name, digest]) {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Differences between the cases with which a run began and those of a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaseChanges {
    /// Cases of the run that were converted from other files or with other parameters since, sorted.
    pub changed: Vec<String>,
    /// Cases of the run that the cache does not hold, sorted.
    pub missing: Vec<String>,
    /// Cases of the cache with which the run did not begin, sorted.
    pub added: Vec<String>,
}

impl CaseChanges {
    /// Returns true if the cache holds all cases of the run unchanged, with or without others.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.changed.is_empty() && self.missing.is_empty()
    }

    /// Returns true if the cache holds the cases of the run and no others.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.is_whole() && self.added.is_empty()
    }
}

impl fmt::Display for CaseChanges {
    /// Names the first cases of each kind: `changed: a, b, c and 2 more; missing: d`. Added cases are named only where they
    /// are the only change.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            return write!(f, "added: {}", listed(&self.added));
        }
        let lost = [("changed", &self.changed), ("missing", &self.missing)];
        let kinds = lost.into_iter().filter(|(_, names)| !names.is_empty());
        let texts: Vec<String> = kinds.map(|(kind, names)| format!("{kind}: {}", listed(names))).collect();
        f.write_str(&texts.join("; "))
    }
}

/// Names of the first cases, and the number of the others.
fn listed(names: &[String]) -> String {
    let first: Vec<_> = names.iter().take(MOST_NAMED).map(|name| escape_name(name)).collect();
    match names.len() - first.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Reasons why a stream has cases other than those with which its run began.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OtherCases {
    /// The cache has other cases.
    #[error(
        "the cases of the cache are not those that the run began with ({0}); convert changed and missing ones again as they \
         were, from the same files and with the same parameters, or begin another run with these weights (--init RUN and a new \
         --run-dir)"
    )]
    Cache(CaseChanges),
    /// The cache has the same cases, of which the stream takes others.
    #[error(
        "the cache holds the cases that the run began with, but others of them are selected (digest {now}, was {before}): the \
         list or splits file that stream.split names was edited, or the ignore label in a dataset.json; restore it, or begin \
         another run with these weights (--init RUN and a new --run-dir)"
    )]
    Selection {
        /// Digest of the selected cases now.
        now: String,
        /// Digest when the run began.
        before: String,
    },
    /// Servers stream other cases than a cache held when the run began.
    #[error(
        "the servers stream other cases than the run began with (digest {now}, was {before}); resume it with --shards and \
         without --loader, which leaves out cases that were added since, or give the servers a cache of its own cases, or begin \
         another run with these weights (--init RUN and a new --run-dir)"
    )]
    Servers {
        /// Digest of the servers' cases.
        now: String,
        /// Digest when the run began.
        before: String,
    },
    /// The run did not record its cases.
    #[error(
        "the cases of the cache or their voxels differ from those that the run began with (digest {now}, was {before}): cases \
         were added, removed, or converted again from other files or with other parameters, or the list or splits file that \
         stream.split names was edited; restore cache (with --loader, that of the servers) and file, or begin another run with \
         these weights (--init RUN and a new --run-dir)"
    )]
    Unrecorded {
        /// Digest of the selected cases now.
        now: String,
        /// Digest when the run began.
        before: String,
    },
}

impl OtherCases {
    /// Finds the reason why a stream with the digest `now` is not that of a run with the digest `before`. The run began
    /// with the cases `began`, if it recorded them; the stream's cache has the cases `found`, if it has one.
    pub(super) fn between(began: Option<&RunCases>, found: Option<&RunCases>, (now, before): (String, String)) -> Self {
        match (began, found) {
            (None, _) => Self::Unrecorded { now, before },
            (Some(_), None) => Self::Servers { now, before },
            (Some(began), Some(found)) => match began.changes(found) {
                changes if changes.is_none() => Self::Selection { now, before },
                changes => Self::Cache(changes),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(names: &[(&str, &str)]) -> RunCases {
        RunCases(names.iter().map(|&(name, digest)| (name.to_owned(), digest.to_owned())).collect())
    }

    #[test]
    fn cases_that_were_written_are_read_and_every_change_of_the_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CASES);
        assert_eq!(RunCases::read(folder.path()).unwrap(), None);
        let written = cases(&[("D/a", "01"), ("D/b \"quoted\"", "02")]);
        written.write(&path).unwrap();
        assert_eq!(RunCases::read(folder.path()).unwrap(), Some(written));
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            String::new(),
            text[..text.len() / 2].to_owned(),
            text.replace("D/a", "D/c"),
            text.replace("\"01\"", "\"03\""),
            text.replace("\"D/a\": \"01\",", ""),
            text.replace("{\n  \"digest\"", "{\n  \"version\": 2,\n  \"digest\""),
        ] {
            assert_ne!(damaged, text);
            std::fs::write(&path, &damaged).unwrap();
            let error = RunCases::read(folder.path()).unwrap_err().to_string();
            let expected =
                format!("{}: its content is not what the run wrote; restore the file, or delete it", path.display());
            assert!(error.starts_with(&expected) && !error.contains('\n'), "{damaged}: {error}");
        }
    }

    #[test]
    fn first_cases_of_each_change_are_named() {
        let began = cases(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1"), ("f", "1")]);
        let shown = |now: &[(&str, &str)]| began.changes(&cases(now)).to_string();
        let lost = shown(&[("a", "2"), ("b", "2"), ("c", "2"), ("d", "2"), ("e", "2"), ("g", "1")]);
        assert_eq!(lost, "changed: a, b, c and 2 more; missing: f");
        assert_eq!(shown(&[("a", "1"), ("c", "1"), ("d", "1"), ("e", "1"), ("f", "1")]), "missing: b");
        let grown = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1"), ("f", "1"), ("g\n", "1")];
        let changes = began.changes(&cases(&grown));
        assert!(changes.is_whole() && !changes.is_none());
        assert_eq!(changes.to_string(), "added: g\\n");
        assert!(began.changes(&began).is_none());
    }

    #[test]
    fn reason_for_other_cases_depends_on_what_is_known() {
        let (began, now) = (cases(&[("a", "1")]), cases(&[("a", "2")]));
        let reason = |began, found| OtherCases::between(began, found, ("n".to_owned(), "b".to_owned()));
        assert!(matches!(reason(None, Some(&now)), OtherCases::Unrecorded { .. }));
        assert!(matches!(reason(None, None), OtherCases::Unrecorded { .. }));
        assert!(matches!(reason(Some(&began), None), OtherCases::Servers { .. }));
        assert!(matches!(reason(Some(&began), Some(&began)), OtherCases::Selection { .. }));
        let OtherCases::Cache(changes) = reason(Some(&began), Some(&now)) else { panic!("the cache has other cases") };
        assert_eq!(changes.changed, ["a"]);
    }
}
