//! `hiend-shard plan DATA` and `hiend-shard DATA --dry-run`: the estimate of a conversion.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::progress::duration;
use super::table::{Table, count, facts, size};
use super::task::Task;
use super::unused;
use crate::cli;
use crate::dataset::Weight;
use crate::plan::{DatasetPlan, plan};
use crate::program::{SKIPPED, print};

pub(super) fn run(args: &cli::Plan) -> anyhow::Result<ExitCode> {
    show(&Task::find(&args.data, &args.preprocess)?, Duration::from_secs_f64(args.probe), None)
}

/// Prints the estimate of a task, for the cache `out` if it has one.
pub(super) fn show(task: &Task, probe_for: Duration, out: Option<&Path>) -> anyhow::Result<ExitCode> {
    let plan = plan(&task.root, &task.datasets, &task.config, &task.options, probe_for);
    let cases: usize = plan.datasets.iter().map(|dataset| dataset.cases).sum();
    if let Some(out) = out {
        print(format_args!("would convert {} into {}", count(cases, "case"), out.display()))?;
    }
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
        ("memory", format!("at most {} (limit {})", size(plan.peak_memory_bytes), size(task.options.memory_bytes))),
        ("estimated from", format!("{} converted in memory", count(plan.probed, "case"))),
    ]))?;
    unused::list(task)?;
    if plan.skipped.is_empty() {
        let is_complete = task.num_unused(Weight::Missed) == 0;
        return Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::from(SKIPPED) });
    }
    print("Would skip:")?;
    for skipped in &plan.skipped {
        print(format_args!("  {skipped}"))?;
    }
    Ok(if cases == 0 { ExitCode::FAILURE } else { ExitCode::from(SKIPPED) })
}

fn clock(secs: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive estimate")]
    let secs = secs.ceil() as u64;
    duration(Duration::from_secs(secs))
}

fn by_dataset(datasets: &[DatasetPlan]) -> Table {
    let mut table = Table::with_header([
        "dataset",
        "cases",
        "labelled",
        "files",
        "million voxels",
        "on disk",
        "core time",
        "largest case in memory",
    ]);
    for dataset in datasets {
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
    table.align_right(1..8)
}
