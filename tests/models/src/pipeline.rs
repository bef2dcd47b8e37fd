//! Models of reading ahead and of the turns of assemblers, with the parts of the loader's pipeline that these need.

#[path = "../../../loader/src/pipeline/read_ahead.rs"]
mod read_ahead;
#[path = "../../../loader/src/pipeline/turns.rs"]
mod turns;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use shuttle::thread;

use crate::stats::Stats;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Receiver, Sender, bounded};
use read_ahead::ReadAhead;
use turns::{Loan, Turns};

/// A case of a cache.
struct Case {
    record: Record,
    /// Number of times that the case's bytes were advised.
    advised: AtomicUsize,
}

struct Record {
    span: Span,
}

struct Span {
    len: u64,
}

impl Span {
    fn len(&self) -> u64 {
        self.len
    }
}

impl Case {
    fn record(&self) -> &Record {
        &self.record
    }

    fn will_need(&self) {
        self.advised.fetch_add(1, Ordering::Relaxed);
    }

    fn num_advised(&self) -> usize {
        self.advised.load(Ordering::Relaxed)
    }
}

/// Sequence with one visit to each case.
struct Sequence(Vec<Case>);

impl Sequence {
    fn visit(&self, visit: u64) -> (&Case, u64) {
        (&self.0[usize::try_from(visit).expect("few visits")], 0)
    }
}

/// The part of a loader that reading ahead uses, with two visits per step, all on this rank.
struct Shared {
    sequence: Sequence,
    share: (u64, usize),
    fetched_ahead: Option<u64>,
    stats: Stats,
}

impl Shared {
    fn of(lengths: &[u64]) -> Self {
        let case = |&len| Case { record: Record { span: Span { len } }, advised: AtomicUsize::new(0) };
        let sequence = Sequence(lengths.iter().map(case).collect());
        Self { sequence, share: (0, 2), fetched_ahead: None, stats: Stats::default() }
    }

    fn first_visit(&self, step: u64) -> u64 {
        2 * step + self.share.0
    }

    fn fetching(&self, submit: impl FnOnce(&dyn Fn(u64))) {
        submit(&|visit| self.sequence.visit(visit).0.will_need());
    }
}

/// Largest number of bytes advised and not yet visited.
const LIMIT: u64 = 8;

/// Runs three threads: one reads ahead of six visits, and two make visits, each in its own order. One case exceeds the
/// limit.
///
/// # Panics
/// If more bytes than the limit are held, some are still held at the end, or a case is advised twice or in vain.
pub fn read_ahead_of_two_workers() {
    let shared = Arc::new(Shared::of(&[4, 3, 9, 1, 6, 2]));
    let read_ahead = Arc::new(ReadAhead::new(LIMIT, 0));
    let visits = |visits: [u64; 3]| {
        let (shared, read_ahead) = (Arc::clone(&shared), Arc::clone(&read_ahead));
        thread::spawn(move || visits.iter().for_each(|&visit| read_ahead.done(&shared.stats, visit)))
    };
    let workers = [visits([0, 2, 5]), visits([1, 3, 4])];
    let reader = {
        let (shared, read_ahead) = (Arc::clone(&shared), Arc::clone(&read_ahead));
        thread::spawn(move || read_ahead.run(&shared, 0..3))
    };
    workers.into_iter().chain([reader]).for_each(|thread| thread.join().expect("no thread panics"));
    let (held, most) = shared.stats.bytes();
    assert!(held == 0 && most <= LIMIT, "{held} bytes held at the end, at most {most}");
    for (visit, case) in shared.sequence.0.iter().enumerate() {
        assert!(case.num_advised() <= usize::from(case.record.span.len <= LIMIT), "visit {visit}");
    }
}

/// A stream is dropped while its thread reads ahead and a visit ends.
///
/// # Panics
/// If bytes are still held at the end.
pub fn read_ahead_of_a_dropped_stream() {
    let shared = Arc::new(Shared::of(&[4, 5, 6, 7]));
    let read_ahead = Arc::new(ReadAhead::new(LIMIT, 0));
    let reader = {
        let (shared, read_ahead) = (Arc::clone(&shared), Arc::clone(&read_ahead));
        thread::spawn(move || read_ahead.run(&shared, 0..2))
    };
    let worker = {
        let (shared, read_ahead) = (Arc::clone(&shared), Arc::clone(&read_ahead));
        thread::spawn(move || read_ahead.done(&shared.stats, 0))
    };
    read_ahead.stop(&shared.stats);
    for thread in [reader, worker] {
        thread.join().expect("no thread panics");
    }
    assert_eq!(shared.stats.bytes().0, 0);
}

/// Buffers of a stream and the threads that fill them with the numbers of their steps.
struct Stream {
    receiver: Receiver<(u64, Loan<u64>)>,
    stop: Arc<AtomicBool>,
    assemblers: Vec<thread::JoinHandle<()>>,
    pool: Receiver<Vec<u64>>,
    num_buffers: usize,
}

impl Stream {
    fn new(num_buffers: usize, steps: Range<u64>) -> Self {
        let (sender, receiver): (Sender<(u64, Loan<u64>)>, _) = bounded(num_buffers);
        let (image_sender, free_images) = bounded(num_buffers);
        let (label_sender, free_labels) = bounded(num_buffers);
        for _ in 0..num_buffers {
            image_sender.try_send(vec![0u64]).expect("the pool has room");
            label_sender.try_send(vec![0u8]).expect("the pool has room");
        }
        let (rest, stop) = (Arc::new(Mutex::new(steps)), Arc::new(AtomicBool::new(false)));
        let assembler = |_| {
            let turns = Turns {
                pools: (image_sender.clone(), label_sender.clone()),
                free: (free_images.clone(), free_labels.clone()),
                rest: Arc::clone(&rest),
                stop: Arc::clone(&stop),
            };
            let sender = sender.clone();
            thread::spawn(move || {
                while let Some((step, mut loan, _)) = turns.begin() {
                    loan.0[0] = step;
                    if sender.send((step, loan)).is_err() {
                        return;
                    }
                }
            })
        };
        let assemblers = (1..num_buffers).map(assembler).collect();
        Self { receiver, stop, assemblers, pool: free_images, num_buffers }
    }

    /// Takes batches in the order of their steps, holding one while it waits for the next, then drops the stream as
    /// the loader does, and the last batch after it.
    fn take(self, num_batches: u64) {
        let mut early = BTreeMap::new();
        let mut last = None;
        for step in 0..num_batches {
            let batch = loop {
                if let Some(batch) = early.remove(&step) {
                    break batch;
                }
                let (step, batch): (u64, Loan<u64>) = self.receiver.recv().expect("assemblers make every step");
                early.insert(step, batch);
            };
            assert_eq!(batch.0[0], step, "a buffer was filled while it was lent");
            last = Some(batch);
        }
        self.stop.store(true, Ordering::Relaxed);
        early.clear();
        self.receiver.drain();
        drop(self.receiver);
        drop(last);
        self.assemblers.into_iter().for_each(|thread| thread.join().expect("no assembler panics"));
        assert_eq!(self.pool.len(), self.num_buffers, "buffers are lost");
    }
}

/// Two assemblers with three buffers make four batches.
pub fn all_batches_are_taken() {
    Stream::new(3, 0..4).take(4);
}

/// The stream is dropped after one of its batches.
pub fn a_stream_is_dropped() {
    Stream::new(3, 0..9).take(1);
}

/// The stream is dropped before its first batch, with one assembler.
pub fn a_stream_is_dropped_at_once() {
    Stream::new(2, 0..9).take(0);
}
