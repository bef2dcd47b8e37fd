//! State of a running service, for its health page.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::batch::BatchTimes;
use crate::plural::count;
use crate::verdict::{SpanTimes, Stage};

/// Length of the spans over which times are averaged; the current span and the one before it are included.
const SPAN: Duration = Duration::from_mins(1);

/// State of a service at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Number of clients being served.
    pub clients: usize,
    /// Number of open streams.
    pub streams: usize,
    /// Number of requests that wait for their turn or for memory of their client.
    pub waiting: usize,
    /// Number of batches being made.
    pub in_work: usize,
    /// Age of the oldest batch being made.
    pub oldest: Duration,
    /// Bytes held for clients.
    pub held_bytes: u64,
    /// Times of the batches made in the last one to two minutes.
    pub recent: Recent,
}

/// Times of recently made batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recent {
    /// Sums of the times by stage.
    pub times: SpanTimes,
    /// Total time for which requests waited for their turn and for memory, in seconds.
    pub queue_secs: f64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clients, streams, waiting, in_work, oldest, held_bytes, recent } = self;
        writeln!(f, "clients {clients}, open streams {streams}, memory held for clients {held_bytes} bytes")?;
        writeln!(
            f,
            "requests waiting {waiting}, batches in progress {in_work}, the oldest for {:.1} s",
            oldest.as_secs_f64()
        )?;
        let SpanTimes { batches, sum, .. } = recent.times;
        if batches == 0 {
            return write!(f, "no batch in the last minute");
        }
        let BatchTimes { read_secs, decode_secs, augment_secs, elapsed_secs, .. } = sum;
        let mean_ms = |secs: f64| secs * 1e3 / batches as f64;
        let stages = [(Stage::Read, read_secs), (Stage::Decode, decode_secs), (Stage::Augment, augment_secs)];
        let (slowest, _) = stages.into_iter().fold(stages[0], |a, b| if b.1 > a.1 { b } else { a });
        write!(
            f,
            "last {}: waited {:.0} ms for turn and memory, made in {:.0} ms; threads {:.0} ms read, {:.0} ms \
             decode, {:.0} ms augment; slowest stage {slowest}",
            count(batches, "batch"),
            mean_ms(recent.queue_secs),
            mean_ms(elapsed_secs),
            mean_ms(read_secs),
            mean_ms(decode_secs),
            mean_ms(augment_secs),
        )
    }
}

/// Times of the batches made in the current span and in the one before it.
#[derive(Debug, Default)]
pub(super) struct Spans(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Time at which the current span began.
    began: Option<Instant>,
    current: Recent,
    before: Recent,
}

impl Spans {
    /// Counts a batch whose request waited for `queue_secs`.
    pub(super) fn add(&self, now: Instant, crops: usize, times: &BatchTimes, queue_secs: f64) {
        let mut state = self.lock();
        state.advance(now);
        state.current.times.add(crops, 0.0, times);
        state.current.queue_secs += queue_secs;
    }

    /// Times of the batches made in both spans.
    pub(super) fn recent(&self, now: Instant) -> Recent {
        let mut state = self.lock();
        state.advance(now);
        let (a, b) = (&state.current, &state.before);
        let mut recent = *a;
        recent.queue_secs += b.queue_secs;
        recent.times.batches += b.times.batches;
        recent.times.crops += b.times.crops;
        recent.times.sum.read_secs += b.times.sum.read_secs;
        recent.times.sum.decode_secs += b.times.sum.decode_secs;
        recent.times.sum.augment_secs += b.times.sum.augment_secs;
        recent.times.sum.elapsed_secs += b.times.sum.elapsed_secs;
        recent
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Begins another span if the current one is over.
    fn advance(&mut self, now: Instant) {
        let age = now.saturating_duration_since(*self.began.get_or_insert(now));
        if age >= SPAN {
            let current = std::mem::take(&mut self.current);
            self.before = if age < 2 * SPAN { current } else { Recent::default() };
            self.began = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(decode_secs: f64) -> BatchTimes {
        BatchTimes { decode_secs, read_secs: 0.001, augment_secs: 0.002, elapsed_secs: 0.1, ..BatchTimes::default() }
    }

    #[test]
    fn times_are_those_of_the_last_two_spans() {
        let spans = Spans::default();
        let start = Instant::now();
        let batches = |after| spans.recent(start + Duration::from_secs(after)).times.batches;
        spans.add(start, 8, &times(0.01), 0.5);
        spans.add(start + Duration::from_secs(30), 8, &times(0.01), 0.5);
        assert_eq!(batches(59), 2);
        spans.add(start + Duration::from_secs(61), 8, &times(0.01), 0.5);
        assert_eq!(batches(62), 3);
        assert_eq!(batches(121), 1);
        assert_eq!(batches(400), 0);
    }

    #[test]
    fn page_names_queues_and_the_slowest_stage() {
        let spans = Spans::default();
        let now = Instant::now();
        let mut status = Status {
            clients: 2,
            streams: 1,
            waiting: 5,
            in_work: 3,
            oldest: Duration::from_millis(1500),
            held_bytes: 100,
            recent: spans.recent(now),
        };
        let text = status.to_string();
        assert!(text.contains("clients 2, open streams 1") && text.ends_with("no batch in the last minute"), "{text}");
        assert!(text.contains("requests waiting 5, batches in progress 3, the oldest for 1.5 s"), "{text}");
        for _ in 0..4 {
            spans.add(now, 8, &times(0.03), 0.2);
        }
        status.recent = spans.recent(now);
        let text = status.to_string();
        assert!(text.contains("last 4 batches: waited 200 ms"), "{text}");
        assert!(text.contains("1 ms read, 30 ms decode, 2 ms augment; slowest stage decode"), "{text}");
    }
}
