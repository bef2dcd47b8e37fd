//! Answers of a library on whether it computes a problem, kept for as long as the process runs.
//!
//! A fault, such as exhausted memory, is not an answer: it is not kept, and no other kernel takes the library's place.
//! The operation fails with the fault as the reason, which ends the run.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of scratch memory of a planned problem, or the fault that kept the library from planning it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared(Result<u64, String>);

impl Prepared {
    /// Problem that a fault kept from being planned.
    pub(crate) fn fault(reason: impl Display) -> Self {
        Self(Err(reason.to_string()))
    }

    /// Bytes of scratch memory, or the fault.
    pub(crate) fn into_result(self) -> Result<u64, String> {
        self.0
    }
}

/// Bytes of scratch memory for each problem, or the reason why the library does not compute it.
type Known<K, E> = HashMap<K, Result<u64, E>>;

/// Answers for problems of type `K`, which includes the device.
pub(crate) struct Answers<K, E> {
    is_fault: fn(&E) -> bool,
    known: Mutex<Option<Known<K, E>>>,
}

impl<K: Eq + Hash, E: Clone + Display> Answers<K, E> {
    /// Creates an empty set; `is_fault` tells errors that say nothing about the problem.
    pub(crate) const fn new(is_fault: fn(&E) -> bool) -> Self {
        Self { is_fault, known: Mutex::new(None) }
    }

    /// Returns the answer for a problem; calls `ask` the first time, and again after a fault.
    pub(crate) fn get(&self, problem: K, ask: impl FnOnce() -> Result<u64, E>) -> Result<Prepared, E> {
        let known = self.lock().as_ref().and_then(|answers| answers.get(&problem).cloned());
        // Not locked meanwhile: the device's thread may take long to answer.
        let answer = known.unwrap_or_else(|| {
            let answer = ask();
            if !answer.as_ref().is_err_and(self.is_fault) {
                self.lock().get_or_insert_default().insert(problem, answer.clone());
            }
            answer
        });
        match answer {
            Ok(bytes) => Ok(Prepared(Ok(bytes))),
            Err(fault) if (self.is_fault)(&fault) => Ok(Prepared::fault(fault)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Forgets all answers.
    #[cfg(all(feature = "cuda", any(test, feature = "device-tests")))]
    pub(crate) fn clear(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known<K, E>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: &str = "out of memory";
    const REFUSAL: &str = "not supported";

    fn answers() -> Answers<u32, &'static str> {
        Answers::new(|error| *error == FAULT)
    }

    #[test]
    fn a_refusal_is_asked_for_once() {
        let answers = answers();
        assert_eq!(answers.get(1, || Err(REFUSAL)), Err(REFUSAL));
        assert_eq!(answers.get(1, || panic!("asked twice")), Err(REFUSAL));
        assert_eq!(answers.get(2, || Ok(7)), Ok(Prepared(Ok(7))));
        assert_eq!(answers.get(2, || panic!("asked twice")), Ok(Prepared(Ok(7))));
    }

    #[test]
    fn a_fault_is_neither_a_refusal_nor_kept() {
        let answers = answers();
        let prepared = answers.get(1, || Err(FAULT)).expect("no other kernel may take over");
        assert_eq!(prepared.into_result(), Err(FAULT.to_owned()));
        assert_eq!(answers.get(1, || Ok(7)), Ok(Prepared(Ok(7))));
    }
}
