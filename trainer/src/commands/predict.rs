//! `hiend-train predict --model RUN INPUT... --out DIR`.

mod places;
mod progress_lines;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hiend_cache::durable;
use hiend_loader::case::shown;
use hiend_loader::nifti::write_like;
use hiend_loader::program::{OnSuspectArg, count};
use indicatif::{ProgressBar, ProgressStyle};

use super::ranks::open_device;
use super::running::listen;
use super::{INTERRUPTED, SKIPPED, note, print};
use crate::cli::PredictArgs;
use crate::device::{Compute, settle_default};
use crate::distributed::World;
use crate::inference::predict::{Prediction, Predictor, ScanPredictionError, WindowSettings};
use crate::inference::scan_files::Scans;
use places::{Places, Replace};
use progress_lines::ProgressLines;

pub(super) fn run(args: &PredictArgs) -> anyhow::Result<ExitCode> {
    let Scans { mut files, mut skipped, subfolders } = Scans::find(&args.inputs)?;
    for folder in &subfolders {
        note(format_args!("{}: a subfolder, not searched; name it as an input", shown(folder)));
    }
    let world = World::of_environment(args.ranks)?;
    if let Some(World { rank, num_ranks, .. }) = world {
        let num_scans = files.len();
        files = files.into_iter().skip(rank).step_by(num_ranks).collect();
        if rank > 0 {
            skipped.clear();
        }
        print(format_args!("rank {rank} of {num_ranks}: {} of {num_scans} scans", files.len()))?;
        if files.is_empty() && skipped.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let compute = match &world {
        Some(world) => open_device(&[], args.device, world)?,
        None => Compute::open(args.device)?,
    };
    settle_default(&compute)?;
    let settings = WindowSettings {
        overlap: args.overlap,
        weighting: args.weighting,
        mirror: args.mirror,
        sw_batch_size: args.sw_batch_size,
    };
    let predictor = Predictor::open(&args.model, &compute, settings)?;
    let places = Places::new(&args.out, predictor.classes(), args.probabilities);
    let num_finished = if args.skip_existing { places.leave_out_finished(&mut files)? } else { 0 };
    let replace = match (args.overwrite, args.skip_existing) {
        (true, _) => Replace::Everything,
        (false, true) => Replace::Probabilities,
        (false, false) => Replace::Nothing,
    };
    places.check(&files, replace)?;
    let model = predictor.checkpoint().display();
    print(format_args!("model {model} on {compute}, {} classes", predictor.classes().len()))?;

    let stop = listen(Some("stopping after this batch of windows; once more to stop at once"))?;
    let num_cases = files.len() + skipped.len();
    let mut num_failed = skipped.len();
    for scan in &skipped {
        note(format_args!("{}: skipped: {}", scan.case, scan.reason));
    }
    for (number, (case, path)) in files.iter().enumerate() {
        let started = Instant::now();
        let label = format!("{}/{} {case}", number + 1, files.len());
        let bar = bar(&label);
        let mut lines = bar.is_hidden().then(|| ProgressLines::new(started));
        let result = predictor.predict(path, args.on_suspect.into(), args.probabilities, &stop, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            if let Some(line) = lines.as_mut().and_then(|lines| lines.next(Instant::now(), done, total)) {
                note(format_args!("{label}: {line}"));
            }
        });
        bar.finish_and_clear();
        match result {
            Err(ScanPredictionError::Stopped) => return Ok(ExitCode::from(INTERRUPTED)),
            Err(error @ ScanPredictionError::Suspect { .. }) if args.on_suspect == OnSuspectArg::Fail => {
                return Err(error).with_context(|| format!("stopped after {number} of {}", scans(files.len())));
            }
            // One scan that cannot be predicted does not stop the others.
            Err(error) => {
                note(format_args!("{label}: skipped: {:#}", anyhow::Error::from(error)));
                num_failed += 1;
            }
            // A folder that takes no more files does.
            Ok(prediction) => {
                for finding in &prediction.findings {
                    note(format_args!("{label}: check: {finding}"));
                }
                let labelled = write(&prediction, &places, case)
                    .with_context(|| format!("stopped after {number} of {}", scans(files.len())))?;
                let secs = started.elapsed().as_secs_f64();
                print(format_args!("{label}: {labelled:.1} % of the voxels labelled, {secs:.1} s"))?;
            }
        }
    }
    let num_predicted = num_cases - num_failed;
    let finished = if num_finished > 0 { format!("; {} finished before", scans(num_finished)) } else { String::new() };
    let (of, out) = (scans(num_cases), args.out.display());
    print(format_args!("{num_predicted} of {of} predicted into {out}{finished}"))?;
    Ok(match num_failed {
        0 => ExitCode::SUCCESS,
        all if all == num_cases && num_finished == 0 => ExitCode::FAILURE,
        _ => ExitCode::from(SKIPPED),
    })
}

/// A number of scans in words.
fn scans(number: usize) -> String {
    count(number, "scan")
}

/// Writes label map and probabilities; returns the percentage of voxels that are not background.
fn write(prediction: &Prediction, places: &Places<'_>, case: &str) -> anyhow::Result<f64> {
    let exported = &prediction.exported;
    if exported.labels.is_empty() {
        bail!("case {case} has no voxels");
    }
    for (class, quantized) in exported.probabilities.iter().enumerate() {
        let path = places.probability(case, class);
        if let Some(folder) = path.parent() {
            durable::create_dir_all(folder)?;
        }
        let values: Vec<f32> = quantized.iter().map(|&value| f32::from(value) / f32::from(u16::MAX)).collect();
        write_like(&path, &prediction.info, &values)?;
    }
    // Last, because an existing label map marks the case as done.
    write_like(&places.label_map(case), &prediction.info, &exported.labels)?;
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
