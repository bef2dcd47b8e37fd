//! `hiend-shard verify`: checks every byte of a cache, several cases at a time.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hiend_cache::shard::{Shard, live_records};
use hiend_cache::verify::{Fault, Survey, survey, verify_case};
use hiend_cache::{Location, Manifest, VolumeReader, manifest};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::progress::Progress;
use super::table::{count, size};
use crate::case::{escape_name, shown};
use crate::cli::Verify;
use crate::convert::may_have;
use crate::preprocess::PreprocessConfig;
use crate::program::{INTERRUPTED, error_text, interrupt_flag, print};

/// Largest number of damaged cases that the repair command names individually; for more, it names datasets.
const MAX_NAMED: usize = 20;

pub(super) fn run(args: &Verify) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    args.retry.check(&args.cache)?;
    let mut survey = survey(args.retry.location(&args.cache))?;
    let failure = survey.failure.take().map(anyhow::Error::new);
    let contradiction = contradiction(&args.retry.location(&args.cache), &survey);
    survey.faults.extend(contradiction);
    if !args.json {
        for fault in &survey.faults {
            print(fault)?;
        }
    }
    let cases: Vec<_> =
        survey.shards.iter().flat_map(|shard| (0..shard.cases().len()).map(move |idx| (shard, idx))).collect();
    let live: BTreeSet<(&Path, usize)> =
        live_records(&survey.shards).into_iter().map(|(shard, idx)| (shard.path(), idx)).collect();
    let bytes: u64 = survey.shards.iter().map(|shard| shard.len()).sum();
    let stop = interrupt_flag("finishing the cases in progress; press Ctrl-C again to stop at once")?;
    let progress = Progress::new("the verification", cases.len(), bytes);
    let (found, failure) = check_cases(args, &cases, failure, &stop, progress)?;
    let failure = failure.map(|error| anyhow::anyhow!("{}; not every case was checked", error_text(&error)));
    let interrupted = stop.load(Ordering::Relaxed);
    // Nothing reads a superseded record: damage in it is reported and does no harm.
    let (found, superseded): (Vec<_>, Vec<_>) =
        cases.iter().zip(found).partition(|((shard, idx), _)| live.contains(&(shard.path(), *idx)));
    let num_in_superseded: usize = superseded.iter().map(|(_, faults)| faults.len()).sum();
    let content = Content {
        shards: survey.shards.len(),
        unlisted: survey.unlisted,
        cases: live.len(),
        superseded: cases.len() - live.len(),
        bytes,
    };
    let faults: Vec<&Fault> = survey.faults.iter().chain(found.iter().flat_map(|(_, faults)| faults)).collect();
    if args.json {
        return print_json(&content, &faults, num_in_superseded, failure, interrupted);
    }
    if content.unlisted > 0 {
        let shards = count(content.unlisted, "shard");
        print(format_args!("{shards} not listed in manifest.json yet; the next run of hiend-shard lists them"))?;
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    if interrupted {
        print("Interrupted. Not every case was checked.")?;
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if num_in_superseded > 0 {
        let faults = count(num_in_superseded, "fault");
        print(format_args!(
            "{faults} in superseded records, which nothing reads; --compact of hiend-shard removes them"
        ))?;
    }
    conclude(args, &content.line(started.elapsed().as_secs_f64()), faults)
}

/// Content of a cache that is verified.
struct Content {
    /// Number of intact shards.
    shards: usize,
    /// Number of shards that the manifest does not list.
    unlisted: usize,
    /// Number of live cases.
    cases: usize,
    /// Number of superseded records.
    superseded: usize,
    /// Size of the shards in bytes.
    bytes: u64,
}

impl Content {
    /// Text on the content, and on the time that its verification took.
    fn line(&self, secs: f64) -> String {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate")]
        let rate = size((self.bytes as f64 / secs.max(1e-3)) as u64);
        let (shards, mut cases) = (count(self.shards, "shard"), count(self.cases, "case"));
        if self.superseded > 0 {
            cases = format!("{cases}, {}", count(self.superseded, "superseded record"));
        }
        format!("{shards}, {cases}, {} in {secs:.1} s ({rate}/s)", size(self.bytes))
    }
}

/// Prints the result as JSON and returns the exit code, or the `failure` that ended the verification.
fn print_json(
    content: &Content,
    faults: &[&Fault],
    num_in_superseded: usize,
    failure: Option<anyhow::Error>,
    interrupted: bool,
) -> anyhow::Result<ExitCode> {
    let reason = match &failure {
        Some(failure) => Some(failure.to_string()),
        None => interrupted.then(|| "interrupted; not every case was checked".to_owned()),
    };
    print(json!({
        "shards": content.shards,
        "cases": content.cases,
        "superseded_records": content.superseded,
        "bytes": content.bytes,
        "unlisted_shards": content.unlisted,
        "faults": faults.iter().copied().map(fault_json).collect::<Vec<_>>(),
        "faults_in_superseded_records": num_in_superseded,
        "failure": reason,
    }))?;
    match failure {
        Some(failure) => Err(failure),
        None if interrupted => Ok(ExitCode::from(INTERRUPTED)),
        None => Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// Finds the first live case that was converted with another spacing, window or range of stored values than an intact manifest
/// states. Streams refuse such a cache, because the values of its cases would be read as others.
fn contradiction(location: &Location, survey: &Survey) -> Option<Fault> {
    let manifest = Manifest::read(location.clone()).ok()?;
    let stated: PreprocessConfig = serde_json::from_value(manifest.preprocess).ok()?;
    let mut records = live_records(&survey.shards).into_iter().map(|(shard, idx)| &shard.cases()[idx]);
    let other = records.find(|record| !may_have(record, &stated))?;
    Some(Fault {
        path: location.join(manifest::FILE_NAME),
        case: None,
        array: None,
        chunk: None,
        reason: format!(
            "states another spacing, window or range of stored values than that of case {}; run hiend-shard again to the end, with \
             the parameters that the cases shall have, and remove cases that it skips with --exclude NAME --prune",
            escape_name(&other.key())
        ),
        unread: false,
    })
}

/// Checks cases, several at a time, and prints their faults unless the result is JSON. Returns the faults of each case, and
/// `failure` or the first error of object storage that does not answer. Such an error ends the run, because every further
/// request would wait as long for an answer.
///
/// # Errors
/// If threads cannot be started, or a fault cannot be printed.
fn check_cases(
    args: &Verify,
    cases: &[(&Arc<Shard>, usize)],
    failure: Option<anyhow::Error>,
    stop: &AtomicBool,
    progress: Progress,
) -> anyhow::Result<(Vec<Vec<Fault>>, Option<anyhow::Error>)> {
    let is_remote = args.retry.location(&args.cache).url().is_some();
    // The error's text includes its source.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads.map_or(0, usize::from)).build();
    let pool = pool.map_err(|err| anyhow::anyhow!("cannot start threads: {err}; use fewer, with --threads"))?;
    let (failure, progress) = (Mutex::new(failure), Mutex::new(progress));
    let verify = |reader: &mut VolumeReader, &(shard, idx): &(&Arc<Shard>, usize)| -> anyhow::Result<Vec<Fault>> {
        if stop.load(Ordering::Relaxed) || failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(Vec::new());
        }
        let mut faults = verify_case(shard, idx, reader);
        if is_remote && stop.load(Ordering::Relaxed) && !faults.is_empty() {
            // The error may be the interruption of a request, not damage.
            return Ok(Vec::new());
        }
        let unread = faults.iter().position(|fault| is_remote && fault.unread);
        if let Some(at) = unread {
            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| anyhow::anyhow!("{}", faults[at]));
            faults.truncate(at);
        }
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        if !args.json {
            for fault in &faults {
                progress.print(fault)?;
            }
        }
        if unread.is_none() {
            progress.advance(shard.cases()[idx].span.len());
        }
        Ok(faults)
    };
    let found: anyhow::Result<Vec<Vec<Fault>>> =
        pool.install(|| cases.par_iter().map_init(VolumeReader::new, verify).collect());
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    Ok((found?, failure.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

fn fault_json(fault: &Fault) -> Value {
    let Fault { path, case, array, chunk, reason, unread } = fault;
    let path = shown(path);
    json!({ "path": path, "case": case, "array": array, "chunk": chunk, "reason": reason, "unread": unread })
}

/// Prints the number of faults after what was `checked`, and the command that repairs them.
fn conclude(args: &Verify, checked: &str, faults: Vec<&Fault>) -> anyhow::Result<ExitCode> {
    if faults.is_empty() {
        print(format_args!("{checked}: no fault"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (unread, damaged): (Vec<&Fault>, Vec<&Fault>) = faults.into_iter().partition(|fault| fault.unread);
    let num_files = |faults: &[&Fault]| {
        let files: BTreeSet<_> = faults.iter().map(|fault| &fault.path).collect();
        count(files.len(), "file")
    };
    if damaged.is_empty() {
        print(format_args!("{checked}: no fault in what could be read"))?;
    } else {
        let num_faults = count(damaged.len(), "fault");
        print(format_args!("{checked}: {num_faults} in {}", num_files(&damaged)))?;
    }
    if !unread.is_empty() {
        print(format_args!("{} could not be read, so that nothing is known about the rest", num_files(&unread)))?;
    }
    if !damaged.is_empty() {
        print(repair(&args.cache, &damaged))?;
    }
    Ok(ExitCode::FAILURE)
}

/// Instructions to repair the faults: commands that convert damaged cases again, and files to restore or delete.
fn repair(cache: &Path, faults: &[&Fault]) -> String {
    if Location::from(cache).is_read_only() {
        return "To repair: do it in the cache that this one is a copy of, and copy the repaired files.".to_owned();
    }
    let cases: BTreeSet<&str> = faults.iter().filter_map(|fault| fault.case.as_deref()).collect();
    let mut ways = Vec::new();
    if faults.iter().any(|fault| fault.reason.contains("(os error 5)")) {
        ways.push(
            "Error 5 may be that of a network drive that is away: check the drive and verify again first.".to_owned(),
        );
    }
    if !cases.is_empty() {
        let mut command = vec![format!("hiend-shard DATA --out {}", shown(cache))];
        let names: BTreeSet<&str> = if cases.len() <= MAX_NAMED {
            cases
        } else {
            cases.iter().map(|case| case.split_once('/').map_or(*case, |(dataset, _)| dataset)).collect()
        };
        command.extend(names.into_iter().map(|name| format!("--reconvert '{name}'")));
        let command = command.join(" ");
        ways.push(format!("To convert the damaged cases again from the folder DATA that they came from: {command}"));
    }
    let (manifests, shards): (Vec<&Fault>, Vec<&Fault>) = faults
        .iter()
        .copied()
        .filter(|fault| fault.case.is_none())
        .partition(|fault| fault.path.file_name().is_some_and(|name| name == manifest::FILE_NAME));
    if !manifests.is_empty() {
        ways.push(
            "To repair manifest.json: restore it from a copy, or run hiend-shard again without it, which writes it again from \
             the shards."
                .to_owned(),
        );
    }
    if !shards.is_empty() {
        ways.push(
            "To repair these shards: restore them from a copy, or run hiend-shard again without them, which converts their \
             cases again."
                .to_owned(),
        );
    }
    ways.join("\n")
}
