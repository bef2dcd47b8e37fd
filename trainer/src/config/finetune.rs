//! Configuration of a fine-tuning run.

mod preset;

use hiend_loader::pipeline::StreamConfig;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::split::Split;
use serde::{Deserialize, Serialize};

use super::{Fault, RunConfig, TrainConfig, preprocess_with_every_key};
use crate::label_space::LabelSpace;
use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::model::unetr::UnetrConfig;
use crate::optim::AdamWSettings;
use crate::schedule::ScheduleConfig;
use crate::sliding_window::{SlidingWindow, Weighting};

pub use preset::FinetunePreset;

/// Everything that determines the result of a fine-tuning run, except data and initial weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Class names by label, background first. If empty, the dataset's names are filled in when the run begins.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Label of voxels without annotation, above all classes: excluded from the loss and from all metrics, like
    /// nnU-Net's `ignore`. If absent, the dataset's ignore label is filled in when the run begins, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_label: Option<u8>,
    /// Sizes of the model.
    pub model: UnetrSettings,
    /// Crops, batches, augmentation and training cases.
    pub stream: StreamConfig,
    /// The optimizer and its peak learning rate.
    pub optim: AdamWSettings,
    /// Length of the run and learning-rate schedule.
    pub schedule: ScheduleConfig,
    /// Remaining settings.
    pub train: TrainConfig,
    /// Validation during the run; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationConfig>,
    /// Preprocessing of the scans, filled in from the cache when the run begins. Scans to predict are preprocessed in
    /// the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<PreprocessConfig>,
}

/// Sizes of a UNETR, except those that follow from the crop and the classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetrSettings {
    /// Side of a patch in voxels; must divide the sides of the crop.
    pub patch_size: usize,
    /// Width of the encoder's tokens, a multiple of 6 and of `num_heads`.
    pub embed_dim: usize,
    /// Number of blocks of the encoder.
    pub depth: usize,
    /// Number of attention heads of the encoder.
    pub num_heads: usize,
    /// Width of the MLPs' hidden layers, as a multiple of `embed_dim`.
    pub mlp_ratio: usize,
    /// Indices, from 0 and ascending, of the three encoder layers whose outputs the decoder receives.
    pub taps: [usize; 3],
    /// Number of channels at full resolution; each coarser level has twice as many.
    pub feature_size: usize,
}

impl UnetrSettings {
    /// Returns these sizes with the encoder of a pre-training model; `None` if that model does not have three taps.
    #[must_use]
    pub fn with_encoder_of(&self, pretrained: &HiEndMaeConfig) -> Option<Self> {
        Some(Self {
            patch_size: pretrained.patch_size,
            embed_dim: pretrained.embed_dim,
            depth: pretrained.depth,
            num_heads: pretrained.num_heads,
            mlp_ratio: pretrained.mlp_ratio,
            taps: pretrained.taps.as_slice().try_into().ok()?,
            feature_size: self.feature_size,
        })
    }
}

/// Validation during a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    /// Interval between validations, in the schedule's unit; the end of a run is always validated.
    pub every: u64,
    /// Selection of the validation cases, in the same form as `stream.split`.
    pub split: Split,
    /// Fraction by which adjacent windows overlap, in [0, 1).
    pub overlap: f64,
    /// Maximum number of windows predicted at a time; a GPU's free memory may allow fewer.
    pub sw_batch_size: usize,
    /// Weighting of overlapping windows.
    #[serde(default)]
    pub weighting: Weighting,
}

impl FinetuneConfig {
    /// Labels that the cases may hold, once the classes are known.
    ///
    /// # Panics
    /// If the ignore label is one of the classes, which [`RunConfig::validate`] refuses.
    #[must_use]
    pub fn label_space(&self) -> LabelSpace {
        LabelSpace::new(self.classes.len()).with_ignore(self.ignore_label)
    }

    /// Configuration of the network.
    #[must_use]
    pub fn unetr(&self) -> UnetrConfig {
        let model = &self.model;
        UnetrConfig {
            in_channels: 1,
            num_classes: self.classes.len(),
            crop_size: self.stream.crop_size,
            patch_size: model.patch_size,
            embed_dim: model.embed_dim,
            depth: model.depth,
            num_heads: model.num_heads,
            mlp_ratio: model.mlp_ratio,
            taps: model.taps,
            feature_size: model.feature_size,
        }
    }
}

impl RunConfig for FinetuneConfig {
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
        let validation = self.validation.as_ref().map(|validation| &validation.split);
        std::iter::once(&self.stream.split).chain(validation).collect()
    }

    fn splits_mut(&mut self) -> Vec<&mut Split> {
        let validation = self.validation.as_mut().map(|validation| &mut validation.split);
        std::iter::once(&mut self.stream.split).chain(validation).collect()
    }

    fn preprocess(&self) -> Option<&PreprocessConfig> {
        self.preprocess.as_ref()
    }

    fn model_fault(&self) -> Option<Fault> {
        if let Some(label) = self.ignore_label.filter(|&label| usize::from(label) < self.classes.len()) {
            let last = self.classes.len() - 1;
            return Some(("", "ignore_label", format!("{label} is a class; it must be above {last}")));
        }
        let mut unetr = self.unetr();
        // The number is not known yet; any valid one serves.
        if self.classes.is_empty() {
            unetr.num_classes = 2;
        }
        if let Err(error) = unetr.validate() {
            let section = if error.key == "crop_size" { "stream" } else { "model" };
            return Some((section, error.key, error.reason));
        }
        if !self.stream.labels {
            return Some(("stream", "labels", "fine-tuning needs labels = true".into()));
        }
        let validation = self.validation.as_ref()?;
        let window = SlidingWindow::new(self.stream.crop_size, validation.overlap, validation.sw_batch_size);
        if let Err(error) = window {
            let key = if (0.0..1.0).contains(&validation.overlap) { "sw_batch_size" } else { "overlap" };
            return Some(("validation", key, error.to_string()));
        }
        if validation.every == 0 {
            return Some(("validation", "every", "must be at least 1; leave [validation] out for none".into()));
        }
        validation.split.fault().map(|reason| ("validation", "split", reason))
    }

    fn with_every_key() -> Self {
        let config = Self::parse_unchecked(FinetunePreset::Recipe.toml());
        Self {
            stream: StreamConfig { window: Some([-175.0, 250.0]), ignore_label: Some(255), ..config.stream },
            optim: AdamWSettings { clip_norm: Some(1.0), ..config.optim },
            train: TrainConfig::with_every_key(),
            preprocess: Some(preprocess_with_every_key()),
            ignore_label: Some(255),
            ..config
        }
    }
}

impl FinetuneConfig {
    /// Parses a preset without checking its keys, because the list of known keys is derived from it.
    fn parse_unchecked(text: &str) -> Self {
        toml::from_str(text).expect("a test parses every preset")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignore_label_that_datasets_no_longer_name_is_no_change() {
        let mut before = FinetunePreset::Tiny.config();
        before.ignore_label = Some(3);
        let mut now = before.clone();
        now.stream.ignore_label = Some(3);
        assert_eq!(now.changes_since(&before), []);
        assert_eq!(before.changes_since(&now), []);
        now.ignore_label = Some(4);
        assert_eq!(now.changes_since(&before).len(), 1);
    }

    #[test]
    fn presets_match_the_recipe_except_for_classes_and_cases() {
        let recipe = FinetunePreset::Recipe.config();
        for preset in FinetunePreset::ALL {
            let config = preset.config();
            let keys: Vec<String> = config.differences(&recipe).into_iter().map(|difference| difference.0).collect();
            let mut expected = match preset {
                FinetunePreset::Recipe => vec![],
                FinetunePreset::Tiny => continue,
                FinetunePreset::BtcvOneShot => vec!["classes", "stream.include", "stream.split", "validation.split"],
                _ => vec!["classes", "stream.include"],
            };
            let flat = |key: &String| {
                let split = ["stream.split", "validation.split"].into_iter().find(|split| key.starts_with(split));
                split.unwrap_or(key).to_owned()
            };
            let mut found: Vec<String> = keys.iter().map(flat).collect();
            found.dedup();
            expected.sort_unstable();
            assert_eq!(found, expected, "{}", preset.name());
        }
    }

    #[test]
    fn class_lists_have_the_published_lengths() {
        let classes = |preset: FinetunePreset| preset.config().classes;
        for (preset, expected) in [
            (FinetunePreset::Recipe, 0),
            (FinetunePreset::Btcv, 14),
            (FinetunePreset::Amos, 16),
            (FinetunePreset::Word, 17),
            (FinetunePreset::Flare22, 14),
            (FinetunePreset::CtOrg, 7),
            (FinetunePreset::Sliver, 2),
        ] {
            assert_eq!(classes(preset).len(), expected, "{}", preset.name());
        }
    }

    #[test]
    fn toml_round_trip_is_lossless() {
        let config = FinetuneConfig::with_every_key();
        assert_eq!(FinetuneConfig::parse(&config.to_toml(), "test").unwrap(), config);
    }

    #[test]
    fn other_splits_and_chains_have_other_keys() {
        let text = FinetunePreset::Recipe.toml();
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            FinetuneConfig::parse(&text.replacen(from, to, 1), "x.toml").unwrap();
        };
        with("{ fold = 0, of = 5, part = \"train\", rule = \"dealt\" }", "{ shots = 1, part = \"train\" }");
        with("{ fold = 0, of = 5, part = \"train\", rule = \"dealt\" }", "{ list = \"train.txt\" }");
        let augment = text.find("[stream.augment]").unwrap();
        let end = augment + text[augment..].find("[optim]").unwrap();
        let nnunet = format!("{}[stream.augment]\nchain = \"nnunet\"\n\n{}", &text[..augment], &text[end..]);
        FinetuneConfig::parse(&nnunet, "x.toml").unwrap();
    }

    #[test]
    fn chunks_of_labelled_cases_are_decoded_on_the_device() {
        let text = FinetunePreset::Recipe.toml();
        assert!(text.contains("decode_on = \"cpu\""));
        let config =
            FinetuneConfig::parse(&text.replacen("decode_on = \"cpu\"", "decode_on = \"device\"", 1), "x.toml");
        let config = config.unwrap();
        assert_eq!(config.train.voxel_form(&config.stream.augment, false), hiend_loader::batch::VoxelForm::Chunks);
    }

    #[test]
    fn errors_name_the_key() {
        let check = |from: &str, to: &str, expected: &str| {
            let text = FinetunePreset::Recipe.toml();
            assert!(text.contains(from), "{from}");
            let message = FinetuneConfig::parse(&text.replacen(from, to, 1), "x.toml").unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        };
        check("feature_size", "features", "x.toml: unknown key `model.features`; did you mean `model.feature_size`?");
        check("crop_size = [96, 96, 96]", "crop_size = [96, 96, 97]", "x.toml: stream.crop_size: 97 is not a multiple");
        check("labels = true", "labels = false", "x.toml: stream.labels: fine-tuning needs");
        check("overlap = 0.5", "overlap = 1.5", "x.toml: validation.overlap: overlap 1.5 is not in [0, 1)");
        check("fold = 0, of = 5", "fold = 0, off = 5", "x.toml: ");
        check("every = 25", "every = 0", "x.toml: validation.every: must be at least 1");
    }
}
