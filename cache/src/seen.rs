//! `.seen.json`: sizes and times of source files that were found to have the content of their record.
//!
//! A record holds the sizes and times that its files had when they were read, and never changes. Files that were read right
//! after a change have no time in it, and copies that were made later have other times. A conversion reads such files, finds
//! them unchanged, and notes their sizes and times here, so that the next conversion need not read them.
//!
//! A note names the content, and means nothing for a record of other content. Nothing else depends on this file: where it
//! is missing or damaged, or two runs replace it at the same time, files are read once more.

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
        let seen = self.0.get(key)?;
        let is_same = seen.image_blake3 == stored.image_blake3 && seen.label_blake3 == stored.label_blake3;
        is_same.then_some(seen)
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
        let failed = |err: serde_json::Error| FileError::at(location.join(FILE_NAME), "serialize")(err.into());
        let bytes = serde_json::to_vec(&seen).map_err(failed)?;
        Ok(Place::of(&location)?.write(FILE_NAME, &bytes)?)
    }
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
    fn damaged_notes_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), b"{").unwrap();
        assert_eq!(Seen::read(dir.path()).unwrap(), None);
        Seen::add(dir.path(), BTreeMap::from([("D/a".to_owned(), files("one", 1))])).unwrap();
        assert!(Seen::read(dir.path()).unwrap().unwrap().of("D/a", &files("one", 0)).is_some());
    }
}
