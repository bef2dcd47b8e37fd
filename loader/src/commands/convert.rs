//! `hiend-shard DATA`: converts, shows how it goes, and sums up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use hiend_cache::CodecPreset;
use hiend_cache::prune::Pruned;

use super::progress::Progress;
use super::{facts, interrupted, print, size, stop_on_interrupt};
use crate::cli::{CodecArg, Convert, PreprocessArgs, Spacing, StoreArg};
use crate::convert::{ConvertOptions, Event, Summary, convert, keep_share};
use crate::dataset::{Dataset, Exclude, find};
use crate::preprocess::PreprocessConfig;
use crate::preprocess::window::Store;

/// What is to be converted, and how.
pub(super) struct Task {
    pub root: PathBuf,
    pub datasets: Vec<Dataset>,
    pub excluded: usize,
    pub config: PreprocessConfig,
    pub options: ConvertOptions,
}

/// Finds the data that the flags speak of; `None` after saying what is wrong with the flags.
pub(super) fn task(data: &Path, recipe: &PreprocessArgs) -> anyhow::Result<Option<Task>> {
    let config = PreprocessConfig {
        spacing: match recipe.spacing {
            Spacing::Original => None,
            Spacing::Mm(spacing) => Some(spacing),
        },
        window: recipe.window,
        store: match recipe.store {
            StoreArg::Window => Store::Window,
            StoreArg::Full => Store::Full,
        },
    };
    if let Err(reason) = config.validate() {
        eprintln!("error: {reason}");
        return Ok(None);
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = ConvertOptions {
        jobs: recipe.jobs.map_or(cores, usize::from),
        memory_bytes: recipe.memory.as_u64(),
        codec: match recipe.codec {
            CodecArg::Fast => CodecPreset::Fast,
            CodecArg::Dense => CodecPreset::Dense,
            CodecArg::Lz4 => CodecPreset::Lz4,
        },
        ..ConvertOptions::default()
    };
    let mut datasets = find(data)?;
    let (excluded, unmet) = Exclude::new(&recipe.exclude).apply(&mut datasets);
    for pattern in unmet {
        tracing::warn!("--exclude {pattern} matches no dataset and no case");
    }
    eprintln!("{}: {}", data.display(), listing(&datasets, excluded));
    if datasets.iter().all(|dataset| dataset.cases.is_empty() && dataset.left_out.is_empty()) {
        anyhow::bail!("{}: every case is excluded", data.display());
    }
    let root = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    Ok(Some(Task { root, datasets, excluded, config, options }))
}

pub(super) fn run(args: &Convert) -> anyhow::Result<ExitCode> {
    let data = args.data.as_deref().context("no DATA given")?;
    let Some(mut task) = task(data, &args.recipe)? else { return Ok(ExitCode::from(2)) };
    task.options.shard_bytes = args.shard_size.as_u64();
    task.options.prune = args.prune;
    task.options.checksum = args.checksum;
    let mut share = task.datasets.clone();
    if let Some(worker) = args.worker {
        task.options.worker = worker;
        keep_share(&mut share, worker);
        let (number, workers) = worker;
        eprintln!("worker {number} of {workers}: {}", listing(&share, 0));
    }
    if args.dry_run {
        task.datasets = share;
        return super::plan::show(&task, Duration::from_secs(5), Some(&args.out));
    }
    let num_listed: usize = share.iter().map(|dataset| dataset.cases.len() + dataset.left_out.len()).sum();

    let stop = stop_on_interrupt("finishing the cases in work; Ctrl-C again to stop at once")?;
    let cases = share.iter().flat_map(|dataset| &dataset.cases);
    let sizes: BTreeMap<String, u64> = cases.map(|case| (case.key(), case.file_bytes())).collect();
    let mut progress = Progress::new(num_listed, sizes.values().sum());
    let Task { root, datasets, config, options, excluded } = &task;
    let summary = convert(root, datasets, &args.out, config, options, &stop, |event| match event {
        Event::Converted { bytes_in, .. } | Event::Unchanged { bytes_in, .. } => progress.advance(bytes_in),
        Event::SkippedCase(left_out) => {
            progress.say(&format!("left out: {left_out}"));
            progress.advance(sizes.get(&left_out.case).copied().unwrap_or(0));
        }
    });
    progress.finish();
    let summary = summary?;
    print(facts(rows(&summary, *excluded)))?;
    if !summary.left_out.is_empty() {
        print("Left out:")?;
        for left_out in &summary.left_out {
            print(format_args!("  {left_out}"))?;
        }
    }
    if summary.interrupted {
        print("Interrupted. The cache is whole; run the same command again to go on.")?;
        return Ok(interrupted());
    }
    if num_listed > 0 && summary.converted + summary.unchanged == 0 {
        anyhow::bail!("{}: none of {num_listed} cases could be converted", data.display());
    }
    if args.worker.is_none() && summary.not_in_data > 0 {
        let cases = summary.not_in_data;
        print(format_args!("{cases} cases of the cache are not in this data and stay; --prune drops them."))?;
    }
    if summary.superseded_bytes > 0 {
        let bytes = size(summary.superseded_bytes);
        print(format_args!("Superseded records take {bytes}; --prune gives the space back."))?;
    }
    if args.prune && summary.pruned.is_none() {
        anyhow::bail!("{}: another run is writing here, so nothing was pruned; try again later", args.out.display());
    }
    print(format_args!("Next: hiend-train --shards {}", args.out.display()))?;
    Ok(if summary.left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn listing(datasets: &[Dataset], excluded: usize) -> String {
    let one = |dataset: &Dataset| {
        let labels = dataset.cases.iter().filter(|case| case.label.is_some()).count();
        format!("{} ({} cases, {labels} with labels)", dataset.name, dataset.cases.len() + dataset.left_out.len())
    };
    let text = match datasets {
        [] => "nothing left".to_owned(),
        few if few.len() <= 6 => few.iter().map(one).collect::<Vec<_>>().join(", "),
        many => {
            let cases: usize = many.iter().map(|dataset| dataset.cases.len() + dataset.left_out.len()).sum();
            format!("{} datasets, {cases} cases", many.len())
        }
    };
    if excluded > 0 {
        return format!("{text}; {excluded} cases excluded");
    }
    text
}

fn rows(summary: &Summary, excluded: usize) -> Vec<(&'static str, String)> {
    let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    let per_voxel = per(summary.bytes_out as f64, summary.voxels as f64);
    let mut rows = vec![
        ("cases converted", format!("{} ({} with labels)", summary.converted, summary.with_label)),
        ("unchanged", summary.unchanged.to_string()),
        ("left out", summary.left_out.len().to_string()),
        ("excluded", excluded.to_string()),
        ("voxels", format!("{:.1} million", summary.voxels as f64 / 1e6)),
        ("read", size(summary.bytes_in)),
        ("written", format!("{} in {} shards, {per_voxel:.2} bytes a voxel", size(summary.bytes_out), summary.shards)),
        ("time", format!("{:.1} s, {:.1} MB/s read", summary.secs, per(summary.bytes_in as f64 / 1e6, summary.secs))),
    ];
    if let Some(pruned) = &summary.pruned {
        let Pruned { cases, records, shards_removed, shards_rewritten, bytes_freed } = pruned;
        let shards = format!("{shards_removed} shards removed, {shards_rewritten} rewritten");
        let freed = size(*bytes_freed);
        rows.push(("pruned", format!("{cases} cases, {records} superseded records; {shards}; {freed} freed")));
    }
    rows
}
