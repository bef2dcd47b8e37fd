//! Which case comes when: an endless sequence of visits, each case once an epoch, in a new order every epoch.

use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom as _;

use crate::rng::{DrawId, Operation};

/// The order of visits to a cache: a pure function of seed, number of cases and the cache's number in a mix.
#[derive(Debug)]
pub struct VisitOrder {
    seed: u64,
    num_cases: usize,
    source: u32,
    // Consecutive visits ask for the same epoch, or for two where an epoch ends.
    recent: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

/// One turn of one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledVisit {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Position in the list of cases.
    pub case_idx: usize,
}

impl VisitOrder {
    /// Orders for `num_cases` cases.
    ///
    /// # Panics
    /// If there are no cases, or more than `u32::MAX`.
    #[must_use]
    pub fn new(seed: u64, num_cases: usize) -> Self {
        assert!(num_cases > 0 && u32::try_from(num_cases).is_ok(), "a stream needs cases");
        Self { seed, num_cases, source: 0, recent: Mutex::new(Vec::new()) }
    }

    /// The same for cache number `source` of a mix. Number 0 has the order of a stream of its own.
    #[must_use]
    pub fn of_source(self, source: u32) -> Self {
        Self { source, ..self }
    }

    /// How many cases there are.
    #[must_use]
    pub fn num_cases(&self) -> usize {
        self.num_cases
    }

    /// Visit number `visit` of the run.
    #[must_use]
    pub fn visit(&self, visit: u64) -> ScheduledVisit {
        let num_cases = self.num_cases as u64;
        let epoch = visit / num_cases;
        let position = usize::try_from(visit % num_cases).expect("less than the number of cases");
        ScheduledVisit { epoch, case_idx: self.epoch(epoch)[position] as usize }
    }

    fn epoch(&self, epoch: u64) -> Arc<[u32]> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(number, _)| *number == epoch) {
            return Arc::clone(order);
        }
        let mut order: Vec<u32> = (0..).take(self.num_cases).collect();
        let id = DrawId { seed: self.seed, epoch, case: 0, crop: self.source };
        order.shuffle(&mut id.rng(Operation::Shuffle));
        let order: Arc<[u32]> = order.into();
        if recent.len() == 2 {
            recent.remove(0);
        }
        recent.push((epoch, Arc::clone(&order)));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_case_once_an_epoch(seed: u64, num_cases in 1usize..50, epoch in 0u64..1000) {
            let order = VisitOrder::new(seed, num_cases);
            let first = epoch * num_cases as u64;
            let mut seen: Vec<usize> = (first..first + num_cases as u64)
                .map(|visit| { let v = order.visit(visit); assert_eq!(v.epoch, epoch); v.case_idx })
                .collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..num_cases).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let sequence = |seed, epoch: u64| -> Vec<usize> {
            let order = VisitOrder::new(seed, 30);
            (epoch * 30..epoch * 30 + 30).map(|visit| order.visit(visit).case_idx).collect()
        };
        assert_eq!(sequence(1, 0), sequence(1, 0));
        assert_ne!(sequence(1, 0), sequence(1, 1));
        assert_ne!(sequence(1, 0), sequence(2, 0));
    }
}
