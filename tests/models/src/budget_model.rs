//! Models of the byte budget.

use std::sync::Arc;

use shuttle::thread;

use crate::budget::ByteBudget;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Threads that each take shares of these sizes, twice; one request exceeds the total.
///
/// # Panics
/// If more than the total is in use at a time.
fn takers(total: u64, wanted: &[u64]) {
    let budget = Arc::new(ByteBudget::new(total));
    let used = Arc::new(AtomicU64::new(0));
    let taker = |&wanted: &u64| {
        let (budget, used) = (Arc::clone(&budget), Arc::clone(&used));
        thread::spawn(move || {
            let bytes = wanted.min(total);
            for _ in 0..2 {
                let share = budget.take(wanted);
                let now = used.fetch_add(bytes, Ordering::SeqCst) + bytes;
                assert!(now <= total, "{now} of {total} bytes in use");
                used.fetch_sub(bytes, Ordering::SeqCst);
                drop(share);
            }
        })
    };
    let threads: Vec<_> = wanted.iter().map(taker).collect();
    for thread in threads {
        thread.join().expect("no taker panics");
    }
    // All of it is free again.
    drop(budget.take(total));
}

/// Two takers exclude each other.
pub fn two_takers() {
    takers(10, &[6, 100]);
}

/// Four takers, some of which fit together.
pub fn four_takers() {
    takers(10, &[3, 4, 6, 100]);
}
