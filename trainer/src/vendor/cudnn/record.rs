//! Record of the engines that cuDNN chose, kept with a run so that resuming it computes the same bits.
//!
//! The library guarantees the same bits for the same engine, version and kind of device, but chooses by a heuristic
//! that only the version fixes. The table belongs to the process, like the devices; a run writes it into its folder as
//! `plans.json` with every checkpoint and reads it before its first plan when it resumes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::plan::Choice;
use crate::vendor::algorithms::Owner;
use crate::vendor::run_file;

/// Name of the file in a run's folder.
pub const FILE: &str = "plans.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    owner: Owner,
    problem: String,
    choice: Choice,
}

/// Choices by owner and problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices(BTreeMap<(Owner, String), Choice>);

impl Choices {
    /// Choice that was made for the problem with this key.
    #[must_use]
    pub fn get(&self, owner: &Owner, problem: &str) -> Option<Choice> {
        self.0.get(&(owner.clone(), problem.to_owned())).cloned()
    }

    /// Adds or replaces a choice.
    pub fn insert(&mut self, owner: Owner, problem: String, choice: Choice) {
        self.0.insert((owner, problem), choice);
    }

    /// Adds all choices of `other`; they replace choices for the same problems.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Number of choices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if no engine was chosen, as on a CPU.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Replaces the choices for a problem by one that no library accepts.
    #[cfg(all(feature = "cuda", any(test, feature = "device-tests")))]
    pub(crate) fn spoil(&mut self, problem: &str) {
        for ((_, of), choice) in &mut self.0 {
            if of == problem {
                choice.engine = -1;
            }
        }
    }

    /// Libraries and devices, other than `owner`, that have choices.
    pub fn others<'a>(&'a self, owner: &'a Owner) -> impl Iterator<Item = &'a Owner> {
        self.0.keys().map(|(of, _)| of).filter(move |&of| of != owner)
    }

    /// Formats the table as JSON, in an order that depends only on the contents.
    #[must_use]
    pub fn to_json(&self) -> String {
        let entry = |((owner, problem), choice): (&(Owner, String), &Choice)| Entry {
            owner: owner.clone(),
            problem: problem.clone(),
            choice: choice.clone(),
        };
        let entries: Vec<Entry> = self.0.iter().map(entry).collect();
        let mut text = serde_json::to_string_pretty(&entries).expect("every field has a JSON form");
        text.push('\n');
        text
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// If the text is not JSON of that form.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let entries: Vec<Entry> = serde_json::from_str(text)?;
        Ok(Self(entries.into_iter().map(|e| ((e.owner, e.problem), e.choice)).collect()))
    }
}

/// Table of the process.
pub fn table() -> MutexGuard<'static, Choices> {
    static TABLE: Mutex<Choices> = Mutex::new(Choices(BTreeMap::new()));
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the choices of a run into the process's table. A run that has none, such as one on a CPU, changes nothing.
///
/// # Errors
/// If the file cannot be read, or is not such a file.
pub fn restore(run_dir: &Path) -> io::Result<()> {
    if let Some(choices) = run_file::read(run_dir, FILE, Choices::from_json)? {
        table().extend(choices);
    }
    Ok(())
}

/// Libraries and devices of the choices that a run recorded, one per choice, in ascending order.
///
/// # Errors
/// If the file cannot be read, or is not such a file.
pub fn owners(run_dir: &Path) -> io::Result<Vec<Owner>> {
    let choices = run_file::read(run_dir, FILE, Choices::from_json)?.unwrap_or_default();
    Ok(choices.0.into_keys().map(|(owner, _)| owner).collect())
}

/// Writes the process's table into a run's folder, whole or not at all. Writes nothing if it is empty.
///
/// # Errors
/// If the file cannot be written.
pub fn save(run_dir: &Path) -> io::Result<()> {
    let json = {
        let table = table();
        (!table.is_empty()).then(|| table.to_json())
    };
    run_file::write(run_dir, FILE, json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(version: &str) -> Owner {
        Owner { library: format!("cudnn {version}"), device: "NVIDIA H100 80GB HBM3, 132 SMs".to_owned() }
    }

    fn choices() -> Choices {
        let mut choices = Choices::default();
        choices.insert(owner("91400"), "a".to_owned(), Choice { engine: 2, knobs: vec![(24, 7), (38, -1)] });
        choices.insert(owner("91400"), "b".to_owned(), Choice { engine: 1, knobs: vec![] });
        choices.insert(owner("92800"), "a".to_owned(), Choice { engine: 6, knobs: vec![(40, i64::MAX)] });
        choices
    }

    #[test]
    fn recorded_choices_are_read_back_as_they_were() {
        let text = choices().to_json();
        let read = Choices::from_json(&text).unwrap();
        assert_eq!(read, choices());
        assert_eq!(read.to_json(), text);
        assert!(Choices::from_json(&text.replacen("\"engine\"", "\"machine\"", 1)).is_err());
    }

    #[test]
    fn a_choice_belongs_to_its_library_and_problem() {
        let choices = choices();
        assert_eq!(choices.get(&owner("91400"), "a").unwrap().engine, 2);
        assert_eq!(choices.get(&owner("91400"), "c"), None);
        assert_eq!(choices.get(&owner("91500"), "a"), None);
        assert_eq!(choices.others(&owner("92800")).count(), 2);
    }

    /// This must be the only test that clears the process's table.
    #[test]
    fn a_run_restores_the_choices_it_saved() {
        let dir = tempfile::tempdir().unwrap();
        restore(dir.path()).unwrap();
        table().extend(choices());
        save(dir.path()).unwrap();
        *table() = Choices::default();
        restore(dir.path()).unwrap();
        for ((owner, problem), choice) in choices().0 {
            assert_eq!(table().get(&owner, &problem), Some(choice));
        }
        std::fs::write(dir.path().join(FILE), "[{}]").unwrap();
        assert_eq!(restore(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        *table() = Choices::default();
    }
}
