//! Initial weights of a fine-tuning.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use hiend_loader::plural::count;
use hiend_loader::preprocess::normalize::Normalize;
use thiserror::Error;

use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::model::unetr::Unetr;
use crate::model_source::{CheckpointWeights, ModelSource, ModelSourceError, weights_of};
use crate::training::Beginning;
use crate::weights::download::{DownloadError, Downloaded, Downloads};
use crate::weights::{HostTensor, ImportReport, StateDict, WeightsError, export_unetr, import_unetr};

/// Name of the position table in a pre-training checkpoint.
const POSITIONS: &str = "encoder_pos_embed";

/// Errors from reading or applying initial weights.
#[derive(Debug, Error)]
pub enum InitError {
    /// A path that names no model.
    #[error(transparent)]
    Source(#[from] ModelSourceError),
    /// A weight file that cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file that cannot be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// A downloaded file that cannot be read.
    #[error("{url}: not usable; remove {} to download it again", path.display())]
    Downloaded {
        /// URL of the file.
        url: String,
        /// The downloaded copy.
        path: PathBuf,
        /// The fault.
        source: WeightsError,
    },
    /// Weights of another model.
    #[error("{} does not fit the model of the configuration", origin.display())]
    Unfit {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// The first mismatch.
        source: WeightsError,
    },
}

/// Initial weights.
#[derive(Debug, Default)]
pub enum Init {
    /// Random weights.
    #[default]
    Random,
    /// Weights of a run, a checkpoint or a file.
    Given {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// All tensors, under `PyTorch`'s names.
        state: StateDict,
        /// Sizes of the pre-trained model; a weight file does not contain them.
        sizes: Option<HiEndMaeConfig>,
        /// Normalisation of the scans that the weights were trained on; a weight file does not contain it.
        normalize: Option<Normalize>,
    },
    /// A weight file on the web, downloaded when a run begins with it: after everything else was checked.
    Remote {
        /// URL of the file.
        url: String,
        /// Place of the copy, and settings of the request.
        downloads: Downloads,
    },
}

impl Init {
    /// Reads `path`: the folder of a run (its best or newest checkpoint) or of a checkpoint, or a `.pth` or
    /// `.safetensors` file.
    ///
    /// # Errors
    /// If `path` is none of these, or cannot be read.
    pub fn read(path: &Path) -> Result<Self, InitError> {
        let origin = match ModelSource::find(path)? {
            ModelSource::File(origin) => {
                let state = StateDict::read(&origin)?;
                return Ok(Self::Given { origin, state, sizes: None, normalize: None });
            }
            ModelSource::Checkpoint(origin) => origin,
        };
        let CheckpointWeights { state, sizes, normalize } = weights_of(&origin)?;
        Ok(Self::Given { origin, state, sizes, normalize: Some(normalize) })
    }

    /// Weights of a file on the web. Requests nothing yet.
    ///
    /// # Errors
    /// If the URL names no weight file.
    pub fn of_url(url: &str, downloads: Downloads) -> Result<Self, InitError> {
        downloads.check(url)?;
        Ok(Self::Remote { url: url.to_owned(), downloads })
    }

    /// Sizes of the pre-trained model, if they are known.
    #[must_use]
    pub fn sizes(&self) -> Option<&HiEndMaeConfig> {
        match self {
            Self::Given { sizes, .. } => sizes.as_ref(),
            Self::Random | Self::Remote { .. } => None,
        }
    }

    /// Returns `model` with these weights, and a report of the tensors taken and skipped.
    ///
    /// # Errors
    /// If the weights cannot be downloaded or are another model's.
    pub(super) fn apply(&self, model: Unetr) -> Result<(Unetr, Option<Beginning>), InitError> {
        match self {
            Self::Random => Ok((model, None)),
            Self::Given { origin, state, .. } => {
                let (model, beginning) = with_weights(model, origin, state)?;
                Ok((model, Some(beginning)))
            }
            Self::Remote { url, downloads } => {
                let fetched = Fetched::of(url, downloads)?;
                let (model, beginning) = with_weights(model, &fetched.path, &fetched.state)?;
                Ok((model, Some(fetched.tell(beginning))))
            }
        }
    }
}

/// Weights of a file on the web, read from its downloaded copy.
pub(crate) struct Fetched {
    /// The copy.
    pub path: PathBuf,
    /// All tensors.
    pub state: StateDict,
    /// URL and digest.
    source: String,
    /// URL, copy, size and digest, for the console.
    line: String,
}

impl Fetched {
    /// Downloads and reads the file, unless its copy is there already.
    ///
    /// # Errors
    /// If it cannot be downloaded or read.
    pub(crate) fn of(url: &str, downloads: &Downloads) -> Result<Self, InitError> {
        let Downloaded { path, sha256, num_bytes, was_cached } = downloads.fetch(url)?;
        let unusable = |source| InitError::Downloaded { url: url.to_owned(), path: path.clone(), source };
        let state = StateDict::read(&path).map_err(unusable)?;
        let verb = if was_cached { "kept in" } else { "downloaded to" };
        let size = ByteSize(num_bytes).display().si();
        let line = format!("{url}: {verb} {}, {size}, SHA-256 {sha256}", path.display());
        Ok(Self { path, state, source: format!("{url}, SHA-256 {sha256}"), line })
    }

    /// Adds the origin of the weights to the lines about them.
    pub(crate) fn tell(&self, Beginning { summary, report }: Beginning) -> Beginning {
        Beginning { summary: format!("{}; {summary}", self.line), report: format!("{}\n{report}", self.source) }
    }
}

/// `model` with the weights of `origin`, and a report of the tensors taken and skipped.
fn with_weights(model: Unetr, origin: &Path, state: &StateDict) -> Result<(Unetr, Beginning), InitError> {
    let unfit = |source| InitError::Unfit { origin: origin.to_owned(), source };
    let (state, other_grid) = with_positions_of(&model, state).map_err(unfit)?;
    let (model, report) = import_unetr(model, &state).map_err(unfit)?;
    let ImportReport { taken, skipped, missing } = &report;
    let (taken, skipped, missing) = (taken.len(), skipped.len(), missing.len());
    let mut summary = format!(
        "weights of {}: {} taken, {skipped} skipped, {missing} new (init.txt lists them)",
        origin.display(),
        count(taken, "tensor")
    );
    if other_grid {
        summary.push_str("; positions recomputed, since the crop has another number of patches");
    }
    Ok((model, Beginning { summary, report: format!("{}\n{report}", origin.display()) }))
}

/// Replaces the position table by that of `model` where the crops have another number of patches than in pre-training,
/// and says whether it did.
///
/// The positions of pre-training are a fixed function of the grid, and so are those that a new model starts with.
fn with_positions_of(model: &Unetr, state: &StateDict) -> Result<(StateDict, bool), WeightsError> {
    let ours = export_unetr(model)?.tensors.remove("vit.patch_embedding.position_embeddings");
    match (state.tensors.get(POSITIONS), ours) {
        (Some(HostTensor { shape, .. }), Some(ours)) if other_length(shape, &ours.shape) => {
            let mut state = state.clone();
            state.tensors.insert(POSITIONS.to_owned(), ours);
            Ok((state, true))
        }
        _ => Ok((state.clone(), false)),
    }
}

/// True if two shapes `[1, L, E]` differ in L alone.
pub(crate) fn other_length(a: &[usize], b: &[usize]) -> bool {
    matches!((a, b), (&[1, a_len, a_width], &[1, b_len, b_width]) if a_len != b_len && a_width == b_width)
}
