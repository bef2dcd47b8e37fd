//! Sources of a model: `--model` accepts the folder of a run or of a checkpoint, a `.pth` or a `.safetensors` file.
//!
//! A checkpoint contains its model's sizes. A weight file does not: its sizes are given, or those of the preset that
//! its tensors fit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use hiend_cache::{FileError, lookup};

use crate::checkpoint::{self, Best, CheckpointError, Kind, State};
use crate::config::finetune::FinetuneConfig;
use crate::config::pretrain::{PretrainConfig, PretrainPreset};
use crate::device::Compute;
use crate::model::hi_end_mae::{HiEndMae, HiEndMaeConfig};
use crate::model::init::WeightInit;
use crate::model::patch_embed::grid_of;
use crate::trained_on::TrainedOn;
use crate::weights::{
    DECODER_POSITIONS, ImportReport, ModelKind, StateDict, WeightsError, export_hi_end_mae, export_unetr,
    import_hi_end_mae,
};

/// Errors from finding or loading a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelSourceError {
    /// A path that does not exist.
    #[error("{}: no such file or folder", path.display())]
    Absent {
        /// Path as given.
        path: PathBuf,
    },
    /// A path that cannot be accessed.
    #[error(transparent)]
    Unreadable(#[from] FileError),
    /// A folder that is neither a run nor a checkpoint.
    #[error("{}: neither a run (checkpoints/) nor a checkpoint (state.json)", path.display())]
    NoModel {
        /// Path as given.
        path: PathBuf,
    },
    /// A run without a checkpoint.
    #[error("{}: this run has no checkpoint yet", path.display())]
    NoCheckpoint {
        /// Path as given.
        path: PathBuf,
    },
    /// A weight file where a run is needed.
    #[error("{}: expected the folder of a fine-tuning run or of one of its checkpoints", path.display())]
    NoRun {
        /// Path as given.
        path: PathBuf,
    },
    /// Sizes given for a checkpoint, which has its own.
    #[error("{}: a checkpoint contains its model's sizes; leave out --preset and --config", path.display())]
    SizesGiven {
        /// Path as given.
        path: PathBuf,
    },
    /// A weight file of unknown sizes.
    #[error("{}: its tensors fit no preset; give the model's sizes with --config FILE.toml", path.display())]
    UnknownSizes {
        /// Path as given.
        path: PathBuf,
    },
    /// A weight file whose encoder has a number of blocks other than the given sizes; excess blocks would be dropped.
    #[error("{}: its encoder has {found} blocks, but the given sizes say depth = {expected}", path.display())]
    OtherDepth {
        /// Path as given.
        path: PathBuf,
        /// Number of blocks in the file.
        found: usize,
        /// Number of blocks in the given sizes.
        expected: usize,
    },
    /// A weight file whose fixed positions belong to another grid with equally many patches, which the shapes of the
    /// tensors do not reveal.
    #[error(
        "{}: its positions are for {} patches along x, y, z, but stream.crop_size of the given sizes makes {}; give the \
         crop_size of its pre-training",
        path.display(), sides(*found), sides(*expected)
    )]
    OtherGrid {
        /// Path as given.
        path: PathBuf,
        /// Number of patches along each axis for the positions in the file.
        found: [usize; 3],
        /// Number of patches along each axis for the given sizes.
        expected: [usize; 3],
    },
    /// A UNETR where a pre-training model is needed.
    #[error("{}: holds a UNETR (vit.blocks…); expected a pre-training model (encoder.blocks…)", path.display())]
    IsUnetr {
        /// Path as given.
        path: PathBuf,
    },
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A weight file that cannot be read.
    #[error(transparent)]
    File(WeightsError),
    /// Weights that do not fit the model.
    #[error("{}", path.display())]
    Weights {
        /// Path of the weight file.
        path: PathBuf,
        /// Difference between weights and model.
        source: WeightsError,
    },
}

/// Formats the sides of a grid.
fn sides([x, y, z]: [usize; 3]) -> String {
    format!("{x} × {y} × {z}")
}

/// A model found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// Folder of a checkpoint.
    Checkpoint(PathBuf),
    /// Weight file.
    File(PathBuf),
}

impl ModelSource {
    /// Determines the kind of model at a path. For a run, selects the best checkpoint; if no checkpoint was validated
    /// or the best no longer exists, selects the newest and logs that.
    ///
    /// # Errors
    /// If it is neither a file nor the folder of a run or a checkpoint, or cannot be accessed.
    pub fn find(path: &Path) -> Result<Self, ModelSourceError> {
        let given = || path.to_owned();
        match lookup::metadata(path)? {
            None => return Err(ModelSourceError::Absent { path: given() }),
            Some(metadata) if metadata.is_file() => return Ok(Self::File(given())),
            Some(_) => {}
        }
        if checkpoint::is_checkpoint(path)? {
            return Ok(Self::Checkpoint(given()));
        }
        let checkpoints = path.join("checkpoints");
        if !lookup::is_dir(&checkpoints)? {
            return Err(ModelSourceError::NoModel { path: given() });
        }
        let best = checkpoint::best(&checkpoints)?;
        let best = best.ok_or_else(|| ModelSourceError::NoCheckpoint { path: given() })?;
        if let Some(Best { step, .. }) = checkpoint::lost_best(&checkpoints)? {
            warn_once(
                path,
                &format!(
                    "the best checkpoint, that of step {step}, is gone; the newest one, {}, is used",
                    best.display()
                ),
            );
        }
        Ok(Self::Checkpoint(best))
    }

    /// Determines the checkpoint at a path, in the same way as [`Self::find`].
    ///
    /// # Errors
    /// See [`Self::find`]; also if the path is a weight file.
    pub fn find_checkpoint(path: &Path) -> Result<PathBuf, ModelSourceError> {
        match Self::find(path)? {
            Self::Checkpoint(path) => Ok(path),
            Self::File(path) => Err(ModelSourceError::NoRun { path }),
        }
    }

    /// Path of the file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Checkpoint(path) | Self::File(path) => path,
        }
    }
}

/// Logs a warning about a path only once, however often the path is looked up.
fn warn_once(path: &Path, message: &str) {
    static REPORTED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let is_new = REPORTED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
    if is_new {
        tracing::warn!("{}: {message}", path.display());
    }
}

/// Weights of a checkpoint with facts of its run.
#[derive(Clone, Debug)]
pub struct CheckpointWeights {
    /// All tensors under `PyTorch`'s names, averaged ones if the checkpoint has them.
    pub state: StateDict,
    /// Facts that the tensors do not reveal.
    pub facts: RunFacts,
}

/// Facts of the run that produced the weights, as far as they are known. A weight file contains none of them.
#[derive(Clone, Debug, Default)]
pub struct RunFacts {
    /// Sizes of the model of a pre-training run.
    pub sizes: Option<HiEndMaeConfig>,
    /// Number of attention heads of the encoder.
    pub num_heads: Option<usize>,
    /// Encoder layers that the decoder of a UNETR reads; its trained branches belong to them.
    pub taps: Option<[usize; 3]>,
    /// Crop size for which the model was trained, in voxels.
    pub crop_size: Option<[usize; 3]>,
    /// Kind of scans on which the model was trained.
    pub trained_on: Option<TrainedOn>,
    /// Class names of a fine-tuning run, background first; empty for other weights.
    pub classes: Vec<String>,
}

/// Reads the weights of a checkpoint of either kind.
///
/// # Errors
/// If the checkpoint cannot be read.
pub fn weights_of(checkpoint: &Path) -> Result<CheckpointWeights, ModelSourceError> {
    let weights = |source| ModelSourceError::Weights { path: checkpoint.to_owned(), source };
    let device = Compute::cpu().raw().clone();
    match checkpoint::read_head(checkpoint)?.kind {
        Kind::Pretrain => {
            let state: State<PretrainConfig> = checkpoint::read_state(checkpoint, Kind::Pretrain)?;
            let model = checkpoint::load_averaged(checkpoint, first_weights(&state.config, &device))?;
            let trained_on = Some(TrainedOn::of(&state.config));
            let PretrainConfig { model: sizes, stream, .. } = state.config;
            let (num_heads, crop_size) = (Some(sizes.num_heads), Some(stream.crop_size));
            let facts = RunFacts { sizes: Some(sizes), num_heads, crop_size, trained_on, ..RunFacts::default() };
            Ok(CheckpointWeights { state: export_hi_end_mae(&model).map_err(weights)?, facts })
        }
        Kind::Finetune => {
            let state: State<FinetuneConfig> = checkpoint::read_state(checkpoint, Kind::Finetune)?;
            // The checkpoint replaces the values; the seed does not matter.
            let model = state.config.unetr().init(&mut WeightInit::new(0, &device));
            let model = checkpoint::load_averaged(checkpoint, model)?;
            let trained_on = Some(TrainedOn::of(&state.config));
            let FinetuneConfig { model: settings, stream, classes, .. } = state.config;
            let (num_heads, crop_size) = (Some(settings.num_heads), Some(stream.crop_size));
            let taps = Some(settings.taps);
            let facts = RunFacts { num_heads, taps, crop_size, trained_on, classes, ..RunFacts::default() };
            Ok(CheckpointWeights { state: export_unetr(&model).map_err(weights)?, facts })
        }
    }
}

/// A pre-training model with its weights.
#[derive(Debug)]
pub struct Pretrained {
    /// Pre-training model with the weights loaded.
    pub model: HiEndMae,
    /// Configuration with the sizes of the model and of its crops.
    pub config: PretrainConfig,
    /// File or checkpoint of the weights.
    pub path: PathBuf,
    /// Preset that was found to fit the file's tensors, if no sizes were given.
    pub found_preset: Option<PretrainPreset>,
    /// Tensors taken and skipped from a file; `None` for a checkpoint, whose tensors all match.
    pub report: Option<ImportReport>,
}

impl Pretrained {
    /// Loads the pre-training model at `path`; `sizes` are for weight files, which do not contain them. The device
    /// needs autodiff only if the model is to be trained.
    ///
    /// # Errors
    /// If there is no pre-training model, it cannot be read, or its sizes are unknown or do not fit.
    pub fn load(path: &Path, sizes: Option<PretrainConfig>, device: &Device) -> Result<Self, ModelSourceError> {
        match ModelSource::find(path)? {
            ModelSource::Checkpoint(path) if sizes.is_some() => Err(ModelSourceError::SizesGiven { path }),
            ModelSource::Checkpoint(path) => {
                let state: State<PretrainConfig> = checkpoint::read_state(&path, Kind::Pretrain)?;
                let config = state.config;
                let model = checkpoint::load_averaged(&path, first_weights(&config, device))?;
                Ok(Self { model, config, path, found_preset: None, report: None })
            }
            ModelSource::File(path) => Self::of_file(path, sizes, device),
        }
    }

    fn of_file(path: PathBuf, sizes: Option<PretrainConfig>, device: &Device) -> Result<Self, ModelSourceError> {
        let state = StateDict::read(&path).map_err(ModelSourceError::File)?;
        match state.model_kind() {
            Ok(ModelKind::Pretraining) => {
                if let Err(source) = state.check_has_decoder() {
                    return Err(ModelSourceError::Weights { path, source });
                }
            }
            Ok(ModelKind::Unetr) => return Err(ModelSourceError::IsUnetr { path }),
            Err(source) => return Err(ModelSourceError::Weights { path, source }),
        }
        let (config, found_preset) = if let Some(config) = sizes {
            (config, None)
        } else {
            let found = PretrainPreset::ALL.into_iter().find(|preset| fits(&state, &preset.config()));
            let Some(preset) = found else { return Err(ModelSourceError::UnknownSizes { path }) };
            (preset.config(), Some(preset))
        };
        let expected = config.model.depth;
        if let Some(found) = state.num_blocks().filter(|&found| found != expected) {
            return Err(ModelSourceError::OtherDepth { path, found, expected });
        }
        let expected = grid_of(config.stream.crop_size, config.model.patch_size);
        // A table of another length is an error of its shape.
        let is_as_long = |grid: &[usize; 3]| grid.iter().product::<usize>() == expected.iter().product::<usize>();
        if let Some(found) = state.position_grid().filter(|found| is_as_long(found) && *found != expected) {
            return Err(ModelSourceError::OtherGrid { path, found, expected });
        }
        match import_hi_end_mae(first_weights(&config, device), &state) {
            Ok((model, report)) => Ok(Self { model, config, path, found_preset, report: Some(report) }),
            Err(source) => Err(ModelSourceError::Weights { path, source }),
        }
    }
}

/// Creates a model with initial weights that are to be replaced.
fn first_weights(config: &PretrainConfig, device: &Device) -> HiEndMae {
    config.model.init(config.stream.crop_size, &mut WeightInit::new(0, device))
}

/// Returns true if the tensors that depend on a model's sizes have the shapes that `config` implies.
fn fits(state: &StateDict, config: &PretrainConfig) -> bool {
    let has = |key: &str, shape: &[usize]| state.tensors.get(key).is_some_and(|tensor| tensor.shape == shape);
    let model = &config.model;
    let p = model.patch_size;
    let grid = grid_of(config.stream.crop_size, p);
    let num_patches = grid.iter().product();
    let block = |idx: usize| state.tensors.contains_key(&format!("encoder.blocks.{idx}.norm1.weight"));
    has("encoder.patch_embed.proj.weight", &[model.embed_dim, 1, p, p, p])
        && has(DECODER_POSITIONS, &[1, num_patches, model.decoder_embed_dim])
        && state.position_grid().is_none_or(|found| found == grid)
        && block(model.depth - 1)
        && !block(model.depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::small_pretraining;
    use crate::weights::nnssl::encoder_of;
    use crate::weights::safetensors;

    #[test]
    fn sizes_of_a_weight_file_are_given_or_those_of_a_preset() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let path = folder.path().join("small.safetensors");
        let state = export_hi_end_mae(&first_weights(&small_pretraining(8), &device)).unwrap();
        safetensors::write(&path, &state).unwrap();
        let message = Pretrained::load(&path, None, &device).unwrap_err().to_string();
        assert!(message.contains("small.safetensors: its tensors fit no preset"), "{message}");
        let loaded = Pretrained::load(&path, Some(small_pretraining(8)), &device).unwrap();
        assert_eq!(export_hi_end_mae(&loaded.model).unwrap(), state);
        assert_eq!(loaded.report.unwrap().taken.len(), state.tensors.len());
        let mut shallow = small_pretraining(8);
        shallow.model.depth -= 1;
        let message = Pretrained::load(&path, Some(shallow), &device).unwrap_err().to_string();
        assert!(message.ends_with("its encoder has 12 blocks, but the given sizes say depth = 11"), "{message}");

        let mut flat = small_pretraining(8);
        flat.stream.crop_size = [32, 16, 8];
        let message = Pretrained::load(&path, Some(flat), &device).unwrap_err().to_string();
        let grids = "its positions are for 2 × 2 × 2 patches along x, y, z, but stream.crop_size of the given sizes makes \
                     4 × 2 × 1;";
        assert!(message.contains(grids), "{message}");

        let encoder = folder.path().join("encoder.safetensors");
        safetensors::write(&encoder, &encoder_of(&state)).unwrap();
        for sizes in [None, Some(small_pretraining(8))] {
            let error = Pretrained::load(&encoder, sizes, &device).unwrap_err();
            let message = format!("{:#}", anyhow::Error::from(error));
            assert!(message.contains("encoder.safetensors") && message.contains("--format nnssl"), "{message}");
        }

        let path = folder.path().join("tiny.safetensors");
        let state = export_hi_end_mae(&first_weights(&PretrainPreset::Tiny.config(), &device)).unwrap();
        safetensors::write(&path, &state).unwrap();
        assert_eq!(Pretrained::load(&path, None, &device).unwrap().found_preset, Some(PretrainPreset::Tiny));
        // As many patches of the same size, in crops of another shape.
        let mut flat = PretrainPreset::Tiny.config();
        flat.stream.crop_size = [192, 96, 48];
        let state = export_hi_end_mae(&first_weights(&flat, &device)).unwrap();
        safetensors::write(&path, &state).unwrap();
        let message = Pretrained::load(&path, None, &device).unwrap_err().to_string();
        assert!(message.contains("its tensors fit no preset"), "{message}");
        assert!(Pretrained::load(&path, Some(flat), &device).unwrap().found_preset.is_none());
    }

    #[test]
    fn paths_without_a_model_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: &Path, expected: &str| {
            let message = ModelSource::find(path).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(&folder.path().join("none"), "no such file or folder");
        check(folder.path(), "neither a run");
        std::fs::create_dir(folder.path().join("checkpoints")).unwrap();
        check(folder.path(), "no checkpoint yet");
    }
}
