//! Clocks. On a shared machine, wall-clock time includes the work of others; CPU time measures the work itself, although
//! a busy sibling thread and a shared cache slow that down as well.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Elapsed wall-clock and CPU time in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elapsed {
    /// Wall-clock time in seconds.
    pub wall_secs: f64,
    /// CPU time in seconds, summed over the threads of the process.
    pub cpu_secs: f64,
}

/// Stopwatch of wall-clock and CPU time.
pub struct Stopwatch {
    wall: Instant,
    cpu: f64,
}

impl Stopwatch {
    /// Starts a stopwatch; its CPU time is that of all threads of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self { wall: Instant::now(), cpu: cpu_secs() }
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Elapsed {
        Elapsed { wall_secs: self.wall.elapsed().as_secs_f64(), cpu_secs: cpu_secs() - self.cpu }
    }
}

/// CPU time of the process in seconds.
#[expect(clippy::cast_precision_loss, reason = "times of a benchmark")]
fn cpu_secs() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Waits until the threads of this process are idle.
pub fn settle() {
    for _ in 0..2_000 {
        let watch = Stopwatch::of_process();
        std::thread::sleep(Duration::from_millis(2));
        if watch.elapsed().cpu_secs < 2e-4 {
            return;
        }
    }
}
