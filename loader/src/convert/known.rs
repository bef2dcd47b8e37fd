//! Cases that a cache folder holds before a conversion.

use std::collections::{BTreeSet, HashMap};

use hiend_cache::seen::Seen;
use hiend_cache::{CaseRecord, SourceFiles};

use super::source::looks_the_same;

/// Content of a cache folder before a conversion.
pub(super) struct Known {
    /// Live records, by case.
    pub records: HashMap<String, CaseRecord>,
    /// Cases whose newest record was lost with its shard: any record that is left of them is older.
    pub lost: BTreeSet<String>,
    /// Generation of the shards to write.
    pub generation: u64,
    /// Files that earlier conversions read and found unchanged.
    pub seen: Seen,
}

impl Known {
    /// Content of an empty folder.
    pub(super) fn nothing() -> Self {
        Self { records: HashMap::new(), lost: BTreeSet::new(), generation: 1, seen: Seen::default() }
    }

    /// A folder with these records.
    #[cfg(test)]
    pub(super) fn of(records: impl IntoIterator<Item = CaseRecord>) -> Self {
        Self { records: records.into_iter().map(|record| (record.key(), record)).collect(), ..Self::nothing() }
    }

    /// Record of a case that is not to be converted again for the loss of its newest one.
    pub(super) fn record(&self, key: &str) -> Option<&CaseRecord> {
        self.records.get(key).filter(|_| !self.lost.contains(key))
    }

    /// Returns `true` if files, described by [`source_of`](super::source::source_of), have the sizes and times in their
    /// record, or those with which an earlier conversion found them unchanged.
    pub(super) fn is_untouched(&self, record: &CaseRecord, now: &SourceFiles) -> bool {
        let seen = || self.seen.of(&record.key(), &record.source);
        looks_the_same(&record.source, now) || seen().is_some_and(|seen| looks_the_same(seen, now))
    }

    /// Returns true if the newest record of the case was lost with its shard.
    pub(super) fn is_lost(&self, key: &str) -> bool {
        self.lost.contains(key)
    }
}
