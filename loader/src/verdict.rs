//! The bottleneck of a stream: one sentence that names the slowest stage and a remedy.
//!
//! It is derived from the time that the consumer waited for batches. If it waited, the loader was too slow: the verdict
//! names the stage that took most of the threads' time, and the number of threads that would have made the same batches
//! in the time the consumer spent computing. If it did not wait, the loader is fast enough.

use std::fmt;

use crate::batch::BatchTimes;
use crate::plural::count;

/// Share of the time below which waiting counts as noise.
const NOISE: f64 = 0.02;

/// Times summed over the batches of a span, such as an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SpanTimes {
    /// Number of batches.
    pub batches: u64,
    /// Number of crops.
    pub crops: u64,
    /// Wall-clock time, in seconds.
    pub elapsed_secs: f64,
    /// Sum of the batches' times.
    pub sum: BatchTimes,
}

impl SpanTimes {
    /// Adds a batch that arrived `elapsed_secs` after its predecessor.
    pub fn add(&mut self, crops: usize, elapsed_secs: f64, times: &BatchTimes) {
        self.batches += 1;
        self.crops += crops as u64;
        self.elapsed_secs += elapsed_secs;
        let sum = &mut self.sum;
        for (sum, more) in [
            (&mut sum.read_secs, times.read_secs),
            (&mut sum.decode_secs, times.decode_secs),
            (&mut sum.augment_secs, times.augment_secs),
            (&mut sum.elapsed_secs, times.elapsed_secs),
            (&mut sum.buffer_wait_secs, times.buffer_wait_secs),
            (&mut sum.wait_secs, times.wait_secs),
        ] {
            *sum += more;
        }
    }

    /// Returns the verdict for a loader with `threads` threads on `cores` cores.
    #[must_use]
    pub fn verdict(&self, threads: usize, cores: usize) -> Verdict {
        let BatchTimes { read_secs, decode_secs, augment_secs, wait_secs, .. } = self.sum;
        let busy_secs = read_secs + decode_secs + augment_secs;
        let wait_share = if self.elapsed_secs > 0.0 { (wait_secs / self.elapsed_secs).clamp(0.0, 1.0) } else { 0.0 };
        let rate = if self.elapsed_secs > 0.0 { self.crops as f64 / self.elapsed_secs } else { 0.0 };
        let stages = [(Stage::Read, read_secs), (Stage::Decode, decode_secs), (Stage::Augment, augment_secs)];
        let (slowest, secs) = stages.into_iter().fold(stages[0], |a, b| if b.1 > a.1 { b } else { a });
        let slowest_share = if busy_secs > 0.0 { secs / busy_secs } else { 0.0 };
        let bound = if self.crops == 0 {
            Bound::Unknown
        } else if wait_share <= NOISE {
            let headroom = threads as f64 * self.elapsed_secs / busy_secs.max(1e-9);
            Bound::Device { headroom }
        } else if wait_share >= 1.0 - NOISE {
            Bound::Loader { more_threads: None }
        } else {
            // The consumer computed in the rest of the time: this many threads make the batches just as fast.
            let wanted = (busy_secs / (self.elapsed_secs - wait_secs)).ceil();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturating")]
            let more = (wanted as usize).saturating_sub(threads).max(1);
            Bound::Loader { more_threads: Some(more) }
        };
        Verdict { bound, slowest, slowest_share, wait_share, rate, threads, cores }
    }
}

/// A stage of the loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the disk.
    Read,
    /// Verifying and decoding chunks.
    Decode,
    /// Cutting, normalising and augmenting crops.
    Augment,
}

/// Side that limits the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Unknown, because no batch was measured.
    Unknown,
    /// The consumer, usually the device that trains.
    Device {
        /// Factor by which the loader could speed up.
        headroom: f64,
    },
    /// The loader makes crops more slowly than the consumer could take them.
    Loader {
        /// Number of further threads needed to feed the consumer; `None` if the consumer only waited.
        more_threads: Option<usize>,
    },
}

/// Bottleneck of a span; [`fmt::Display`] writes it as a sentence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Side that limits the rate.
    pub bound: Bound,
    /// Stage that took most of the loader's time.
    pub slowest: Stage,
    /// Share of the slowest stage in the loader's time, [0, 1].
    pub slowest_share: f64,
    /// Share of the wall-clock time in which the consumer waited, [0, 1].
    pub wait_share: f64,
    /// Rate in crops per second.
    pub rate: f64,
    /// Number of the loader's threads.
    pub threads: usize,
    /// Number of cores that the process may use.
    pub cores: usize,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Decode => "decode",
            Self::Augment => "augment",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slowest, threads, cores, rate, .. } = self;
        let (share, wait) = (self.slowest_share * 100.0, self.wait_share * 100.0);
        match self.bound {
            Bound::Unknown => f.write_str("no verdict: no crops were measured"),
            Bound::Device { headroom } => {
                write!(f, "device-bound: the loader keeps up ({rate:.0} crops/s)")?;
                if headroom >= 1.2 { write!(f, " and could be {headroom:.1} times as fast") } else { Ok(()) }
            }
            Bound::Loader { more_threads: None } => write!(
                f,
                "{slowest}-bound: {rate:.0} crops/s with {}, {share:.0}% of their time for {slowest}; \
                 the device only waited",
                count(threads, "thread")
            ),
            Bound::Loader { more_threads: Some(more) } => {
                write!(f, "{slowest}-bound: the device waited {wait:.0}% of the time; ")?;
                match slowest {
                    Stage::Read => {
                        write!(f, "a faster disk or more --memory for reading ahead would feed this device")
                    }
                    _ if threads + more <= *cores => {
                        write!(f, "{} would feed this device", count(more, "more thread"))
                    }
                    Stage::Decode => write!(
                        f,
                        "{} would feed this device, but this machine has {}: the fast codec or more crops \
                         per visit would help",
                        count(threads + more, "thread"),
                        count(cores, "core")
                    ),
                    Stage::Augment => write!(
                        f,
                        "{} would feed this device, but this machine has {}: lower probabilities of the \
                         costly transforms would help",
                        count(threads + more, "thread"),
                        count(cores, "core")
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(read: f64, decode: f64, augment: f64, wait: f64, expected: &str) {
        let mut span = SpanTimes::default();
        let times = BatchTimes {
            read_secs: read / 4.0,
            decode_secs: decode / 4.0,
            augment_secs: augment / 4.0,
            wait_secs: wait / 4.0,
            ..BatchTimes::default()
        };
        for _ in 0..4 {
            span.add(250, 2.5, &times);
        }
        assert_eq!((span.batches, span.crops, span.elapsed_secs), (4, 1000, 10.0));
        assert_eq!(span.verdict(8, 16).to_string(), expected);
    }

    #[test]
    fn the_sentence_names_the_bottleneck_and_a_remedy() {
        check(
            1.0,
            60.0,
            17.0,
            4.0,
            "decode-bound: the device waited 40% of the time; 5 more threads would feed this device",
        );
        check(
            0.0,
            30.0,
            40.0,
            1.0,
            "augment-bound: the device waited 10% of the time; 1 more thread would feed this device",
        );
        check(
            50.0,
            20.0,
            10.0,
            5.0,
            "read-bound: the device waited 50% of the time; a faster disk or more --memory for reading ahead would feed this \
             device",
        );
        check(
            0.0,
            60.0,
            18.0,
            8.0,
            "decode-bound: the device waited 80% of the time; 39 threads would feed this device, but this machine has 16 \
             cores: the fast codec or more crops per visit would help",
        );
        check(
            0.0,
            10.0,
            68.0,
            8.0,
            "augment-bound: the device waited 80% of the time; 39 threads would feed this device, but this machine has 16 \
             cores: lower probabilities of the costly transforms would help",
        );
        check(0.0, 15.0, 5.0, 0.1, "device-bound: the loader keeps up (100 crops/s) and could be 4.0 times as fast");
        check(0.0, 60.0, 15.0, 0.1, "device-bound: the loader keeps up (100 crops/s)");
        check(
            0.0,
            60.0,
            20.0,
            9.99,
            "decode-bound: 100 crops/s with 8 threads, 75% of their time for decode; the device only waited",
        );
    }

    #[test]
    fn without_crops_there_is_no_verdict() {
        assert_eq!(SpanTimes::default().verdict(8, 16).to_string(), "no verdict: no crops were measured");
    }
}
