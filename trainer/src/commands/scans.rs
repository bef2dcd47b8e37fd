//! Scans selected by flags, for the commands that draw them.

use std::collections::BTreeSet;
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

use super::tally::Tally;
use super::{note, print};
use crate::cli::ScanArgs;
use crate::config::pretrain::PretrainConfig;
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

/// Counts the outcome of drawing a scan. A scan that cannot be read or drawn is named on standard error and does not end
/// the command.
///
/// # Errors
/// If no further scan could be drawn either.
fn add(tally: &mut Tally, name: &str, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Ok(()) => tally.num_done += 1,
        Err(error) if ends_all(&error) => return Err(error),
        Err(error) => {
            let text = format!("{error:#}");
            tally.skip(name, text.strip_prefix(&format!("{name}: ")).unwrap_or(&text));
        }
    }
    Ok(())
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
    let settings = Settings::new(args, loaded)?;
    let mut draw = |scan: &Scan| {
        for finding in &scan.findings {
            note(format_args!("{}: check: {finding}", scan.name));
        }
        draw(scan)
    };
    let tally = match &args.shards {
        Some(cache) => draw_cases(cache, args, &settings, &mut draw)?,
        None => draw_files(args, &settings, &mut draw)?,
    };
    print(tally.summary("drawn", &args.out))?;
    Ok(tally.exit_code())
}

/// Preparation of scans, as the flags and the model's configuration say.
struct Settings<'a> {
    /// Configuration of the model.
    config: &'a PretrainConfig,
    /// True if it is known what the model was trained on; a weight file does not say it.
    is_known: bool,
    /// Kind of values that the model takes.
    normalize: Normalize,
    /// Range of HU that the flags or the configuration name.
    window: Option<[f64; 2]>,
}

impl<'a> Settings<'a> {
    /// Settings of a command.
    ///
    /// # Errors
    /// If flags contradict the model or each other.
    fn new(args: &ScanArgs, loaded: &'a Pretrained) -> Result<Self, UsageError> {
        let Pretrained { config, report, .. } = loaded;
        let trained = config.normalize();
        let normalize = args.normalize.map_or(trained, Normalize::from);
        let is_known = report.is_none() || config.preprocess.is_some();
        if is_known && normalize != trained {
            let (name, values) = (normalize.name(), trained.values());
            let message = format!("--normalize {name}: the model was trained on {values}; leave it out");
            return Err(UsageError::new(message));
        }
        let window = args.window.or(config.stream.window);
        if window.is_some() && !normalize.is_hu() {
            return Err(UsageError::new("--window is for HU, and the model takes z-scores; leave it out"));
        }
        if let Some([low, high]) = window.filter(|[low, high]| low >= high) {
            let message = format!("--window {low},{high}: expected two HU values, the lower one first");
            return Err(UsageError::new(message));
        }
        Ok(Self { config, is_known, normalize, window })
    }
}

/// Draws the selected cases of the cache at `dir`.
fn draw_cases(
    dir: &Path,
    args: &ScanArgs,
    settings: &Settings<'_>,
    draw: &mut dyn FnMut(&Scan) -> anyhow::Result<()>,
) -> anyhow::Result<Tally> {
    let &Settings { config, is_known, normalize, window } = settings;
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
    let mut tally = Tally::default();
    for case in cases {
        let scan = Scan::of_case(&cache, case, window).map_err(anyhow::Error::from);
        add(&mut tally, case.key(), scan.and_then(|scan| draw(&scan)))?;
    }
    Ok(tally)
}

/// Draws the scans among the inputs.
fn draw_files(
    args: &ScanArgs,
    settings: &Settings<'_>,
    draw: &mut dyn FnMut(&Scan) -> anyhow::Result<()>,
) -> anyhow::Result<Tally> {
    let found = Scans::find(&args.inputs, settings.normalize)?;
    for remark in found.remarks() {
        note(remark);
    }
    let Scans { files, skipped, .. } = found;
    let mut tally = Tally::default();
    for SkippedScan { case, reason } in &skipped {
        tally.skip(case, reason);
    }
    // A series is named like its folder, not like the file of its first slice.
    let named =
        |case: &str, path: &Path| if format_of(path) == Format::Dicom { case.to_owned() } else { name_of(path) };
    refuse_namesakes(files.iter().map(|(case, path)| named(case, path)))?;
    let preprocess = preprocessing(args, settings)?;
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
        add(&mut tally, &name, outcome)?;
    }
    Ok(tally)
}

/// Preprocessing of files: that of the model's training, with the values of flags. Warns of flags that differ from it.
fn preprocessing(args: &ScanArgs, settings: &Settings<'_>) -> Result<PreprocessConfig, UsageError> {
    let &Settings { config, normalize, window, .. } = settings;
    let recorded = config.preprocess.as_ref();
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
    Ok(preprocess)
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
            let error = add(&mut tally, "a", Err(error)).unwrap_err();
            assert!(format!("{error:#}").ends_with("the device failed: lost"), "{error:#}");
            assert_eq!((tally.num_done, tally.num_skipped), (0, 0));
            // A scan that cannot be drawn ends nothing.
            add(&mut tally, "b", Err(anyhow::anyhow!("empty"))).unwrap();
            assert_eq!((tally.num_done, tally.num_skipped), (0, 1));
        }
    }
}
