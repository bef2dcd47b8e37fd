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
    // Blocks beyond the model's would be left out, other heads cut the same tensors differently, and branches of a trained
    // decoder would read other blocks: no shape differs.
    let numbers = [("depth", state.num_blocks(), config.depth), ("num_heads", facts.num_heads, config.num_heads)];
    let numbers =
        numbers.map(|(key, found, expected)| (key, found.map(|found| found.to_string()), expected.to_string()));
    let taps = ("taps", facts.taps.map(|taps| format!("{taps:?}")), format!("{:?}", config.taps));
    for (key, found, expected) in numbers.into_iter().chain([taps]) {
        if let Some(found) = found.filter(|found| *found != expected) {
            return Err(InitError::OtherEncoder { origin: origin.to_owned(), key, found, expected });
        }
    }
    let (num_classes, expected) = (facts.classes.len(), config.num_classes);
    if num_classes > 0 && num_classes != expected {
        let (origin, names) = (origin.to_owned(), facts.classes.join(", "));
        return Err(InitError::OtherClasses { origin, found: num_classes, names, expected });
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
    if is_unetr && facts.taps.is_none() {
        let taps = config.taps;
        let _ = write!(
            summary,
            "; the file does not state the blocks that its decoder reads, taken to be model.taps = {taps:?}"
        );
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
        let taps = Some(config().model.taps);
        RunFacts { num_heads: Some(2), taps, crop_size: Some([16; 3]), ..RunFacts::default() }
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
        assert!(summary.contains("0 skipped") && !summary.contains("taken to be"), "{summary}");
        let text = "w: its model has num_heads = 4, but model.num_heads = 2; set model.num_heads to 4";
        let other_heads = RunFacts { num_heads: Some(4), ..facts() };
        assert_eq!(apply(&ours, &other_heads, unchanged).unwrap_err(), text);
        let mut shallow = config();
        shallow.model.depth = 11;
        let text = "w: its model has depth = 12, but model.depth = 11; set model.depth to 12";
        assert_eq!(apply(&shallow.unetr(), &facts(), unchanged).unwrap_err(), text);
        // A weight file does not contain the number of heads.
        let summary = apply(&ours, &RunFacts::default(), unchanged).unwrap();
        assert!(summary.ends_with("taken to be model.num_heads = 2"), "{summary}");
    }

    #[test]
    fn decoders_that_read_other_blocks_are_refused() {
        let unchanged = |_: &mut StateDict| ();
        let mut other = config();
        other.model.taps = [2, 5, 8];
        let text = "w: its model has taps = [3, 6, 9], but model.taps = [2, 5, 8]; set model.taps to [3, 6, 9]";
        assert_eq!(apply(&other.unetr(), &facts(), unchanged).unwrap_err(), text);
        // A weight file does not contain the taps.
        let unknown = RunFacts { taps: None, ..facts() };
        let summary = apply(&other.unetr(), &unknown, unchanged).unwrap();
        assert!(summary.ends_with("blocks that its decoder reads, taken to be model.taps = [2, 5, 8]"), "{summary}");
    }

    #[test]
    fn weights_for_another_number_of_classes_are_refused_with_their_names() {
        let classes = ["background", "liver", "spleen"].map(str::to_owned).to_vec();
        let message = apply(&config().unetr(), &RunFacts { classes, ..facts() }, |_| ()).unwrap_err();
        let expected =
            "w: for 3 classes (background, liver, spleen), and this run has 2; begin with the pre-training that";
        assert!(message.starts_with(expected), "{message}");
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
