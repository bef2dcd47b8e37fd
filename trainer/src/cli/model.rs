//! Flags of the commands that take a model and look at it, or move its weights.

use std::path::PathBuf;

use clap::Args;
use hiend_loader::cli::{Spacing, parse_spacing, parse_window};
use hiend_loader::scan::Point;

use crate::config::pretrain::PretrainPreset;
use crate::device::DeviceChoice;

/// Sizes of a model that does not know them.
#[derive(Debug, Args)]
pub struct SizesArgs {
    /// Sizes of the model in a .pth or .safetensors file [default: those of the preset that its tensors fit]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub preset: Option<PretrainPreset>,
    /// The same from a configuration of your own, a TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A pre-training model, and where it runs.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A run's folder, a checkpoint's folder, a .pth or a .safetensors file
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// For files.
    #[command(flatten)]
    pub sizes: SizesArgs,
    /// Where to compute: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// Scans to look at, and where pictures go.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// CT scans, .nii or .nii.gz
    #[arg(value_name = "INPUT", required_unless_present = "shards", conflicts_with = "shards")]
    pub inputs: Vec<PathBuf>,
    /// Take cases out of this cache instead of files
    #[arg(long, value_name = "CACHE", requires = "case")]
    pub shards: Option<PathBuf>,
    /// The case in the cache, as DATASET/CASE or CASE alone. May be repeated
    #[arg(long, value_name = "ID", requires = "shards")]
    pub case: Vec<String>,
    /// Voxel side lengths in mm that files are resampled to, as hiend-shard was told
    #[arg(long, value_name = "MM", default_value = "1.5", value_parser = parse_spacing)]
    pub spacing: Spacing,
    /// HU range that becomes 0 to 1 [default: the model's configuration's, else the cache's, else -175,250]
    #[arg(long, value_name = "LOW,HIGH", value_parser = parse_window, allow_hyphen_values = true)]
    pub window: Option<[f64; 2]>,
    /// Folder for the pictures; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Flags of `reconstruct`.
#[derive(Debug, Args)]
pub struct ReconstructArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The scans.
    #[command(flatten)]
    pub scans: ScanArgs,
    /// Where to look: a voxel of the file (120,80,64) or RAS+ millimetres (-12.5,30,1040mm) [default: the middle]
    #[arg(long, value_name = "X,Y,Z", allow_hyphen_values = true)]
    pub centre: Option<Point>,
    /// Part of the patches to hide [default: as the model was trained]
    #[arg(long, value_name = "PART")]
    pub mask_ratio: Option<f64>,
    /// Decides which patches are hidden
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Draw the crop around the centre only, not the whole scan, too
    #[arg(long)]
    pub crop_only: bool,
}

/// Flags of `attend`.
#[derive(Debug, Args)]
pub struct AttendArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The scans.
    #[command(flatten)]
    pub scans: ScanArgs,
    /// What looks: the patch at a voxel of the file (120,80,64) or at RAS+ millimetres (-12.5,30,1040mm)
    #[arg(long, value_name = "X,Y,Z", allow_hyphen_values = true)]
    pub query: Point,
    /// One attention head, from 0 [default: the mean over all]
    #[arg(long, value_name = "N")]
    pub head: Option<usize>,
    /// Encoder blocks to draw, from 0, as 0,5,11, or all [default: those the decoder reads, and the last]
    #[arg(long, value_name = "N,N", value_parser = parse_layers)]
    pub layers: Option<Layers>,
    /// Part of the patches that the decoder's figure hides; 0 hides the query alone
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = parse_part)]
    pub mask_ratio: f64,
    /// Decides which patches are hidden
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Flags of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A .pth, .pt or .bin checkpoint, or a .safetensors file
    pub file: PathBuf,
    /// Write what the model took, as .safetensors [default: only say what would be taken]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The model's.
    #[command(flatten)]
    pub sizes: SizesArgs,
}

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A run's folder, a checkpoint's folder, a .pth or a .safetensors file
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// The file to write, .safetensors
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// For files.
    #[command(flatten)]
    pub sizes: SizesArgs,
}

/// Encoder blocks as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Every one.
    All,
    /// These, in this order.
    These(Vec<usize>),
}

fn parse_layers(text: &str) -> Result<Layers, String> {
    if text == "all" {
        return Ok(Layers::All);
    }
    let parsed: Result<Vec<usize>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    parsed.map(Layers::These).map_err(|_| "expected `all` or numbers of blocks, as 0,5,11".to_owned())
}

fn parse_part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if (0.0..1.0).contains(&part) => Ok(part),
        _ => Err("expected a part of the patches, 0 to less than 1".to_owned()),
    }
}
