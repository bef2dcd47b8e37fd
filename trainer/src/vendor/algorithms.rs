//! Record of the algorithms that a library chose for products, kept with a run so that resuming it computes the same
//! bits.
//!
//! A library guarantees the same bits for the same algorithm, version and kind of device, but chooses by a heuristic
//! that only the version fixes. The table belongs to the process, like the devices; a run writes it into its folder as
//! `products.json` with every checkpoint and reads it before its first product when it resumes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::run_file;

/// Name of the file in a run's folder.
pub const FILE: &str = "products.json";

/// Largest scratch memory of a product, in bytes: twice what cuBLASLt recommends for Hopper.
pub const MAX_WORKSPACE: u64 = 64 << 20;

/// Library and kind of device to which an algorithm belongs; it is meaningless for others.
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

/// An algorithm in a library's serialised form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Algorithm {
    /// Opaque description of the algorithm.
    #[serde(with = "hex")]
    pub words: [u64; 8],
    /// Scratch memory needed, in bytes.
    pub workspace_bytes: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    owner: Owner,
    problem: Problem,
    algorithm: Algorithm,
}

/// Algorithms by owner and problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Algorithms(BTreeMap<(Owner, Problem), Algorithm>);

impl Algorithms {
    /// Algorithm that was chosen for a problem.
    #[must_use]
    pub fn get(&self, owner: &Owner, problem: &Problem) -> Option<Algorithm> {
        self.0.get(&(owner.clone(), *problem)).copied()
    }

    /// Adds or replaces a choice.
    pub fn insert(&mut self, owner: Owner, problem: Problem, algorithm: Algorithm) {
        self.0.insert((owner, problem), algorithm);
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

    /// Returns true if no algorithm was chosen, as on a CPU.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Replaces the choices for a problem by one that no library accepts.
    #[cfg(all(feature = "cuda", any(test, feature = "device-tests")))]
    pub(crate) fn spoil(&mut self, problem: &Problem) {
        for ((_, of), algorithm) in &mut self.0 {
            if of == problem {
                algorithm.words = [u64::MAX; 8];
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
        let entry = |((owner, problem), algorithm): (&(Owner, Problem), &Algorithm)| Entry {
            owner: owner.clone(),
            problem: *problem,
            algorithm: *algorithm,
        };
        let entries: Vec<Entry> = self.0.iter().map(entry).collect();
        let mut text = serde_json::to_string_pretty(&entries).expect("every field has a JSON form");
        text.push('\n');
        text
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// If the text is not JSON of that form, or an algorithm would need more than [`MAX_WORKSPACE`].
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let entries: Vec<Entry> = serde_json::from_str(text)?;
        if let Some(entry) = entries.iter().find(|entry| entry.algorithm.workspace_bytes > MAX_WORKSPACE) {
            let bytes = entry.algorithm.workspace_bytes;
            let message = format!("workspace_bytes {bytes}; expected at most {MAX_WORKSPACE}");
            return Err(serde::de::Error::custom(message));
        }
        Ok(Self(entries.into_iter().map(|e| ((e.owner, e.problem), e.algorithm)).collect()))
    }
}

/// Table of the process.
pub fn table() -> MutexGuard<'static, Algorithms> {
    static TABLE: Mutex<Algorithms> = Mutex::new(Algorithms(BTreeMap::new()));
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the choices of a run into the process's table. A run that has none, such as one on a CPU, changes nothing.
///
/// # Errors
/// If the file cannot be read, or is not such a file.
pub fn restore(run_dir: &Path) -> io::Result<()> {
    if let Some(choices) = run_file::read(run_dir, FILE, Algorithms::from_json)? {
        table().extend(choices);
    }
    Ok(())
}

/// Libraries and devices of the choices that a run recorded, one per choice, in ascending order.
///
/// # Errors
/// If the file cannot be read, or is not such a file.
pub fn owners(run_dir: &Path) -> io::Result<Vec<Owner>> {
    let choices = run_file::read(run_dir, FILE, Algorithms::from_json)?.unwrap_or_default();
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

/// Conversion of eight words to 128 hexadecimal digits, because many JSON readers limit numbers to 53 bits.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(words: &[u64; 8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&words.map(|word| format!("{word:016x}")).concat())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u64; 8], D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() != 128 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(D::Error::custom("expected 128 hexadecimal digits"));
        }
        let mut words = [0; 8];
        for (number, word) in words.iter_mut().enumerate() {
            *word = u64::from_str_radix(&text[16 * number..16 * (number + 1)], 16).map_err(D::Error::custom)?;
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendor::layout::Matrix;
    use crate::vendor::problem::{Epilogue, Number, Placed};
    use proptest::prelude::*;

    fn problem(rows: usize, offset: u64) -> Problem {
        let of = |shape: [usize; 2]| Placed { matrix: Matrix::of_rows(&shape, &[shape[1], 1]).unwrap(), offset };
        Problem::new(of([rows, 4]), of([4, 8]), of([rows, 8]), Number::Bf16, Number::F32, false).unwrap()
    }

    fn owner(library: &str) -> Owner {
        Owner { library: library.to_owned(), device: "NVIDIA H100 80GB HBM3, 132 SMs".to_owned() }
    }

    proptest! {
        #[test]
        fn recorded_choices_are_read_back_as_they_were(
            choices in prop::collection::vec((1usize..1000, any::<[u64; 8]>(), 0..=MAX_WORKSPACE, any::<bool>()), 0..20),
        ) {
            let mut written = Algorithms::default();
            for (rows, words, workspace_bytes, bias) in choices {
                let epilogue = if bias { Epilogue::BiasGradient } else { Epilogue::Plain };
                let algorithm = Algorithm { words, workspace_bytes };
                written.insert(owner("cublasLt 130100"), problem(rows, 0).with(epilogue), algorithm);
            }
            let text = written.to_json();
            let read = Algorithms::from_json(&text).unwrap();
            prop_assert_eq!(&read, &written);
            prop_assert_eq!(read.to_json(), text);
        }
    }

    #[test]
    fn a_choice_belongs_to_its_library_device_and_alignment() {
        let mut choices = Algorithms::default();
        let algorithm = Algorithm { words: [7; 8], workspace_bytes: 1 << 20 };
        choices.insert(owner("cublasLt 130100"), problem(3, 0), algorithm);
        assert_eq!(choices.get(&owner("cublasLt 130100"), &problem(3, 0)), Some(algorithm));
        assert_eq!(choices.get(&owner("cublasLt 130200"), &problem(3, 0)), None);
        assert_eq!(choices.get(&owner("cublasLt 130100"), &problem(3, 16)), None);
        assert_eq!(choices.others(&owner("cublasLt 130200")).count(), 1);
        assert_eq!(choices.others(&owner("cublasLt 130100")).count(), 0);
    }

    #[test]
    fn damaged_records_are_refused() {
        let mut choices = Algorithms::default();
        choices.insert(owner("cublasLt 130100"), problem(3, 0), Algorithm { words: [7; 8], workspace_bytes: 0 });
        let text = choices.to_json();
        for (from, to) in [("0000000000000007", "7"), ("\"words\"", "\"word\""), ("\"bf16\"", "\"f8\"")] {
            assert!(text.contains(from), "{from}");
            assert!(Algorithms::from_json(&text.replacen(from, to, 1)).is_err(), "{from}");
        }
        let greedy = text.replacen("\"workspace_bytes\": 0", "\"workspace_bytes\": 67108865", 1);
        let error = Algorithms::from_json(&greedy).unwrap_err().to_string();
        assert_eq!(error, "workspace_bytes 67108865; expected at most 67108864");
    }

    /// This must be the only test that uses the process's table.
    #[test]
    fn a_run_restores_what_it_saved() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path()).unwrap();
        assert!(!dir.path().join(FILE).exists(), "nothing was chosen, nothing is written");
        restore(dir.path()).unwrap();
        let (of, what) =
            (owner("cublasLt 1"), Algorithm { words: [1, 2, 3, 4, 5, 6, 7, u64::MAX], workspace_bytes: 5 });
        table().insert(of.clone(), problem(9, 0), what);
        save(dir.path()).unwrap();
        *table() = Algorithms::default();
        restore(dir.path()).unwrap();
        assert_eq!(table().get(&of, &problem(9, 0)), Some(what));
        std::fs::write(dir.path().join(FILE), "[{}]").unwrap();
        assert_eq!(restore(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        *table() = Algorithms::default();
    }
}
