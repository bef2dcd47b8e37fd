//! Export of a pre-trained encoder for nnU-Net, as a checkpoint in nnssl's format.
//!
//! Such a checkpoint holds `network_weights` and an `nnssl_adaptation_plan`, which names the keys of encoder, stem and
//! position table and describes the data of the pre-training. nnU-Net has no network of this kind; the trainer
//! class in `configs/nnunet` builds it and reads the sizes from `arch_kwargs`. Such files are read as well, for
//! fine-tuning.

use std::path::Path;

use hiend_cache::FileError;
use hiend_loader::preprocess::normalize::Normalize;

use super::torch::pickle::Value;
use super::torch::write::write;
use super::{ENCODER_POSITIONS, StateDict};
use crate::config::pretrain::PretrainConfig;

/// Name of the position table in an export.
const POSITIONS: &str = "encoder.pos_embed";
/// Prefix of the patch embedding's tensors in an export, and in a pre-training checkpoint.
const STEM: [&str; 2] = ["stem.proj.", "encoder.patch_embed.proj."];
/// Name of the network that `configs/nnunet/hiend_trainer.py` builds.
const NETWORK: &str = "HiEndUnetr";
/// Epsilon of the encoder's layer norms in fine-tuning.
const NORM_EPSILON: f64 = 1e-5;

/// Preprocessing of the pre-training scans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PretrainingData {
    /// Voxel side lengths along x, y, z, in mm; `None` if each scan keeps its own.
    pub spacing: Option<[f64; 3]>,
    /// Normalisation of the values.
    pub normalize: Normalize,
    /// HU range mapped to [0, 1], or range of z-scores that is kept.
    pub window: [f64; 2],
}

/// Writes the encoder of a pre-training model.
///
/// # Errors
/// If the file cannot be written.
pub fn write_nnssl(
    path: &Path,
    state: &StateDict,
    config: &PretrainConfig,
    data: PretrainingData,
) -> Result<(), FileError> {
    let more = vec![
        ("nnssl_adaptation_plan".to_owned(), adaptation_plan(config, data)),
        ("citations".to_owned(), citations()),
        ("trainer_name".to_owned(), "hiend-train".into()),
    ];
    write(path, "network_weights", &encoder_of(state), more)
}

/// Tensors of the encoder, under the names stated in the plan.
///
/// The class token and the decoder are left out, because fine-tuning has neither.
#[must_use]
pub fn encoder_of(state: &StateDict) -> StateDict {
    let rename = |key: &str| {
        if key == ENCODER_POSITIONS {
            return Some(POSITIONS.to_owned());
        }
        let [exported, original] = STEM;
        if let Some(leaf) = key.strip_prefix(original) {
            return Some(format!("{exported}{leaf}"));
        }
        let is_encoder = key.starts_with("encoder.blocks.") || key.starts_with("encoder.norm.");
        is_encoder.then(|| key.to_owned())
    };
    let tensors = state.tensors.iter().filter_map(|(key, tensor)| Some((rename(key)?, tensor.clone()))).collect();
    StateDict { tensors, ..StateDict::default() }
}

/// Gives the tensors of an export the names that they have in a pre-training checkpoint; leaves other files as they are.
pub(super) fn restore_names(state: &mut StateDict) {
    let [exported, original] = STEM;
    let is_export = state.tensors.contains_key(POSITIONS)
        && state.tensors.keys().any(|key| key.starts_with(exported))
        && !state.tensors.keys().any(|key| key == ENCODER_POSITIONS || key.starts_with(original));
    if !is_export {
        return;
    }
    let rename = |key: String| match key.strip_prefix(exported) {
        Some(leaf) => format!("{original}{leaf}"),
        None if key == POSITIONS => ENCODER_POSITIONS.to_owned(),
        None => key,
    };
    let tensors = std::mem::take(&mut state.tensors);
    state.tensors = tensors.into_iter().map(|(key, tensor)| (rename(key), tensor)).collect();
}

fn adaptation_plan(config: &PretrainConfig, data: PretrainingData) -> Value {
    let model = &config.model;
    let floats = |values: &[f64]| Value::List(values.iter().map(|&value| value.into()).collect());
    // nnU-Net's arrays have their axes in the order z, y, x.
    let reversed = |mut values: [f64; 3]| {
        values.reverse();
        floats(&values)
    };
    let mut patch_size = config.stream.crop_size;
    patch_size.reverse();
    let patch_size = || Value::sizes(&patch_size);
    let spacing = || data.spacing.map_or(Value::None, reversed);
    let no_kwargs = || Value::Dict(Vec::new());
    // nnU-Net's name of the normalisation, and the network's argument for the range of values.
    let (scheme, range) = match data.normalize {
        Normalize::Hu => ("CTNormalization", "window"),
        Normalize::Zscore => ("ZScoreNormalization", "zscore_range"),
    };
    let configuration = Value::dict([
        ("data_identifier", "hiend".into()),
        ("preprocessor_name", "DefaultPreprocessor".into()),
        ("spacing_style", if data.spacing.is_some() { "fixed".into() } else { "noresample".into() }),
        ("normalization_schemes", Value::List(vec![scheme.into()])),
        ("use_mask_for_norm", Value::List(vec![Value::Int(0)])),
        ("resampling_fn_data", "resample_data_or_seg_to_shape".into()),
        ("resampling_fn_data_kwargs", no_kwargs()),
        ("resampling_fn_mask", "resample_data_or_seg_to_shape".into()),
        ("resampling_fn_mask_kwargs", no_kwargs()),
        ("spacing", spacing()),
        ("patch_size", patch_size()),
    ]);
    let architecture = Value::dict([
        ("arch_class_name", NETWORK.into()),
        (
            "arch_kwargs",
            Value::dict([
                ("patch_size", model.patch_size.into()),
                ("embed_dim", model.embed_dim.into()),
                ("depth", model.depth.into()),
                ("num_heads", model.num_heads.into()),
                ("mlp_ratio", model.mlp_ratio.into()),
                ("taps", Value::sizes(&model.taps)),
                ("norm_eps", NORM_EPSILON.into()),
                (range, floats(&data.window)),
            ]),
        ),
        ("arch_kwargs_requiring_import", Value::List(Vec::new())),
    ]);
    let pretrain_plan = Value::dict([
        ("dataset_name", "hiend".into()),
        ("plans_name", "hiend".into()),
        ("original_median_spacing_after_transp", spacing()),
        ("image_reader_writer", "SimpleITKIO".into()),
        ("transpose_forward", Value::sizes(&[0, 1, 2])),
        ("transpose_backward", Value::sizes(&[0, 1, 2])),
        ("experiment_planner_used", "hiend-shard".into()),
        ("configurations", Value::dict([("3d_fullres", configuration)])),
    ]);
    Value::dict([
        ("architecture_plans", architecture),
        ("pretrain_plan", pretrain_plan),
        ("pretrain_num_input_channels", 1_usize.into()),
        ("recommended_downstream_patchsize", patch_size()),
        ("key_to_encoder", "encoder".into()),
        ("key_to_stem", "stem".into()),
        ("keys_to_in_proj", Value::List(vec!["stem.proj".into()])),
        ("key_to_lpe", "encoder.pos_embed".into()),
    ])
}

/// Papers to cite, in the format that nnU-Net's trainers print.
fn citations() -> Value {
    let paper = |kind: &str, name: &str, text: &str| {
        Value::dict([("type", kind.into()), ("name", name.into()), ("apa_citations", Value::List(vec![text.into()]))])
    };
    Value::List(vec![
        paper("Pre-training", "Hi-End-MAE", "Hi-End-MAE, arXiv:2502.08347 (2025)."),
        paper("Architecture", "UNETR", "Hatamizadeh et al., UNETR, arXiv:2103.10504 (2021)."),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pretrain::PretrainPreset;
    use crate::weights::{HostTensor, WeightsError};

    /// Tensors of a pre-training model, one of each kind, with different values.
    fn pretrained() -> StateDict {
        let mut state = StateDict::default();
        for key in [
            "encoder.blocks.0.norm1.weight",
            "encoder.norm.bias",
            "encoder.patch_embed.proj.weight",
            "encoder.cls_token",
            ENCODER_POSITIONS,
            "decoder.norm.weight",
            "encoder_to_decoder.0.weight",
        ] {
            let value = state.tensors.len() as f32;
            state.tensors.insert(key.to_owned(), HostTensor { shape: vec![1], values: vec![value] });
        }
        state
    }

    #[test]
    fn an_export_is_read_under_the_names_of_pre_training_and_has_no_decoder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encoder.pth");
        let data = PretrainingData { spacing: None, normalize: Normalize::Hu, window: Normalize::Hu.default_window() };
        let whole = pretrained();
        write_nnssl(&path, &whole, &PretrainPreset::Tiny.config(), data).unwrap();
        let read = StateDict::read(&path).unwrap();
        let mut expected = whole.clone();
        expected
            .tensors
            .retain(|key, _| key.starts_with("encoder") && key != "encoder.cls_token" && !key.contains("decoder"));
        assert_eq!((read.tensors.len(), &read), (4, &expected));
        whole.check_has_decoder().unwrap();
        assert!(matches!(read.check_has_decoder(), Err(WeightsError::EncoderAlone)));
    }

    #[test]
    fn the_encoder_has_the_names_of_the_plan() {
        let keys: Vec<String> = encoder_of(&pretrained()).tensors.into_keys().collect();
        assert_eq!(
            keys,
            ["encoder.blocks.0.norm1.weight", "encoder.norm.bias", "encoder.pos_embed", "stem.proj.weight"]
        );
    }

    #[test]
    fn the_plan_has_axes_in_nnunets_order() {
        let mut config = PretrainPreset::Tiny.config();
        config.stream.crop_size = [96, 72, 48];
        let data =
            PretrainingData { spacing: Some([0.8, 0.9, 1.5]), normalize: Normalize::Hu, window: [-175.0, 250.0] };
        let Value::Dict(plan) = adaptation_plan(&config, data) else { panic!("a dictionary") };
        let get = |key: &str| plan.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()).unwrap();
        assert_eq!(get("recommended_downstream_patchsize"), Value::sizes(&[48, 72, 96]));
        let text = format!("{:?}", get("pretrain_plan"));
        assert!(text.contains("[Float(1.5), Float(0.9), Float(0.8)]"), "{text}");
    }

    #[test]
    fn the_plan_states_the_normalisation() {
        let plan = |normalize: Normalize| {
            let data = PretrainingData { spacing: None, normalize, window: normalize.default_window() };
            format!("{:?}", adaptation_plan(&PretrainPreset::Tiny.config(), data))
        };
        let (hu, zscore) = (plan(Normalize::Hu), plan(Normalize::Zscore));
        for (text, expected, other) in [
            (&hu, ["\"CTNormalization\"", "(\"window\", List([Float(-175.0), Float(250.0)]))"], "zscore_range"),
            (&zscore, ["\"ZScoreNormalization\"", "(\"zscore_range\", List([Float(-20.0), Float(40.0)]))"], "window"),
        ] {
            assert!(expected.iter().all(|part| text.contains(part)), "{text}");
            assert!(!text.contains(other), "{text}");
        }
    }
}
