//! Health of a running program: stages that must make progress within a stated time.
//!
//! A stage that waits for nothing has no deadline. Another thread reads the health, so it never has to wait for the
//! work that it judges. A program with further information adds a watch, whose text the health page shows.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Reason why a program is unhealthy, in one line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unhealthy {
    /// A permanent failure, reported by [`Health::fail`].
    #[error("{0}")]
    Failed(String),
    /// Stages that have stood still for longer than their limits.
    #[error("{}", joined(.0))]
    Stalled(Vec<Stall>),
    /// A part of the program that its watch reports as unhealthy.
    #[error(transparent)]
    Part(Arc<dyn Error + Send + Sync>),
}

/// A stage that has stood still for longer than its limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no progress of {stage} for {} s (limit {} s)", still.as_secs(), limit.as_secs())]
pub struct Stall {
    /// Name of the stage, with its position if it reported one.
    pub stage: String,
    /// Time since the last progress.
    pub still: Duration,
    /// Longest time without progress that the stage is allowed.
    pub limit: Duration,
    /// Number of the stage, and its number of reports before it stood still.
    id: (usize, u64),
}

impl Stall {
    /// Number of the stage.
    pub(super) fn number(&self) -> usize {
        self.id.0
    }

    /// Returns `true` if `other` is the same stall, seen at another time.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

fn joined(stalls: &[Stall]) -> String {
    stalls.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Shared state of a program's stages and watches.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    stages: Vec<Stage>,
    failure: Option<String>,
    watches: Vec<Watch>,
}

/// Function that describes the state of a part of the program, or says why that part is not healthy.
type Watch = Arc<dyn Fn() -> Result<String, Unhealthy> + Send + Sync>;

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stages, failure, .. } = self;
        f.debug_struct("State").field("stages", stages).field("failure", failure).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Stage {
    name: String,
    limit: Duration,
    /// Time of the last progress; `None` while nothing is expected.
    since: Option<Instant>,
    /// Place of the last progress, such as `after step 7`; empty if none was reported.
    position: String,
    /// Number of reports of progress.
    reports: u64,
}

impl Stage {
    /// The stage's name and position.
    fn label(&self) -> String {
        let Self { name, position, .. } = self;
        if position.is_empty() { name.clone() } else { format!("{name} {position}") }
    }
}

impl Health {
    /// Creates the health of a program without stages, which is healthy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stage that must report progress at least every `limit` while it is at work. It starts idle.
    #[must_use]
    pub fn stage(&self, name: impl Into<String>, limit: Duration) -> Pulse {
        let mut state = self.lock();
        state.stages.push(Stage { name: name.into(), limit, since: None, position: String::new(), reports: 0 });
        Pulse { health: self.clone(), index: state.stages.len() - 1 }
    }

    /// Adds a function that describes a part of the program in a few lines for the health page, or returns in one line
    /// the reason why that part is unhealthy. The function is called for every health request and must not block.
    pub fn watch<E: Error + Send + Sync + 'static>(
        &self,
        watch: impl Fn() -> Result<String, E> + Send + Sync + 'static,
    ) {
        self.lock().watches.push(Arc::new(move || watch().map_err(|error| Unhealthy::Part(Arc::new(error)))));
    }

    /// Marks the program as permanently unhealthy, with the reason.
    pub fn fail(&self, reason: impl Into<String>) {
        self.lock().failure.get_or_insert(reason.into());
    }

    /// Checks that no stage has stood still for longer than its limit.
    ///
    /// # Errors
    /// The reason why the program is not healthy.
    pub fn check(&self) -> Result<(), Unhealthy> {
        self.page().map(|_| ())
    }

    /// Checks as [`Self::check`] does; returns the texts of the watches, each on its own lines.
    ///
    /// # Errors
    /// The reason why the program is not healthy.
    pub fn page(&self) -> Result<String, Unhealthy> {
        self.check_at(Instant::now())?;
        // Called without the lock, so that no watch can block the program.
        let watches = self.lock().watches.clone();
        let texts: Vec<String> = watches.iter().map(|watch| watch()).collect::<Result<_, _>>()?;
        Ok(texts.into_iter().flat_map(|text| [text, "\n".into()]).collect())
    }

    fn check_at(&self, now: Instant) -> Result<(), Unhealthy> {
        if let Some(reason) = &self.lock().failure {
            return Err(Unhealthy::Failed(reason.clone()));
        }
        let stalled = self.stalls_at(now);
        if stalled.is_empty() { Ok(()) } else { Err(Unhealthy::Stalled(stalled)) }
    }

    /// Lists the stages that have stood still for longer than their limits.
    pub(super) fn stalls_at(&self, now: Instant) -> Vec<Stall> {
        let state = self.lock();
        let still = |stage: &Stage| stage.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let stages = state.stages.iter().enumerate().filter(|(_, stage)| still(stage) > stage.limit);
        let described = |(number, stage): (usize, &Stage)| Stall {
            stage: stage.label(),
            still: still(stage),
            limit: stage.limit,
            id: (number, stage.reports),
        };
        stages.map(described).collect()
    }

    /// Returns `true` if a stage has reported progress since it stood still.
    pub(super) fn goes_on_after(&self, stall: &Stall) -> bool {
        let (number, reports) = stall.id;
        self.lock().stages[number].reports > reports
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single assignment, complete even if a panic follows.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports a stage's progress. Dropping it leaves the stage idle.
#[derive(Debug)]
pub struct Pulse {
    health: Health,
    index: usize,
}

impl Pulse {
    /// Reports progress; the next one is expected within the stage's limit.
    pub fn beat(&self) {
        self.report(Some(Instant::now()));
    }

    /// Reports progress at a position, such as `after step 7`, which continues the stage's name in messages.
    pub fn beat_at(&self, position: impl Into<String>) {
        let position = position.into();
        self.health.lock().stages[self.index].position = position;
        self.beat();
    }

    /// Reports progress, and that no more is expected until the next [`Self::beat`].
    pub fn idle(&self) {
        self.report(None);
    }

    fn report(&self, since: Option<Instant>) {
        let stage = &mut self.health.lock().stages[self.index];
        stage.since = since;
        stage.reports += 1;
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        // A stage that ends is not one that goes on.
        self.health.lock().stages[self.index].since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_healthy_within_its_limit_and_while_idle() {
        let health = Health::new();
        let (steps, batches) =
            (health.stage("steps", Duration::from_mins(5)), health.stage("batches", Duration::from_secs(30)));
        let start = Instant::now();
        let later = |secs| start + Duration::from_secs(secs);
        health.check_at(later(1000)).unwrap();
        steps.beat();
        batches.beat();
        health.check_at(later(29)).unwrap();
        assert!(health.check_at(Instant::now() + Duration::from_secs(31)).is_err());
        // At times that do not depend on this machine's speed.
        steps.report(Some(start));
        batches.report(Some(start));
        health.check_at(later(30)).unwrap();
        let stalled = health.check_at(later(31)).unwrap_err().to_string();
        assert_eq!(stalled, "no progress of batches for 31 s (limit 30 s)");
        let stalled = health.check_at(later(1000)).unwrap_err().to_string();
        assert!(stalled.contains("no progress of steps") && stalled.contains("; no progress of batches"), "{stalled}");
        batches.idle();
        drop(steps);
        health.check_at(later(1000)).unwrap();
    }

    #[test]
    fn a_stall_names_the_position_of_the_last_progress() {
        let health = Health::new();
        let steps = health.stage("training", Duration::from_secs(1));
        steps.beat_at("after step 7");
        let stalls = health.stalls_at(Instant::now() + Duration::from_mins(1));
        assert_eq!(stalls[0].stage, "training after step 7");
        assert!(!health.goes_on_after(&stalls[0]));
        steps.beat();
        assert!(health.goes_on_after(&stalls[0]));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("a batch is in progress for 700 s")]
    struct Late;

    #[test]
    fn watches_describe_the_program_or_fail_it() {
        let health = Health::new();
        assert_eq!(health.page().unwrap(), "");
        let is_stalled = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = Arc::clone(&is_stalled);
        health.watch(|| Ok::<_, Late>("queue 3".into()));
        health.watch(move || {
            if seen.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Late);
            }
            Ok("batches 2".into())
        });
        assert_eq!(health.page().unwrap(), "queue 3\nbatches 2\n");
        is_stalled.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(health.check().unwrap_err().to_string(), "a batch is in progress for 700 s");
    }

    #[test]
    fn the_first_failure_stays() {
        let health = Health::new();
        health.fail("no server answers");
        health.fail("another reason");
        assert_eq!(health.check().unwrap_err().to_string(), "no server answers");
    }
}
