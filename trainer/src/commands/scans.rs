//! Scans selected by flags, for the commands that draw them.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use hiend_cache::{Cache, FileError, OpenOptions, durable};
use hiend_loader::case::case_named;
use hiend_loader::picture::Canvas;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::preprocess::window::Store;
use hiend_loader::program::{OnSuspectArg, StdoutError, UsageError, count};
use hiend_loader::scan::{Scan, ScanError, name_of};
use hiend_loader::volume::{Format, format_of};

use super::{exit_code, note, print};
use crate::cli::ScanArgs;
use crate::inference::DeviceError;
use crate::inference::attention_map::AttentionError;
use crate::inference::scan_files::{Scans, SkippedScan};
use crate::model_source::Pretrained;
use crate::trained_on::{TrainedOn, spacing_text};

/// A picture that cannot be written. It ends the command, because the next picture could not be written either.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
struct UnwritablePicture {
    /// Path of the picture file.
    path: PathBuf,
    /// The system's error.
    source: std::io::Error,
}

/// Numbers of scans drawn and skipped so far.
#[derive(Debug, Default)]
struct Tally {
    num_drawn: usize,
    num_skipped: usize,
}

impl Tally {
    /// Counts the outcome of a scan. A scan that cannot be read or drawn is named on standard error and does not end
    /// the command.
    ///
    /// # Errors
    /// If no further scan could be drawn either.
    fn add(&mut self, name: &str, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        match outcome {
            Ok(()) => self.num_drawn += 1,
            Err(error) if ends_all(&error) => return Err(error),
            Err(error) => {
                let text = format!("{error:#}");
                self.skip(name, text.strip_prefix(&format!("{name}: ")).unwrap_or(&text));
            }
        }
        Ok(())
    }

    fn skip(&mut self, name: &str, reason: impl Display) {
        note(format_args!("{name}: skipped: {reason}"));
        self.num_skipped += 1;
    }

    /// Prints the closing line; returns the exit code.
    fn close(&self, out: &Path) -> anyhow::Result<ExitCode> {
        let all = self.num_drawn + self.num_skipped;
        print(format_args!("{} of {} drawn into {}", self.num_drawn, count(all, "scan"), out.display()))?;
        Ok(exit_code(self.num_drawn, self.num_skipped))
    }
}

/// Returns whether an error would occur with every scan: an error of the device (all crops have one size), of writing a
/// picture, of standard output, or of a cache as a whole.
fn ends_all(error: &anyhow::Error) -> bool {
    error.is::<DeviceError>()
        || matches!(error.downcast_ref(), Some(AttentionError::Device(_)))
        || error.is::<UnwritablePicture>()
        || error.is::<FileError>()
        || error.is::<StdoutError>()
        || matches!(error.downcast_ref(), Some(ScanError::Unsuitable { .. }))
}

/// Calls `draw` with every scan, preprocessed as for training. Returns the exit code: scans that cannot be read or
/// drawn, or are not CTs, are skipped and reported on standard error.
///
/// # Errors
/// If two scans would write the same pictures, a picture cannot be written, or a scan is suspicious where that ends the
/// command.
pub(super) fn for_each(
    args: &ScanArgs,
    loaded: &Pretrained,
    mut draw: impl FnMut(&Scan) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut draw = |scan: &Scan| {
        for finding in &scan.findings {
            note(format_args!("{}: check: {finding}", scan.name));
        }
        draw(scan)
    };
    let mut tally = Tally::default();
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
        // A cache that does not say how it was made is refused when its case is read.
        let prepared: Option<PreprocessConfig> = serde_json::from_value(cache.manifest().preprocess.clone()).ok();
        if let Some(prepared) = &prepared {
            check_normalisation(&cache, prepared, normalize, is_known)?;
        }
        let trained_on = is_known.then(|| TrainedOn::of(config));
        let window = window.or_else(|| shown_window(trained_on.as_ref()?, prepared.as_ref()?));
        if let (Some(trained_on), Some(prepared)) = (&trained_on, &prepared) {
            for difference in trained_on.differences(prepared, window) {
                note(format_args!("warning: {}: the model was trained on {difference}", dir.display()));
            }
        }
        let cases: Result<Vec<_>, _> = args.case.iter().map(|name| case_named(&cache, name)).collect();
        let cases = cases?;
        refuse_namesakes(cases.iter().map(|case| case.key().to_owned()))?;
        for case in cases {
            let scan = Scan::of_case(&cache, case, window).map_err(anyhow::Error::from);
            tally.add(case.key(), scan.and_then(|scan| draw(&scan)))?;
        }
        return tally.close(&args.out);
    }
    let found = Scans::find(&args.inputs, normalize)?;
    for remark in found.remarks() {
        note(remark);
    }
    let Scans { files, skipped, .. } = found;
    for SkippedScan { case, reason } in &skipped {
        tally.skip(case, reason);
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
    if let Some(recorded) = recorded {
        warn_of_other_scans(&TrainedOn::of(config), recorded, &preprocess);
    }
    for (number, (case, input)) in files.iter().enumerate() {
        let name = named(case, input);
        let outcome = match Scan::read(input, &preprocess, args.on_suspect.into()) {
            Ok(mut scan) => {
                scan.name.clone_from(&name);
                draw(&scan)
            }
            Err(error @ ScanError::Suspect { .. }) if args.on_suspect == OnSuspectArg::Fail => {
                return Err(error).with_context(|| format!("stopped after {number} of {}", count(files.len(), "scan")));
            }
            Err(error) => Err(error.into()),
        };
        tally.add(&name, outcome)?;
    }
    tally.close(&args.out)
}

/// Training window in HU, if a cache holds all of it.
fn shown_window(trained_on: &TrainedOn, cache: &PreprocessConfig) -> Option<[f64; 2]> {
    let [low, high] = trained_on.window().filter(|_| cache.normalize.is_hu())?;
    let is_stored = cache.store == Store::Full || (cache.window[0] <= low && high <= cache.window[1]);
    is_stored.then_some([low, high])
}

/// Warns of flags by which scans are prepared in another way than those of the model's training.
fn warn_of_other_scans(trained_on: &TrainedOn, recorded: &PreprocessConfig, preprocess: &PreprocessConfig) {
    if recorded.spacing != preprocess.spacing {
        let spacing = spacing_text(recorded.spacing);
        note(format_args!("warning: --spacing: the model was trained on scans of {spacing}"));
    }
    let bits = |window: [f64; 2]| window.map(f64::to_bits);
    let window = trained_on.window().filter(|window| bits(*window) != bits(preprocess.window));
    if let Some([low, high]) = window.filter(|_| preprocess.normalize.is_hu()) {
        note(format_args!("warning: --window: the model was trained on the window {low} to {high} HU"));
    }
}

/// Rejects a cache whose kind of values differs from that of the model's training.
fn check_normalisation(
    cache: &Cache,
    prepared: &PreprocessConfig,
    normalize: Normalize,
    is_known: bool,
) -> anyhow::Result<()> {
    let found = prepared.normalize;
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
    canvas.write_png(&path).map_err(|source| UnwritablePicture { path: path.clone(), source })?;
    print(format_args!("picture {}", path.display()))?;
    Ok(())
}

fn picture_name(scan: &Scan) -> String {
    scan.name.replace(['/', '\\'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_failed_ends_the_command_with_its_reason() {
        let failed = || DeviceError { message: "lost".to_owned() };
        let of_crop = anyhow::Error::from(failed()).context("a");
        let of_attention = anyhow::Error::from(AttentionError::Device(failed())).context("a: the model failed");
        for error in [of_crop, of_attention] {
            let mut tally = Tally::default();
            let error = tally.add("a", Err(error)).unwrap_err();
            assert!(format!("{error:#}").ends_with("the device failed: lost"), "{error:#}");
            assert_eq!((tally.num_drawn, tally.num_skipped), (0, 0));
            // A scan that cannot be drawn ends nothing.
            tally.add("b", Err(anyhow::anyhow!("empty"))).unwrap();
            assert_eq!((tally.num_drawn, tally.num_skipped), (0, 1));
        }
    }
}
