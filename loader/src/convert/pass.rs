//! One pass over a list of cases: threads convert, the calling thread stores.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::ConvertError;
use super::case::{CaseConverter, Outcome};
use super::claiming::{Claiming, Pending};
use crate::case::CaseFiles;
use crate::stop::Stop;

/// A pass over a list of cases.
pub(super) struct Pass<'a> {
    pub converter: &'a CaseConverter<'a>,
    /// Names of the datasets that have labels.
    pub labelled: &'a HashSet<&'a str>,
    /// Division of the cases among several runs; `None` if this run converts all of them.
    pub claiming: Option<&'a Claiming>,
    pub stop: &'a Stop,
}

/// Cases that a pass did not convert.
pub(super) struct Left<'c> {
    /// Cases held by other workers.
    pub pending: Pending<'c>,
    /// Number of cases that other workers found in the cache.
    pub over: usize,
    /// Number of cases that were not examined, because the run was asked to stop.
    pub untouched: usize,
}

impl Pass<'_> {
    /// Converts all cases that can be converted; calls `store` with each outcome.
    pub(super) fn run<'c>(
        &self,
        cases: &[&'c CaseFiles],
        store: &mut impl FnMut(Outcome) -> Result<(), ConvertError>,
    ) -> Result<Left<'c>, ConvertError> {
        let (next, over, pending) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Pending::new()));
        let (sender, receiver) = flume::bounded::<Result<Outcome, ConvertError>>(1);
        let work = |sender: flume::Sender<Result<Outcome, ConvertError>>| {
            while !self.stop.is_requested() {
                let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let has_labels = self.labelled.contains(case.dataset.as_str());
                let outcome = match self.claiming {
                    None => Ok(Some(self.converter.convert(case, has_labels))),
                    Some(claiming) => claiming.convert(self.converter, case, has_labels, &pending),
                };
                if let Ok(None) = outcome {
                    over.fetch_add(1, Ordering::Relaxed);
                }
                // Once writing has failed, no receiver is left.
                if let Some(outcome) = outcome.transpose()
                    && sender.send(outcome).is_err()
                {
                    break;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.converter.options.jobs.clamp(1, cases.len().max(1)) {
                let sender = sender.clone();
                scope.spawn(|| work(sender));
            }
            drop(sender);
            // Ends when the last thread is done, or when an error drops `receiver`.
            let receiver = receiver;
            receiver.iter().try_for_each(|outcome| store(outcome?))
        })?;
        let pending = pending.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Pending cases were counted as over at first.
        let over = over.into_inner() - pending.len();
        Ok(Left { pending, over, untouched: cases.len().saturating_sub(next.into_inner()) })
    }
}
