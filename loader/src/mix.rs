//! Several caches in one stream, by weight.
//!
//! # Guarantee
//! Weights are whole numbers `w_0, w_1, ...`, divided by their greatest common divisor; `W` is their sum. The visits of
//! the stream come in blocks of `W`; each block holds exactly `w_i` visits of cache `i`, in an order shuffled by
//! (seed, block). So the rates are exact over every block, not only in expectation; and visit number `v` of the stream
//! is visit `(v / W) * w_i + (visits of cache i before it in its block)` of cache `i`. No earlier visit needs to be
//! replayed: a position is one integer, and a stream starts anywhere at the cost of one block's shuffle.
//!
//! Each cache keeps its own epochs: all its cases come once before any comes again, independent of the other caches.
//!
//! Blocks are shuffled because of ranks: with weights 1:1 and two ranks, alternation would give each rank one cache.

use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom as _;

use crate::rng::{DrawId, Operation};

/// Largest sum of weights, after division.
const MAX_TOTAL: u64 = 65_536;

/// Assignment of visits to caches, as a pure function of seed and weights.
#[derive(Debug)]
pub struct Mix {
    seed: u64,
    weights: Vec<u32>,
    total: u64,
    /// The two most recently requested blocks; consecutive visits need one, or two where a block ends.
    recent: Mutex<Vec<(u64, Arc<[Place]>)>>,
}

/// A visit of the stream, assigned to one cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Index of the cache.
    pub cache_idx: usize,
    /// Number of the visit among the visits of this cache, from 0.
    pub visit: u64,
}

/// Index of a cache, and the number of its visits in the block before this one.
type Place = (u32, u32);

/// Error of weights that cannot form a mix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    /// No weights, or a weight of 0.
    #[error("invalid weights {weights:?}; expected one number of at least 1 per cache")]
    NoWeight {
        /// Weights as given, one per cache.
        weights: Vec<u32>,
    },
    /// The sum of the weights is too large.
    #[error("invalid weights {weights:?}; expected a sum of at most {MAX_TOTAL} after division by common factors")]
    TooLarge {
        /// The weights, without common divisor.
        weights: Vec<u32>,
    },
}

impl Mix {
    /// Creates a mix of one cache per weight.
    ///
    /// # Errors
    /// If there are no weights, one is 0, or their sum is too large.
    pub fn new(seed: u64, weights: &[u32]) -> Result<Self, MixError> {
        if weights.is_empty() || weights.contains(&0) {
            return Err(MixError::NoWeight { weights: weights.to_vec() });
        }
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, b));
        let weights: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
        let total = weights.iter().map(|&weight| u64::from(weight)).sum();
        if total > MAX_TOTAL {
            return Err(MixError::TooLarge { weights });
        }
        Ok(Self { seed, weights, total, recent: Mutex::new(Vec::new()) })
    }

    /// Weights, without common divisor.
    #[must_use]
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Returns the cache of visit number `visit` of the stream, and the number of the visit within that cache.
    #[must_use]
    pub fn turn(&self, visit: u64) -> Turn {
        if self.weights.len() == 1 {
            return Turn { cache_idx: 0, visit };
        }
        let block = visit / self.total;
        let place = usize::try_from(visit % self.total).expect("blocks are short");
        let (cache_idx, before) = self.block(block)[place];
        let cache_idx = cache_idx as usize;
        Turn { cache_idx, visit: block * u64::from(self.weights[cache_idx]) + u64::from(before) }
    }

    /// Places of a block, in order.
    fn block(&self, block: u64) -> Arc<[Place]> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, places)) = recent.iter().find(|(number, _)| *number == block) {
            return Arc::clone(places);
        }
        let mut places: Vec<Place> = Vec::new();
        for (cache_idx, &weight) in (0..).zip(&self.weights) {
            places.extend((0..weight).map(|_| (cache_idx, 0)));
        }
        places.shuffle(&mut DrawId { seed: self.seed, epoch: block, case: 0, crop: 0 }.rng(Operation::Mix));
        let mut counts = vec![0; self.weights.len()];
        for (cache_idx, before) in &mut places {
            let count = &mut counts[*cache_idx as usize];
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
        fn rates_are_exact_and_visits_of_each_cache_are_in_order(
            seed: u64, weights in prop::collection::vec(1u32..9, 1..5), start in 0u64..1_000_000,
        ) {
            let mix = Mix::new(seed, &weights).unwrap();
            let total: u64 = mix.weights().iter().map(|&w| u64::from(w)).sum();
            let first = start / total * total;
            let mut next: Vec<u64> = mix.weights().iter().map(|&w| first / total * u64::from(w)).collect();
            for visit in first..first + 3 * total {
                let turn = mix.turn(visit);
                prop_assert_eq!(turn.visit, next[turn.cache_idx]);
                next[turn.cache_idx] += 1;
            }
            for (next, &weight) in next.iter().zip(mix.weights()) {
                prop_assert_eq!(*next, (first / total + 3) * u64::from(weight));
            }
            // A visit is the same when asked for alone.
            prop_assert_eq!(Mix::new(seed, &weights).unwrap().turn(start), mix.turn(start));
        }
    }

    #[test]
    fn single_cache_gets_every_visit() {
        let mix = Mix::new(7, &[40]).unwrap();
        assert!((0..100).all(|visit| mix.turn(visit) == Turn { cache_idx: 0, visit }));
    }

    #[test]
    fn every_place_of_a_batch_sees_every_cache() {
        let mix = Mix::new(0, &[1, 1]).unwrap();
        let first: Vec<usize> = (0..40).map(|step| mix.turn(2 * step).cache_idx).collect();
        assert!(first.contains(&0) && first.contains(&1));
    }

    #[test]
    fn invalid_weights_are_rejected() {
        for weights in [&[][..], &[1, 0]] {
            assert_eq!(Mix::new(0, weights).err(), Some(MixError::NoWeight { weights: weights.to_vec() }));
        }
        assert_eq!(Mix::new(0, &[65_536, 1]).err(), Some(MixError::TooLarge { weights: vec![65_536, 1] }));
        assert_eq!(Mix::new(0, &[65_535, 1]).unwrap().weights(), [65_535, 1]);
        assert_eq!(Mix::new(0, &[300_000, 100_000]).unwrap().weights(), [3, 1]);
    }
}
