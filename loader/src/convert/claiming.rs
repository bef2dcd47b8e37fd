//! Cases divided among workers one by one, with `--claim`.
//!
//! Every worker goes through all cases, each from a different starting point, and converts those that it can claim. It
//! then finishes its shard, so that its cases become visible, and handles the remaining cases: a case that another
//! worker has stored is done; a case whose worker is dead is taken over. The run ends when no case is left.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hiend_cache::claims::{Claim, Claims};
use hiend_cache::lease::host_name;
use hiend_cache::{Cache, CaseRecord, Location, OpenOptions, list_shards};

use super::ConvertError;
use super::case::{CaseConverter, Outcome};
use crate::case::CaseFiles;
use crate::stop::Stop;

/// Interval between checks whether to stop.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// Participation of one run in work that several runs divide case by case.
pub(super) struct Claiming {
    claims: Mutex<Claims>,
    /// Shards that existed at the last check for cases stored by other workers.
    seen: Vec<PathBuf>,
    lifetime: Duration,
    /// True once the user has been informed that this run waits for others.
    is_told: bool,
}

/// Cases held by other workers, by key.
pub(super) type Pending<'a> = HashMap<String, &'a CaseFiles>;

impl Claiming {
    /// Joins the workers. Must be called before the cache is read; otherwise cases stored meanwhile by a worker that
    /// has left would be missed.
    pub(super) fn join(out: &Location, lifetime: Duration) -> Result<Self, ConvertError> {
        let note = format!("process {} on {}", std::process::id(), host_name());
        let claims = Mutex::new(Claims::join(out, &note, lifetime)?);
        Ok(Self { claims, seen: Vec::new(), lifetime, is_told: false })
    }

    /// Order in which this worker goes through the cases, from a starting point of its own, so that workers rarely
    /// compete.
    pub(super) fn order<'a>(&self, mut cases: Vec<&'a CaseFiles>) -> Vec<&'a CaseFiles> {
        let start = crate::rng::case_key(self.lock().worker()) % (cases.len().max(1) as u64);
        cases.rotate_left(usize::try_from(start).unwrap_or_default());
        cases
    }

    /// Converts a case unless another worker holds it or has found it in the cache; then returns `None`.
    ///
    /// A case that another worker skipped is tried by this one as well, which then reports the reason itself.
    pub(super) fn convert<'a>(
        &self,
        converter: &CaseConverter<'_>,
        case: &'a CaseFiles,
        has_labels: bool,
        pending: &Mutex<Pending<'a>>,
    ) -> Result<Option<Outcome>, ConvertError> {
        let key = case.key();
        if let Some(outcome) = converter.looks_unchanged(case) {
            return Ok(Some(outcome));
        }
        let claim = self.lock().take(&key)?;
        match claim {
            Claim::Over if converter.is_stored(&key) => Ok(None),
            Claim::Ours | Claim::Over => {
                let outcome = converter.convert(case, has_labels);
                // A refused case ends this run; others judge it by their own options.
                if matches!(outcome, Outcome::Unchanged { .. } | Outcome::Skipped(_)) {
                    self.lock().end(&key)?;
                }
                Ok(Some(outcome))
            }
            Claim::Theirs => {
                pending.lock().unwrap_or_else(PoisonError::into_inner).insert(key, case);
                Ok(None)
            }
        }
    }

    /// Waits, then drops the pending cases that other workers have stored. `known` holds the records from before the
    /// run.
    pub(super) fn settle(
        &mut self,
        out: &Location,
        known: &HashMap<String, CaseRecord>,
        parameters: &str,
        pending: &mut Pending<'_>,
        stop: &Stop,
    ) -> Result<(), ConvertError> {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::info!(
                cases = pending.len(),
                "waiting for cases that other runs have claimed; those of a run without a sign of life for {} s are taken over",
                self.lifetime.as_secs()
            );
        }
        let (began, pause) = (Instant::now(), self.lock().pause());
        while began.elapsed() < pause && !stop.is_requested() {
            std::thread::sleep(STOP_CHECK.min(pause));
        }
        let shards = list_shards(out)?;
        if shards == self.seen {
            return Ok(());
        }
        self.seen = shards;
        // A shard that is damaged, or removed at this moment, stores nothing.
        let (cache, _) = Cache::salvage(out, OpenOptions::for_one_pass())?;
        pending.retain(|key, _| {
            let stored = cache.case(key).map(hiend_cache::Case::record);
            !stored.is_some_and(|record| record.parameters == parameters && known.get(key) != Some(record))
        });
        Ok(())
    }

    /// Leaves the workers; the last one removes the claims if no case is left.
    pub(super) fn leave(self, all_over: bool) -> Result<(), ConvertError> {
        let claims = self.claims.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(claims.leave(all_over)?)
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
