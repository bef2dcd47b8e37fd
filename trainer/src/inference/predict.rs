//! Prediction of label maps: from a scan's file to the classes of its voxels.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hiend_loader::case::ImageRole;
use hiend_loader::convert::{Judged, OnSuspect, Suspicion, check_extent};
use hiend_loader::nifti::{NiftiError, NiftiInfo, read_info, read_volume};
use hiend_loader::preprocess::window::window_units;
use hiend_loader::preprocess::{Prepared, PreprocessConfig, preprocess};
use hiend_loader::stop::Stop;
use thiserror::Error;

use super::export::{Exported, LabelExport};
use super::{InferenceError, predict_windows, windows_at_a_time};
use crate::checkpoint::{self, CheckpointError, Kind, State};
use crate::config::finetune::FinetuneConfig;
use crate::device::Compute;
use crate::model::init::WeightInit;
use crate::model::unetr::Unetr;
use crate::model_source::{ModelSource, ModelSourceError};
use crate::sliding_window::{InputVolume, SlidingWindow, SlidingWindowError, Weighting};

/// Errors from opening a predictor.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A path that names no fine-tuned model.
    #[error(transparent)]
    Source(#[from] ModelSourceError),
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Window settings out of range.
    #[error(transparent)]
    Settings(#[from] SlidingWindowError),
    /// A checkpoint without the preprocessing of its scans.
    #[error("{}: state.json has no config.preprocess, so scans cannot be prepared as in training", path.display())]
    NoPreprocess {
        /// The checkpoint.
        path: PathBuf,
    },
}

/// Errors from predicting a scan.
#[derive(Debug, Error)]
pub enum ScanPredictionError {
    /// A stop requested by the caller.
    #[error("stopped")]
    Stopped,
    /// A file that cannot be read.
    #[error(transparent)]
    Nifti(#[from] NiftiError),
    /// A scan whose values are not those of a CT in HU.
    #[error("{}: {suspicion}", path.display())]
    Suspect {
        /// The file.
        path: PathBuf,
        /// The sign.
        suspicion: Suspicion,
    },
    /// A scan that cannot be prepared for the network.
    #[error("{}: {reason}", path.display())]
    Unsuitable {
        /// The file.
        path: PathBuf,
        /// Reason, in one line.
        reason: String,
    },
    /// A failure of the network or of the conversion to the scan's grid.
    #[error("{}", path.display())]
    Inference {
        /// The file.
        path: PathBuf,
        /// The failure.
        source: InferenceError,
    },
}

/// Distance and weights of windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowSettings {
    /// Fraction by which adjacent windows overlap, in [0, 1).
    pub overlap: f64,
    /// Weights of a window's voxels where windows overlap.
    pub weighting: Weighting,
    /// True if each window is averaged with its seven mirror images.
    pub mirror: bool,
    /// Number of windows predicted at a time; on a CPU one, see [`windows_at_a_time`].
    pub sw_batch_size: usize,
}

/// A fine-tuned network with the preprocessing and window settings it is used with.
#[derive(Debug)]
pub struct Predictor {
    model: Unetr,
    device: Device,
    crop_size: [usize; 3],
    classes: Vec<String>,
    preprocess: PreprocessConfig,
    window: [f64; 2],
    sliding: SlidingWindow,
    images_per_window: usize,
    checkpoint: PathBuf,
}

/// Prediction of a scan.
#[derive(Debug)]
pub struct Prediction {
    /// Header of the scan.
    pub info: NiftiInfo,
    /// Labels on the scan's own grid.
    pub exported: Exported,
    /// Oddities of the scan's header and values, each in one line.
    pub findings: Vec<String>,
}

impl Predictor {
    /// Opens a fine-tuning run (its best checkpoint) or one of its checkpoints.
    ///
    /// # Errors
    /// If `path` is neither, the checkpoint cannot be read, or the settings are out of range.
    pub fn open(path: &Path, compute: &Compute, settings: WindowSettings) -> Result<Self, OpenError> {
        let checkpoint = ModelSource::find_checkpoint(path)?;
        let state: State<FinetuneConfig> = checkpoint::read_state(&checkpoint, Kind::Finetune)?;
        let config = state.config;
        // The checkpoint replaces the values; the seed does not matter.
        let model = config.unetr().init(&mut WeightInit::new(0, compute.raw()));
        let model = checkpoint::load_averaged(&checkpoint, model)?;
        let Some(preprocess) = config.preprocess else {
            return Err(OpenError::NoPreprocess { path: checkpoint });
        };
        let crop_size = config.stream.crop_size;
        let sliding =
            SlidingWindow::new(crop_size, settings.overlap, windows_at_a_time(compute, settings.sw_batch_size))?
                .with_weighting(settings.weighting)
                .with_mirroring([settings.mirror; 3]);
        Ok(Self {
            model,
            device: compute.raw().clone(),
            crop_size,
            classes: config.classes,
            window: config.stream.window.unwrap_or(preprocess.window),
            preprocess,
            sliding,
            images_per_window: if settings.mirror { 8 } else { 1 },
            checkpoint,
        })
    }

    /// Names of the classes, background first.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Folder of the checkpoint in use.
    #[must_use]
    pub fn checkpoint(&self) -> &Path {
        &self.checkpoint
    }

    /// Predicts a scan. `progress` receives the numbers of windows done and in all. `on_suspect` decides on scans whose
    /// values are not those of a CT; a label map is refused in any case.
    ///
    /// Besides the scan itself, memory holds its resampled volume as f32 and as 16-bit quantized values, the label map,
    /// and the buffers of the sliding window and of [`LabelExport`]; none of them grows with the number of classes
    /// times all voxels, unless probabilities are wanted.
    ///
    /// # Errors
    /// If the file cannot be read or predicted, is refused by [`OnSuspect::judge`], or `stop` was requested.
    pub fn predict(
        &self,
        path: &Path,
        on_suspect: OnSuspect,
        probabilities: bool,
        stop: &Stop,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Prediction, ScanPredictionError> {
        let unsuitable = |reason| ScanPredictionError::Unsuitable { path: path.to_owned(), reason };
        check_extent(&read_info(path)?, &self.preprocess).map_err(|err| unsuitable(err.to_string()))?;
        let scan = read_volume(path)?;
        let suspect = |suspicion| ScanPredictionError::Suspect { path: path.to_owned(), suspicion };
        let Judged { findings, .. } = on_suspect.judge(&scan, ImageRole::Assumed, self.window).map_err(suspect)?;
        let prepared = preprocess(&scan, None, &self.preprocess).map_err(|err| unsuitable(err.to_string()))?;
        let info = scan.info.clone();
        drop(scan);
        match self.label(&info, prepared, probabilities, stop, progress) {
            Ok(exported) => Ok(Prediction { info, exported, findings }),
            Err(Fault::Stopped) => Err(ScanPredictionError::Stopped),
            Err(Fault::Inference(source)) => Err(ScanPredictionError::Inference { path: path.to_owned(), source }),
        }
    }

    fn label(
        &self,
        info: &NiftiInfo,
        prepared: Prepared,
        probabilities: bool,
        stop: &Stop,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Exported, Fault> {
        let dims = prepared.shape;
        let image = window_units(&prepared.image, prepared.quantiser.offset, 1.0, self.window);
        let affine = prepared.geometry.affine;
        drop(prepared.image);
        let axis = self.sliding.slab_axis(dims);
        let mut export = LabelExport::new(info.shape, &info.affine, dims, &affine, axis)?;
        if probabilities {
            export = export.with_probabilities();
        }
        let total = self.sliding.num_windows(dims) * self.images_per_window;
        let mut done = 0;
        progress(0, total);
        self.sliding.run(
            InputVolume::new(&image, 1, dims)?,
            |windows, num_windows| {
                if stop.is_requested() {
                    return Err(Fault::Stopped);
                }
                let logits = predict_windows(&self.model, &self.device, self.crop_size, windows, num_windows)?;
                done += num_windows;
                progress(done, total);
                Ok(logits)
            },
            |slab| Ok(export.push(slab)?),
        )?;
        Ok(export.finish()?)
    }
}

/// Errors from making a label map, without the scan's path.
enum Fault {
    Stopped,
    Inference(InferenceError),
}

impl<E: Into<InferenceError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Inference(error.into())
    }
}
