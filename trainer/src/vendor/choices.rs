//! Record of the choices that a library made for problems, kept with a run so that resuming it computes the same bits.
//!
//! A library guarantees the same bits for the same choice, version and kind of device, but chooses by a heuristic that
//! only the version fixes. Each kind of choice has a table that belongs to the process, like the devices; a run writes it
//! into its folder with every checkpoint and reads it before it first asks the library when it resumes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};

/// Library and kind of device to which a choice belongs; it is meaningless for others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// Library with its version, such as `cublasLt 130100`.
    pub library: String,
    /// Name of the device with its number of multiprocessors.
    pub device: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.library, self.device)
    }
}

/// A kind of choice that runs record.
pub trait Recorded: Clone + fmt::Debug + Eq + Serialize + DeserializeOwned + 'static {
    /// Description of a problem for which the library chooses.
    type Problem: Clone + fmt::Debug + Ord + Serialize + DeserializeOwned + 'static;

    /// Name of the file in a run's folder.
    const FILE: &'static str;

    /// Table of the process.
    fn table() -> &'static Mutex<Choices<Self>>;

    /// Checks a choice that was read from a file.
    ///
    /// # Errors
    /// The reason why this program cannot have recorded it.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Changes the choice to one that no library accepts.
    #[cfg(all(feature = "cuda", any(test, feature = "device-tests")))]
    fn spoil(&mut self);
}

/// A choice in a file. Files of products named it `algorithm` before all kinds had the same form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<P, C> {
    owner: Owner,
    problem: P,
    #[serde(alias = "algorithm")]
    choice: C,
}

/// Choices of one kind, by owner and problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices<C: Recorded>(BTreeMap<(Owner, C::Problem), C>);

impl<C: Recorded> Default for Choices<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Recorded> Choices<C> {
    /// Name of the file in a run's folder.
    pub const FILE: &'static str = C::FILE;

    /// Creates an empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Locks the table of the process.
    pub fn of_process() -> MutexGuard<'static, Self> {
        C::table().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Choice that was made for a problem.
    #[must_use]
    pub fn get(&self, owner: &Owner, problem: &C::Problem) -> Option<C> {
        self.0.get(&(owner.clone(), problem.clone())).cloned()
    }

    /// Adds or replaces a choice.
    pub fn insert(&mut self, owner: Owner, problem: C::Problem, choice: C) {
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

    /// Returns true if nothing was chosen, as on a CPU.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Replaces the choices for a problem by one that no library accepts.
    #[cfg(all(feature = "cuda", any(test, feature = "device-tests")))]
    pub(crate) fn spoil(&mut self, problem: &C::Problem) {
        for ((_, of), choice) in &mut self.0 {
            if of == problem {
                choice.spoil();
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
        let entries: Vec<Entry<&C::Problem, &C>> =
            self.0.iter().map(|((owner, problem), choice)| Entry { owner: owner.clone(), problem, choice }).collect();
        let mut text = serde_json::to_string_pretty(&entries).expect("every field has a JSON form");
        text.push('\n');
        text
    }

    /// Reads what [`Self::to_json`] wrote, in this version or an earlier one.
    ///
    /// # Errors
    /// If the text is not JSON of that form, or a choice cannot have been recorded ([`Recorded::check`]).
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let entries: Vec<Entry<C::Problem, C>> = serde_json::from_str(text)?;
        let mut choices = Self::new();
        for Entry { owner, problem, choice } in entries {
            choice.check().map_err(serde_json::Error::custom)?;
            choices.insert(owner, problem, choice);
        }
        Ok(choices)
    }

    /// Reads the choices of a run into the process's table. A run that has none, such as one on a CPU, changes nothing.
    ///
    /// # Errors
    /// If the file cannot be read, or is not such a file.
    pub fn restore(run_dir: &Path) -> io::Result<()> {
        let choices = Self::read(run_dir)?;
        Self::of_process().extend(choices);
        Ok(())
    }

    /// Libraries and devices of the choices that a run recorded, one per choice, in ascending order.
    ///
    /// # Errors
    /// If the file cannot be read, or is not such a file.
    pub fn owners(run_dir: &Path) -> io::Result<Vec<Owner>> {
        Ok(Self::read(run_dir)?.0.into_keys().map(|(owner, _)| owner).collect())
    }

    /// Writes the process's table into a run's folder, whole or not at all. Writes nothing if it is empty.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(run_dir: &Path) -> io::Result<()> {
        let json = {
            let table = Self::of_process();
            (!table.is_empty()).then(|| table.to_json())
        };
        let Some(json) = json else { return Ok(()) };
        // The caller names the file.
        hiend_cache::durable::write(&run_dir.join(Self::FILE), json.as_bytes()).map_err(|error| error.source)
    }

    /// Choices of a run; none if it has no such file, as on a CPU.
    fn read(run_dir: &Path) -> io::Result<Self> {
        match hiend_cache::regular::read_to_string(&run_dir.join(Self::FILE)) {
            Ok(text) => Ok(Self::from_json(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::new()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A choice of no library.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pick {
        number: i64,
    }

    type Picks = Choices<Pick>;

    impl Recorded for Pick {
        type Problem = String;

        const FILE: &'static str = "picks.json";

        fn table() -> &'static Mutex<Picks> {
            static TABLE: Mutex<Picks> = Mutex::new(Picks::new());
            &TABLE
        }

        fn check(&self) -> Result<(), String> {
            if self.number < 0 { Err(format!("number {}; expected at least 0", self.number)) } else { Ok(()) }
        }

        #[cfg(feature = "cuda")]
        fn spoil(&mut self) {
            self.number = -1;
        }
    }

    fn owner(version: u32) -> Owner {
        Owner { library: format!("library {version}"), device: "NVIDIA H100 80GB HBM3, 132 SMs".to_owned() }
    }

    fn picks() -> Picks {
        let mut picks = Picks::new();
        picks.insert(owner(1), "a".to_owned(), Pick { number: 2 });
        picks.insert(owner(1), "b".to_owned(), Pick { number: i64::MAX });
        picks.insert(owner(2), "a".to_owned(), Pick { number: 0 });
        picks
    }

    #[test]
    fn recorded_choices_are_read_back_as_they_were() {
        let text = picks().to_json();
        let read = Picks::from_json(&text).unwrap();
        assert_eq!(read, picks());
        assert_eq!(read.to_json(), text);
    }

    #[test]
    fn damaged_records_are_refused() {
        let text = picks().to_json();
        for (from, to) in [("\"number\"", "\"digit\""), ("\"choice\"", "\"pick\""), ("\"a\"", "7")] {
            assert!(text.contains(from), "{from}");
            assert!(Picks::from_json(&text.replacen(from, to, 1)).is_err(), "{from}");
        }
        let impossible = text.replacen("\"number\": 2", "\"number\": -2", 1);
        let error = Picks::from_json(&impossible).unwrap_err().to_string();
        assert_eq!(error, "number -2; expected at least 0");
    }

    #[test]
    fn a_choice_belongs_to_its_library_device_and_problem() {
        let picks = picks();
        let get = |owner: &Owner, problem: &str| picks.get(owner, &problem.to_owned()).map(|pick| pick.number);
        assert_eq!(get(&owner(1), "a"), Some(2));
        assert_eq!(get(&owner(2), "a"), Some(0));
        assert_eq!(get(&owner(2), "b"), None);
        assert_eq!(get(&owner(3), "a"), None);
        assert_eq!(get(&Owner { device: "another".to_owned(), ..owner(1) }, "a"), None);
        assert_eq!(picks.others(&owner(2)).count(), 2);
        assert_eq!(picks.others(&owner(3)).count(), 3);
    }

    /// This must be the only test that uses the table of picks.
    #[test]
    fn a_run_restores_the_choices_it_saved() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(Picks::FILE);
        Picks::save(dir.path()).unwrap();
        assert!(!file.exists(), "nothing was chosen, nothing is written");
        Picks::restore(dir.path()).unwrap();
        assert!(Picks::of_process().is_empty());
        Picks::of_process().extend(picks());
        Picks::save(dir.path()).unwrap();
        *Picks::of_process() = Picks::new();
        Picks::restore(dir.path()).unwrap();
        assert_eq!(*Picks::of_process(), picks());
        assert_eq!(Picks::owners(dir.path()).unwrap(), [owner(1), owner(1), owner(2)]);
        std::fs::write(&file, "[{}]").unwrap();
        assert_eq!(Picks::restore(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(Picks::owners(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
