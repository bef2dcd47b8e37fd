//! Several caches in one stream, by weight.
//!
//! # Law
//! Weights are whole numbers `w_0, w_1, ...`, divided by their greatest common divisor; `W` is their sum. The visits of
//! the stream come in blocks of `W`; each block holds exactly `w_i` visits of cache `i`, in an order shuffled by
//! (seed, block). So the rates are exact over every block, not only in expectation; and visit number `v` of the stream
//! is visit `(v / W) * w_i + (how many of cache i came before it in its block)` of cache `i`. Nothing has to be played
//! back to know it: a position stays one integer, and a stream begins anywhere at the cost of one block's shuffle.
//!
//! Each cache keeps its own epochs: its cases come once each before any comes again, whatever the other caches do.
//!
//! The shuffle is there for ranks: with weights 1:1 and two ranks, plain alternation would give each rank one cache.

use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom as _;

use crate::rng::{DrawId, Operation};

/// The largest sum of weights, after division.
const MAX_TOTAL: u64 = 65_536;

/// Which cache each visit belongs to: a pure function of seed and weights.
#[derive(Debug)]
pub struct Mix {
    seed: u64,
    weights: Vec<u32>,
    total: u64,
    // Consecutive visits ask for the same block, or for two where one ends.
    recent: Mutex<Vec<(u64, Arc<[Place]>)>>,
}

/// A visit of one of the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which cache.
    pub source: usize,
    /// Which of this cache's visits, from 0.
    pub visit: u64,
}

/// A cache, and how many of its visits came before in the block.
type Place = (u32, u32);

impl Mix {
    /// A mix of as many caches as there are weights.
    ///
    /// # Errors
    /// If there are no weights, one is 0, or they are too large.
    pub fn new(seed: u64, weights: &[u32]) -> Result<Self, String> {
        if weights.is_empty() || weights.contains(&0) {
            return Err(format!("weights {weights:?}: expected one number of at least 1 for each cache"));
        }
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, b));
        let weights: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
        let total = weights.iter().map(|&weight| u64::from(weight)).sum();
        if total > MAX_TOTAL {
            return Err(format!("weights {weights:?}: their sum must not exceed {MAX_TOTAL}"));
        }
        Ok(Self { seed, weights, total, recent: Mutex::new(Vec::new()) })
    }

    /// The weights, without common divisor.
    #[must_use]
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Visit number `visit` of the stream.
    #[must_use]
    pub fn turn(&self, visit: u64) -> Turn {
        if self.weights.len() == 1 {
            return Turn { source: 0, visit };
        }
        let block = visit / self.total;
        let (source, before) = self.block(block)[usize::try_from(visit % self.total).unwrap_or(0)];
        let source = source as usize;
        Turn { source, visit: block * u64::from(self.weights[source]) + u64::from(before) }
    }

    fn block(&self, block: u64) -> Arc<[Place]> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, places)) = recent.iter().find(|(number, _)| *number == block) {
            return Arc::clone(places);
        }
        let mut places: Vec<Place> = Vec::new();
        for (source, &weight) in (0..).zip(&self.weights) {
            places.extend((0..weight).map(|_| (source, 0)));
        }
        places.shuffle(&mut DrawId { seed: self.seed, epoch: block, case: 0, crop: 0 }.rng(Operation::Mix));
        let mut counts = vec![0; self.weights.len()];
        for (source, before) in &mut places {
            let count = &mut counts[*source as usize];
            *before = *count;
            *count += 1;
        }
        let places: Arc<[Place]> = places.into();
        if recent.len() == 2 {
            recent.remove(0);
        }
        recent.push((block, Arc::clone(&places)));
        places
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rates_are_exact_and_each_caches_visits_come_in_order(
            seed: u64, weights in prop::collection::vec(1u32..9, 1..5), start in 0u64..1_000_000,
        ) {
            let mix = Mix::new(seed, &weights).unwrap();
            let total: u64 = mix.weights().iter().map(|&w| u64::from(w)).sum();
            let first = start / total * total;
            let mut next: Vec<u64> = mix.weights().iter().map(|&w| first / total * u64::from(w)).collect();
            for visit in first..first + 3 * total {
                let turn = mix.turn(visit);
                prop_assert_eq!(turn.visit, next[turn.source]);
                next[turn.source] += 1;
            }
            for (next, &weight) in next.iter().zip(mix.weights()) {
                prop_assert_eq!(*next, (first / total + 3) * u64::from(weight));
            }
            // Asked for alone, without what came before, a visit is the same.
            prop_assert_eq!(Mix::new(seed, &weights).unwrap().turn(start), mix.turn(start));
        }
    }

    #[test]
    fn one_cache_is_no_mix() {
        let mix = Mix::new(7, &[40]).unwrap();
        assert!((0..100).all(|visit| mix.turn(visit) == Turn { source: 0, visit }));
    }

    #[test]
    fn each_place_of_a_batch_sees_every_cache() {
        let mix = Mix::new(0, &[1, 1]).unwrap();
        let first: Vec<usize> = (0..40).map(|step| mix.turn(2 * step).source).collect();
        assert!(first.contains(&0) && first.contains(&1));
    }

    #[test]
    fn weights_that_say_nothing_are_refused() {
        assert!(Mix::new(0, &[]).is_err());
        assert!(Mix::new(0, &[1, 0]).is_err());
        assert!(Mix::new(0, &[65_537, 1]).is_err());
        assert_eq!(Mix::new(0, &[300_000, 100_000]).unwrap().weights(), [3, 1]);
    }
}
