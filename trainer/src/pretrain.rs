//! Pre-training: reconstruction of masked patches.

mod init;

use std::collections::HashSet;
use std::path::Path;

use burn::module::Module as _;
use burn::tensor::{Int, Tensor, TensorData};
use hiend_cache::Manifest;
use hiend_loader::batch::CropRecord;
use hiend_loader::preprocess::PreprocessConfig;

use crate::checkpoint::Kind;
use crate::config::pretrain::PretrainConfig;
use crate::device::Compute;
use crate::feed::{DeviceBatch, Masked, Masks, Part};
use crate::initial_weights::Init;
use crate::model::hi_end_mae::HiEndMae;
use crate::model::init::WeightInit;
use crate::model::patch_embed::{grid_of, unpatchify};
use crate::report::picture::{Panel, render};
use crate::trained_on::{self, OtherPreprocess};
use crate::training::{
    Beginning, Event, KeptValues, PictureError, Share, Stream, Summary, Task, TrainOptions, TrainingError, train,
};

pub use init::BeginError;

/// Error from comparing a configuration with the cache.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// A cache that does not state its preprocessing.
    #[error("manifest.json: invalid preprocess")]
    Manifest(#[source] serde_json::Error),
    /// A cache whose preprocessing differs from the configuration.
    #[error(transparent)]
    Preprocess(#[from] OtherPreprocess),
}

/// Fills in the preprocessing of `config` from the manifest of the cache, or compares the two.
///
/// # Errors
/// [`PretrainError`].
pub fn settle_preprocess(config: &mut PretrainConfig, manifest: &Manifest) -> Result<(), PretrainError> {
    let cache = preprocess_of(manifest)?;
    Ok(trained_on::settle_preprocess(&mut config.preprocess, &cache)?)
}

/// Preprocessing of a cache's cases.
///
/// # Errors
/// If the manifest does not state it.
pub fn preprocess_of(manifest: &Manifest) -> Result<PreprocessConfig, PretrainError> {
    serde_json::from_value(manifest.preprocess.clone()).map_err(PretrainError::Manifest)
}

/// Number of crops in a picture.
const PICTURE_CROPS: usize = 2;

/// Pre-trains a model of `config` on the batches of `stream` and reports to `watch`.
///
/// # Errors
/// [`TrainingError`]; see [`train`].
pub fn pretrain(
    config: &PretrainConfig,
    stream: Stream,
    compute: &Compute,
    options: &TrainOptions,
    watch: &mut dyn FnMut(&Event<'_>),
) -> Result<Summary, TrainingError> {
    train(&Pretraining::new(config), stream, compute, options, watch)
}

/// The pre-training task.
#[derive(Clone, Copy, Debug)]
pub struct Pretraining<'a> {
    /// The resolved configuration.
    pub config: &'a PretrainConfig,
    /// Initial weights of a new run; `None` for random weights.
    pub init: Option<&'a Init>,
}

impl<'a> Pretraining<'a> {
    /// Creates a pre-training task with random initial weights.
    #[must_use]
    pub fn new(config: &'a PretrainConfig) -> Self {
        Self { config, init: None }
    }
}

impl Task for Pretraining<'_> {
    const KIND: Kind = Kind::Pretrain;
    type Config = PretrainConfig;
    type Model = HiEndMae;
    type Targets = Masks;

    fn config(&self) -> &PretrainConfig {
        self.config
    }

    fn kept_values(&self, gradient_checkpointing: bool) -> KeptValues {
        let (model, crop_size) = (&self.config.model, self.config.stream.crop_size);
        let per_crop = model.kept_values(crop_size, gradient_checkpointing);
        // At least as much as was measured; see the documentation of `memory_need`.
        let expected_percent = if gradient_checkpointing { 300 } else { 225 };
        KeptValues { params: model.num_params(crop_size), per_crop, expected_percent }
    }

    fn init(&self, weights: &mut WeightInit) -> HiEndMae {
        self.config.model.init(self.config.stream.crop_size, weights)
    }

    fn begin(&self, model: HiEndMae) -> Result<(HiEndMae, Option<Beginning>), TrainingError> {
        match self.init {
            Some(init) => {
                init::apply(init, model, &self.config.model).map_err(|error| TrainingError::Init(Box::new(error)))
            }
            None => Ok((model, None)),
        }
    }

    fn targets(&self) -> Masks {
        let model = &self.config.model;
        Masks {
            seed: self.config.train.seed,
            num_patches: grid_of(self.config.stream.crop_size, model.patch_size).iter().product(),
            mask_ratio: model.mask_ratio,
        }
    }

    fn loss(&self, model: &HiEndMae, part: &Part<Masked>, share: Share) -> Tensor<1> {
        share.of_crops(model.forward(part.images(), &part.target.indices))
    }

    fn picture(
        &self,
        model: &HiEndMae,
        batch: &DeviceBatch<Masked>,
        compute: &Compute,
        path: &Path,
    ) -> Result<(), PictureError> {
        // The first micro-batch suffices for a picture; memory may not allow a larger part.
        let part = batch.parts.first().ok_or(PictureError::NoCrop)?;
        let panels = panels(model, part, &batch.crops[..part.num_crops()], self.config, compute)?;
        render(&panels, self.config.units()).write_png(path).map_err(PictureError::Write)
    }
}

/// Makes panels of the crops of a batch with the largest variance, from different cases if possible.
fn panels(
    model: &HiEndMae,
    part: &Part<Masked>,
    crops: &[CropRecord],
    config: &PretrainConfig,
    compute: &Compute,
) -> Result<Vec<Panel>, PictureError> {
    let host = |tensor: Tensor<5>| -> Result<Vec<f32>, PictureError> {
        let data = tensor.try_into_data().map_err(PictureError::device)?;
        data.try_to_vec().map_err(PictureError::device)
    };
    let images = part.images();
    let [n, _, x, y, z] = images.dims();
    let spread = images.clone().reshape([n, 1, 1, 1, x * y * z]).var(4);
    let chosen = most_varied(&host(spread)?, &crops.iter().map(|c| c.case.as_str()).collect::<Vec<_>>());

    let rows = TensorData::new(chosen.iter().map(|&i| i as i64).collect::<Vec<_>>(), [chosen.len()]);
    let images = images.select(0, Tensor::<1, Int>::from_data(rows, compute.raw()));
    let mask = part.target.mask.select(&chosen);
    let reconstruction = model.valid().reconstruct(images.clone(), &mask.upload(compute.raw()));
    let patch_size = config.model.patch_size;
    let grid = grid_of([x, y, z], patch_size);
    let (original, pred) = (host(images)?, host(unpatchify(reconstruction.pred, grid, patch_size))?);

    let voxels = x * y * z;
    Ok(chosen
        .iter()
        .enumerate()
        .map(|(sample, &index)| {
            let mut visible = vec![false; mask.num_patches()];
            mask.ids_keep(sample).iter().for_each(|&id| visible[id] = true);
            let patch_of = |voxel: usize| {
                let [i, j, k] = [voxel / (y * z), voxel / z % y, voxel % z].map(|v| v / patch_size);
                (i * grid[1] + j) * grid[2] + k
            };
            Panel {
                title: crops[index].case.clone(),
                size: [x, y, z],
                original: original[sample * voxels..][..voxels].to_vec(),
                pred: pred[sample * voxels..][..voxels].to_vec(),
                hidden: (0..voxels).map(|voxel| !visible[patch_of(voxel)]).collect(),
            }
        })
        .collect())
}

/// Chooses the crops with the largest variance, each case once before any case twice.
fn most_varied(variance: &[f32], cases: &[&str]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..variance.len()).collect();
    order.sort_by(|&a, &b| variance[b].total_cmp(&variance[a]));
    let mut seen = HashSet::new();
    let (mut first, again): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&i| seen.insert(cases[i]));
    first.extend(again);
    first.truncate(PICTURE_CROPS);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pretrain::PretrainPreset;
    use crate::model::precision::Precision;

    #[test]
    fn memory_of_presets_is_bounded_from_below() {
        let need = |preset: PretrainPreset, recompute: bool| {
            let config = preset.config();
            let kept = Pretraining::new(&config).kept_values(recompute);
            kept.bytes(config.stream.crops_per_batch(), Precision::F32)
        };
        assert!(need(PretrainPreset::Tiny, false) < 2_000_000_000);
        let large = need(PretrainPreset::MrVitLP16, false);
        assert!(large > 20_000_000_000, "{large}");
        assert!(need(PretrainPreset::MrVitLP16, true) < large / 2);
    }

    #[test]
    fn pictures_prefer_different_cases() {
        assert_eq!(most_varied(&[0.1, 0.9, 0.8, 0.2], &["a", "b", "b", "c"]), [1, 3]);
        assert_eq!(most_varied(&[0.1, 0.9], &["a", "a"]), [1, 0]);
        assert_eq!(most_varied(&[0.1], &["a"]), [0]);
    }
}
