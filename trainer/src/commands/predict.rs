//! `hiend-train predict --model RUN INPUT... --out DIR`.

mod find;
mod finished;
mod places;
mod progress_lines;

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hiend_cache::durable;
use hiend_loader::program::health::Health;
use hiend_loader::program::watchdog::{STALLED_AFTER, Watchdog};
use hiend_loader::program::{OnSuspectArg, UsageError, check_output_folder, count, escape_name};
use hiend_loader::volume::write_like;
use indicatif::{ProgressBar, ProgressStyle};

use super::class_names::class_named;
use super::ranks::open_device;
use super::signals::StopSignals;
use super::{exit_code, note, print};
use crate::cli::PredictArgs;
use crate::device::{Compute, keep_kernels, settle_default};
use crate::distributed::World;
use crate::inference::components::keep_largest;
use crate::inference::predict::{Prediction, Predictor, ScanPredictionError, WindowSettings, normalize_of};
use crate::inference::scan_files::Scans;
use crate::training::Stop;
use find::find_scans;
use finished::Finished;
use places::{Places, Replace, refuse_folder_of_scans};
use progress_lines::ProgressLines;

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
    let _watchdog = Watchdog::start(health)?;
    let num_cases = files.len() + skipped.len();
    let mut num_failed = skipped.len();
    let mut num_to_check = 0;
    for scan in &skipped {
        note(format_args!("{}: skipped: {}", scan.case, scan.reason));
    }
    for (number, (case, path)) in files.iter().enumerate() {
        let started = Instant::now();
        let label = format!("{}/{} {}", number + 1, files.len(), escape_name(case));
        progress.beat_at(format!("of {label}"));
        let bar = bar(&label);
        let mut lines = bar.is_hidden().then(|| ProgressLines::new(started));
        let result = predictor.predict(path, args.on_suspect.into(), args.probabilities, &stop, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            progress.beat_at(format!("of {label} after {done} of {total} windows"));
            if let Some(line) = lines.as_mut().and_then(|lines| lines.next(Instant::now(), done, total)) {
                note(format_args!("{label}: {line}"));
            }
        });
        bar.finish_and_clear();
        match result {
            Err(ScanPredictionError::Stopped) => return Ok(signals.interrupted()),
            Err(error @ ScanPredictionError::Suspect { .. }) if args.on_suspect == OnSuspectArg::Fail => {
                return Err(error).with_context(|| format!("stopped after {number} of {}", scans(files.len())));
            }
            // A device that is lost fails with every scan. A smaller scan may fit in its memory.
            Err(error) if error.lost_device() => {
                return Err(error).with_context(|| format!("stopped after {number} of {}", scans(files.len())));
            }
            // One scan that cannot be predicted does not stop the others.
            Err(error) => {
                note(format_args!("{label}: skipped: {:#}", anyhow::Error::from(error)));
                num_failed += 1;
            }
            // A folder that takes no more files does.
            Ok(mut prediction) => {
                let Prediction { info, exported, .. } = &mut prediction;
                let cleared = cleared(keep_largest(&mut exported.labels, info.shape, &to_clean));
                num_to_check += usize::from(!prediction.findings.is_empty());
                for finding in &prediction.findings {
                    note(format_args!("{label}: check: {finding}"));
                }
                let labelled = write_files(&prediction, &places, case, path)
                    .with_context(|| format!("stopped after {number} of {}", scans(files.len())))?;
                let secs = started.elapsed().as_secs_f64();
                print(format_args!("{label}: {labelled:.1} % of the voxels labelled{cleared}, {secs:.1} s"))?;
            }
        }
    }
    let predicted = format!("{} of {} predicted into {}", num_cases - num_failed, scans(num_cases), args.out.display());
    print(predicted + &remarks(num_to_check, finished.num_scans))?;
    Ok(exit_code(num_cases - num_failed + finished.num_scans, num_failed))
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

/// Clause with the number of voxels that `--keep-largest` cleared, for the line of a scan.
fn cleared(num_voxels: usize) -> String {
    match num_voxels {
        0 => String::new(),
        _ => format!(", {} outside of largest parts cleared", count(num_voxels, "voxel")),
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

/// Writes label map and probabilities; returns the percentage of voxels that are not background.
fn write_files(prediction: &Prediction, places: &Places<'_>, case: &str, scan: &Path) -> anyhow::Result<f64> {
    let exported = &prediction.exported;
    if exported.labels.is_empty() {
        bail!("case {case} has no voxels");
    }
    for (class, quantized) in exported.probabilities.iter().enumerate() {
        let path = places.probability(case, scan, class);
        if let Some(folder) = path.parent() {
            durable::create_dir_all(folder)?;
        }
        let values: Vec<f32> = quantized.iter().map(|&value| f32::from(value) / f32::from(u16::MAX)).collect();
        write_like(&path, &prediction.info, &values)?;
    }
    // Last, because an existing label map marks the case as done.
    write_like(&places.label_map(case, scan), &prediction.info, &exported.labels)?;
    let labelled = exported.labels.iter().filter(|&&label| label > 0).count();
    Ok(100.0 * labelled as f64 / exported.labels.len() as f64)
}

/// Progress bar of a scan's windows; hidden unless standard error is a terminal.
fn bar(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg} {bar:32} {pos}/{len} windows, {eta} left");
    bar.set_style(style.expect("a valid template"));
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
