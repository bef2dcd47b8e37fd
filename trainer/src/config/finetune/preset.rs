//! Built-in configurations of fine-tuning runs.

use super::FinetuneConfig;
use crate::config::RunConfig as _;

/// Built-in configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinetunePreset {
    /// The paper's settings, for any dataset.
    Recipe,
    /// A small model for CPUs.
    Tiny,
    /// BTCV (Synapse multi-atlas labelling): 13 organs.
    Btcv,
    /// BTCV with a single training case.
    BtcvOneShot,
    /// AMOS22: 15 organs.
    Amos,
    /// WORD: 16 organs.
    Word,
    /// FLARE22: 13 organs.
    Flare22,
    /// CT-ORG: 5 organs and the skeleton.
    CtOrg,
    /// SLIVER07: the liver.
    Sliver,
}

impl FinetunePreset {
    /// All presets.
    pub const ALL: [Self; 9] = [
        Self::Recipe,
        Self::Tiny,
        Self::Btcv,
        Self::BtcvOneShot,
        Self::Amos,
        Self::Word,
        Self::Flare22,
        Self::CtOrg,
        Self::Sliver,
    ];

    /// Name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Recipe => "recipe",
            Self::Tiny => "tiny",
            Self::Btcv => "btcv",
            Self::BtcvOneShot => "btcv-one-shot",
            Self::Amos => "amos",
            Self::Word => "word",
            Self::Flare22 => "flare22",
            Self::CtOrg => "ct-org",
            Self::Sliver => "sliver",
        }
    }

    /// Text of the file in `configs/finetune/`, built into the program.
    #[must_use]
    pub fn toml(self) -> &'static str {
        match self {
            Self::Recipe => include_str!("../../../../configs/finetune/recipe.toml"),
            Self::Tiny => include_str!("../../../../configs/finetune/tiny.toml"),
            Self::Btcv => include_str!("../../../../configs/finetune/btcv.toml"),
            Self::BtcvOneShot => include_str!("../../../../configs/finetune/btcv-one-shot.toml"),
            Self::Amos => include_str!("../../../../configs/finetune/amos.toml"),
            Self::Word => include_str!("../../../../configs/finetune/word.toml"),
            Self::Flare22 => include_str!("../../../../configs/finetune/flare22.toml"),
            Self::CtOrg => include_str!("../../../../configs/finetune/ct-org.toml"),
            Self::Sliver => include_str!("../../../../configs/finetune/sliver.toml"),
        }
    }

    /// Parses the configuration.
    #[must_use]
    pub fn config(self) -> FinetuneConfig {
        FinetuneConfig::parse(self.toml(), self.name()).expect("presets are valid")
    }
}
