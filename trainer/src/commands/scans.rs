//! Scans named by flags, for the commands that draw them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use hiend_cache::{Cache, OpenOptions, durable, lookup};
use hiend_loader::case::{case_named, shown};
use hiend_loader::picture::Canvas;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::program::{OnSuspectArg, UsageError};
use hiend_loader::scan::{Scan, ScanError, name_of};
use hiend_loader::volume::{Format, format_of};

use super::{SKIPPED, note, print};
use crate::cli::ScanArgs;
use crate::inference::scan_files::{Scans, SkippedScan};
use crate::model_source::Pretrained;

/// Calls `draw` with every scan, preprocessed as for training; stops at the first failure. Returns the exit code: scans
/// that are skipped, because they are no CTs, are told on standard error.
///
/// # Errors
/// If two scans would write the same pictures, a scan cannot be read, or `draw` fails.
pub(super) fn for_each(
    args: &ScanArgs,
    loaded: &Pretrained,
    mut draw: impl FnMut(&Scan) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let is_file = lookup::metadata(&args.out)?.is_some_and(|found| found.is_file());
    ensure!(!is_file, "{}: a file, where a folder for the pictures is expected", args.out.display());
    let mut draw = |scan: &Scan| {
        for finding in &scan.findings {
            note(format_args!("{}: check: {finding}", scan.name));
        }
        draw(scan)
    };
    let Pretrained { config, report, .. } = loaded;
    let (trained, recorded) = (config.normalize(), config.preprocess.as_ref());
    let normalize = args.normalize.map_or(trained, Normalize::from);
    // A weight file does not say what it was trained on.
    let is_known = report.is_none() || recorded.is_some();
    if is_known && normalize != trained {
        let (name, values) = (normalize.name(), trained.values());
        let message = format!("--normalize {name}: the model was trained on {values}; leave it out");
        return Err(UsageError::new(message).into());
    }
    let window = args.window.or(config.stream.window);
    if window.is_some() && !normalize.is_hu() {
        return Err(UsageError::new("--window is for HU, and the model takes z-scores; leave it out").into());
    }
    if let Some([low, high]) = window.filter(|[low, high]| low >= high) {
        let message = format!("--window {low},{high}: expected two HU values, the lower one first");
        return Err(UsageError::new(message).into());
    }
    if let Some(dir) = &args.shards {
        let cache = Cache::open_with(dir, OpenOptions::for_one_pass())?;
        check_normalisation(&cache, normalize, is_known)?;
        let cases: Result<Vec<_>, _> = args.case.iter().map(|name| case_named(&cache, name)).collect();
        let cases = cases?;
        refuse_namesakes(cases.iter().map(|case| case.key().to_owned()))?;
        for case in cases {
            draw(&Scan::of_case(&cache, case, window)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Scans { files, skipped, subfolders } = Scans::find(&args.inputs)?;
    for folder in &subfolders {
        note(format_args!("{}: a subfolder, not searched; name it as an input", shown(folder)));
    }
    for SkippedScan { case, reason } in &skipped {
        note(format_args!("{case}: skipped: {reason}"));
    }
    // A series is named like its folder, not like the file of its first slice.
    let named =
        |case: &str, path: &Path| if format_of(path) == Format::Dicom { case.to_owned() } else { name_of(path) };
    refuse_namesakes(files.iter().map(|(case, path)| named(case, path)))?;
    let mut preprocess = recorded.cloned().unwrap_or_else(|| PreprocessConfig {
        window: normalize.default_window(),
        normalize,
        ..PreprocessConfig::default()
    });
    preprocess.window = window.unwrap_or(preprocess.window);
    if let Some(spacing) = args.spacing {
        preprocess.spacing = spacing.mm();
    }
    preprocess.validate().map_err(UsageError::new)?;
    let mut num_skipped = skipped.len();
    for (case, input) in &files {
        match Scan::read(input, &preprocess, args.on_suspect.into()) {
            Ok(mut scan) => {
                scan.name = named(case, input);
                draw(&scan)?;
            }
            Err(error @ ScanError::Suspect { .. }) if args.on_suspect != OnSuspectArg::Fail => {
                note(format_args!("{}: skipped: {error}", named(case, input)));
                num_skipped += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(match num_skipped {
        0 => ExitCode::SUCCESS,
        all if all == files.len() + skipped.len() => ExitCode::FAILURE,
        _ => ExitCode::from(SKIPPED),
    })
}

/// Refuses a cache of values that the model was not trained on.
fn check_normalisation(cache: &Cache, normalize: Normalize, is_known: bool) -> anyhow::Result<()> {
    let preprocess: Result<PreprocessConfig, _> = serde_json::from_value(cache.manifest().preprocess.clone());
    // A cache that does not say how it was made is refused when its case is read.
    let Ok(PreprocessConfig { normalize: found, .. }) = preprocess else { return Ok(()) };
    let hint = if is_known { "" } else { "; --normalize states what a weight file was trained on" };
    ensure!(
        found == normalize,
        "{}: holds {}, but the model expects {}{hint}",
        cache.dir().display(),
        found.values(),
        normalize.values()
    );
    Ok(())
}

fn refuse_namesakes(names: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        ensure!(seen.insert(name.clone()), "two scans are named {name}; draw them into different folders by --out");
    }
    Ok(())
}

/// Writes `DIR/SCAN-KIND.png` and prints its path.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(canvas: &Canvas, dir: &Path, scan: &Scan, kind: &str) -> anyhow::Result<()> {
    durable::create_dir_all(dir)?;
    let path: PathBuf = dir.join(format!("{}-{kind}.png", picture_name(scan)));
    canvas.write_png(&path).with_context(|| path.display().to_string())?;
    print(format_args!("picture {}", path.display()))?;
    Ok(())
}

fn picture_name(scan: &Scan) -> String {
    scan.name.replace(['/', '\\'], "_")
}
