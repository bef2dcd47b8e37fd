//! Time of a piece of work on a device, kernel by kernel, by the device's own clock.
//!
//! Each launch is bracketed by two time stamps on the device, which are read after the work: kernels follow each other as
//! they do otherwise, but each launch costs the launching thread a round trip. The durations of kernels are therefore
//! exact, the gaps between them an upper bound. Calls of vendor libraries, which `CubeCL` does not see, are bracketed by
//! events of their own (`hiend_trainer::vendor::timing`) and lie in those gaps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cubecl::config::{TypeNameFormatLevel, type_name_format};
use cubecl::future::block_on;
use cubecl::logging::{LaunchObservation, LaunchObserver, ProfileDuration, TimingMethod, TimingRequest};
use hiend_trainer::vendor::timing::{VendorCall, timed};

/// All launches of one kernel, or all calls of one operation of a vendor library.
#[derive(Clone, Debug)]
pub struct KernelTime {
    /// Name of the kernel or operation.
    pub kernel: String,
    /// Number of launches.
    pub launches: usize,
    /// Seconds on the device, summed over the launches.
    pub secs: f64,
    /// True for a vendor library's operation.
    pub vendor: bool,
}

/// Times of a piece of work.
#[derive(Clone, Debug, Default)]
pub struct DeviceTimes {
    /// Times of the kernels, longest first.
    pub kernels: Vec<KernelTime>,
    /// Seconds from the start of the first kernel to the end of the last.
    pub span_secs: f64,
    /// Seconds within the span in which neither a kernel nor a vendor library's operation ran.
    pub idle_secs: f64,
    /// Number of launches without a measured time.
    pub unmeasured: usize,
    /// True if the time stamps come from the device. Time stamps of the host include launching and waiting.
    pub on_device: bool,
}

impl DeviceTimes {
    /// Measures the kernels that `work` launches. `work` must wait for the device at its end.
    ///
    /// # Errors
    /// The error of `work`.
    pub fn of<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        let launches = Arc::new(Launches::default());
        let watching = LaunchObservation::new(launches.clone());
        // No launch is earlier than this.
        let epoch = std::time::Instant::now();
        let (done, calls) = timed(work);
        drop(watching);
        done?;
        let launches = std::mem::take(&mut *launches.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut times = Self { on_device: true, ..Self::default() };
        let mut kernels: HashMap<&'static str, KernelTime> = HashMap::new();
        let mut spans = Vec::with_capacity(launches.len());
        for Launch { kernel, profile } in launches {
            times.on_device &= profile.timing_method() == TimingMethod::Device;
            let Some(ticks) = block_on(profile.resolve()) else {
                times.unmeasured += 1;
                continue;
            };
            let of_kernel = kernels.entry(kernel).or_insert_with(|| KernelTime {
                kernel: type_name_format(kernel, TypeNameFormatLevel::Balanced),
                launches: 0,
                secs: 0.0,
                vendor: false,
            });
            of_kernel.launches += 1;
            of_kernel.secs += ticks.duration().as_secs_f64();
            spans.push((ticks.start_duration_since(epoch), ticks.end_duration_since(epoch)));
        }
        let (span_secs, gap_secs) = span_and_gaps(spans);
        let vendor_secs: f64 = calls.iter().map(|call| call.secs).sum();
        (times.span_secs, times.idle_secs) = (span_secs, (gap_secs - vendor_secs).max(0.0));
        let mut operations: HashMap<String, KernelTime> = HashMap::new();
        for VendorCall { name, secs } in calls {
            let kernel = name.clone();
            let of_operation =
                operations.entry(name).or_insert(KernelTime { kernel, launches: 0, secs: 0.0, vendor: true });
            of_operation.launches += 1;
            of_operation.secs += secs;
        }
        times.kernels = kernels.into_values().chain(operations.into_values()).collect();
        times.kernels.sort_by(|a, b| b.secs.total_cmp(&a.secs));
        Ok(times)
    }
}

/// Seconds from the first start to the last end, and the part of them within none of `spans`.
fn span_and_gaps(mut spans: Vec<(Duration, Duration)>) -> (f64, f64) {
    spans.sort_unstable();
    let Some(&(first, _)) = spans.first() else { return (0.0, 0.0) };
    let (mut reached, mut idle) = (first, Duration::ZERO);
    for (start, end) in spans {
        idle += start.saturating_sub(reached);
        reached = reached.max(end);
    }
    (reached.saturating_sub(first).as_secs_f64(), idle.as_secs_f64())
}

struct Launch {
    kernel: &'static str,
    profile: ProfileDuration,
}

#[derive(Default)]
struct Launches(Mutex<Vec<Launch>>);

impl LaunchObserver for Launches {
    fn launched(&self, _: &'static str) {}

    fn timing(&self) -> TimingRequest {
        TimingRequest::Deferred
    }

    fn profiled(&self, kernel: &'static str, profile: ProfileDuration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Launch { kernel, profile });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_the_time_outside_all_spans() {
        let ms = Duration::from_millis;
        let check = |spans: &[(u64, u64)], expected: (f64, f64)| {
            let (span, idle) = span_and_gaps(spans.iter().map(|&(start, end)| (ms(start), ms(end))).collect());
            assert_eq!(((span * 1e3).round(), (idle * 1e3).round()), expected, "{spans:?}");
        };
        check(&[], (0.0, 0.0));
        check(&[(5, 9)], (4.0, 0.0));
        check(&[(8, 9), (1, 3), (2, 5)], (8.0, 3.0));
    }
}
