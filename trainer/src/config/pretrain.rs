//! Configuration of a pre-training run.

mod preset;

use hiend_loader::pipeline::StreamConfig;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::{Normalize, Units};
use hiend_loader::split::Split;
use serde::{Deserialize, Serialize};

use super::{Fault, RunConfig, TrainConfig, preprocess_with_every_key};
use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::optim::AdamWSettings;
use crate::schedule::ScheduleConfig;

pub use preset::PretrainPreset;

/// Everything that determines the result of a pre-training run, except the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Sizes of the model.
    pub model: HiEndMaeConfig,
    /// Crops, batches and augmentation.
    pub stream: StreamConfig,
    /// The optimizer and its peak learning rate.
    pub optim: AdamWSettings,
    /// Length of the run and learning-rate schedule.
    pub schedule: ScheduleConfig,
    /// Remaining settings.
    pub train: TrainConfig,
    /// Preprocessing of the scans, filled in from the cache when the run begins. Scans to reconstruct are preprocessed in
    /// the same way. Absent in runs on HU of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<PreprocessConfig>,
}

impl PretrainConfig {
    /// Normalisation of the training scans.
    #[must_use]
    pub fn normalize(&self) -> Normalize {
        self.preprocess.as_ref().map_or(Normalize::Hu, |preprocess| preprocess.normalize)
    }

    /// Units of the training crops.
    #[must_use]
    pub fn units(&self) -> Units {
        self.preprocess.clone().unwrap_or_default().units(self.stream.window)
    }
}

impl RunConfig for PretrainConfig {
    fn stream(&self) -> &StreamConfig {
        &self.stream
    }

    fn optim(&self) -> &AdamWSettings {
        &self.optim
    }

    fn schedule(&self) -> &ScheduleConfig {
        &self.schedule
    }

    fn train(&self) -> &TrainConfig {
        &self.train
    }

    fn splits(&self) -> Vec<&Split> {
        vec![&self.stream.split]
    }

    fn splits_mut(&mut self) -> Vec<&mut Split> {
        vec![&mut self.stream.split]
    }

    fn preprocess(&self) -> Option<&PreprocessConfig> {
        self.preprocess.as_ref()
    }

    fn model_fault(&self) -> Option<Fault> {
        let error = self.model.validate(self.stream.crop_size).err()?;
        Some(("model", error.key, error.reason))
    }

    fn with_every_key() -> Self {
        Self {
            model: HiEndMaeConfig::tiny(),
            stream: StreamConfig { window: Some([-175.0, 250.0]), ignore_label: Some(255), ..StreamConfig::default() },
            optim: AdamWSettings { clip_norm: Some(1.0), ..AdamWSettings::pretrain() },
            schedule: ScheduleConfig::with_every_key(),
            train: TrainConfig::with_every_key(),
            preprocess: Some(preprocess_with_every_key()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AugmentOn, MicroBatch};
    use crate::ops::attention::Computation;
    use crate::schedule::{Every, Unit};
    use hiend_loader::batch::VoxelForm;
    use hiend_loader::split::{CaseSplit, ListSplit};
    use hiend_loader::transform::{Chain, Plain};

    #[test]
    fn presets_match_the_recipe() {
        let models = [
            HiEndMaeConfig::vit_l_p12(),
            HiEndMaeConfig::vit_l_p16(),
            HiEndMaeConfig::vit_b_p16(),
            HiEndMaeConfig::tiny(),
            HiEndMaeConfig::vit_l_p16(),
            HiEndMaeConfig::vit_b_p16(),
        ];
        let larger = |side: usize, crops_per_visit| StreamConfig {
            crop_size: [side; 3],
            crops_per_visit,
            ..StreamConfig::default()
        };
        assert_eq!(PretrainPreset::ALL.len(), models.len());
        for (preset, model) in PretrainPreset::ALL.into_iter().zip(models) {
            let config = preset.config();
            assert_eq!(config.model, model, "{}", preset.name());
            if preset != PretrainPreset::Tiny {
                let stream = match preset {
                    PretrainPreset::MrVitLP16 => larger(192, 1),
                    PretrainPreset::MrVitBP16 => larger(160, 2),
                    _ => StreamConfig::default(),
                };
                assert_eq!(config.stream, stream, "{}", preset.name());
                assert_eq!(config.optim, AdamWSettings::pretrain());
                assert_eq!(
                    config.schedule,
                    ScheduleConfig { unit: Unit::Epoch, total: 1000, warmup: 10, rate_changes: Every::Step }
                );
            }
        }
    }

    #[test]
    fn larger_crops_suit_the_patches_of_the_presets() {
        let sides = |preset: PretrainPreset| {
            let config = preset.config();
            [160, 192].map(|side| {
                let pairs = [("stream.crop_size".to_owned(), format!("[{side}, {side}, {side}]"))];
                config.with_settings(&pairs).map_err(|error| error.to_string())
            })
        };
        for preset in [PretrainPreset::VitBP16, PretrainPreset::VitLP16, PretrainPreset::MrVitBP16] {
            for (config, side) in sides(preset).into_iter().zip([160, 192]) {
                assert_eq!(config.unwrap().stream.crop_size, [side; 3], "{}", preset.name());
            }
        }
        let [odd, even] = sides(PretrainPreset::VitLP12);
        assert!(odd.unwrap_err().contains("model.patch_size: 12 does not divide") && even.is_ok());
    }

    #[test]
    fn presets_leave_preprocessing_to_the_cache() {
        let text = PretrainPreset::Tiny.config().to_toml();
        assert!(!text.contains("preprocess") && !text.contains("normalize"), "{text}");
    }

    #[test]
    fn preprocessing_that_earlier_versions_did_not_record_is_no_change() {
        let before = PretrainPreset::Tiny.config();
        let recorded = |preprocess| PretrainConfig { preprocess: Some(preprocess), ..before.clone() };
        let now = recorded(PreprocessConfig { spacing: Some([3.0; 3]), ..PreprocessConfig::default() });
        assert_eq!(now.changes_since(&before), []);
        let mut other = now.clone();
        other.optim.lr *= 2.0;
        let keys = |now: &PretrainConfig, before: &PretrainConfig| -> Vec<String> {
            now.changes_since(before).into_iter().map(|change| change.0).collect()
        };
        assert_eq!(keys(&other, &before), ["optim.lr"]);
        assert_eq!(keys(&now, &recorded(PreprocessConfig::default())), ["preprocess.spacing"]);
        assert!(keys(&before, &now).contains(&"preprocess.spacing".to_owned()));
        // Earlier versions recorded z-scores.
        let zscores = recorded(PreprocessConfig { normalize: Normalize::Zscore, ..PreprocessConfig::default() });
        assert!(keys(&zscores, &before).contains(&"preprocess.normalize".to_owned()));
    }

    #[test]
    fn smoke_config_is_valid() {
        PretrainConfig::parse(include_str!("../../../configs/smoke.toml"), "configs/smoke.toml").unwrap();
    }

    #[test]
    fn toml_round_trip_is_lossless() {
        let config = PretrainConfig::with_every_key();
        assert_eq!(PretrainConfig::parse(&config.to_toml(), "test").unwrap(), config);
        assert_eq!(config.differences(&config), []);
    }

    #[test]
    fn errors_name_the_key() {
        let check = |from: &str, to: &str, expected: &str| {
            let text = PretrainPreset::Tiny.toml();
            assert!(text.contains(from), "{from}");
            let message = PretrainConfig::parse(&text.replacen(from, to, 1), "x.toml").unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
            assert!(!message.contains('\n'), "{message}");
        };
        check("mask_ratio", "mask_rate", "x.toml: unknown key `model.mask_rate`; did you mean `model.mask_ratio`?");
        check("[optim]", "[optimizer]", "x.toml: unknown key `optimizer`; did you mean `optim`?");
        check("probability", "probabilty", "x.toml: unknown key `stream.augment.flip.probabilty`; did you mean");
        check("[train]", "[zzz]", "x.toml: unknown key `zzz`");
        check("[train]", "[\"z\\nz\"]", "x.toml: unknown key `z\\nz`");
        check("crop_size = [96, 96, 96]", "crop_size = [96, 96, 97]", "x.toml: model.patch_size: 12 does not divide");
        check("[train]\n", "[train]\nlr = 1e-4\n", "x.toml: unknown key `train.lr`; did you mean `optim.lr`?");
        check("crop_size = [96, 96, 96]", "crop_size = 96", "x.toml: ");
        check("warmup = ", "warmup = 9000000 #", "x.toml: schedule.warmup: 9000000 must be less");
        check("seed = 0", "", "x.toml: ");
        check("[optim]", "[model]", "x.toml: line ");
        let text = PretrainPreset::Tiny.toml();
        let line = text.lines().position(|line| line.starts_with("seed = 0")).unwrap() + 1;
        let message = PretrainConfig::parse(&text.replacen("seed = 0", "seed = \"a\"", 1), "x.toml").unwrap_err();
        let message = message.to_string();
        let is_told = message.starts_with(&format!("x.toml: line {line}: ")) && message.ends_with("in `train.seed`");
        assert!(is_told, "{message}");
    }

    #[test]
    fn crops_decoded_on_the_device_are_augmented_there() {
        let text = PretrainPreset::Tiny.toml().replacen("decode_on = \"cpu\"", "decode_on = \"device\"", 1);
        let config = PretrainConfig::parse(&text, "x.toml").unwrap();
        for is_cpu in [true, false] {
            assert_eq!(config.train.voxel_form(&config.stream.augment, is_cpu), VoxelForm::Chunks);
        }
        let mut nnunet = config;
        nnunet.stream.augment = Chain::nnunet();
        let message = nnunet.validate("x.toml").unwrap_err().to_string();
        assert!(
            message.starts_with("x.toml: train.decode_on: \"device\" needs train.augment_on = \"device\""),
            "{message}"
        );
        nnunet.train.augment_on = AugmentOn::Device;
        nnunet.validate("x.toml").unwrap();
        assert_eq!(nnunet.train.voxel_form(&nnunet.stream.augment, false), VoxelForm::Chunks);
    }

    #[test]
    fn fused_attention_is_of_short_tokens() {
        let text = PretrainPreset::VitLP12.toml();
        assert!(text.contains("attention = \"products\""));
        let fused = text.replacen("attention = \"products\"", "attention = \"cudnn\"", 1);
        assert_eq!(PretrainConfig::parse(&fused, "x.toml").unwrap().train.attention, Computation::Cudnn);
        let message =
            PretrainConfig::parse(&fused.replacen("\"bf16\"", "\"tf32\"", 1), "x.toml").unwrap_err().to_string();
        assert_eq!(message, "x.toml: train.attention: \"cudnn\" needs train.precision = \"bf16\", which is \"tf32\"");
    }

    #[test]
    fn settings_replace_values_and_are_checked() {
        let config = PretrainPreset::Tiny.config();
        let set = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            config.with_settings(&pairs)
        };
        let changed = set(&[("optim.lr", "2e-4"), ("train.micro_batch", "2"), ("stream.on_corrupt", "skip")]).unwrap();
        let keys: Vec<String> = config.differences(&changed).into_iter().map(|difference| difference.0).collect();
        assert_eq!(keys, ["optim.lr", "stream.on_corrupt", "train.micro_batch"]);
        assert_eq!((changed.optim.lr, changed.train.micro_batch), (2e-4, Some(MicroBatch::Crops(2))));
        assert_eq!(set(&[]).unwrap(), config);
        let refused = |key: &str, value: &str, expected: &str| {
            let message = set(&[(key, value)]).unwrap_err().to_string();
            assert!(message.starts_with(expected) && !message.contains('\n'), "{message}");
        };
        refused("train.lr", "1", "--set train.lr=1: unknown key `train.lr`; did you mean `optim.lr`?");
        refused("optim.lrr", "1", "--set optim.lrr=1: unknown key `optim.lrr`; did you mean `optim.lr`?");
        refused("train.micro_batch", "0", "--set train.micro_batch=0: train.micro_batch: must be at least 1");
        refused("train.micro_batch", "few", "--set train.micro_batch=few: invalid type: string \"few\"");
        for (name, chain) in [("plain", Chain::Plain(Plain {})), ("nnunet", Chain::nnunet())] {
            assert_eq!(set(&[("stream.augment.chain", name)]).unwrap().stream.augment, chain);
        }
        assert_eq!(set(&[("stream.augment.chain", "recipe")]).unwrap(), config);
        // A table without a name keeps its keys.
        let flip = ("stream.augment", "{ flip = { probability = 0.25 } }");
        let named = set(&[flip, ("stream.augment.chain", "recipe")]).unwrap();
        let whole = ("stream.augment", "{ chain = \"recipe\", flip = { probability = 0.25 } }");
        assert_eq!(named, set(&[whole]).unwrap());
        assert_ne!(named, config);
        assert!(set(&[flip, ("stream.augment.chain", "plain")]).unwrap_err().to_string().contains("flip"));
        // In any order, and only what the chain has.
        let twice = [("stream.augment.flip.probability", "0.5"), ("stream.augment.chain", "plain")];
        assert!(set(&twice).unwrap_err().to_string().contains("flip"));
        refused(
            "train.seed",
            "-1",
            "--set train.seed=-1: invalid value: integer `-1`, expected a whole number from 0 on",
        );
        refused("optim.lr.peak", "1", "--set optim.lr.peak=1: optim.lr.peak: a value, not a section");
    }

    #[test]
    fn differences_name_the_key() {
        let config = PretrainPreset::Tiny.config();
        let mut other = config.clone();
        other.optim.lr *= 2.0;
        other.optim.clip_norm = Some(1.0);
        let keys: Vec<String> = config.differences(&other).into_iter().map(|d| d.0).collect();
        assert_eq!(keys, ["optim.clip_norm", "optim.lr"]);
        assert_ne!(config.digest(), other.digest());
    }

    #[test]
    fn differences_of_splits_show_both() {
        let all = PretrainPreset::Tiny.config();
        let of = |split: Split| {
            let mut config = all.clone();
            config.stream.split = split;
            config
        };
        let list = |path: &str| of(Split::List(ListSplit { list: path.into() }));
        let shown = |key: &str, now: &str, before: &str| vec![(key.to_owned(), now.to_owned(), before.to_owned())];
        let expected = shown("stream.split", "{ list = \"tr.txt\" }", "\"all\"");
        assert_eq!(list("tr.txt").differences(&all), expected);
        let cases = of(Split::Cases(CaseSplit { cases: vec!["a".into()] }));
        let expected = shown("stream.split", "{ cases = [\"a\"] }", "{ list = \"tr.txt\" }");
        assert_eq!(cases.differences(&list("tr.txt")), expected);
        let expected = shown("stream.split.list", "\"/a/tr.txt\"", "\"/b/tr.txt\"");
        assert_eq!(list("/a/tr.txt").differences(&list("/b/tr.txt")), expected);
        // Earlier versions recorded paths as they were given.
        for given in ["tr.txt", "./tr.txt", "../a/tr.txt"] {
            assert_eq!(list(&format!("/c/{}", given.trim_start_matches("./"))).differences(&list(given)), []);
        }
        assert_eq!(list("/a/tr.txt").differences(&list("va.txt")).len(), 1);
    }
}
