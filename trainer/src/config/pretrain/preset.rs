//! Built-in configurations of pre-training runs.

use super::PretrainConfig;
use crate::config::RunConfig as _;

/// Built-in configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PretrainPreset {
    /// ViT-L with patches of 12 voxels: the paper's model.
    VitLP12,
    /// ViT-L with patches of 16 voxels.
    VitLP16,
    /// ViT-B with patches of 16 voxels.
    VitBP16,
    /// ViT-L with patches of 16 voxels and crops of 192 voxels per side, for z-scores.
    MrVitLP16,
    /// ViT-B with patches of 16 voxels and crops of 160 voxels per side, for z-scores.
    MrVitBP16,
    /// A small model for CPUs.
    Tiny,
}

impl PretrainPreset {
    /// All presets: first those for CT, largest first, then those for other modalities.
    pub const ALL: [Self; 6] =
        [Self::VitLP12, Self::VitLP16, Self::VitBP16, Self::Tiny, Self::MrVitLP16, Self::MrVitBP16];

    /// Name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::VitLP12 => "vit-l-p12",
            Self::VitLP16 => "vit-l-p16",
            Self::VitBP16 => "vit-b-p16",
            Self::MrVitLP16 => "mr-vit-l-p16",
            Self::MrVitBP16 => "mr-vit-b-p16",
            Self::Tiny => "tiny",
        }
    }

    /// Returns `true` if the preset's crops and batch are designed for z-scores of MR and other modalities.
    #[must_use]
    pub fn is_for_zscores(self) -> bool {
        match self {
            Self::MrVitLP16 | Self::MrVitBP16 => true,
            Self::VitLP12 | Self::VitLP16 | Self::VitBP16 | Self::Tiny => false,
        }
    }

    /// Text of the file in `configs/pretrain/`, built into the program.
    #[must_use]
    pub fn toml(self) -> &'static str {
        match self {
            Self::VitLP12 => include_str!("../../../../configs/pretrain/vit-l-p12.toml"),
            Self::VitLP16 => include_str!("../../../../configs/pretrain/vit-l-p16.toml"),
            Self::VitBP16 => include_str!("../../../../configs/pretrain/vit-b-p16.toml"),
            Self::MrVitLP16 => include_str!("../../../../configs/pretrain/mr-vit-l-p16.toml"),
            Self::MrVitBP16 => include_str!("../../../../configs/pretrain/mr-vit-b-p16.toml"),
            Self::Tiny => include_str!("../../../../configs/pretrain/tiny.toml"),
        }
    }

    /// Parses the configuration.
    #[must_use]
    pub fn config(self) -> PretrainConfig {
        PretrainConfig::parse(self.toml(), self.name()).expect("presets are valid")
    }
}
