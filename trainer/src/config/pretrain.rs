//! The configuration of a pre-training, and those that come with the program.

use hiend_loader::pipeline::StreamConfig;
use serde::{Deserialize, Serialize};

use super::{Fault, RunConfig, TrainConfig};
use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::optim::AdamWSettings;
use crate::schedule::ScheduleConfig;

/// Everything that decides what a pre-training results in, but the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Sizes of the model.
    pub model: HiEndMaeConfig,
    /// Crops, batches, augmentation.
    pub stream: StreamConfig,
    /// The optimizer and its peak learning rate.
    pub optim: AdamWSettings,
    /// Length, and the course of the learning rate.
    pub schedule: ScheduleConfig,
    /// The rest.
    pub train: TrainConfig,
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

    fn model_fault(&self) -> Option<Fault> {
        let error = self.model.validate(self.stream.crop_size).err()?;
        Some(("model", error.key, error.reason))
    }

    fn with_every_key() -> Self {
        Self {
            model: HiEndMaeConfig::tiny(),
            stream: StreamConfig { window: Some([-175.0, 250.0]), ..StreamConfig::default() },
            optim: AdamWSettings { clip_norm: Some(1.0), ..AdamWSettings::pretrain() },
            schedule: ScheduleConfig::with_every_key(),
            train: TrainConfig::with_every_key(),
        }
    }
}

/// Configurations that come with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PretrainPreset {
    /// The paper's model.
    VitLP12,
    /// The paper's model, patches of 16 voxels.
    VitLP16,
    /// The paper's base model, patches of 16 voxels.
    VitBP16,
    /// For CPUs.
    Tiny,
}

impl PretrainPreset {
    /// All of them, the largest first.
    pub const ALL: [Self; 4] = [Self::VitLP12, Self::VitLP16, Self::VitBP16, Self::Tiny];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VitLP12 => "vit-l-p12",
            Self::VitLP16 => "vit-l-p16",
            Self::VitBP16 => "vit-b-p16",
            Self::Tiny => "tiny",
        }
    }

    /// The file in `configs/pretrain/`, built into the program.
    #[must_use]
    pub fn toml(self) -> &'static str {
        match self {
            Self::VitLP12 => include_str!("../../../configs/pretrain/vit-l-p12.toml"),
            Self::VitLP16 => include_str!("../../../configs/pretrain/vit-l-p16.toml"),
            Self::VitBP16 => include_str!("../../../configs/pretrain/vit-b-p16.toml"),
            Self::Tiny => include_str!("../../../configs/pretrain/tiny.toml"),
        }
    }

    /// Its configuration.
    ///
    /// # Panics
    /// Never: a test parses every preset.
    #[must_use]
    pub fn config(self) -> PretrainConfig {
        PretrainConfig::parse(self.toml(), self.name()).expect("presets are valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Every, Unit};

    #[test]
    fn presets_are_the_recipe() {
        let models = [
            HiEndMaeConfig::vit_l_p12(),
            HiEndMaeConfig::vit_l_p16(),
            HiEndMaeConfig::vit_b_p16(),
            HiEndMaeConfig::tiny(),
        ];
        for (preset, model) in PretrainPreset::ALL.into_iter().zip(models) {
            let config = preset.config();
            assert_eq!(config.model, model, "{}", preset.name());
            if preset != PretrainPreset::Tiny {
                assert_eq!(config.stream, StreamConfig::default());
                assert_eq!(config.optim, AdamWSettings::pretrain());
                assert_eq!(
                    config.schedule,
                    ScheduleConfig { unit: Unit::Epoch, total: 1000, warmup: 10, rate_changes: Every::Step }
                );
            }
        }
    }

    #[test]
    fn the_smoke_config_is_valid() {
        PretrainConfig::parse(include_str!("../../../configs/smoke.toml"), "configs/smoke.toml").unwrap();
    }

    #[test]
    fn writing_and_reading_gives_the_same() {
        let config = PretrainConfig::with_every_key();
        assert_eq!(PretrainConfig::parse(&config.to_toml(), "test").unwrap(), config);
        assert_eq!(config.differences(&config), []);
    }

    #[test]
    fn mistakes_are_named() {
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
        check("crop_size = [96, 96, 96]", "crop_size = [96, 96, 97]", "x.toml: model.patch_size: 12 does not divide");
        check("crop_size = [96, 96, 96]", "crop_size = 96", "x.toml: ");
        check("warmup = ", "warmup = 9000000 #", "x.toml: schedule.warmup: 9000000 must be less");
        check("seed = 0", "", "x.toml: ");
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
}
