//! The weights that a fine-tuning begins with.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::model::unetr::Unetr;
use crate::model_source::{ModelSource, ModelSourceError, weights_of};
use crate::training::Beginning;
use crate::weights::{HostTensor, ImportReport, StateDict, WeightsError, export_unetr, import_unetr};

/// Name of the position table in a pre-training checkpoint.
const POSITIONS: &str = "encoder_pos_embed";

/// Why weights cannot be begun with.
#[derive(Debug, Error)]
pub enum InitError {
    /// Nothing that has weights.
    #[error(transparent)]
    Source(#[from] ModelSourceError),
    /// A file of weights that cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Weights that are another model's.
    #[error("{} does not fit the model of the configuration", origin.display())]
    Unfit {
        /// Where they come from.
        origin: PathBuf,
        /// What does not fit.
        source: WeightsError,
    },
}

/// First weights.
#[derive(Debug, Default)]
pub enum Init {
    /// Random ones.
    #[default]
    Random,
    /// Those of a run, a checkpoint or a file.
    Given {
        /// Where they come from.
        origin: PathBuf,
        /// All of them, as `PyTorch` names them.
        state: StateDict,
        /// Sizes of the model that was pre-trained; a file does not tell.
        sizes: Option<HiEndMaeConfig>,
    },
}

impl Init {
    /// Reads `path`: the folder of a run (its best or newest checkpoint) or of a checkpoint, or a `.pth` or
    /// `.safetensors` file.
    ///
    /// # Errors
    /// If there is none such, or it cannot be read.
    pub fn read(path: &Path) -> Result<Self, InitError> {
        let origin = match ModelSource::find(path)? {
            ModelSource::File(origin) => {
                let state = StateDict::read(&origin)?;
                return Ok(Self::Given { origin, state, sizes: None });
            }
            ModelSource::Checkpoint(origin) => origin,
        };
        let (state, sizes) = weights_of(&origin)?;
        Ok(Self::Given { origin, state, sizes })
    }

    /// Sizes of the model that was pre-trained, if they are known.
    #[must_use]
    pub fn sizes(&self) -> Option<&HiEndMaeConfig> {
        match self {
            Self::Given { sizes, .. } => sizes.as_ref(),
            Self::Random => None,
        }
    }

    /// `model` with these weights, and what became of them.
    ///
    /// # Errors
    /// If they are another model's.
    pub(super) fn apply(&self, model: Unetr) -> Result<(Unetr, Option<Beginning>), InitError> {
        let Self::Given { origin, state, .. } = self else { return Ok((model, None)) };
        let unfit = |source| InitError::Unfit { origin: origin.clone(), source };
        let (state, other_grid) = with_positions_of(&model, state).map_err(unfit)?;
        let (model, report) = import_unetr(model, &state).map_err(unfit)?;
        let ImportReport { taken, left_out, missing } = &report;
        let (taken, left_out, missing) = (taken.len(), left_out.len(), missing.len());
        let mut summary = format!(
            "weights of {}: {taken} tensors taken, {left_out} left out, {missing} new (init.txt lists them)",
            origin.display()
        );
        if other_grid {
            summary.push_str("; positions computed anew, since the crop has another number of patches");
        }
        Ok((model, Some(Beginning { summary, report: format!("{}\n{report}", origin.display()) })))
    }
}

/// The positions of pre-training are a fixed function of the grid. For a crop with another number of patches they are
/// that function on its grid, which is what a new model starts with.
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

/// Whether two tables `[1, L, E]` differ in L alone.
fn other_length(a: &[usize], b: &[usize]) -> bool {
    matches!((a, b), (&[1, a_len, a_width], &[1, b_len, b_width]) if a_len != b_len && a_width == b_width)
}
