//! Initial weights of a run, for both kinds of runs: read from a run, a checkpoint or a file, or downloaded.
//!
//! [`crate::pretrain`] and [`crate::finetune`] put them into their models, each with checks of its own. Both reject
//! values that a network cannot compute with, and treat positions alike: the tables of a pre-training model are a fixed
//! function of the crop's grid of patches, so tables of another grid are replaced, never taken over.

use std::fmt;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use hiend_loader::plural::count;
use hiend_loader::preprocess::PreprocessConfig;
use thiserror::Error;

use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::model::pos_embed::grid_of_table;
use crate::model_source::{CheckpointWeights, ModelSource, ModelSourceError, RunFacts, weights_of};
use crate::training::Beginning;
use crate::weights::download::{DownloadError, Downloaded, Downloads};
use crate::weights::{HostTensor, ImportReport, StateDict, WeightsError};

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
        /// Path of the downloaded copy.
        path: PathBuf,
        /// Reason why the file cannot be read.
        source: WeightsError,
    },
    /// Weights of a model that does not match the configuration.
    #[error("{} does not fit the model of the configuration", origin.display())]
    Unfit {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// First mismatch.
        source: WeightsError,
    },
    /// Weights of an encoder with another number of blocks or attention heads, or of a UNETR that reads other blocks,
    /// which the shapes of the tensors do not reveal.
    #[error(
        "{}: its model has {key} = {found}, but model.{key} = {expected}; set model.{key} to {found}",
        origin.display()
    )]
    OtherEncoder {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// Key of the configuration.
        key: &'static str,
        /// Value in the model of the weights.
        found: String,
        /// Value in the configuration.
        expected: String,
    },
    /// Weights of a UNETR for another number of classes.
    #[error(
        "{}: for {found} classes ({names}), and this run has {expected}; begin with the pre-training that it was fine-tuned \
         from, or list as many classes",
        origin.display()
    )]
    OtherClasses {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// Number of classes of the weights.
        found: usize,
        /// Names of these classes, separated by commas.
        names: String,
        /// Number of classes in the configuration.
        expected: usize,
    },
    /// Weights of a UNETR whose positions were trained on another grid of patches, which the shapes of the tensors do
    /// not reveal.
    #[error(
        "{}: its positions were trained with stream.crop_size = {found:?}, but stream.crop_size = {expected:?} has its patches \
         elsewhere; set stream.crop_size to {found:?}",
        origin.display()
    )]
    OtherCrop {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// Crop size for which the weights were trained, in voxels.
        found: [usize; 3],
        /// Crop size in the configuration, in voxels.
        expected: [usize; 3],
    },
    /// Weights that are not finite, or too large to compute with.
    #[error(
        "{}: {key} holds {value:e}: the model had diverged when it was saved; take an earlier checkpoint",
        origin.display()
    )]
    Unusable {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// Name of the tensor.
        key: String,
        /// First unusable value.
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
        /// Facts of the run that produced the weights.
        facts: Box<RunFacts>,
    },
    /// A weight file on the web, which is downloaded when a run starts from it, after all other checks.
    Remote {
        /// URL of the file.
        url: String,
        /// Folder of the copy, and settings of the request.
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

    /// Refers to a weight file on the web. Requests nothing yet.
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

    /// Warnings about weights trained on other kinds of scans than the cache holds; `window` replaces the cache's own.
    pub(crate) fn remarks_on_scans(&self, cache: &PreprocessConfig, window: Option<[f64; 2]>) -> Vec<String> {
        let Self::Given { origin, facts, .. } = self else { return Vec::new() };
        let differences = facts.trained_on.iter().flat_map(|trained_on| trained_on.differences(cache, window));
        differences.map(|text| format!("the weights of {} were trained on {text}", origin.display())).collect()
    }

    /// Returns `model` with these weights, which `take` copies into it, and a report of them; `None` for random
    /// weights. Weights on the web are downloaded first.
    ///
    /// # Errors
    /// If the weights cannot be downloaded, or `take` fails.
    pub(crate) fn begin<M, E: From<InitError>>(
        &self,
        model: M,
        take: impl FnOnce(M, &FoundWeights<'_>) -> Result<(M, Beginning), E>,
    ) -> Result<(M, Option<Beginning>), E> {
        match self {
            Self::Random => Ok((model, None)),
            Self::Given { origin, state, facts } => {
                let (model, beginning) = take(model, &FoundWeights { origin, state, facts })?;
                Ok((model, Some(beginning)))
            }
            Self::Remote { url, downloads } => {
                let (fetched, unknown) = (Fetched::of(url, downloads)?, RunFacts::default());
                let found = FoundWeights { origin: &fetched.path, state: &fetched.state, facts: &unknown };
                let (model, beginning) = take(model, &found)?;
                Ok((model, Some(fetched.tell(beginning))))
            }
        }
    }
}

/// Weights that were read, with the known facts about them.
pub(crate) struct FoundWeights<'a> {
    /// File or checkpoint of the weights.
    pub origin: &'a Path,
    /// All tensors, under `PyTorch`'s names.
    pub state: &'a StateDict,
    /// Facts of the run that produced the weights.
    pub facts: &'a RunFacts,
}

impl FoundWeights<'_> {
    /// Error of weights that do not match the model.
    pub(crate) fn unfit(&self, source: WeightsError) -> InitError {
        InitError::Unfit { origin: self.origin.to_owned(), source }
    }

    /// Rejects unusable values in the tensors taken from `state`.
    ///
    /// # Errors
    /// The first such value.
    pub(crate) fn check_usable(&self, state: &StateDict, report: &ImportReport) -> Result<(), InitError> {
        let unusable = report.taken.iter().find_map(|key| Some((key, state.tensors.get(key)?.unusable()?)));
        match unusable {
            Some((key, value)) => Err(InitError::Unusable { origin: self.origin.to_owned(), key: key.clone(), value }),
            None => Ok(()),
        }
    }
}

/// Grids of fixed positions for another crop, which were replaced by those of the new model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OtherGrid {
    theirs: Patches,
    ours: Patches,
}

impl fmt::Display for OtherGrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "positions recomputed: a crop has {}, and those of the weights are for {}", self.ours, self.theirs)
    }
}

/// Number of patches in a crop, as far as a table of positions reveals it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patches {
    /// Number along each axis.
    Grid([usize; 3]),
    /// Total number, if the table is not a sine-cosine table.
    Number(usize),
}

impl fmt::Display for Patches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grid([gx, gy, gz]) => write!(f, "{gx} × {gy} × {gz} patches"),
            Self::Number(number) => f.write_str(&count(*number, "patch")),
        }
    }
}

/// Patches that a table `[1, L, E]` belongs to, with L and E; `None` for another shape.
fn patches_of(table: &HostTensor) -> Option<(Patches, usize, usize)> {
    let &[1, num_patches, dim] = table.shape.as_slice() else { return None };
    let grid = grid_of_table(&table.values, dim);
    Some((grid.map_or(Patches::Number(num_patches), Patches::Grid), num_patches, dim))
}

/// Replaces the table of positions `key` in `state` by `ours`, the table of the new model, if it belongs to another
/// grid of patches: it has another length, or is the sine-cosine table of another grid with equally many patches. In
/// that case returns both grids.
///
/// Any other table, such as a trained one, is taken over unchanged, as a part of its weights.
pub(crate) fn replace_other_positions(state: &mut StateDict, key: &str, ours: &HostTensor) -> Option<OtherGrid> {
    let table = state.tensors.get_mut(key)?;
    let ((theirs, their_len, their_dim), (own, len, dim)) = (patches_of(table)?, patches_of(ours)?);
    // Another width is an error of its own.
    let is_other = their_dim == dim && (their_len != len || (matches!(theirs, Patches::Grid(_)) && theirs != own));
    is_other.then(|| {
        table.clone_from(ours);
        OtherGrid { theirs, ours: own }
    })
}

/// Weights of a file on the web, read from its downloaded copy.
struct Fetched {
    /// Path of the downloaded copy.
    path: PathBuf,
    /// All tensors.
    state: StateDict,
    /// URL and digest.
    source: String,
    /// Line for the console with URL, copy, size and digest.
    line: String,
}

impl Fetched {
    /// Downloads the file, unless a copy exists, and reads it.
    ///
    /// # Errors
    /// If it cannot be downloaded or read.
    fn of(url: &str, downloads: &Downloads) -> Result<Self, InitError> {
        let Downloaded { path, sha256, num_bytes, was_cached } = downloads.fetch(url)?;
        let unusable = |source| InitError::Downloaded { url: url.to_owned(), path: path.clone(), source };
        let state = StateDict::read(&path).map_err(unusable)?;
        let verb = if was_cached { "kept in" } else { "downloaded to" };
        let size = ByteSize(num_bytes).display().si();
        let line = format!("{url}: {verb} {}, {size}, SHA-256 {sha256}", path.display());
        Ok(Self { path, state, source: format!("{url}, SHA-256 {sha256}"), line })
    }

    /// Adds the origin of the weights to the report.
    fn tell(&self, Beginning { summary, report }: Beginning) -> Beginning {
        Beginning { summary: format!("{}; {summary}", self.line), report: format!("{}\n{report}", self.source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pos_embed::sincos_table;

    const DIM: usize = 12;

    fn table(grid: [usize; 3]) -> HostTensor {
        HostTensor { shape: vec![1, grid.iter().product(), DIM], values: sincos_table(grid, DIM) }
    }

    /// Replaces `theirs` by the table of `grid`, if necessary; returns the line about it and the resulting table.
    fn replaced(theirs: HostTensor, grid: [usize; 3]) -> (Option<String>, HostTensor) {
        let mut state = StateDict { tensors: [("positions".to_owned(), theirs)].into(), ..StateDict::default() };
        let other = replace_other_positions(&mut state, "positions", &table(grid));
        (other.map(|other| other.to_string()), state.tensors.remove("positions").unwrap())
    }

    #[test]
    fn positions_of_another_grid_are_replaced_also_if_it_has_as_many_patches() {
        let line =
            "positions recomputed: a crop has 4 × 2 × 1 patches, and those of the weights are for 2 × 2 × 2 patches";
        assert_eq!(replaced(table([2, 2, 2]), [4, 2, 1]), (Some(line.to_owned()), table([4, 2, 1])));
        let line =
            "positions recomputed: a crop has 2 × 2 × 3 patches, and those of the weights are for 2 × 2 × 2 patches";
        assert_eq!(replaced(table([2, 2, 2]), [2, 2, 3]), (Some(line.to_owned()), table([2, 2, 3])));
        let mut trained = table([2, 2, 2]);
        trained.values[20] = 7.0;
        let (line, found) = replaced(trained, [2, 2, 3]);
        assert!(line.unwrap().ends_with("those of the weights are for 8 patches"));
        assert_eq!(found, table([2, 2, 3]));
    }

    #[test]
    fn positions_of_the_same_grid_and_those_of_no_grid_are_taken() {
        assert_eq!(replaced(table([2, 2, 2]), [2, 2, 2]), (None, table([2, 2, 2])));
        let mut rounded = table([2, 2, 2]);
        rounded.values[20] += 1e-6;
        assert_eq!(replaced(rounded.clone(), [2, 2, 2]), (None, rounded));
        let mut trained = table([2, 2, 2]);
        trained.values[20] = 7.0;
        assert_eq!(replaced(trained.clone(), [4, 2, 1]), (None, trained));
        // A table of another width is left as it is; the import refuses its shape.
        let wide = HostTensor { shape: vec![1, 8, 18], values: sincos_table([2, 2, 2], 18) };
        assert_eq!(replaced(wide.clone(), [4, 2, 1]), (None, wide));
    }
}
