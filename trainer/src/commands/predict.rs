//! `hiend-train predict --model RUN INPUT... --out DIR`.

mod find;
mod finished;
mod places;
mod progress_lines;
mod scan_predictor;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use hiend_loader::program::health::Health;
use hiend_loader::program::watchdog::{STALLED_AFTER, Watchdog};
use hiend_loader::program::{UsageError, check_output_folder, count, escape_name};

use super::class_names::class_named;
use super::ranks::open_device;
use super::signals::StopSignals;
use super::tally::Tally;
use super::{note, print};
use crate::cli::PredictArgs;
use crate::device::{Compute, keep_kernels, settle_default};
use crate::distributed::World;
use crate::inference::predict::{Predictor, WindowSettings, normalize_of};
use crate::inference::scan_files::Scans;
use crate::training::Stop;
use find::find_scans;
use finished::Finished;
use places::{Places, Replace, refuse_folder_of_scans};
use scan_predictor::{Outcome, ScanPredictor};

pub(super) fn run(args: &PredictArgs) -> anyhow::Result<ExitCode> {
    let signals = StopSignals::watch()?;
    check_output_folder(&args.out)?;
    // The error of a model that cannot be read is reported when it is opened, after faults of the scans.
    let normalize = args.model.first().and_then(|model| normalize_of(model).ok()).unwrap_or_default();
    let found = find_scans(&args.inputs, &args.out, normalize)?;
    refuse_folder_of_scans(&args.out, &found.files)?;
    for remark in found.remarks() {
        note(remark);
    }
    let Scans { mut files, mut skipped, .. } = found;
    let world = World::of_environment(args.ranks)?;
    if let Some(World { rank, num_ranks, .. }) = world {
        let num_scans = files.len();
        files = files.into_iter().skip(rank).step_by(num_ranks).collect();
        if rank > 0 {
            skipped.clear();
        }
        print(format_args!("rank {rank} of {num_ranks}: {} of {}", files.len(), scans(num_scans)))?;
        if files.is_empty() && skipped.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let compute = open_compute(args, world.as_ref())?;
    let settings = WindowSettings {
        overlap: args.overlap,
        weighting: args.weighting,
        mirror: args.mirror,
        sw_batch_size: args.sw_batch_size,
    };
    let predictor = Predictor::open(&args.model, &compute, settings)?;
    let places = Places::new(&args.out, predictor.classes(), args.probabilities);
    let finished = if args.skip_existing { Finished::leave_out(&mut files, &places)? } else { Finished::default() };
    skipped.extend(finished.unreadable);
    places.check(&files, replaceable(args))?;
    for checkpoint in predictor.checkpoints() {
        let num_classes = predictor.classes().len();
        print(format_args!("model {} on {compute}, {num_classes} classes", checkpoint.display()))?;
    }
    let to_clean = classes_to_clean(&args.keep_largest, predictor.classes())?;

    let stop = Stop::default();
    signals.begin(&stop, Some("batch of windows"));
    let health = Health::new();
    let progress = health.stage("the prediction", STALLED_AFTER);
    let scan_predictor = ScanPredictor { args, predictor: &predictor, places: &places, to_clean, stop, progress };
    let _watchdog = Watchdog::start(health)?;
    let mut tally = Tally::default();
    for scan in &skipped {
        tally.skip(&scan.case, &scan.reason);
    }
    let mut num_to_check = 0;
    for (number, (case, path)) in files.iter().enumerate() {
        let label = format!("{}/{} {}", number + 1, files.len(), escape_name(case));
        let outcome = scan_predictor
            .predict(case, path, &label)
            .with_context(|| format!("stopped after {number} of {}", scans(files.len())))?;
        match outcome {
            Outcome::Stopped => {
                note(format_args!(
                    "stopped after {number} of {}; the same command with --skip-existing continues",
                    scans(files.len())
                ));
                return Ok(signals.interrupted());
            }
            Outcome::Skipped(reason) => tally.skip(&label, reason),
            Outcome::Written { summary, has_findings } => {
                tally.num_done += 1;
                num_to_check += usize::from(has_findings);
                print(format_args!("{label}: {summary}"))?;
            }
        }
    }
    print(tally.summary("predicted", &args.out) + &remarks(num_to_check, finished.num_scans))?;
    // Scans of an earlier prediction are done as well.
    tally.num_done += finished.num_scans;
    Ok(tally.exit_code())
}

/// Opens the device of this process, or of its rank.
fn open_compute(args: &PredictArgs, world: Option<&World>) -> anyhow::Result<Compute> {
    keep_kernels(None);
    let compute = match world {
        Some(world) => open_device(&[], args.device, world)?,
        None => Compute::open(args.device)?,
    };
    settle_default(&compute)?;
    Ok(compute)
}

/// Files of earlier predictions that may be replaced.
fn replaceable(args: &PredictArgs) -> Replace {
    match (args.overwrite, args.skip_existing) {
        (true, _) => Replace::Everything,
        (false, true) => Replace::Probabilities,
        (false, false) => Replace::Nothing,
    }
}

/// Last part of the closing line: scans that need checking, and scans of an earlier prediction.
fn remarks(num_to_check: usize, num_finished: usize) -> String {
    let mut remarks = String::new();
    if num_to_check > 0 {
        remarks = format!("; {} to check, reported above", scans(num_to_check));
    }
    if num_finished > 0 {
        let _ = write!(remarks, "; {} finished before", scans(num_finished));
    }
    remarks
}

/// Classes selected by `--keep-largest`.
fn classes_to_clean(wanted: &[String], names: &[String]) -> anyhow::Result<Vec<u8>> {
    let flag = "--keep-largest";
    let (all, wanted): (Vec<&String>, Vec<&String>) = wanted.iter().partition(|name| name.trim() == "all");
    let numbered = || names.iter().map(String::as_str).enumerate();
    let class = |name: &String| match class_named(flag, numbered(), name.trim())? {
        0 => Err(UsageError::new(format!("{flag} {name}: the background is not cleaned"))),
        // A label map of 8 bits has no other classes.
        class => Ok(class as u8),
    };
    // A misspelled name is reported before `all` next to it.
    let mut classes: Vec<u8> = Vec::with_capacity(wanted.len());
    for &name in &wanted {
        let class = class(name)?;
        if classes.contains(&class) {
            return Err(UsageError::new(format!("{flag} {name}: the class is named twice; name it once")).into());
        }
        classes.push(class);
    }
    match (all.as_slice(), wanted.as_slice()) {
        ([], _) => Ok(classes),
        ([_], []) => Ok((1..=u8::MAX).take(names.len().saturating_sub(1)).collect()),
        (_, []) => Err(UsageError::new(format!("{flag}: `all` is named twice; name it once")).into()),
        _ => Err(UsageError::new(format!("{flag}: `all` includes every class; leave out the others")).into()),
    }
}

/// Number of scans with the noun, for messages.
fn scans(number: usize) -> String {
    count(number, "scan")
}
