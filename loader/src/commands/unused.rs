//! Report of the files of a task that belong to no case, and of the oddities of those that do.

use std::collections::BTreeMap;

use super::task::Task;
use crate::convert::Finding;
use crate::dataset::{UnusedFile, UnusedReason, Weight};
use crate::program::print;

/// Largest number of files listed for one reason, unless all are asked for.
const MAX_LISTED: usize = 20;

/// Counts of unused files in words.
pub(super) fn counts(task: &Task) -> String {
    let missed = task.num_unused(Weight::Missed);
    let others = task.num_unused(Weight::Named) + task.num_unused(Weight::Counted);
    match (missed, others) {
        (0, 0) => "none".to_owned(),
        (0, others) => format!("{others} (--list-skipped lists them)"),
        (missed, others) => format!("{missed} not understood, {others} for other reasons (--list-skipped lists all)"),
    }
}

/// Prints the unused files by reason: those that were probably meant to be converted, or all if the task says so.
pub(super) fn list(task: &Task) -> anyhow::Result<()> {
    let all = task.list_skipped;
    let mut by_reason: BTreeMap<&UnusedReason, Vec<&UnusedFile>> = BTreeMap::new();
    for unused in task.all_unused().filter(|unused| all || unused.reason.weight() > Weight::Counted) {
        by_reason.entry(&unused.reason).or_default().push(unused);
    }
    if by_reason.is_empty() {
        return Ok(());
    }
    print("Not converted:")?;
    for files in by_reason.values() {
        let num_shown = if all { files.len() } else { MAX_LISTED };
        for unused in files.iter().take(num_shown) {
            print(format_args!("  {unused}"))?;
        }
        if files.len() > num_shown {
            print(format_args!("  ... and {} more; --list-skipped lists all", files.len() - num_shown))?;
        }
    }
    Ok(())
}

/// Prints the oddities of cases below a heading; nothing if there are none.
pub(super) fn list_findings(heading: &str, findings: &[Finding]) -> anyhow::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    print(heading)?;
    for finding in findings {
        print(format_args!("  {}: {}", finding.case, finding.text))?;
    }
    Ok(())
}
