//! `hiend-shard DATA`: converts, shows progress, prints a summary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hiend_cache::prune::Pruned;
use hiend_cache::{manifest, shard};

use super::progress::Progress;
use super::table::{count, facts, size};
use super::task::{Task, num_cases, refuse_unmatched, summary};
use super::{not_in_data, plan, unused};
use crate::case::shown;
use crate::cli;
use crate::convert::{Conversion, ConvertError, Event, OnSuspect, Prune, Summary, keep_share};
use crate::dataset::{Dataset, Exclude, UnusedReason, Weight};
use crate::program::{INTERRUPTED, SKIPPED, check_output_folder, interrupt_flag, is_one_output, note, print};

/// Largest number of scans listed that the cache holds twice.
const MAX_TWICE: usize = 5;

pub(super) fn run(args: &cli::Convert) -> anyhow::Result<ExitCode> {
    let data = args.data.as_deref().context("DATA is missing")?;
    args.retry.check(&args.out)?;
    if let Some(folder) = args.retry.location(&args.out).folder() {
        check_output_folder(folder)?;
        keep_apart(data, folder)?;
    }
    let mut task = unused::find(data, &args.preprocess)?;
    configure(&mut task, args, data)?;
    let mut share = task.datasets.clone();
    if let Some(worker) = args.worker {
        task.options.worker = worker;
        keep_share(&mut share, worker);
        let (number, workers) = worker;
        note(format_args!("worker {number} of {workers}: {}", summary(&share, 0)));
    }
    if args.dry_run {
        return plan::dry_run(task, share, &args.out);
    }
    let stop = interrupt_flag("finishing the cases in progress; press Ctrl-C again to stop at once")?;
    let summary = match convert_shown(&task, &share, &args.out, &stop) {
        // Cases stored before the interruption are complete; the next run converts the rest.
        Err(err) if stop.load(Ordering::Relaxed) && is_interruption(&err) => {
            note(format_args!("interrupted: {:#}", anyhow::Error::new(err)));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        summary => summary?,
    };
    conclude(args, data, &task, &summary, num_cases(&share))
}

/// Sets the options of a conversion by the flags that no other command has.
///
/// # Errors
/// If `--reconvert` selects no case, or records would be pruned while a part of the data cannot be seen.
fn configure(task: &mut Task, args: &cli::Convert, data: &Path) -> anyhow::Result<()> {
    task.options.shard_bytes = args.shard_size.as_u64();
    // Pruning frees the space of superseded records as well.
    let compact = if args.compact { Prune::Superseded } else { Prune::Nothing };
    task.options.prune = args.prune.map_or(compact, Prune::from);
    task.options.checksum = args.checksum;
    task.options.change_parameters = args.change_parameters;
    task.options.forget_lost = args.forget_lost;
    task.options.storage_retry = args.retry.duration();
    let (reconvert, unmatched) = Exclude::new(&args.reconvert).matches(&task.datasets);
    refuse_unmatched("--reconvert", &unmatched, data)?;
    task.options.reconvert = reconvert;
    task.options.claim = args.claim.then(|| Duration::from_secs(args.claim_lifetime));
    if task.options.prune.removes_cases()
        && let Some(lost) = task.all_unused().find(|unused| unused.reason == UnusedReason::DanglingLink)
    {
        anyhow::bail!("{lost}; nothing is pruned while parts of the data cannot be seen");
    }
    Ok(())
}

/// Converts the cases of `share` and shows the progress.
fn convert_shown(task: &Task, share: &[Dataset], out: &Path, stop: &Arc<AtomicBool>) -> Result<Summary, ConvertError> {
    let cases = share.iter().flat_map(|dataset| &dataset.cases);
    let sizes: BTreeMap<String, u64> = cases.map(|case| (case.key(), case.file_bytes().unwrap_or(0))).collect();
    let mut progress = Progress::new("the conversion", num_cases(share), sizes.values().sum());
    let Task { root, datasets, config, options, .. } = task;
    // The summary repeats every remark: where both can be read in one place, they are only counted until then.
    let is_one_output = is_one_output();
    let mut withheld: Vec<String> = Vec::new();
    let mut tell = |progress: &mut Progress, line: String| {
        if is_one_output {
            progress.remark();
            withheld.push(line);
        } else {
            progress.note(line);
        }
    };
    let observe = |event: Event<'_>| match event {
        Event::Converted { bytes_in, .. } | Event::Unchanged { bytes_in, .. } => progress.advance(bytes_in),
        Event::Found(finding) => tell(&mut progress, format!("check {}: {}", finding.case, finding.text)),
        Event::Skipped(skipped) => {
            tell(&mut progress, format!("skipped {skipped}"));
            progress.advance(sizes.get(&skipped.case).copied().unwrap_or(0));
        }
    };
    let conversion = Conversion::new(root, datasets, out).config(config.clone()).options(options.clone());
    let summary = conversion.stop(Arc::clone(stop).into()).observe(observe).run();
    progress.finish();
    if summary.is_err() {
        // No summary follows.
        withheld.iter().for_each(note);
    }
    summary
}

/// Refuses a folder for the cache in which files of the data lie, and warns of any other one within the data.
fn keep_apart(data: &Path, out: &Path) -> anyhow::Result<()> {
    let resolved = |path: &Path| std::fs::canonicalize(if path.as_os_str().is_empty() { Path::new(".") } else { path });
    // Data that cannot be resolved is reported by the survey of it. The folder of the cache need not exist yet.
    let place = out.ancestors().find_map(|place| resolved(place).ok());
    let (Ok(root), Some(place)) = (resolved(data), place) else { return Ok(()) };
    if !place.starts_with(&root) {
        return Ok(());
    }
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    let names: Vec<PathBuf> = entries.map(|entry| entry.file_name().into()).collect();
    let is_of_cache = |name: &PathBuf| {
        name == Path::new(manifest::FILE_NAME) || name.extension().is_some_and(|end| end == shard::EXTENSION)
    };
    let is_hidden = |name: &PathBuf| name.as_os_str().as_encoded_bytes().starts_with(b".");
    if let Some(other) = names.iter().find(|name| !is_hidden(name))
        && !names.iter().any(is_of_cache)
    {
        anyhow::bail!("{}: holds {}, a part of the data; choose another folder with --out", shown(out), shown(other));
    }
    tracing::warn!("{}: the cache lies within the data; choose a folder outside of the data with --out", shown(out));
    Ok(())
}

/// Prints the summary of a conversion of `num_listed` cases and what to do next.
fn conclude(
    args: &cli::Convert,
    data: &Path,
    task: &Task,
    summary: &Summary,
    num_listed: usize,
) -> anyhow::Result<ExitCode> {
    print(facts(rows(summary, task.excluded, unused::counts(task))))?;
    if !summary.skipped.is_empty() {
        print("Skipped:")?;
        for skipped in &summary.skipped {
            print(format_args!("  {skipped}"))?;
        }
    }
    // Programs refuse those with other parameters, which the last line says.
    let stale: Vec<_> = summary.stale.iter().filter(|case| !summary.outdated.contains(case)).collect();
    if let Some(example) = stale.first() {
        print(format_args!(
            "The cache keeps an earlier version of {}, such as {example}, and programs use it; --exclude NAME --prune removes it.",
            count(stale.len(), "skipped case")
        ))?;
    }
    unused::list_findings("Converted, but check these:", &summary.findings, true)?;
    unused::list_findings("In the cache unchanged, but check these:", &summary.known_findings, true)?;
    if task.options.on_suspect != OnSuspect::Warn && !summary.known_findings.is_empty() {
        print("--on-suspect does not apply to cases in the cache; --exclude NAME --prune removes them.")?;
    }
    unused::list(task)?;
    let lost = lost_line(args, summary);
    if summary.interrupted {
        let kept = "The cache is complete up to here; run the command again to continue.";
        print(format_args!("Interrupted. {}", lost.as_deref().unwrap_or(kept)))?;
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if num_listed > 0 && summary.converted + summary.unchanged + summary.elsewhere == 0 {
        anyhow::bail!("{}: none of {} could be converted", shown(data), count(num_listed, "case"));
    }
    if !summary.unseen.is_empty() {
        print("Classes that dataset.json names and no case has:")?;
        for unseen in &summary.unseen {
            print(format_args!("  {unseen}"))?;
        }
    }
    if !summary.unnamed.is_empty() {
        print("Label values that dataset.json does not name:")?;
        for unnamed in &summary.unnamed {
            print(format_args!("  {unnamed}"))?;
        }
    }
    print_stock(args, summary, task.options.prune)?;
    if task.options.prune != Prune::Nothing && summary.pruned.is_none() {
        let what = if task.options.prune.removes_cases() { "pruned" } else { "compacted" };
        anyhow::bail!("{}: not {what}, because another run is writing here; try again later", shown(&args.out));
    }
    let next = || format!("Next: hiend-train --shards {}", shown(&args.out));
    print(lost.or_else(|| outdated_line(summary)).unwrap_or_else(next))?;
    // The cases of other shares are not missed in this one.
    let has_lost = !summary.lost.is_empty() && args.worker.is_none();
    let is_complete = summary.skipped.is_empty() && !has_lost && task.num_unused(Weight::Missed) == 0;
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::from(SKIPPED) })
}

/// Line on the cases that the cache still lacks because their shards are lost, and how to get them back; `None` if there are none.
fn lost_line(args: &cli::Convert, summary: &Summary) -> Option<String> {
    let example = summary.lost.first()?;
    let remedy = if summary.interrupted {
        "run the command again"
    } else if summary.skipped.iter().any(|skipped| summary.lost.contains(&skipped.case)) {
        "correct the skipped ones, or give them up with --exclude NAME --forget-lost"
    } else if args.claim {
        "run the command without --claim"
    } else {
        "run the other shares (--worker)"
    };
    let cases = count(summary.lost.len(), "case");
    Some(format!("The cache still lacks {cases} of lost shards, such as {example}, and programs refuse it; {remedy}."))
}

/// Line on the skipped cases of which the cache keeps a version of other parameters; `None` if there are none.
fn outdated_line(summary: &Summary) -> Option<String> {
    let example = summary.outdated.first()?;
    let cases = count(summary.outdated.len(), "skipped case");
    Some(format!(
        "The cache keeps {cases} with other parameters, such as {example}, and programs refuse it; correct the files and run the \
         command again, or add --exclude NAME --prune to remove the case."
    ))
}

/// Prints the cases that were removed, the number of cases that are in the cache but not in the data, and the scans that are
/// there twice.
fn print_stock(args: &cli::Convert, summary: &Summary, prune: Prune) -> anyhow::Result<()> {
    if let Some(pruned) = &summary.pruned {
        not_in_data::list_removed("Removed from the cache:", &pruned.cases)?;
    }
    let gone = &summary.not_in_data.gone;
    if args.worker.is_none() && !args.claim {
        if !gone.is_empty() {
            let (cases, them) = (count(gone.len(), "case"), if gone.len() == 1 { "it" } else { "them" });
            print(format_args!("{cases} of the cache not in this data; --prune removes {them}."))?;
        }
        not_in_data::print_elsewhere(&summary.not_in_data, prune)?;
    }
    for [other, own] in summary.twice.iter().take(MAX_TWICE) {
        print(not_in_data::same_scan(&summary.not_in_data, other, own))?;
    }
    if summary.twice.len() > MAX_TWICE {
        print(format_args!("... and {} more", count(summary.twice.len() - MAX_TWICE, "scan")))?;
    }
    if let Some([case, first]) = summary.repeated.first() {
        let cases = count(summary.repeated.len(), "case");
        let have = if summary.repeated.len() == 1 { "has" } else { "have" };
        print(format_args!(
            "{cases} of this data {have} the image of another one, such as {case} that of {first}; training and validation \
             may share a scan; remove one of each two, or exclude it with --exclude NAME --prune."
        ))?;
    }
    if summary.superseded_bytes > 0 {
        let bytes = size(summary.superseded_bytes);
        print(format_args!("Superseded records take {bytes}; --compact frees this space."))?;
    }
    Ok(())
}

fn rows(summary: &Summary, excluded: usize, other_files: String) -> Vec<(&'static str, String)> {
    let per = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    let per_voxel = per(summary.bytes_out as f64, summary.voxels as f64);
    let shards = count(summary.shards, "shard");
    let replaced = match summary.replaced {
        0 => String::new(),
        1 => "; 1 replaces an earlier version".to_owned(),
        more => format!("; {more} replace earlier versions"),
    };
    let converted = count(summary.converted, "case");
    let mut rows = vec![
        ("converted", format!("{converted} ({} with labels{replaced})", summary.with_label)),
        ("unchanged", count(summary.unchanged, "case")),
        ("skipped", count(summary.skipped.len(), "case")),
        ("excluded", count(excluded, "case")),
        ("to check", count(summary.findings.len() + summary.known_findings.len(), "finding")),
        ("other files", other_files),
        ("voxels", format!("{:.1} million", summary.voxels as f64 / 1e6)),
        ("read", size(summary.bytes_in)),
        ("written", format!("{} in {shards}, {per_voxel:.2} B/voxel", size(summary.bytes_out))),
        ("time", format!("{:.1} s, {:.1} MB/s read", summary.secs, per(summary.bytes_in as f64 / 1e6, summary.secs))),
    ];
    if summary.elsewhere > 0 {
        rows.insert(2, ("elsewhere", format!("{} by other runs", count(summary.elsewhere, "case"))));
    }
    if let Some(pruned) = &summary.pruned {
        let Pruned { cases, records, shards_removed, shards_rewritten, bytes_freed } = pruned;
        let (cases, records) = (count(cases.len(), "case"), count(*records, "superseded record"));
        let shards = format!("{} removed, {shards_rewritten} rewritten", count(*shards_removed, "shard"));
        rows.push(("pruned", format!("{cases}, {records}; {shards}; {} freed", size(*bytes_freed))));
    }
    rows
}

/// Returns `true` if a conversion ended because it was asked to stop while it waited.
fn is_interruption(error: &ConvertError) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .any(|error| matches!(error.downcast_ref(), Some(ConvertError::StoppedWaiting { .. })))
        || hiend_cache::is_abandoned(first)
}
