//! Initial weights of a pre-training run: all tensors of a masked autoencoder, including the decoder's.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hiend_loader::plural::count;
use thiserror::Error;

use crate::initial_weights::{FoundWeights, Init, InitError, OtherGrid, replace_other_positions};
use crate::model::hi_end_mae::{HiEndMae, HiEndMaeConfig};
use crate::model_source::ModelSourceError;
use crate::training::Beginning;
use crate::weights::{
    DECODER_POSITIONS, ENCODER_POSITIONS, ImportReport, ModelKind, StateDict, WeightsError, export_hi_end_mae,
    import_hi_end_mae,
};

/// Errors from starting a pre-training run with given weights.
#[derive(Debug, Error)]
pub enum BeginError {
    /// Weights that cannot be read or do not match.
    #[error(transparent)]
    Init(#[from] InitError),
    /// Weights of a model of other sizes.
    #[error(
        "weights of {}: model.{key} is {theirs} there, but {ours} in the configuration; expected the same model, as by \
         --set model.{key}={theirs}",
        origin.display()
    )]
    Sizes {
        /// File or checkpoint of the weights.
        origin: PathBuf,
        /// First setting that differs.
        key: &'static str,
        /// Value in the model of the weights.
        theirs: String,
        /// Value in the configuration.
        ours: String,
    },
    /// A weight file of a model with more blocks.
    #[error("weights of {}: the model of the configuration has no {key}; expected the same depth", origin.display())]
    Deeper {
        /// File of the weights.
        origin: PathBuf,
        /// First tensor of a block that the model lacks.
        key: String,
    },
}

/// Returns `model`, whose sizes are `config`, with the weights of `init`, and a report of the tensors taken and
/// skipped.
///
/// # Errors
/// If the weights cannot be downloaded, or are not those of such a model.
pub(super) fn apply(
    init: &Init,
    model: HiEndMae,
    config: &HiEndMaeConfig,
) -> Result<(HiEndMae, Option<Beginning>), BeginError> {
    init.begin(model, |model, found| with_weights(model, config, found))
}

/// Rejects weights of a model whose sizes differ from `ours`, even if all tensors have the same shapes: the number of
/// heads and the tapped layers do not show in shapes.
fn check_sizes(ours: &HiEndMaeConfig, theirs: &HiEndMaeConfig, origin: &Path) -> Result<(), BeginError> {
    let sizes = |config: &HiEndMaeConfig| {
        [
            ("patch_size", config.patch_size.to_string()),
            ("embed_dim", config.embed_dim.to_string()),
            ("depth", config.depth.to_string()),
            ("num_heads", config.num_heads.to_string()),
            ("taps", format!("{:?}", config.taps)),
            ("decoder_embed_dim", config.decoder_embed_dim.to_string()),
            ("decoder_self_depth", config.decoder_self_depth.to_string()),
            ("decoder_num_heads", config.decoder_num_heads.to_string()),
            ("mlp_ratio", config.mlp_ratio.to_string()),
        ]
    };
    let differing = sizes(ours).into_iter().zip(sizes(theirs)).find(|(ours, theirs)| ours != theirs);
    match differing {
        Some(((key, ours), (_, theirs))) => Err(BeginError::Sizes { origin: origin.to_owned(), key, theirs, ours }),
        None => Ok(()),
    }
}

/// Returns `model`, whose sizes are `config`, with the weights `found`, and a report of the tensors taken and skipped.
fn with_weights(
    model: HiEndMae,
    config: &HiEndMaeConfig,
    found: &FoundWeights<'_>,
) -> Result<(HiEndMae, Beginning), BeginError> {
    let FoundWeights { origin, state, facts } = *found;
    if let Some(sizes) = &facts.sizes {
        check_sizes(config, sizes, origin)?;
    }
    let unfit = |source| found.unfit(source);
    if state.model_kind().map_err(unfit)? == ModelKind::Unetr {
        return Err(InitError::from(ModelSourceError::IsUnetr { path: origin.to_owned() }).into());
    }
    state.check_has_decoder().map_err(unfit)?;
    let (state, other_grid) = with_positions_of(&model, state).map_err(unfit)?;
    let (model, report) = import_hi_end_mae(model, &state).map_err(unfit)?;
    found.check_usable(&state, &report)?;
    let ImportReport { taken, skipped, .. } = &report;
    if let Some(key) = skipped.iter().find(|key| key.contains("blocks.")) {
        return Err(BeginError::Deeper { origin: origin.to_owned(), key: key.clone() });
    }
    let mut summary = format!(
        "weights of {}: {} taken, {} skipped (init.txt lists them); optimizer and schedule begin anew",
        origin.display(),
        count(taken.len(), "tensor"),
        skipped.len()
    );
    if let Some(other_grid) = other_grid {
        let _ = write!(summary, "; {other_grid}");
    }
    if facts.sizes.is_none() {
        summary.push_str("; the file does not state heads and taps, taken to be those of the configuration");
    }
    Ok((model, Beginning { summary, report: format!("{}\n{report}", origin.display()) }))
}

/// Returns the weights, with positions replaced by those of `model` if they belong to another grid.
fn with_positions_of(model: &HiEndMae, state: &StateDict) -> Result<(StateDict, Option<OtherGrid>), WeightsError> {
    let own = export_hi_end_mae(model)?.tensors;
    let (mut state, mut other_grid) = (state.clone(), None);
    for key in [ENCODER_POSITIONS, DECODER_POSITIONS] {
        let replaced = own.get(key).and_then(|ours| replace_other_positions(&mut state, key, ours));
        other_grid = other_grid.or(replaced);
    }
    Ok((state, other_grid))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::model::init::WeightInit;
    use crate::model_source::RunFacts;

    const CROP: [usize; 3] = [12, 12, 24];

    fn sizes() -> HiEndMaeConfig {
        HiEndMaeConfig {
            patch_size: 6,
            embed_dim: 12,
            depth: 5,
            num_heads: 2,
            taps: vec![1, 2, 3],
            decoder_embed_dim: 6,
            decoder_num_heads: 2,
            ..HiEndMaeConfig::tiny()
        }
    }

    fn model(config: &HiEndMaeConfig, crop: [usize; 3], seed: u64) -> HiEndMae {
        config.init(crop, &mut WeightInit::new(seed, &Device::flex()))
    }

    fn given(config: &HiEndMaeConfig, has_sizes: bool) -> Init {
        let state = export_hi_end_mae(&model(config, CROP, 1)).unwrap();
        let facts = RunFacts { sizes: has_sizes.then(|| config.clone()), ..RunFacts::default() };
        Init::Given { origin: PathBuf::from("theirs"), state, facts: Box::new(facts) }
    }

    fn error(init: &Init, config: &HiEndMaeConfig) -> String {
        let error = apply(init, model(config, CROP, 2), config).unwrap_err();
        format!("{:#}", anyhow::Error::from(error))
    }

    #[test]
    fn every_tensor_of_the_autoencoder_is_taken() {
        let config = sizes();
        let expected = export_hi_end_mae(&model(&config, CROP, 1)).unwrap();
        for has_sizes in [true, false] {
            let (taken, beginning) = apply(&given(&config, has_sizes), model(&config, CROP, 2), &config).unwrap();
            assert_eq!(export_hi_end_mae(&taken).unwrap(), expected);
            let summary = beginning.unwrap().summary;
            let counted = format!("weights of theirs: {} tensors taken, 0 skipped", expected.tensors.len());
            assert!(summary.starts_with(&counted), "{summary}");
        }
        // Other masks are a choice of the new run.
        let other = HiEndMaeConfig { mask_ratio: 0.5, ..sizes() };
        assert!(apply(&given(&config, true), model(&other, CROP, 2), &other).is_ok());
    }

    #[test]
    fn an_encoder_alone_is_refused_with_what_to_give_instead() {
        let config = sizes();
        let mut init = given(&config, false);
        let Init::Given { state, .. } = &mut init else { unreachable!("weights are given") };
        state.tensors.retain(|key, _| !key.contains("decoder"));
        let message = error(&init, &config);
        assert!(
            message.starts_with("theirs ") && message.contains("give the run that it was exported from"),
            "{message}"
        );
    }

    #[test]
    fn positions_of_another_crop_are_the_new_model_s_even_if_it_has_as_many_patches() {
        let config = sizes();
        for (crop, patches) in [([12, 24, 24], "2 × 4 × 4"), ([12, 24, 12], "2 × 4 × 2"), ([48, 12, 6], "8 × 2 × 1")]
        {
            let own = export_hi_end_mae(&model(&config, crop, 2)).unwrap();
            for has_sizes in [true, false] {
                let (taken, beginning) = apply(&given(&config, has_sizes), model(&config, crop, 2), &config).unwrap();
                let taken = export_hi_end_mae(&taken).unwrap();
                for key in [ENCODER_POSITIONS, DECODER_POSITIONS] {
                    assert_eq!(taken.tensors[key], own.tensors[key], "{key}");
                }
                let embedding = "encoder.patch_embed.proj.weight";
                assert_ne!(taken.tensors[embedding], own.tensors[embedding]);
                let line = format!(
                    "positions recomputed: a crop has {patches} patches, and those of the weights are for 2 × 2 × 4 patches"
                );
                let summary = beginning.unwrap().summary;
                assert!(summary.contains(&line), "{summary}");
            }
        }
    }

    #[test]
    fn weights_of_other_sizes_are_refused_even_if_every_tensor_fits() {
        let heads = error(&given(&sizes(), true), &HiEndMaeConfig { num_heads: 4, ..sizes() });
        assert!(
            heads.starts_with("weights of theirs: model.num_heads is 2 there, but 4 in the configuration"),
            "{heads}"
        );
        let taps = error(&given(&sizes(), true), &HiEndMaeConfig { taps: vec![1, 2, 4], ..sizes() });
        assert!(taps.contains("model.taps is [1, 2, 3] there, but [1, 2, 4]"), "{taps}");
        let shallow = error(&given(&sizes(), false), &HiEndMaeConfig { depth: 4, ..sizes() });
        assert!(shallow.contains("has no encoder.blocks.4."), "{shallow}");
    }

    #[test]
    fn weights_of_a_diverged_model_are_refused() {
        let mut init = given(&sizes(), true);
        let Init::Given { state, .. } = &mut init else { unreachable!("given above") };
        state.tensors.get_mut("encoder.blocks.0.norm1.weight").unwrap().values[0] = f32::NAN;
        let message = error(&init, &sizes());
        assert!(message.starts_with("theirs: encoder.blocks.0.norm1.weight holds NaN"), "{message}");
    }

    #[test]
    fn a_unetr_cannot_initialise_pre_training() {
        let mut init = given(&sizes(), false);
        let Init::Given { state, .. } = &mut init else { unreachable!("given above") };
        let block = state.tensors["encoder.blocks.0.norm1.weight"].clone();
        state.tensors.insert("vit.blocks.0.norm1.weight".to_owned(), block);
        let message = error(&init, &sizes());
        assert!(message.starts_with("theirs: holds a UNETR"), "{message}");
    }
}
