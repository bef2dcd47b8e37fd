//! `hiend-shard DATA`: converts, shows how it goes, and sums up.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use hiend_cache::Preset;

use super::progress::Progress;
use super::{interrupted, stop_on_interrupt};
use crate::cli::{CodecArg, Convert, Spacing, StoreArg};
use crate::convert::{ConvertOptions, Event, Summary, convert, probe};
use crate::dataset::{Dataset, Exclude, find};
use crate::nifti::read_info;
use crate::preprocess::window::Store;
use crate::preprocess::{PreprocessConfig, resampled_shape};

pub(super) fn run(args: &Convert) -> anyhow::Result<ExitCode> {
    let data = args.data.as_deref().context("no DATA given")?;
    let config = PreprocessConfig {
        spacing: match args.spacing {
            Spacing::Original => None,
            Spacing::Mm(spacing) => Some(spacing),
        },
        window: args.window,
        store: match args.store {
            StoreArg::Window => Store::Window,
            StoreArg::Full => Store::Full,
        },
    };
    if let Err(reason) = config.validate() {
        eprintln!("error: {reason}");
        return Ok(ExitCode::from(2));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = ConvertOptions {
        jobs: args.jobs.map_or(cores, usize::from),
        memory_bytes: args.memory.as_u64(),
        shard_bytes: args.shard_size.as_u64(),
        codec: match args.codec {
            CodecArg::Fast => Preset::Fast,
            CodecArg::Dense => Preset::Dense,
        },
        chunk: [32; 3],
    };
    let mut datasets = find(data)?;
    let (excluded, unmet) = Exclude::new(&args.exclude).apply(&mut datasets);
    for pattern in unmet {
        tracing::warn!("--exclude {pattern} matches no dataset and no case");
    }
    let num_cases: usize = datasets.iter().map(|dataset| dataset.cases.len()).sum();
    let num_listed = num_cases + datasets.iter().map(|dataset| dataset.left_out.len()).sum::<usize>();
    eprintln!("{}: {}", data.display(), listing(&datasets, excluded));
    if num_listed == 0 {
        anyhow::bail!("{}: every case is excluded", data.display());
    }
    if args.dry_run {
        return dry_run(data, &datasets, args, &config, &options);
    }

    let stop = stop_on_interrupt("finishing the cases in work; Ctrl-C again to stop at once")?;
    let sizes = datasets.iter().flat_map(|dataset| &dataset.cases).map(|case| {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |data| data.len());
        (case.key(), size(&case.image) + case.label.as_deref().map_or(0, size))
    });
    let sizes: BTreeMap<String, u64> = sizes.collect();
    let mut progress = Progress::new(num_listed, sizes.values().sum());
    let root = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let summary = convert(&root, &datasets, &args.out, &config, &options, &stop, |event| match event {
        Event::Converted { bytes_in, .. } | Event::Unchanged { bytes_in, .. } => progress.advance(bytes_in),
        Event::LeftOut(left_out) => {
            progress.say(&format!("left out: {left_out}"));
            progress.advance(sizes.get(&left_out.case).copied().unwrap_or(0));
        }
    });
    progress.finish();
    let summary = summary?;
    println!("{}", table(&summary, excluded));
    if !summary.left_out.is_empty() {
        println!("Left out:");
        for left_out in &summary.left_out {
            println!("  {left_out}");
        }
    }
    if summary.interrupted {
        println!("Interrupted. The cache is whole; run the same command again to go on.");
        return Ok(interrupted());
    }
    if summary.converted + summary.unchanged == 0 {
        anyhow::bail!("{}: none of {num_listed} cases could be converted", data.display());
    }
    println!("Next: hiend-train --shards {}", args.out.display());
    Ok(if summary.left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn listing(datasets: &[Dataset], excluded: usize) -> String {
    let one = |dataset: &Dataset| {
        let labels = dataset.cases.iter().filter(|case| case.label.is_some()).count();
        format!("{} ({} cases, {labels} with labels)", dataset.name, dataset.cases.len() + dataset.left_out.len())
    };
    let mut text = match datasets {
        [] => "nothing left".to_owned(),
        few if few.len() <= 6 => few.iter().map(one).collect::<Vec<_>>().join(", "),
        many => {
            let cases: usize = many.iter().map(|dataset| dataset.cases.len() + dataset.left_out.len()).sum();
            format!("{} datasets, {cases} cases", many.len())
        }
    };
    if excluded > 0 {
        text += &format!("; {excluded} cases excluded");
    }
    text
}

fn table(summary: &Summary, excluded: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let size = |bytes: u64| ByteSize(bytes).display().si().to_string();
    let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    let rows = [
        ("cases converted", format!("{} ({} with labels)", summary.converted, summary.with_label)),
        ("unchanged", summary.unchanged.to_string()),
        ("left out", summary.left_out.len().to_string()),
        ("excluded", excluded.to_string()),
        ("voxels", format!("{:.1} million", summary.voxels as f64 / 1e6)),
        ("read", size(summary.bytes_in)),
        (
            "written",
            format!(
                "{} in {} shards, {:.2} bytes a voxel",
                size(summary.bytes_out),
                summary.shards,
                per(summary.bytes_out as f64, summary.voxels as f64)
            ),
        ),
        ("time", format!("{:.1} s, {:.1} MB/s read", summary.secs, per(summary.bytes_in as f64 / 1e6, summary.secs))),
    ];
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Says what would be done: counts voxels from the headers, and converts one case in memory to see what a voxel takes.
fn dry_run(
    data: &Path,
    datasets: &[Dataset],
    args: &Convert,
    config: &PreprocessConfig,
    options: &ConvertOptions,
) -> anyhow::Result<ExitCode> {
    let mut voxels = 0u64;
    let mut readable = Vec::new();
    let mut left_out: Vec<String> =
        datasets.iter().flat_map(|dataset| &dataset.left_out).map(ToString::to_string).collect();
    for case in datasets.iter().flat_map(|dataset| &dataset.cases) {
        match read_info(&case.image) {
            Ok(info) => {
                let num_voxels: u64 = resampled_shape(&info, config).iter().map(|&n| n as u64).product();
                voxels += num_voxels;
                readable.push((case, num_voxels));
            }
            Err(err) => left_out.push(format!("{}: {err}", case.key())),
        }
    }
    println!("would convert {} cases into {}", readable.len(), args.out.display());
    println!("{:.1} million voxels after resampling, before the crop to the foreground", voxels as f64 / 1e6);
    // The median case by size stands for the others.
    readable.sort_by_key(|&(_, num_voxels)| num_voxels);
    if let Some(&(case, num_voxels)) = readable.get(readable.len() / 2) {
        match probe(data, case, config, options) {
            Ok((bytes, secs)) => {
                let per_voxel = bytes as f64 / num_voxels as f64;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive estimate")]
                let total = ByteSize((per_voxel * voxels as f64) as u64);
                let secs = secs * voxels as f64 / num_voxels as f64 / options.jobs as f64;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive estimate")]
                let time = super::progress::duration(std::time::Duration::from_secs(secs.ceil() as u64));
                println!("about {} on disk and {time} with {} jobs", total.display().si(), options.jobs);
                println!("(judged by {}: {per_voxel:.2} bytes a voxel)", case.key());
            }
            Err(reason) => println!("size unknown: the case tried was left out ({reason})"),
        }
    }
    if left_out.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("would leave out:");
    for line in &left_out {
        println!("  {line}");
    }
    Ok(ExitCode::from(3))
}
