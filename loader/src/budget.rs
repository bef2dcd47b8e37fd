//! Bounds on concurrent work: the processor cores of this process, and a budget of memory in bytes.

use crate::sync::{Condvar, Mutex, PoisonError};

/// Number of processor cores that this process may use: those of its cgroup and affinity mask, not of the host.
///
/// At least 1, even where the system does not report the number.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Budget of memory that may be in use at the same time, in bytes.
#[derive(Debug)]
pub struct ByteBudget {
    total: u64,
    free: Mutex<u64>,
    released: Condvar,
}

/// Bytes taken from a budget; dropping the share returns them.
#[derive(Debug)]
pub struct Share<'a> {
    budget: &'a ByteBudget,
    bytes: u64,
}

impl ByteBudget {
    /// Creates a budget of `total` bytes.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self { total, free: Mutex::new(total), released: Condvar::new() }
    }

    /// Takes `bytes` from the budget, waiting until they are free. A request above the total is clamped to it and runs
    /// alone.
    pub fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.min(self.total);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            free = self.released.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Share { budget: self, bytes }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.budget.free.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn bytes_in_use_never_exceed_the_budget() {
        let budget = ByteBudget::new(10);
        let (used, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for wanted in [3, 4, 5, 6, 100] {
                let (budget, used, most) = (&budget, &used, &most);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let share = budget.take(wanted);
                        let now = used.fetch_add(share.bytes, Ordering::SeqCst) + share.bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        used.fetch_sub(share.bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 10);
    }
}
