//! Order of visits: an endless sequence that visits each case once per epoch, in a new order every epoch.

use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom as _;

use crate::rng::{DrawId, Operation};

/// Order of visits to the cases of a cache, as a pure function of seed, number of cases and the cache's number in a
/// mix.
#[derive(Debug)]
pub struct VisitOrder {
    seed: u64,
    num_cases: usize,
    cache_number: u32,
    /// Orders of the two most recently requested epochs; consecutive visits need one, or two where an epoch ends.
    recent: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

/// One visit to a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledVisit {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Index into the list of cases.
    pub case_idx: usize,
}

impl VisitOrder {
    /// Creates the order of `num_cases` cases.
    ///
    /// # Panics
    /// If there are no cases, or more than [`u32::MAX`].
    #[must_use]
    pub fn new(seed: u64, num_cases: usize) -> Self {
        assert!(num_cases > 0 && u32::try_from(num_cases).is_ok(), "a stream has 1 to 2^32 - 1 cases");
        Self { seed, num_cases, cache_number: 0, recent: Mutex::new(Vec::new()) }
    }

    /// Sets the number of the cache in a mix. Number 0 has the order that the cache has alone.
    #[must_use]
    pub fn with_cache_number(self, cache_number: u32) -> Self {
        Self { cache_number, ..self }
    }

    /// Number of cases.
    #[must_use]
    pub fn num_cases(&self) -> usize {
        self.num_cases
    }

    /// Returns visit number `visit` of the stream, counted from 0.
    #[must_use]
    pub fn visit(&self, visit: u64) -> ScheduledVisit {
        let num_cases = self.num_cases as u64;
        let epoch = visit / num_cases;
        let position = usize::try_from(visit % num_cases).expect("less than the number of cases");
        ScheduledVisit { epoch, case_idx: self.epoch(epoch)[position] as usize }
    }

    /// Order of the cases in an epoch.
    fn epoch(&self, epoch: u64) -> Arc<[u32]> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(number, _)| *number == epoch) {
            return Arc::clone(order);
        }
        let mut order: Vec<u32> = (0..).take(self.num_cases).collect();
        let id = DrawId { seed: self.seed, epoch, case: 0, crop: self.cache_number };
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
    fn order_is_frozen() {
        let order = VisitOrder::new(7, 6);
        let visits: Vec<usize> = (12..18).map(|visit| order.visit(visit).case_idx).collect();
        assert_eq!(visits, [1, 5, 2, 0, 4, 3]);
    }

    #[test]
    fn cache_number_changes_the_order_and_0_is_the_default() {
        let sequence = |order: VisitOrder| (0..90).map(|visit| order.visit(visit)).collect::<Vec<_>>();
        let alone = sequence(VisitOrder::new(1, 30));
        assert_eq!(sequence(VisitOrder::new(1, 30).with_cache_number(0)), alone);
        assert_ne!(sequence(VisitOrder::new(1, 30).with_cache_number(1)), alone);
        assert_eq!(VisitOrder::new(1, 30).with_cache_number(1).num_cases(), 30);
    }

    #[test]
    fn orders_of_the_last_two_epochs_are_kept() {
        let order = VisitOrder::new(1, 3);
        let epochs: Vec<u64> = [0, 3, 0, 3, 6].iter().map(|&visit| order.visit(visit).epoch).collect();
        assert_eq!(epochs, [0, 1, 0, 1, 2]);
        let epochs: Vec<u64> = order.recent.lock().unwrap().iter().map(|(epoch, _)| *epoch).collect();
        assert_eq!(epochs, [1, 2]);
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
