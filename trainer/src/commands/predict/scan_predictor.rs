//! Prediction of a single scan into its files.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use hiend_cache::durable;
use hiend_loader::program::health::Pulse;
use hiend_loader::program::{OnSuspectArg, count};
use hiend_loader::volume::write_like;
use indicatif::{ProgressBar, ProgressStyle};

use super::places::Places;
use super::progress_lines::ProgressLines;
use crate::cli::PredictArgs;
use crate::commands::note;
use crate::inference::components::keep_largest;
use crate::inference::predict::{Prediction, Predictor, ScanPredictionError};
use crate::training::Stop;

/// Predicts scans one by one and writes their files.
pub(super) struct ScanPredictor<'a> {
    /// Flags of the command.
    pub args: &'a PredictArgs,
    /// Networks.
    pub predictor: &'a Predictor,
    /// Paths of the results.
    pub places: &'a Places<'a>,
    /// Classes of which only the largest part is kept.
    pub to_clean: Vec<u8>,
    /// Request to stop.
    pub stop: Stop,
    /// Stage that is reported to the watchdog.
    pub progress: Pulse,
}

/// Result of a scan that does not end the command with an error.
pub(super) enum Outcome {
    /// The files are written.
    Written {
        /// Figures of the prediction, for the line of the scan.
        summary: String,
        /// True if the scan needs checking.
        has_findings: bool,
    },
    /// The scan cannot be predicted, for this reason. Nothing is written.
    Skipped(String),
    /// A stop was requested. Nothing is written.
    Stopped,
}

impl ScanPredictor<'_> {
    /// Predicts the scan of a case and writes its files. `label` names the scan in lines of progress and in findings.
    ///
    /// # Errors
    /// If the files cannot be written, the device is lost, or the scan is suspicious where that ends the command.
    pub(super) fn predict(&self, case: &str, scan: &Path, label: &str) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let mut prediction = match self.labels(scan, label, started) {
            Ok(prediction) => prediction,
            Err(ScanPredictionError::Stopped) => return Ok(Outcome::Stopped),
            Err(error) if self.ends_all(&error) => return Err(error.into()),
            // One scan that cannot be predicted does not stop the others.
            Err(error) => return Ok(Outcome::Skipped(format!("{:#}", anyhow::Error::from(error)))),
        };
        let Prediction { info, exported, .. } = &mut prediction;
        let cleared = cleared(keep_largest(&mut exported.labels, info.shape, &self.to_clean));
        for finding in &prediction.findings {
            note(format_args!("{label}: check: {finding}"));
        }
        // A folder that takes no more files stops the others.
        let labelled = write_files(&prediction, self.places, case, scan)?;
        let secs = started.elapsed().as_secs_f64();
        Ok(Outcome::Written {
            summary: format!("{labelled:.1} % of the voxels labelled{cleared}, {secs:.1} s"),
            has_findings: !prediction.findings.is_empty(),
        })
    }

    /// Predicts the labels of a scan, with a progress bar or lines of progress.
    fn labels(&self, scan: &Path, label: &str, started: Instant) -> Result<Prediction, ScanPredictionError> {
        let Self { args, progress, .. } = self;
        progress.beat_at(format!("of {label}"));
        let bar = bar(label);
        let mut lines = bar.is_hidden().then(|| ProgressLines::new(started));
        let on_suspect = args.on_suspect.into();
        let result = self.predictor.predict(scan, on_suspect, args.probabilities, &self.stop, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            progress.beat_at(format!("of {label} after {done} of {total} windows"));
            if let Some(line) = lines.as_mut().and_then(|lines| lines.next(Instant::now(), done, total)) {
                note(format_args!("{label}: {line}"));
            }
        });
        bar.finish_and_clear();
        result
    }

    /// Returns whether an error ends the command: a suspicious scan by the user's choice; a lost device, which fails
    /// with every scan, unlike one whose memory a smaller scan may fit in.
    fn ends_all(&self, error: &ScanPredictionError) -> bool {
        let is_suspect = matches!(error, ScanPredictionError::Suspect { .. });
        error.lost_device() || (is_suspect && self.args.on_suspect == OnSuspectArg::Fail)
    }
}

/// Clause with the number of voxels that `--keep-largest` cleared, for the line of a scan.
fn cleared(num_voxels: usize) -> String {
    match num_voxels {
        0 => String::new(),
        _ => format!(", {} outside of largest parts cleared", count(num_voxels, "voxel")),
    }
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
