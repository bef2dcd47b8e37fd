//! Clocks. On a machine that others use too, the clock on the wall says how busy it was; the CPU time says how long
//! the work took (though a busy sibling thread and a shared cache slow that down as well).

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Elapsed time, by both clocks, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elapsed {
    /// On the wall.
    pub wall_secs: f64,
    /// Of the CPU: of this thread or of all threads of the process, see [`Stopwatch`].
    pub cpu_secs: f64,
}

/// Measures one stretch of work.
pub struct Stopwatch {
    clock: ClockId,
    wall: Instant,
    cpu: f64,
}

impl Stopwatch {
    /// CPU time of the calling thread.
    #[must_use]
    pub fn of_thread() -> Self {
        Self::start(ClockId::ThreadCPUTime)
    }

    /// CPU time of every thread of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::start(ClockId::ProcessCPUTime)
    }

    fn start(clock: ClockId) -> Self {
        Self { clock, wall: Instant::now(), cpu: read(clock) }
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Elapsed {
        Elapsed { wall_secs: self.wall.elapsed().as_secs_f64(), cpu_secs: read(self.clock) - self.cpu }
    }
}

#[expect(clippy::cast_precision_loss, reason = "times of a benchmark")]
fn read(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Waits until the process's own threads have nothing left to do.
pub fn settle() {
    for _ in 0..2_000 {
        let watch = Stopwatch::of_process();
        std::thread::sleep(Duration::from_millis(2));
        if watch.elapsed().cpu_secs < 2e-4 {
            return;
        }
    }
}

/// The middle value; 0 of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
