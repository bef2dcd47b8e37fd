//! Errors that ended the ranks of one machine, each shown once.

use std::collections::BTreeMap;

use crate::distributed::rendezvous::ranges;

/// Errors still to be shown, and errors already shown.
#[derive(Debug, Default)]
pub(super) struct Errors {
    /// Ranks with each error, in ascending order.
    waiting: BTreeMap<String, Vec<usize>>,
    shown: Vec<String>,
}

impl Errors {
    /// Adds the error that ended a rank.
    pub(super) fn add(&mut self, rank: usize, error: String) {
        let ranks = self.waiting.entry(error).or_default();
        ranks.insert(ranks.partition_point(|other| *other < rank), rank);
    }

    /// Lines for the errors added since the last call, ordered by rank. An error that is quoted in another one, as rank
    /// 0 quotes the rank that failed first, is not repeated.
    pub(super) fn take(&mut self) -> Vec<String> {
        let mut errors: Vec<(Vec<usize>, String)> =
            std::mem::take(&mut self.waiting).into_iter().map(|(error, ranks)| (ranks, error)).collect();
        errors.sort();
        let known: Vec<String> = errors.iter().map(|(_, error)| error.clone()).chain(self.shown.clone()).collect();
        let is_new = |error: &str| {
            let is_quoted = known.iter().any(|other| other.len() > error.len() && other.contains(error));
            !is_quoted && !self.shown.iter().any(|shown| shown == error)
        };
        errors.retain(|(_, error)| is_new(error));
        let line = |(ranks, error): &(Vec<usize>, String)| match ranks.as_slice() {
            [0] => format!("error: {error}"),
            [one] => format!("error: rank {one}: {error}"),
            several => format!("error: ranks {}: {error}", ranges(several)),
        };
        let lines = errors.iter().map(line).collect();
        self.shown.extend(errors.into_iter().map(|(_, error)| error));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(errors: &[(usize, &str)]) -> Vec<String> {
        let mut all = Errors::default();
        for (rank, error) in errors {
            all.add(*rank, (*error).to_owned());
        }
        all.take()
    }

    #[test]
    fn equal_errors_are_one_line_that_names_the_ranks() {
        assert_eq!(lines(&[]), Vec::<String>::new());
        assert_eq!(lines(&[(0, "no cache")]), ["error: no cache"]);
        assert_eq!(lines(&[(1, "no cache")]), ["error: rank 1: no cache"]);
        assert_eq!(lines(&[(2, "no cache"), (0, "no cache"), (1, "no cache")]), ["error: ranks 0-2: no cache"]);
        assert_eq!(lines(&[(1, "a"), (0, "b")]), ["error: b", "error: rank 1: a"]);
    }

    #[test]
    fn error_quoted_by_another_rank_is_not_repeated() {
        let quoting = "rank 1 (host, process 7) failed: disk full; stopped after step 3";
        assert_eq!(lines(&[(1, "disk full"), (0, quoting)]), [format!("error: {quoting}")]);
    }

    #[test]
    fn late_error_is_shown_unless_it_is_known() {
        let mut errors = Errors::default();
        errors.add(0, "disk full".into());
        assert_eq!(errors.take(), ["error: disk full"]);
        errors.add(1, "disk full".into());
        errors.add(2, "no memory".into());
        assert_eq!(errors.take(), ["error: rank 2: no memory"]);
        assert_eq!(errors.take(), Vec::<String>::new());
    }
}
