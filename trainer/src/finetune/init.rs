//! Initial weights of a run, and their import into the network of a fine-tuning.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use hiend_loader::plural::count;
use thiserror::Error;

use crate::config::finetune::UnetrSettings;
use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::model::unetr::Unetr;
use crate::model_source::{CheckpointWeights, ModelSource, ModelSourceError, RunFacts, weights_of};
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
    /// Weights of an encoder with another number of blocks or attention heads, which no shape shows.
    #[error(
        "{}: its encoder has {key} = {found}, but model.{key} = {expected}; set model.{key} to {found}",
        origin.display()
    )]
    OtherEncoder {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// Key of the configuration.
        key: &'static str,
        /// Number in the weights' own model.
        found: usize,
        /// Number in the configuration.
        expected: usize,
    },
    /// Weights that no network can compute with.
    #[error(
        "{}: {key} holds {value:e}: the model had diverged when it was saved; take an earlier checkpoint",
        origin.display()
    )]
    Unusable {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// The tensor.
        key: String,
        /// The first such value.
        value: f32,
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
        /// Facts of the run that they come from.
        facts: Box<RunFacts>,
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
                return Ok(Self::Given { origin, state, facts: Box::default() });
            }
            ModelSource::Checkpoint(origin) => origin,
        };
        let CheckpointWeights { state, facts } = weights_of(&origin)?;
        Ok(Self::Given { origin, state, facts: Box::new(facts) })
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
            Self::Given { facts, .. } => facts.sizes.as_ref(),
            Self::Random | Self::Remote { .. } => None,
        }
    }

    /// Returns `model`, of the sizes `settings`, with these weights, and a report of the tensors taken and skipped.
    ///
    /// # Errors
    /// If the weights cannot be downloaded, are another model's, or are not usable.
    pub(super) fn apply(
        &self,
        model: Unetr,
        settings: &UnetrSettings,
    ) -> Result<(Unetr, Option<Beginning>), InitError> {
        match self {
            Self::Random => Ok((model, None)),
            Self::Given { origin, state, facts } => {
                let (model, beginning) = with_weights(model, settings, origin, state, facts.num_heads)?;
                Ok((model, Some(beginning)))
            }
            Self::Remote { url, downloads } => {
                let fetched = Fetched::of(url, downloads)?;
                let (model, beginning) = with_weights(model, settings, &fetched.path, &fetched.state, None)?;
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

/// `model` with the weights of `origin`, whose encoder has `num_heads` if that is known, and a report of the tensors taken
/// and skipped.
fn with_weights(
    model: Unetr,
    settings: &UnetrSettings,
    origin: &Path,
    state: &StateDict,
    num_heads: Option<usize>,
) -> Result<(Unetr, Beginning), InitError> {
    let unfit = |source| InitError::Unfit { origin: origin.to_owned(), source };
    // Blocks beyond the model's would be left out, and other heads cut the same tensors differently: no shape differs.
    let found = [("depth", state.num_blocks(), settings.depth), ("num_heads", num_heads, settings.num_heads)];
    for (key, found, expected) in found {
        if let Some(found) = found.filter(|&found| found != expected) {
            return Err(InitError::OtherEncoder { origin: origin.to_owned(), key, found, expected });
        }
    }
    let (state, other_grid) = with_positions_of(&model, state).map_err(unfit)?;
    let (model, report) = import_unetr(model, &state).map_err(unfit)?;
    let ImportReport { taken, skipped, missing } = &report;
    if let Some((key, value)) = taken.iter().find_map(|key| Some((key, state.tensors.get(key)?.unusable()?))) {
        return Err(InitError::Unusable { origin: origin.to_owned(), key: key.clone(), value });
    }
    let (taken, skipped, missing) = (taken.len(), skipped.len(), missing.len());
    let mut summary = format!(
        "weights of {}: {} taken, {skipped} skipped, {missing} new (init.txt lists them)",
        origin.display(),
        count(taken, "tensor")
    );
    if other_grid {
        summary.push_str("; positions recomputed, since the crop has another number of patches");
    }
    if num_heads.is_none() {
        let num_heads = settings.num_heads;
        let _ = write!(
            summary,
            "; the file does not state its number of attention heads, taken to be model.num_heads = {num_heads}"
        );
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::config::finetune::{FinetuneConfig, FinetunePreset};
    use crate::model::init::WeightInit;

    /// A network small enough for a test.
    fn config() -> FinetuneConfig {
        let mut config = FinetunePreset::Tiny.config();
        config.classes = vec!["background".to_owned(), "liver".to_owned()];
        config.model.patch_size = 8;
        config.model.embed_dim = 24;
        config.model.num_heads = 2;
        config.model.feature_size = 2;
        config.stream.crop_size = [16; 3];
        config
    }

    fn apply(settings: &UnetrSettings, num_heads: Option<usize>, change: fn(&mut StateDict)) -> Result<String, String> {
        let model = |seed| config().unetr().init(&mut WeightInit::new(seed, &Device::flex()));
        let mut state = export_unetr(&model(1)).unwrap();
        change(&mut state);
        let applied = with_weights(model(2), settings, Path::new("w"), &state, num_heads);
        applied.map(|(_, beginning)| beginning.summary).map_err(|error| error.to_string())
    }

    #[test]
    fn encoders_of_other_depths_and_heads_are_refused() {
        let ours = config().model;
        let unchanged = |_: &mut StateDict| ();
        let summary = apply(&ours, Some(2), unchanged).unwrap();
        assert!(summary.contains("0 skipped") && !summary.contains("heads"), "{summary}");
        let text = "w: its encoder has num_heads = 4, but model.num_heads = 2; set model.num_heads to 4";
        assert_eq!(apply(&ours, Some(4), unchanged).unwrap_err(), text);
        let shallow = UnetrSettings { depth: 11, ..ours.clone() };
        let text = "w: its encoder has depth = 12, but model.depth = 11; set model.depth to 12";
        assert_eq!(apply(&shallow, Some(2), unchanged).unwrap_err(), text);
        // A weight file does not contain the number of heads.
        let summary = apply(&ours, None, unchanged).unwrap();
        assert!(summary.ends_with("taken to be model.num_heads = 2"), "{summary}");
    }

    #[test]
    fn weights_of_a_diverged_model_are_refused() {
        let check = |change: fn(&mut StateDict), expected: &str| {
            let message = apply(&config().model, Some(2), change).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        };
        check(
            |state| state.tensors.get_mut("vit.norm.bias").unwrap().values[3] = f32::NAN,
            "w: vit.norm.bias holds NaN: the model had diverged",
        );
        check(
            |state| state.tensors.get_mut("vit.norm.bias").unwrap().values[3] = -1e30,
            "w: vit.norm.bias holds -1e30: the model had diverged",
        );
    }
}
