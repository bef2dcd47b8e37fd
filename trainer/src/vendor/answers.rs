//! Answers of a library on whether it computes a problem, kept for as long as the process runs.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cubecl::device::DeviceId;

/// Bytes of scratch memory for each problem on each device, or the reason why the library does not compute it.
type Known<K, E> = HashMap<(DeviceId, K), Result<u64, E>>;

/// Answers for problems of type `K`.
pub(crate) struct Answers<K, E>(Mutex<Option<Known<K, E>>>);

impl<K: Eq + Hash, E: Clone> Answers<K, E> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns the answer for a problem on a device; the first time, calls `ask`.
    pub(crate) fn get(&self, device: DeviceId, problem: K, ask: impl FnOnce() -> Result<u64, E>) -> Result<u64, E> {
        let key = (device, problem);
        let known = self.lock().as_ref().and_then(|answers| answers.get(&key).cloned());
        known.unwrap_or_else(|| {
            // Not locked meanwhile: the device's thread may take long to answer.
            let answer = ask();
            self.lock().get_or_insert_default().insert(key, answer.clone());
            answer
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known<K, E>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
