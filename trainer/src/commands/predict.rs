//! `hiend-train predict --model RUN INPUT... --out DIR`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hiend_loader::nifti::write_like;
use indicatif::{ProgressBar, ProgressStyle};

use super::running::listen;
use super::{INTERRUPTED, LEFT_OUT};
use crate::cli::PredictArgs;
use crate::device::{Compute, settle_default};
use crate::inference::predict::{Prediction, Predictor, ScanPredictionError, WindowSettings};

pub fn run(args: &PredictArgs) -> anyhow::Result<ExitCode> {
    let scans = scans(&args.inputs)?;
    let target = |case: &str| args.out.join(format!("{case}.nii.gz"));
    if !args.overwrite
        && let Some(path) = scans.keys().map(|case| target(case)).find(|path| path.exists())
    {
        bail!("{} exists; --overwrite replaces it", path.display());
    }
    let compute = Compute::open(args.device)?;
    settle_default(&compute)?;
    let settings = WindowSettings {
        overlap: args.overlap,
        weighting: args.weighting,
        mirror: args.mirror,
        sw_batch_size: args.sw_batch_size,
    };
    let predictor = Predictor::open(&args.model, &compute, settings)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    println!("model {} on {compute}, {} classes", predictor.checkpoint().display(), predictor.classes().len());

    let stop = listen("stopping after this batch of windows; once more to stop at once")?;
    let mut failed = Vec::new();
    for (number, (case, path)) in scans.iter().enumerate() {
        let started = Instant::now();
        let bar = bar(&format!("{}/{} {case}", number + 1, scans.len()));
        let result = predictor.predict(path, args.probabilities, &stop, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let written = match result {
            Err(ScanPredictionError::Stopped) => return Ok(ExitCode::from(INTERRUPTED)),
            Err(error) => Err(anyhow::Error::from(error)),
            Ok(prediction) => write(&prediction, predictor.classes(), &target(case), &args.out, case),
        };
        match written {
            Ok(voxels) => println!(
                "{}/{} {case}: {voxels:.1} % of the voxels labelled, {:.1} s",
                number + 1,
                scans.len(),
                started.elapsed().as_secs_f64()
            ),
            // One scan that cannot be predicted does not stop the others.
            Err(error) => {
                eprintln!("{}/{} {case}: left out: {error:#}", number + 1, scans.len());
                failed.push(case);
            }
        }
    }
    println!("{} of {} scans predicted into {}", scans.len() - failed.len(), scans.len(), args.out.display());
    Ok(match failed.len() {
        0 => ExitCode::SUCCESS,
        all if all == scans.len() => ExitCode::FAILURE,
        _ => ExitCode::from(LEFT_OUT),
    })
}

/// Writes label map and probabilities; gives the share of voxels that are not background, in percent.
fn write(prediction: &Prediction, classes: &[String], target: &Path, out: &Path, case: &str) -> anyhow::Result<f64> {
    let exported = &prediction.exported;
    let folder = out.join("probabilities").join(case);
    if !exported.probabilities.is_empty() {
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    for (class, (name, steps)) in classes.iter().zip(&exported.probabilities).enumerate() {
        let values: Vec<f32> = steps.iter().map(|&step| f32::from(step) / f32::from(u16::MAX)).collect();
        let name: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        write_like(&folder.join(format!("{class:02}_{name}.nii.gz")), &prediction.info, &values)?;
    }
    // Last: a label map that is there says that the case is done.
    write_like(target, &prediction.info, &exported.labels)?;
    let labelled = exported.labels.iter().filter(|&&label| label > 0).count();
    Ok(100.0 * labelled as f64 / exported.labels.len().max(1) as f64)
}

/// A bar of windows on a terminal, nothing elsewhere.
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

/// Scans by case: files, and the .nii and .nii.gz files of folders. `CASE_0000.nii.gz` is CASE, as nnU-Net has it.
fn scans(inputs: &[PathBuf]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut scans = BTreeMap::new();
    let mut add = |path: &Path| -> anyhow::Result<bool> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(stem) = name.strip_suffix(".nii.gz").or_else(|| name.strip_suffix(".nii")) else { return Ok(false) };
        let case = stem.strip_suffix("_0000").unwrap_or(stem).to_owned();
        if let Some(other) = scans.insert(case.clone(), path.to_owned()) {
            bail!("{} and {} would both become {case}.nii.gz", other.display(), path.display());
        }
        Ok(true)
    };
    for input in inputs {
        if !input.is_dir() {
            ensure!(input.exists(), "{}: no such file or folder", input.display());
            ensure!(add(input)?, "{}: neither .nii nor .nii.gz", input.display());
            continue;
        }
        let mut found = false;
        for entry in std::fs::read_dir(input).with_context(|| input.display().to_string())? {
            let path = entry.with_context(|| input.display().to_string())?.path();
            found |= path.is_file() && add(&path)?;
        }
        ensure!(found, "{}: no .nii or .nii.gz file in this folder", input.display());
    }
    Ok(scans)
}
