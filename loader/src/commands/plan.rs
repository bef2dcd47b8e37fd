//! `hiend-shard plan DATA`, and `hiend-shard DATA --dry-run`, which says the same about one cache.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::convert::{Task, task};
use super::progress::duration;
use super::{align_right, facts, print, size, table};
use crate::cli;
use crate::plan::{DatasetPlan, plan};

pub(super) fn run(args: &cli::Plan) -> anyhow::Result<ExitCode> {
    match task(&args.data, &args.recipe)? {
        Some(task) => show(&task, Duration::from_secs_f64(args.probe), None),
        None => Ok(ExitCode::from(2)),
    }
}

/// Prints the plan; `out` is the cache it is for, if it is for one.
pub(super) fn show(task: &Task, probe_for: Duration, out: Option<&Path>) -> anyhow::Result<ExitCode> {
    let plan = plan(&task.root, &task.datasets, &task.config, &task.options, probe_for);
    let cases: usize = plan.datasets.iter().map(|dataset| dataset.cases).sum();
    if let Some(out) = out {
        print(format_args!("would convert {cases} cases into {}", out.display()))?;
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
        ("time", estimated(format!("about {} with {} jobs", clock(plan.secs), task.options.jobs))),
        ("memory", format!("at most {} (budget {})", size(plan.peak_memory_bytes), size(task.options.memory_bytes))),
        ("judged by", format!("{} cases converted in memory", plan.probed)),
    ]))?;
    if plan.left_out.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    print("would leave out:")?;
    for left_out in &plan.left_out {
        print(format_args!("  {left_out}"))?;
    }
    Ok(ExitCode::from(if cases == 0 { 1 } else { 3 }))
}

fn clock(secs: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive estimate")]
    let secs = secs.ceil() as u64;
    duration(Duration::from_secs(secs))
}

fn by_dataset(datasets: &[DatasetPlan]) -> comfy_table::Table {
    let mut table = table();
    table.set_header([
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
        table.add_row([
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
    align_right(&mut table, 1..8);
    table
}
