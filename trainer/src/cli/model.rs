//! Flags of the commands that visualise a pre-training model, or import and export its weights.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hiend_loader::program::{Expected, NormalizeArg, OnSuspectArg, Spacing, parse_spacing, parse_window};
use hiend_loader::scan::Point;

use super::values::{parse_fraction, parse_proper_fraction, parse_whole};
use crate::config::pretrain::PretrainPreset;
use crate::device::DeviceChoice;

/// Sizes of a model in a weight file, which does not contain them.
#[derive(Debug, Args)]
pub struct SizesArgs {
    /// Preset with the sizes of the model in a .pth or .safetensors file [default: the preset that its tensors fit]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub preset: Option<PretrainPreset>,
    /// Configuration with the sizes of the model in a .pth or .safetensors file, as TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A pre-training model and the device it runs on.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Folder of a run or of a checkpoint, or a .pth or .safetensors file
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// Sizes of the model, for weight files.
    #[command(flatten)]
    pub sizes: SizesArgs,
    /// Device to compute on: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// Scans to draw, and the folder for the pictures.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Scans (.nii, .nii.gz, .nrrd, .mha, or a file of a DICOM series), or folders of them
    #[arg(value_name = "INPUT", required_unless_present = "shards", conflicts_with = "shards")]
    pub inputs: Vec<PathBuf>,
    /// Folder or URL of a cache to take cases from, instead of files
    #[arg(long, value_name = "CACHE", requires = "case")]
    pub shards: Option<PathBuf>,
    /// Case of the cache, as DATASET/CASE or CASE; may be repeated
    #[arg(long, value_name = "ID", requires = "shards")]
    pub case: Vec<String>,
    /// Normalisation of the files' values, as given to hiend-shard [default: that of the model's run, or hu]
    #[arg(long, value_enum, value_name = "KIND")]
    pub normalize: Option<NormalizeArg>,
    /// Spacing in mm to which files are resampled, or `native`, as given to hiend-shard [default: that of the model's
    /// run, or 1.5]
    #[arg(long, value_name = "MM", value_parser = parse_spacing, conflicts_with = "shards")]
    pub spacing: Option<Spacing>,
    /// HU range mapped to 0 to 1 [default: that of the model's run, or the cache's, or -175,250]
    #[arg(long, value_name = "LOW,HIGH", value_parser = parse_window, allow_hyphen_values = true)]
    pub window: Option<[f64; 2]>,
    /// Action on a file that does not look like a CT in HU (offset, [0, 1], constant, 8-bit, MR) or, for z-scores, is
    /// clamped
    #[arg(long, value_enum, default_value = "warn", conflicts_with = "shards")]
    pub on_suspect: OnSuspectArg,
    /// Folder for the pictures, created if missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Flags of `reconstruct`.
#[derive(Debug, Args)]
pub struct ReconstructArgs {
    /// Model to run.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Scans to draw.
    #[command(flatten)]
    pub scans: ScanArgs,
    /// Centre of the crop, as voxel coordinates of the file (120,80,64) or in RAS+ mm (-12.5,30,1040mm)
    /// [default: the middle]
    #[arg(long, value_name = "X,Y,Z", allow_hyphen_values = true)]
    pub centre: Option<Point>,
    /// Fraction of the patches to hide [default: that of the model's training]
    #[arg(long, value_name = "FRACTION", value_parser = parse_proper_fraction)]
    pub mask_ratio: Option<f64>,
    /// Seed of the choice of hidden patches
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub seed: u64,
    /// Draw only the crop around the centre, not the whole scan
    #[arg(long)]
    pub crop_only: bool,
}

/// Flags of `attend`.
#[derive(Debug, Args)]
pub struct AttendArgs {
    /// Model to run.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Scans to draw.
    #[command(flatten)]
    pub scans: ScanArgs,
    /// Query patch, as voxel coordinates of the file (120,80,64) or in RAS+ mm (-12.5,30,1040mm)
    #[arg(long, value_name = "X,Y,Z", allow_hyphen_values = true)]
    pub query: Point,
    /// Attention head, counted from 0 [default: the mean over all heads]
    #[arg(long, value_name = "N", value_parser = parse_whole::<usize>)]
    pub head: Option<usize>,
    /// Encoder blocks to draw, counted from 0, such as 0,5,11, or all [default: those read by the decoder, and the
    /// last]
    #[arg(long, value_name = "N,N", value_parser = parse_layers)]
    pub layers: Option<Layers>,
    /// Fraction of the patches hidden in the decoder's figure; 0 hides only the query
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0, value_parser = parse_fraction)]
    pub mask_ratio: f64,
    /// Seed of the choice of hidden patches
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub seed: u64,
}

/// Flags of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// PyTorch checkpoint (.pth, .pt or .bin) or .safetensors file
    pub file: PathBuf,
    /// File for the imported weights, .safetensors [default: report only]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long, requires = "out")]
    pub overwrite: bool,
    /// Sizes of the model.
    #[command(flatten)]
    pub sizes: SizesArgs,
}

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder of a run or of a checkpoint, or a .pth or .safetensors file
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// File for the weights: .safetensors, or .pth for nnssl
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Form of the file
    #[arg(long, value_enum, default_value = "safetensors")]
    pub format: ExportFormat,
    /// Normalisation of the pre-training scans, as given to hiend-shard; for nnssl [default: that of the model's run,
    /// or hu]
    #[arg(long, value_enum, value_name = "KIND")]
    pub normalize: Option<NormalizeArg>,
    /// Spacing in mm of the pre-training scans, as given to hiend-shard; for nnssl, which needs it [default: that of
    /// the model's run]
    #[arg(long, value_name = "MM", value_parser = parse_spacing)]
    pub spacing: Option<Spacing>,
    /// HU range of the pre-training scans, as given to hiend-shard, or z-scores kept; for nnssl [default: that of the
    /// model's run, or -175,250 for hu, -20,40 for zscore]
    #[arg(long, value_name = "LOW,HIGH", value_parser = parse_window, allow_hyphen_values = true)]
    pub window: Option<[f64; 2]>,
    /// Replace an existing file; the source of the weights is never replaced
    #[arg(long)]
    pub overwrite: bool,
    /// Sizes of the model, for weight files.
    #[command(flatten)]
    pub sizes: SizesArgs,
}

/// Formats in which weights are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// All tensors, with the reference's names and layouts
    Safetensors,
    /// Encoder of a pre-training model with an adaptation plan, for nnU-Net
    Nnssl,
}

/// Encoder blocks given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// All blocks.
    All,
    /// The listed blocks, in this order.
    These(Vec<usize>),
}

fn parse_layers(text: &str) -> Result<Layers, Expected> {
    if text == "all" {
        return Ok(Layers::All);
    }
    let parsed: Result<Vec<usize>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    let is_once = |layers: &Vec<usize>| layers.iter().enumerate().all(|(at, layer)| !layers[..at].contains(layer));
    let parsed = parsed.ok().filter(is_once).map(Layers::These);
    parsed.ok_or(Expected("`all` or numbers of blocks, each once, such as 0,5,11"))
}
