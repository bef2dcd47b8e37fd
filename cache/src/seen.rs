//! `.seen.json`: sizes and times of source files that were found to have the content of their record.
//!
//! A record holds the sizes and times that its files had when they were read, and never changes. Files that were read right
//! after a change have no time in it, and copies that were made later have other times. A conversion reads such files, finds
//! them unchanged, and notes their sizes and times here, so that the next conversion need not read them.
//!
//! A note names the content, and means nothing for a record of other content. Pruning drops the notes of cases without such a
//! record, so that a cache has no more notes than cases. Nothing else depends on this file: where it is missing or damaged,
//! or two runs replace it at the same time, files are read once more.

use std::collections::BTreeMap;

use crate::error::{FileError, Result};
use crate::location::Location;
use crate::place::Place;
use crate::record::SourceFiles;

/// Name of the file in a cache.
const FILE_NAME: &str = ".seen.json";

/// Source files as they were last found unchanged, by the key of their case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<String, SourceFiles>);

impl Seen {
    /// Reads the notes of a cache, which are empty without a file; `None` if the file is not valid.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn read(at: impl Into<Location>) -> Result<Option<Self>> {
        let bytes = Place::of(&at.into())?.read(FILE_NAME)?;
        Ok(bytes.map_or_else(|| Some(Self::default()), |bytes| serde_json::from_slice(&bytes).ok().map(Self)))
    }

    /// Files of a case as they were found to have the content in its record, `stored`; `None` if they were not.
    #[must_use]
    pub fn of(&self, key: &str, stored: &SourceFiles) -> Option<&SourceFiles> {
        self.0.get(key).filter(|seen| has_content_of(seen, stored))
    }

    /// Adds files, by the key of their case, to the notes of a cache; replaces a file of notes that is not valid.
    ///
    /// # Errors
    /// If the notes cannot be read or written.
    pub fn add(at: impl Into<Location>, files: BTreeMap<String, SourceFiles>) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let location = at.into();
        let Self(mut seen) = Self::read(&location)?.unwrap_or_default();
        seen.extend(files);
        Self(seen).write(&location)
    }

    /// Drops the notes of a cache that mean nothing: those of cases of which the cache has no record, or one of other content.
    /// `stored` returns the files in the record of a case. Notes that are not valid stay until [`Self::add`] replaces them.
    ///
    /// # Errors
    /// If the notes cannot be read or written.
    pub fn retain<'a>(at: impl Into<Location>, stored: impl Fn(&str) -> Option<&'a SourceFiles>) -> Result<()> {
        let location = at.into();
        let Some(Self(mut seen)) = Self::read(&location)? else { return Ok(()) };
        let num_noted = seen.len();
        seen.retain(|key, files| stored(key).is_some_and(|stored| has_content_of(files, stored)));
        if seen.len() == num_noted { Ok(()) } else { Self(seen).write(&location) }
    }

    fn write(&self, location: &Location) -> Result<()> {
        let failed = |err: serde_json::Error| FileError::at(location.join(FILE_NAME), "serialize")(err.into());
        let bytes = serde_json::to_vec(&self.0).map_err(failed)?;
        Ok(Place::of(location)?.write(FILE_NAME, &bytes)?)
    }
}

/// Returns true if files have the content of those in a record, `stored`.
fn has_content_of(files: &SourceFiles, stored: &SourceFiles) -> bool {
    files.image_blake3 == stored.image_blake3 && files.label_blake3 == stored.label_blake3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(image_blake3: &str, time: i64) -> SourceFiles {
        SourceFiles {
            image: "a.nii".into(),
            image_blake3: image_blake3.into(),
            image_modified_ns: Some(time),
            ..SourceFiles::default()
        }
    }

    #[test]
    fn notes_are_those_of_the_content_of_the_record() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Seen::read(dir.path()).unwrap(), Some(Seen::default()));
        let add = |key: &str, files| Seen::add(dir.path(), BTreeMap::from([(key.to_owned(), files)])).unwrap();
        add("D/a", files("one", 1));
        add("D/b", files("two", 2));
        add("D/a", files("one", 3));
        let seen = Seen::read(dir.path()).unwrap().unwrap();
        assert_eq!(seen.of("D/a", &files("one", 0)), Some(&files("one", 3)));
        assert_eq!(seen.of("D/b", &files("two", 0)), Some(&files("two", 2)));
        assert_eq!(seen.of("D/b", &files("one", 0)), None);
        assert_eq!(seen.of("D/c", &files("one", 0)), None);
    }

    #[test]
    fn notes_without_a_record_of_their_content_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let stored = |key: &str, files| BTreeMap::from([(key.to_owned(), files)]);
        Seen::retain(dir.path(), |_| None).unwrap();
        assert!(!dir.path().join(FILE_NAME).exists());
        for key in ["D/a", "D/b", "D/c"] {
            Seen::add(dir.path(), stored(key, files("one", 1))).unwrap();
        }
        let records = BTreeMap::from([("D/a", files("one", 0)), ("D/b", files("two", 0))]);
        Seen::retain(dir.path(), |key| records.get(key)).unwrap();
        assert_eq!(Seen::read(dir.path()).unwrap(), Some(Seen(stored("D/a", files("one", 1)))));
    }

    #[test]
    fn damaged_notes_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), b"{").unwrap();
        assert_eq!(Seen::read(dir.path()).unwrap(), None);
        Seen::add(dir.path(), BTreeMap::from([("D/a".to_owned(), files("one", 1))])).unwrap();
        assert!(Seen::read(dir.path()).unwrap().unwrap().of("D/a", &files("one", 0)).is_some());
    }
}
