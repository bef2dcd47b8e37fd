//! Summary of the ranks' parts in several steps.

use std::collections::BTreeMap;

use crate::journal::{Stage, StepRecord};

/// Maximum number of ranks that are listed individually.
const LISTED: usize = 16;

/// Means over several steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RankSummary {
    /// Number of ranks.
    pub num_ranks: usize,
    /// Rank that arrived last on average.
    pub slowest: usize,
    /// Mean time from the first rank's arrival to that of the slowest, in ms.
    pub behind_ms: f64,
    /// Most frequent slowest stage of that rank.
    pub stage: Stage,
    /// Mean wait for data of each rank, in ms.
    pub wait_ms: Vec<f64>,
}

impl RankSummary {
    /// Summarizes records; `None` for a run in one process.
    pub(super) fn of<'a>(records: impl Iterator<Item = &'a StepRecord>) -> Option<Self> {
        let (mut sums, mut stages, mut count) = (vec![], BTreeMap::<(usize, &str), (usize, Stage)>::new(), 0.0);
        for record in records.filter(|record| !record.ranks.is_empty()) {
            sums.resize(record.ranks.len(), (0.0, 0.0));
            for (sum, rank) in sums.iter_mut().zip(&record.ranks) {
                sum.0 += rank.behind_ms;
                sum.1 += rank.wait_ms;
                stages.entry((rank.rank, rank.stage.name())).or_insert((0, rank.stage)).0 += 1;
            }
            count += 1.0;
        }
        let (slowest, (behind, _)) = sums.iter().enumerate().max_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
        let of_slowest = stages.iter().filter(|((rank, _), _)| *rank == slowest).map(|(_, stage)| *stage);
        let (_, stage) = of_slowest.max_by_key(|(count, _)| *count)?;
        Some(Self {
            num_ranks: sums.len(),
            slowest,
            behind_ms: behind / count,
            stage,
            wait_ms: sums.iter().map(|(_, wait)| wait / count).collect(),
        })
    }

    /// Names the slowest rank.
    pub(super) fn slowest(&self) -> String {
        format!("rank {} +{:.1} ms ({})", self.slowest, self.behind_ms, self.stage.name())
    }

    /// Lists each rank's wait for data, or their range if there are many.
    pub(super) fn waits(&self) -> String {
        if self.wait_ms.len() <= LISTED {
            return self.wait_ms.iter().map(|ms| format!("{ms:.1}")).collect::<Vec<_>>().join(" ");
        }
        let range = self.wait_ms.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), ms| (low.min(*ms), high.max(*ms)));
        format!("{:.1} to {:.1}", range.0, range.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::RankRecord;
    use crate::journal::testing::step_record;

    fn record(step: u64, behind: &[f64]) -> StepRecord {
        let rank = |(rank, &behind_ms): (usize, &f64)| RankRecord {
            rank,
            wait_ms: rank as f64,
            behind_ms,
            stage: if rank == 1 { Stage::Decode } else { Stage::Compute },
        };
        StepRecord { ranks: behind.iter().enumerate().map(rank).collect(), ..step_record(step, 1.0) }
    }

    #[test]
    fn slowest_rank_is_named_with_its_stage() {
        let records = [record(1, &[0.0, 30.0, 5.0]), record(2, &[0.0, 10.0, 15.0])];
        let summary = RankSummary::of(records.iter()).unwrap();
        assert_eq!(summary.slowest(), "rank 1 +20.0 ms (decode)");
        assert_eq!(summary.waits(), "0.0 1.0 2.0");
        let many = record(3, &[1.0; 20]);
        assert_eq!(RankSummary::of([many].iter()).unwrap().waits(), "0.0 to 19.0");
        assert_eq!(RankSummary::of([step_record(1, 1.0)].iter()), None);
    }
}
