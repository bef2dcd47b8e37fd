//! Prediction of label maps: from a scan's file to the classes of its voxels.

use std::path::{Path, PathBuf};

use hiend_loader::case::ImageRole;
use hiend_loader::convert::{Judged, OnSuspect, Suspicion, check_extent};
use hiend_loader::preprocess::normalize::{Normalize, Units};
use hiend_loader::preprocess::{Prepared, PreprocessConfig, preprocess};
use hiend_loader::stop::Stop;
use hiend_loader::volume::{VolumeError, VolumeInfo, read_info_for, read_volume_for};
use thiserror::Error;

use super::export::{Exported, LabelExport};
use super::window_batch::WindowBatch;
use super::{InferenceError, predict_volume};
use crate::checkpoint::{self, CheckpointError, Kind, State};
use crate::config::finetune::FinetuneConfig;
use crate::device::Compute;
use crate::model::init::WeightInit;
use crate::model::unetr::Unetr;
use crate::model_source::{ModelSource, ModelSourceError};
use crate::sliding_window::{InputVolume, SlidingWindow, SlidingWindowError, Weighting};
use crate::trained_on::differing;

/// Errors from opening a predictor.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A path that names no fine-tuned model.
    #[error(transparent)]
    Source(#[from] ModelSourceError),
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Window settings that are out of range.
    #[error(transparent)]
    Settings(#[from] SlidingWindowError),
    /// Models whose predictions cannot be averaged as an ensemble.
    #[error("{} and {}: the two differ in {key}; the models of an ensemble must agree on it", first.display(), other.display())]
    Unlike {
        /// Checkpoint of the first model.
        first: PathBuf,
        /// Checkpoint of the model that differs.
        other: PathBuf,
        /// Configuration key in which they differ.
        key: String,
    },
    /// A checkpoint given twice.
    #[error("{}: given twice; its probabilities would count double", path.display())]
    Twice {
        /// Path of the checkpoint.
        path: PathBuf,
    },
    /// A checkpoint that does not state how its scans were preprocessed.
    #[error("{}: state.json has no config.preprocess, so scans cannot be prepared as in training", path.display())]
    NoPreprocess {
        /// Path of the checkpoint.
        path: PathBuf,
    },
}

/// Errors from predicting a scan.
#[derive(Debug, Error)]
pub enum ScanPredictionError {
    /// The caller requested a stop.
    #[error("stopped")]
    Stopped,
    /// A file that cannot be read.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A scan whose values are not those of a CT in HU.
    #[error("{}: {suspicion}", path.display())]
    Suspect {
        /// Path of the scan.
        path: PathBuf,
        /// Reason why the values are suspicious.
        suspicion: Suspicion,
    },
    /// A scan that cannot be prepared for the network.
    #[error("{}: {reason}", path.display())]
    Unsuitable {
        /// Path of the scan.
        path: PathBuf,
        /// Reason, in one line.
        reason: String,
    },
    /// A failure of the network or of the conversion to the scan's grid.
    #[error("{}", path.display())]
    Inference {
        /// Path of the scan.
        path: PathBuf,
        /// Failure of the network or the conversion.
        source: InferenceError,
    },
}

impl ScanPredictionError {
    /// Returns true if the device failed for a reason other than the size of the scan.
    #[must_use]
    pub fn lost_device(&self) -> bool {
        matches!(self, Self::Inference { source: InferenceError::Device(error), .. } if !error.is_out_of_memory())
    }
}

/// Overlap, weighting and batch size of windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowSettings {
    /// Fraction by which adjacent windows overlap, in [0, 1).
    pub overlap: f64,
    /// Weights of a window's voxels where windows overlap.
    pub weighting: Weighting,
    /// True if each window is averaged with its seven mirror images.
    pub mirror: bool,
    /// Maximum number of windows predicted at a time, see [`WindowBatch`].
    pub sw_batch_size: usize,
}

/// Fine-tuned networks with their preprocessing and window settings.
#[derive(Debug)]
pub struct Predictor {
    /// Networks, at least one; the probabilities of several are averaged.
    models: Vec<Unetr>,
    compute: Compute,
    classes: Vec<String>,
    preprocess: PreprocessConfig,
    units: Units,
    sliding: SlidingWindow,
    batch: WindowBatch,
    images_per_window: usize,
    checkpoints: Vec<PathBuf>,
}

/// Prediction of a scan.
#[derive(Debug)]
pub struct Prediction {
    /// Header of the scan's file.
    pub info: VolumeInfo,
    /// Labels on the scan's own grid.
    pub exported: Exported,
    /// Unusual features of the scan's header and values, each in one line.
    pub findings: Vec<String>,
}

impl Predictor {
    /// Opens fine-tuning runs (their best checkpoints) or individual checkpoints.
    ///
    /// # Errors
    /// If a path is neither, a checkpoint cannot be read, the models differ in classes, crops or preprocessing, or the
    /// settings are out of range.
    ///
    /// # Panics
    /// If `paths` is empty.
    pub fn open(paths: &[PathBuf], compute: &Compute, settings: WindowSettings) -> Result<Self, OpenError> {
        let opened: Vec<Opened> = paths.iter().map(|path| Opened::read(path, compute)).collect::<Result<_, _>>()?;
        // Different paths can lead to one checkpoint.
        let real = |opened: &Opened| opened.checkpoint.canonicalize().unwrap_or_else(|_| opened.checkpoint.clone());
        for (number, other) in opened.iter().enumerate() {
            if opened[..number].iter().any(|earlier| real(earlier) == real(other)) {
                return Err(OpenError::Twice { path: other.checkpoint.clone() });
            }
            let first = &opened[0];
            if let Some(key) = first.other_key(other) {
                let [first, other] = [first, other].map(|opened| opened.checkpoint.clone());
                return Err(OpenError::Unlike { first, other, key });
            }
        }
        opened[0].config.train.convolutions.settle();
        let (crop_size, units) = (opened[0].config.stream.crop_size, opened[0].units());
        let sliding = SlidingWindow::new(crop_size, settings.overlap, settings.sw_batch_size)?
            .with_weighting(settings.weighting)
            .with_mirroring([settings.mirror; 3]);
        let (classes, preprocess) = (opened[0].config.classes.clone(), opened[0].preprocess.clone());
        let (models, checkpoints) = opened.into_iter().map(|opened| (opened.model, opened.checkpoint)).unzip();
        Ok(Self {
            models,
            compute: compute.clone(),
            classes,
            units,
            preprocess,
            sliding,
            batch: WindowBatch::new(settings.sw_batch_size),
            images_per_window: if settings.mirror { 8 } else { 1 },
            checkpoints,
        })
    }

    /// Names of the classes, background first.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Folders of the checkpoints that are used.
    #[must_use]
    pub fn checkpoints(&self) -> &[PathBuf] {
        &self.checkpoints
    }

    /// Predicts a scan. `progress` receives the number of windows done and the number of all windows. `on_suspect`
    /// decides on scans that do not look like a CT; a label map is always rejected.
    ///
    /// In addition to the scan itself, memory holds its resampled volume as f32 and as 16-bit quantized values, the label map,
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
        let normalize = self.preprocess.normalize;
        check_extent(&read_info_for(path, normalize.into())?, &self.preprocess)
            .map_err(|err| unsuitable(err.to_string()))?;
        let scan = read_volume_for(path, normalize.into())?;
        let suspect = |suspicion| ScanPredictionError::Suspect { path: path.to_owned(), suspicion };
        let window = match self.units {
            Units::Window(window) => window,
            Units::ZScores => self.preprocess.window,
        };
        let judged = on_suspect.judge(&scan, ImageRole::Assumed, normalize, window);
        let Judged { findings, .. } = judged.map_err(suspect)?;
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
        info: &VolumeInfo,
        prepared: Prepared,
        probabilities: bool,
        stop: &Stop,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Exported, Fault> {
        let dims = prepared.shape;
        let image = self.units.values(&prepared.image, prepared.quantiser.offset, prepared.quantiser.scale);
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
        let before = |num_windows: usize| {
            if stop.is_requested() {
                return Err(Fault::Stopped);
            }
            progress(done, total);
            done += num_windows;
            Ok(())
        };
        let volume = InputVolume::new(&image, 1, dims)?;
        let sliding = self.batch.fit(&self.models, &self.compute, self.sliding, dims)?;
        predict_volume(&self.models, self.compute.raw(), &sliding, volume, before, |slab| Ok(export.push(slab)?))?;
        progress(total, total);
        Ok(export.finish()?)
    }
}

/// Normalisation of the training scans of the model at `path`, read only from the checkpoint's description.
///
/// # Errors
/// If the path names no fine-tuned model, or its checkpoint cannot be read or does not say how scans were prepared.
pub fn normalize_of(path: &Path) -> Result<Normalize, OpenError> {
    let checkpoint = ModelSource::find_checkpoint(path)?;
    let state: State<FinetuneConfig> = checkpoint::read_state(&checkpoint, Kind::Finetune)?;
    let preprocess = state.config.preprocess.ok_or(OpenError::NoPreprocess { path: checkpoint })?;
    Ok(preprocess.normalize)
}

/// A checkpoint opened for prediction.
struct Opened {
    checkpoint: PathBuf,
    config: FinetuneConfig,
    preprocess: PreprocessConfig,
    model: Unetr,
}

impl Opened {
    fn read(path: &Path, compute: &Compute) -> Result<Self, OpenError> {
        let checkpoint = ModelSource::find_checkpoint(path)?;
        let state: State<FinetuneConfig> = checkpoint::read_state(&checkpoint, Kind::Finetune)?;
        let config = state.config;
        // The checkpoint replaces the values; the seed does not matter.
        let model = config.unetr().init(&mut WeightInit::new(0, compute.raw()));
        let model = checkpoint::load_averaged(&checkpoint, model)?;
        match config.preprocess.clone() {
            Some(preprocess) => Ok(Self { checkpoint, config, preprocess, model }),
            None => Err(OpenError::NoPreprocess { path: checkpoint }),
        }
    }

    /// Units of the network's input.
    fn units(&self) -> Units {
        self.preprocess.units(self.config.stream.window)
    }

    /// First key in which another model must not differ but does, with the settings of preprocessing that differ; `None` if
    /// there is no such key.
    fn other_key(&self, other: &Self) -> Option<String> {
        let (a, b) = (&self.config, &other.config);
        if a.classes != b.classes {
            Some("classes".to_owned())
        } else if a.stream.crop_size != b.stream.crop_size {
            Some("stream.crop_size".to_owned())
        } else if self.preprocess != other.preprocess {
            let [ours, theirs] = differing(&self.preprocess, &other.preprocess);
            Some(format!("preprocess ({ours}; {theirs})"))
        } else {
            (self.units() != other.units()).then(|| "stream.window".to_owned())
        }
    }
}

/// Errors from predicting a label map, without the scan's path.
enum Fault {
    Stopped,
    Inference(InferenceError),
}

impl<E: Into<InferenceError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Inference(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::DeviceError;

    #[test]
    fn a_device_is_lost_by_any_failure_but_exhausted_memory() {
        let of = |message: &str| {
            let source = InferenceError::Device(DeviceError { message: message.to_owned() });
            ScanPredictionError::Inference { path: PathBuf::from("a.nii"), source }
        };
        assert!(of("unknown error").lost_device());
        // The texts of an allocation that does not fit now, and of one that never fits.
        assert!(!of("out of device memory allocating 2654208 bytes").lost_device());
        assert!(!of("can't allocate buffer of size: 4398046511104").lost_device());
        assert!(!of("CUDA_ERROR_OUT_OF_MEMORY").lost_device());
        assert!(!ScanPredictionError::Stopped.lost_device());
    }
}
