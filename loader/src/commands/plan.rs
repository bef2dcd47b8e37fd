//! `hiend-shard plan DATA` and `hiend-shard DATA --dry-run`: the estimate of a conversion.

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::json;

use super::table::{Table, count, facts, size};
use super::task::{Task, num_cases};
use super::{not_in_data, unused};
use crate::case::{SkippedCase, shown};
use crate::cli;
use crate::convert::{Changes, Finding, OnSuspect, Prune, SETTLED, changes};
use crate::dataset::{Dataset, Weight};
use crate::plan::{DatasetPlan, Plan, plan};
use crate::plural::duration;
use crate::program::{SKIPPED, print};

/// Time for converting sample cases in a dry run.
const PROBE: Duration = Duration::from_secs(5);

pub(super) fn run(args: &cli::Plan) -> anyhow::Result<ExitCode> {
    let probe = Duration::from_secs_f64(args.probe);
    if !args.json {
        return show(&unused::find(&args.data, &args.preprocess)?, probe, None);
    }
    let task = Task::find(&args.data, &args.preprocess)?;
    let plan = plan(&task.root, &task.datasets, &task.config, &task.options, probe);
    print(as_json(&task, &plan))?;
    let is_complete = plan.skipped.is_empty() && task.num_unused(Weight::Missed) == 0;
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::from(SKIPPED) })
}

/// The estimate, with the cases that would be skipped and all files that belong to no case.
fn as_json(task: &Task, plan: &Plan) -> serde_json::Value {
    let dataset = |dataset: &DatasetPlan| {
        json!({
            "name": dataset.name,
            "cases": dataset.cases,
            "with_label": dataset.with_label,
            "bytes_in": dataset.bytes_in,
            "voxels": dataset.voxels,
            "bytes_out": dataset.bytes_out,
            "core_secs": dataset.core_secs,
            "largest_case_bytes": dataset.largest_case_bytes,
        })
    };
    let skipped =
        |skipped: &SkippedCase| json!({ "case": skipped.case, "path": shown(&skipped.path), "reason": skipped.reason });
    let finding = |finding: &Finding| json!({ "case": finding.case, "text": finding.text });
    let unused = task.all_unused().filter(|unused| unused.reason.weight() > Weight::Counted);
    let unused = unused.map(|unused| json!({ "path": shown(&unused.path), "reason": unused.reason.to_string() }));
    json!({
        "datasets": plan.datasets.iter().map(dataset).collect::<Vec<_>>(),
        "secs": plan.secs,
        "peak_memory_bytes": plan.peak_memory_bytes,
        "probed": plan.probed,
        "skipped": plan.skipped.iter().map(skipped).collect::<Vec<_>>(),
        "findings": plan.findings.iter().map(finding).collect::<Vec<_>>(),
        "unused": unused.collect::<Vec<_>>(),
    })
}

/// Prints the changes that converting `share` of the task's datasets would make to the cache at `out`, and the estimate
/// for them.
pub(super) fn dry_run(mut task: Task, share: Vec<Dataset>, out: &Path) -> anyhow::Result<ExitCode> {
    let changes = changes(&task.root, &task.datasets, out, &task.config, &task.options)?;
    // Files of unknown state rarely differ from those of the record.
    let unchanged: HashSet<&str> = changes.unchanged.iter().chain(&changes.undecided).map(String::as_str).collect();
    task.datasets = share;
    for dataset in &mut task.datasets {
        dataset.cases.retain(|case| !unchanged.contains(case.key().as_str()));
    }
    show(&task, PROBE, Some((out, &changes)))
}

fn print_changes(changes: &Changes, skipped: &HashSet<&str>, prune: Prune, out: &Path) -> anyhow::Result<()> {
    let num_of = |keys: &[String]| keys.iter().filter(|key| !skipped.contains(key.as_str())).count();
    let (num_new, num_changed) = (num_of(&changes.new), num_of(&changes.changed));
    let (cases, unchanged) = (count(num_new + num_changed, "case"), changes.unchanged.len());
    let out = shown(out);
    let undecided = match changes.undecided.len() {
        0 => String::new(),
        num => {
            let secs = SETTLED.as_secs();
            format!(", {num} of unknown state (looked at within {secs} s of a change; the conversion compares content)")
        }
    };
    print(format_args!(
        "would convert {cases} into {out}: {num_new} new, {num_changed} changed; {unchanged} unchanged{undecided}"
    ))?;
    let gone = &changes.not_in_data.gone;
    let removed = match prune {
        Prune::Nothing | Prune::Superseded => Vec::new(),
        Prune::Gone => gone.iter().map(String::as_str).collect(),
        Prune::All => changes.not_in_data.all(),
    };
    let heading = format!("would remove {} of the cache not in this data:", count(removed.len(), "case"));
    not_in_data::list_removed(&heading, &removed)?;
    if !gone.is_empty() && !prune.removes_cases() {
        let (cases, them) = (count(gone.len(), "case"), if gone.len() == 1 { "it" } else { "them" });
        print(format_args!("{cases} of the cache not in this data; --prune removes {them}"))?;
    }
    not_in_data::print_elsewhere(&changes.not_in_data, prune)?;
    for other in &changes.other_folders {
        print(format_args!("check {other}"))?;
    }
    Ok(())
}

/// Prints the estimate of a task, including the changes to a cache if `cache` names one.
fn show(task: &Task, probe_for: Duration, cache: Option<(&Path, &Changes)>) -> anyhow::Result<ExitCode> {
    let plan = plan(&task.root, &task.datasets, &task.config, &task.options, probe_for);
    let cases: usize = plan.datasets.iter().map(|dataset| dataset.cases).sum();
    if let Some((out, changes)) = cache {
        let skipped: HashSet<&str> = plan.skipped.iter().map(|skipped| skipped.case.as_str()).collect();
        print_changes(changes, &skipped, task.options.prune, out)?;
    }
    let has_work = cases > 0 || cache.is_none();
    if has_work {
        estimate(task, &plan)?;
    }
    unused::list_findings("Would convert, but check these:", &plan.findings, false)?;
    unused::list(task)?;
    if plan.skipped.is_empty() {
        let is_complete = task.num_unused(Weight::Missed) == 0;
        return Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::from(SKIPPED) });
    }
    print("Would skip:")?;
    for skipped in &plan.skipped {
        print(format_args!("  {skipped}"))?;
    }
    if task.options.on_suspect == OnSuspect::Fail {
        print("--on-suspect fail: the conversion ends at the first of them that is refused for its values.")?;
    }
    // Cases that the probe could not convert are among the skipped ones.
    let would_convert = num_cases(&task.datasets) > plan.skipped.len();
    let has_kept = |changes: &Changes| !changes.unchanged.is_empty() || !changes.undecided.is_empty();
    let has_cases = would_convert || cache.is_some_and(|(_, changes)| has_kept(changes));
    Ok(if has_cases { ExitCode::from(SKIPPED) } else { ExitCode::FAILURE })
}

/// A size in binary units, such as `1.4 GiB`, as `--memory` takes it.
fn binary(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Prints disk space, time and memory.
fn estimate(task: &Task, plan: &Plan) -> anyhow::Result<()> {
    print(by_dataset(&plan.datasets))?;
    let bytes_out: u64 = plan.datasets.iter().map(|dataset| dataset.bytes_out).sum();
    let voxels: u64 = plan.datasets.iter().map(|dataset| dataset.voxels).sum();
    let estimated = |text: String| if plan.probed > 0 { text } else { "unknown; no case could be converted".into() };
    print(facts([
        (
            "disk",
            estimated(format!("about {}, {:.2} B/voxel", size(bytes_out), bytes_out as f64 / voxels.max(1) as f64)),
        ),
        ("time", estimated(format!("about {} with {}", clock(plan.secs), count(task.options.jobs, "job")))),
        ("memory", format!("at most {} (limit {})", binary(plan.peak_memory_bytes), binary(task.options.memory_bytes))),
        ("estimated from", format!("{} converted in memory", count(plan.probed, "case"))),
    ]))?;
    Ok(())
}

fn clock(secs: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive estimate")]
    let secs = secs.ceil() as u64;
    duration(Duration::from_secs(secs))
}

fn by_dataset(datasets: &[DatasetPlan]) -> Table {
    let mut table = Table::bordered().with_header([
        "dataset",
        "cases",
        "labelled",
        "files",
        "million voxels",
        "on disk",
        "core time",
        "largest case in memory",
    ]);
    for dataset in datasets.iter().filter(|dataset| dataset.cases > 0) {
        table.row([
            dataset.name.clone(),
            dataset.cases.to_string(),
            dataset.with_label.to_string(),
            size(dataset.bytes_in),
            format!("{:.1}", dataset.voxels as f64 / 1e6),
            size(dataset.bytes_out),
            clock(dataset.core_secs),
            size(dataset.largest_case_bytes),
        ]);
    }
    table.align_right(1..8).in_two_lines([6])
}
