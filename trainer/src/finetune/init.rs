//! Initial weights of a fine-tuning run: the encoder of a pre-training model, or a whole UNETR.

use std::fmt::Write as _;

use hiend_loader::plural::count;

use crate::initial_weights::{FoundWeights, Init, InitError, OtherGrid, replace_other_positions};
use crate::model::patch_embed::grid_of;
use crate::model::unetr::{Unetr, UnetrConfig};
use crate::training::Beginning;
use crate::weights::{ENCODER_POSITIONS, ImportReport, ModelKind, StateDict, WeightsError, export_unetr, import_unetr};

/// Returns `model`, whose sizes are `config`, with the weights of `init`, and a report of the tensors taken and
/// skipped.
///
/// # Errors
/// If the weights cannot be downloaded, are another model's, or are not usable.
pub(super) fn apply(init: &Init, model: Unetr, config: &UnetrConfig) -> Result<(Unetr, Option<Beginning>), InitError> {
    init.begin(model, |model, found| with_weights(model, config, found))
}

/// Returns `model`, whose sizes are `config`, with the weights `found`, and a report of the tensors taken and skipped.
fn with_weights(model: Unetr, config: &UnetrConfig, found: &FoundWeights<'_>) -> Result<(Unetr, Beginning), InitError> {
    let FoundWeights { origin, state, facts } = *found;
    // Blocks beyond the model's would be left out, and other heads cut the same tensors differently: no shape differs.
    let sizes = [("depth", state.num_blocks(), config.depth), ("num_heads", facts.num_heads, config.num_heads)];
    for (key, found, expected) in sizes {
        if let Some(found) = found.filter(|&found| found != expected) {
            return Err(InitError::OtherEncoder { origin: origin.to_owned(), key, found, expected });
        }
    }
    let unfit = |source| found.unfit(source);
    let is_unetr = state.model_kind().map_err(unfit)? == ModelKind::Unetr;
    let (state, other_grid) = with_positions_of(&model, state).map_err(unfit)?;
    let (model, report) = import_unetr(model, &state).map_err(unfit)?;
    found.check_usable(&state, &report)?;
    if let Some(crop_size) = facts.crop_size.filter(|_| is_unetr) {
        // The positions of a UNETR are trained, and patches of another grid lie elsewhere even if they are as many.
        let [theirs, ours] = [crop_size, config.crop_size].map(|crop_size| grid_of(crop_size, config.patch_size));
        if theirs != ours {
            let (found, expected) = (crop_size, config.crop_size);
            return Err(InitError::OtherCrop { origin: origin.to_owned(), found, expected });
        }
    }
    let ImportReport { taken, skipped, missing } = &report;
    let taken = count(taken.len(), "tensor");
    let parts = if is_unetr {
        format!("{taken} taken, {} skipped, {} new", skipped.len(), missing.len())
    } else {
        let (others, new) = (skipped.len(), missing.len());
        format!(
            "{taken} of the encoder taken; {others} for pre-training alone are not needed, {new} of the decoder begin at random"
        )
    };
    let mut summary = format!("weights of {}: {parts} (init.txt lists them)", origin.display());
    if let Some(other_grid) = other_grid {
        let _ = write!(summary, "; {other_grid}");
    }
    if is_unetr && facts.crop_size.is_none() {
        let crop_size = config.crop_size;
        let _ =
            write!(summary, "; the file does not state its crop size, taken to be stream.crop_size = {crop_size:?}");
    }
    if facts.num_heads.is_none() {
        let num_heads = config.num_heads;
        let _ = write!(
            summary,
            "; the file does not state its number of attention heads, taken to be model.num_heads = {num_heads}"
        );
    }
    Ok((model, Beginning { summary, report: format!("{}\n{report}", origin.display()) }))
}

/// Returns the weights of a pre-training model, with positions replaced by those of `model` if they belong to another
/// grid.
fn with_positions_of(model: &Unetr, state: &StateDict) -> Result<(StateDict, Option<OtherGrid>), WeightsError> {
    let mut state = state.clone();
    let ours = export_unetr(model)?.tensors.remove("vit.patch_embedding.position_embeddings");
    let other_grid = ours.and_then(|ours| replace_other_positions(&mut state, ENCODER_POSITIONS, &ours));
    Ok((state, other_grid))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;

    use super::*;
    use crate::config::finetune::{FinetuneConfig, FinetunePreset};
    use crate::model::hi_end_mae::HiEndMaeConfig;
    use crate::model::init::WeightInit;
    use crate::model::pos_embed::sincos_table;
    use crate::model_source::RunFacts;
    use crate::weights::export_hi_end_mae;

    /// Configuration of a network small enough for a test.
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

    fn facts() -> RunFacts {
        RunFacts { num_heads: Some(2), crop_size: Some([16; 3]), ..RunFacts::default() }
    }

    fn unetr(config: &UnetrConfig, seed: u64) -> Unetr {
        config.init(&mut WeightInit::new(seed, &Device::flex()))
    }

    /// Initialises the network of `config` with the weights `state`; returns it with the line about them.
    fn take(config: &UnetrConfig, facts: &RunFacts, state: &StateDict) -> Result<(Unetr, String), String> {
        let found = FoundWeights { origin: Path::new("w"), state, facts };
        let taken = with_weights(unetr(config, 2), config, &found);
        taken.map(|(model, beginning)| (model, beginning.summary)).map_err(|error| error.to_string())
    }

    fn apply(settings: &UnetrConfig, facts: &RunFacts, change: fn(&mut StateDict)) -> Result<String, String> {
        let mut state = export_unetr(&unetr(&config().unetr(), 1)).unwrap();
        change(&mut state);
        take(settings, facts, &state).map(|(_, summary)| summary)
    }

    #[test]
    fn encoders_of_other_depths_and_heads_are_refused() {
        let ours = config().unetr();
        let unchanged = |_: &mut StateDict| ();
        let summary = apply(&ours, &facts(), unchanged).unwrap();
        assert!(summary.contains("0 skipped") && !summary.contains("heads"), "{summary}");
        let text = "w: its encoder has num_heads = 4, but model.num_heads = 2; set model.num_heads to 4";
        let other_heads = RunFacts { num_heads: Some(4), ..facts() };
        assert_eq!(apply(&ours, &other_heads, unchanged).unwrap_err(), text);
        let mut shallow = config();
        shallow.model.depth = 11;
        let text = "w: its encoder has depth = 12, but model.depth = 11; set model.depth to 12";
        assert_eq!(apply(&shallow.unetr(), &facts(), unchanged).unwrap_err(), text);
        // A weight file does not contain the number of heads.
        let summary = apply(&ours, &RunFacts::default(), unchanged).unwrap();
        assert!(summary.ends_with("taken to be model.num_heads = 2"), "{summary}");
    }

    #[test]
    fn trained_positions_of_another_grid_are_refused_even_if_it_has_as_many_patches() {
        let unchanged = |_: &mut StateDict| ();
        let mut ours = config();
        ours.stream.crop_size = [32, 16, 8];
        let text = "w: its positions were trained with stream.crop_size = [16, 16, 16], but stream.crop_size = [32, 16, 8] \
                    has its patches elsewhere; set stream.crop_size to [16, 16, 16]";
        assert_eq!(apply(&ours.unetr(), &facts(), unchanged).unwrap_err(), text);
        assert!(!apply(&config().unetr(), &facts(), unchanged).unwrap().contains("crop"));
        // A weight file does not contain the size of the crops.
        let unknown = RunFacts { crop_size: None, ..facts() };
        let summary = apply(&ours.unetr(), &unknown, unchanged).unwrap();
        assert!(summary.ends_with("crop size, taken to be stream.crop_size = [32, 16, 8]"), "{summary}");
    }

    #[test]
    fn fixed_positions_of_another_grid_are_replaced_even_if_it_has_as_many_patches() {
        let mut ours = config();
        ours.stream.crop_size = [32, 16, 8];
        let settings = &ours.model;
        let pretrained = HiEndMaeConfig {
            patch_size: settings.patch_size,
            embed_dim: settings.embed_dim,
            num_heads: settings.num_heads,
            decoder_embed_dim: 12,
            decoder_num_heads: 2,
            ..HiEndMaeConfig::tiny()
        };
        let theirs = pretrained.init([16; 3], &mut WeightInit::new(1, &Device::flex()));
        let state = export_hi_end_mae(&theirs).unwrap();
        let (model, summary) = take(&ours.unetr(), &facts(), &state).unwrap();
        assert!(summary.contains(" tensors of the encoder taken; "), "{summary}");
        assert!(summary.contains(" of the decoder begin at random (init.txt lists them); "), "{summary}");
        let taken = export_unetr(&model).unwrap();
        let positions = &taken.tensors["vit.patch_embedding.position_embeddings"].values;
        assert_eq!(*positions, sincos_table([4, 2, 1], settings.embed_dim));
        let line =
            "positions recomputed: a crop has 4 × 2 × 1 patches, and those of the weights are for 2 × 2 × 2 patches";
        assert!(summary.ends_with(line), "{summary}");
        assert!(!take(&config().unetr(), &facts(), &state).unwrap().1.contains("positions"));
    }

    #[test]
    fn weights_of_a_diverged_model_are_refused() {
        let check = |change: fn(&mut StateDict), expected: &str| {
            let message = apply(&config().unetr(), &facts(), change).unwrap_err();
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
