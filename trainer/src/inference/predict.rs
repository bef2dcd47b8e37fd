//! From a scan's file to the classes of its voxels.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hiend_loader::convert::check_extent;
use hiend_loader::nifti::{NiftiError, NiftiInfo, read_info, read_volume};
use hiend_loader::preprocess::window::window_units;
use hiend_loader::preprocess::{Prepared, PreprocessConfig, preprocess};
use thiserror::Error;

use super::export::{Exported, LabelExport};
use super::sliding_window::{InputVolume, SlidingWindow, SlidingWindowError, Weighting};
use super::{PredictError, predict_windows};
use crate::checkpoint::{self, CheckpointError, Kind, State};
use crate::config::finetune::FinetuneConfig;
use crate::device::Compute;
use crate::model::init::WeightInit;
use crate::model::unetr::Unetr;
use crate::model_source::{ModelSource, ModelSourceError};
use crate::stop::Stop;

/// Why there is nothing to predict with.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no run.
    #[error(transparent)]
    Source(#[from] ModelSourceError),
    /// Its checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A setting out of range.
    #[error(transparent)]
    Settings(#[from] SlidingWindowError),
    /// A checkpoint that does not say how scans were prepared.
    #[error("{}: the configuration says nothing of preprocessing", path.display())]
    NoPreprocess {
        /// The checkpoint.
        path: PathBuf,
    },
}

/// Why a scan could not be predicted.
#[derive(Debug, Error)]
pub enum ScanPredictionError {
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
    /// The file cannot be read.
    #[error(transparent)]
    Nifti(#[from] NiftiError),
    /// The scan is none that the network can take.
    #[error("{}: {reason}", path.display())]
    Unsuitable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The network or the way back failed.
    #[error("{}", path.display())]
    Predict {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: PredictError,
    },
}

/// How windows are laid and averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowSettings {
    /// Part of a window that the next one covers again, in [0, 1).
    pub overlap: f64,
    /// How overlapping windows are averaged.
    pub weighting: Weighting,
    /// Whether each window is averaged with its seven mirror images.
    pub mirror: bool,
    /// Windows predicted at a time.
    pub sw_batch_size: usize,
}

/// A trained network with everything needed to use it.
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

/// A scan's voxels with what they were predicted to be.
#[derive(Debug)]
pub struct Prediction {
    /// Of the scan.
    pub info: NiftiInfo,
    /// On the scan's own grid.
    pub exported: Exported,
}

impl Predictor {
    /// The network of a fine-tuning run (its best checkpoint) or of one of its checkpoints.
    ///
    /// # Errors
    /// If there is none, or the settings are out of range.
    pub fn open(path: &Path, compute: &Compute, settings: WindowSettings) -> Result<Self, OpenError> {
        let checkpoint = ModelSource::find_checkpoint(path)?;
        let state: State<FinetuneConfig> = checkpoint::read_state(&checkpoint, Kind::Finetune)?;
        let config = state.config;
        // The values are replaced; the seed does not matter.
        let model = config.unetr().init(&mut WeightInit::new(0, compute.raw()));
        let model = checkpoint::load_averaged(&checkpoint, model)?;
        let Some(preprocess) = config.preprocess else {
            return Err(OpenError::NoPreprocess { path: checkpoint });
        };
        let crop_size = config.stream.crop_size;
        let sliding = SlidingWindow::new(crop_size, settings.overlap, settings.sw_batch_size)?
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

    /// Where the weights come from.
    #[must_use]
    pub fn checkpoint(&self) -> &Path {
        &self.checkpoint
    }

    /// Predicts a scan. `progress` hears how many windows of how many are done.
    ///
    /// Besides the scan itself, memory is its resampled volume as f32 and 16-bit steps, the label map, and what the
    /// sliding window and [`LabelExport`] keep; nothing of it grows with the number of classes times all voxels,
    /// unless probabilities are wanted.
    ///
    /// # Errors
    /// If the file cannot be read or predicted, or it was asked to stop.
    pub fn predict(
        &self,
        path: &Path,
        probabilities: bool,
        stop: &Stop,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Prediction, ScanPredictionError> {
        let unsuitable = |reason| ScanPredictionError::Unsuitable { path: path.to_owned(), reason };
        check_extent(&read_info(path)?, &self.preprocess).map_err(|err| unsuitable(err.to_string()))?;
        let scan = read_volume(path)?;
        let prepared = preprocess(&scan, None, &self.preprocess).map_err(|err| unsuitable(err.to_string()))?;
        let info = scan.info.clone();
        drop(scan);
        match self.label(&info, prepared, probabilities, stop, progress) {
            Ok(exported) => Ok(Prediction { info, exported }),
            Err(Fault::Stopped) => Err(ScanPredictionError::Stopped),
            Err(Fault::Predict(source)) => Err(ScanPredictionError::Predict { path: path.to_owned(), source }),
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

/// Why there is no label map.
enum Fault {
    Stopped,
    Predict(PredictError),
}

impl<E: Into<PredictError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Predict(error.into())
    }
}
