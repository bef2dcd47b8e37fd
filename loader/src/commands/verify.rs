//! `hiend-shard verify`: every byte of a cache, in parallel over its cases.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context as _;
use hiend_cache::VolumeReader;
use hiend_cache::verify::{Fault, survey, verify_case};
use rayon::prelude::*;

use super::progress::Progress;
use super::{interrupted, print, size, stop_on_interrupt};
use crate::cli::Verify;

pub(super) fn run(args: &Verify) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let survey = survey(&args.cache)?;
    for fault in &survey.faults {
        print(fault)?;
    }
    let cases: Vec<_> =
        survey.shards.iter().flat_map(|shard| (0..shard.cases().len()).map(move |idx| (shard, idx))).collect();
    let bytes: u64 = survey.shards.iter().map(|shard| shard.len()).sum();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().context("cannot start threads")?;
    let stop = stop_on_interrupt("finishing the cases in work; Ctrl-C again to stop at once")?;
    let progress = Mutex::new(Progress::new(cases.len(), bytes));
    let looked_into = |reader: &mut VolumeReader, &(shard, idx): &(&std::sync::Arc<_>, usize)| -> Vec<Fault> {
        if stop.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let faults = verify_case(shard, idx, reader);
        let mut progress = progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for fault in &faults {
            progress.print(&fault.to_string());
        }
        progress.advance(shard.cases()[idx].span.len());
        faults
    };
    let found: Vec<Fault> =
        pool.install(|| cases.par_iter().map_init(VolumeReader::new, looked_into).flatten_iter().collect());
    progress.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).finish();

    let secs = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate")]
    let rate = size((bytes as f64 / secs.max(1e-3)) as u64);
    let looked =
        format!("{} shards, {} cases, {} in {secs:.1} s ({rate}/s)", survey.shards.len(), cases.len(), size(bytes));
    if survey.unlisted > 0 {
        let unlisted = survey.unlisted;
        print(format_args!("{unlisted} shards are not in manifest.json yet; the next run of hiend-shard lists them"))?;
    }
    if stop.load(Ordering::Relaxed) {
        print("Interrupted; not everything was looked at.")?;
        return Ok(interrupted());
    }
    let faults = survey.faults.len() + found.len();
    if faults == 0 {
        print(format_args!("{looked}: no fault"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut files: Vec<_> = survey.faults.iter().chain(&found).map(|fault| fault.path.display().to_string()).collect();
    files.sort();
    files.dedup();
    print(format_args!("{looked}: {faults} faults in {} files", files.len()))?;
    print(
        "To mend: restore the files from a copy, or delete them and run hiend-shard again; it converts their cases anew.",
    )?;
    Ok(ExitCode::FAILURE)
}
