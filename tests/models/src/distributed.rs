//! Models of the ranks of a run, connected by pipes in memory.

#[path = "../../../trainer/src/distributed/group.rs"]
pub mod group;
#[path = "../../../trainer/src/distributed/group_core.rs"]
mod group_core;
#[path = "../../../trainer/src/distributed/inbox.rs"]
mod inbox;
#[path = "../../../trainer/src/distributed/incoming.rs"]
mod incoming;
mod link;
#[path = "../../../trainer/src/distributed/peer.rs"]
pub mod peer;
mod rendezvous;
mod token;
#[path = "../../../trainer/src/distributed/wire.rs"]
mod wire;
mod world;

use std::sync::Arc;

use shuttle::thread;

use crate::sync::atomic::{AtomicUsize, Ordering};
use group::{ProcessGroup, Timeouts};
use link::Wire;
use peer::{Cause, PeerFailure};
use token::Token;
use world::World;

const NUM_RANKS: usize = 3;

/// A rank and the ends of its connections.
struct Rank {
    group: Arc<ProcessGroup>,
    wires: Vec<Wire>,
}

impl Rank {
    /// All values that the ranks gather, from `round` on.
    fn gather(&self, round: usize) -> Result<Vec<usize>, PeerFailure> {
        Ok(self.group.gather(&(10 * round + self.group.rank()))?.values)
    }

    /// Ends the rank like a killed process: its connections close, and no rank reports a failure.
    fn kill(self) {
        self.wires.iter().for_each(Wire::cut);
        drop(self.group);
    }
}

/// Runs `work` on a thread for each rank; returns the results in the order of ranks.
fn ranks<T: Send + 'static>(work: impl Fn(Rank) -> T + Send + Sync + 'static) -> Vec<T> {
    let work = Arc::new(work);
    let (first, others): (Vec<Wire>, Vec<Wire>) = (1..NUM_RANKS).map(|_| Wire::pair()).unzip();
    let wires = std::iter::once(first).chain(others.into_iter().map(|wire| vec![wire]));
    let start = |(rank, wires): (usize, Vec<Wire>)| {
        let work = Arc::clone(&work);
        thread::spawn(move || {
            let world = World { rank, num_ranks: NUM_RANKS, wires: wires.clone() };
            let group = ProcessGroup::join(&world, &Token, Timeouts::default(), None).expect("all ranks are there");
            work(Rank { group, wires })
        })
    };
    let threads: Vec<_> = wires.enumerate().map(start).collect();
    threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
}

/// Values of all ranks in a round.
fn all(round: usize) -> Vec<usize> {
    (0..NUM_RANKS).map(|rank| 10 * round + rank).collect()
}

/// Every rank gathers twice and leaves in an orderly way.
///
/// # Panics
/// If a rank receives other values, or learns of a failure.
pub fn ranks_gather_and_leave() {
    let failures = ranks(|rank| {
        for round in 0..2 {
            assert_eq!(rank.gather(round), Ok(all(round)));
        }
        rank.group.finish().err()
    });
    assert_eq!(failures, vec![None; NUM_RANKS]);
}

/// Rank 1 fails instead of taking part in the second exchange.
///
/// # Panics
/// If a rank does not learn of this failure, or its hook is not called once.
pub fn one_rank_fails() {
    let failures = ranks(|rank| {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        rank.group.on_failure(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        // A rank that learns of the failure before it has the values of the first exchange may go without them.
        let first = rank.gather(0);
        if rank.group.rank() == 1 {
            assert_eq!(first, Ok(all(0)));
            rank.group.abort("out of memory");
        } else {
            assert!(rank.gather(1).is_err());
        }
        let failure = rank.group.failure().expect("the group has failed");
        let Rank { group, wires } = rank;
        drop(group);
        drop(wires);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        failure
    });
    for failure in failures {
        assert_eq!((failure.rank, failure.cause), (1, Cause::Failed("out of memory".into())));
    }
}

/// Ranks 1 and 2 fail at the same time.
///
/// # Panics
/// If a rank learns of no failure, or of one that did not happen.
pub fn two_ranks_fail() {
    let failures = ranks(|rank| {
        match rank.group.rank() {
            0 => assert!(rank.gather(0).is_err()),
            other => rank.group.abort(&format!("error {other}")),
        }
        rank.group.failure().expect("the group has failed")
    });
    for failure in failures {
        assert!([1, 2].contains(&failure.rank), "{failure}");
        assert_eq!(failure.cause, Cause::Failed(format!("error {}", failure.rank)));
    }
}

/// Rank 2 is killed instead of taking part in the second exchange.
///
/// # Panics
/// If another rank continues, or blames a third rank.
pub fn one_rank_is_killed() {
    let failures = ranks(|rank| {
        if rank.group.rank() == 2 {
            let _ = rank.gather(0);
            rank.kill();
            return None;
        }
        let _ = rank.gather(0);
        assert!(rank.gather(1).is_err());
        rank.group.failure()
    });
    for failure in failures.into_iter().take(2) {
        assert_eq!(failure.map(|failure| (failure.rank, failure.cause)), Some((2, Cause::Closed)));
    }
}

/// Rank 1 is killed after everything is written; the run still ends normally for the others.
///
/// # Panics
/// If rank 2, to which rank 0 signals that the run is over, ends with a failure.
pub fn one_rank_is_killed_at_the_end() {
    let failures = ranks(|rank| {
        let gathered = rank.gather(0);
        if rank.group.rank() == 1 {
            rank.kill();
            return None;
        }
        // Rank 2 may learn of the kill before it has the values, which rank 0 sends to rank 1 first.
        if gathered.is_err() {
            return None;
        }
        rank.group.finish().err()
    });
    assert_eq!(failures[2], None);
}
