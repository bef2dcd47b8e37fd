//! What was typed. What is meant is worked out in [`crate::commands`].

mod model;

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::model::{AttendArgs, ExportArgs, ImportArgs, Layers, ModelArgs, ReconstructArgs, ScanArgs, SizesArgs};
use crate::config::finetune::FinetunePreset;
use crate::config::pretrain::PretrainPreset;
use crate::device::DeviceChoice;
use crate::inference::sliding_window::Weighting;
use crate::report::watcher::Display;

/// Hi-End-MAE on CT: pre-training, fine-tuning, prediction. Without a subcommand: pre-train.
#[derive(Debug, Parser)]
#[command(name = "hiend-train", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do, if not to pre-train.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Of the pre-training.
    #[command(flatten)]
    pub pretrain: PretrainArgs,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pre-train a masked autoencoder on shards (the same as without a subcommand)
    Pretrain(PretrainArgs),
    /// Train a segmentation network from pre-trained weights on labelled shards
    Finetune(FinetuneArgs),
    /// Label the voxels of scans; label maps have the scans' own grids
    Predict(PredictArgs),
    /// Compare predicted label maps with the true ones: Dice, surface Dice and HD95 by class
    Evaluate(EvaluateArgs),
    /// Draw the curves of a run again, from its journal
    Curves(CurvesArgs),
    /// Draw original, masked input and reconstruction of scans in three planes
    Reconstruct(ReconstructArgs),
    /// Draw where a patch looks: self-attention of the encoder, cross-attention of the decoder
    Attend(AttendArgs),
    /// Say what a .pth or .safetensors file gives the model, and write that as .safetensors
    ///
    /// Nothing needs to be imported to be used: every --model takes such files as they are.
    Import(ImportArgs),
    /// Write a model's weights as .safetensors, named and laid out as the reference's own
    Export(ExportArgs),
}

/// Flags of the curves.
#[derive(Debug, Args)]
pub struct CurvesArgs {
    /// Folder of the run
    #[arg(value_name = "RUN")]
    pub run_dir: PathBuf,
    /// Picture to write, a PNG file [default: RUN/curves.png]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Flags of the evaluation.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Folder of true label maps, CASE.nii.gz
    #[arg(long, value_name = "DIR")]
    pub labels: PathBuf,
    /// Folder of predicted label maps of the same names and grids
    #[arg(long, value_name = "DIR")]
    pub predictions: PathBuf,
    /// Folder of the dataset, for its class names and their number
    #[arg(long, value_name = "DIR")]
    pub dataset: Option<PathBuf>,
    /// Distance at which two surfaces still agree, mm
    #[arg(long, value_name = "MM", default_value_t = 1.0)]
    pub tolerance_mm: f64,
    /// Where to write the figures of every case and class
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// Flags of the pre-training.
#[derive(Debug, Args)]
pub struct PretrainArgs {
    /// Configuration that comes with the program [default: vit-l-p12 on CUDA, tiny on the CPU]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub preset: Option<PretrainPreset>,
    /// Of every run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of the fine-tuning.
#[derive(Debug, Args)]
pub struct FinetuneArgs {
    /// First weights: a run or checkpoint of hiend-train, a .pth or .safetensors file, or `none` for random ones
    #[arg(long, value_name = "FROM", required_unless_present = "resume")]
    pub init: Option<PathBuf>,
    /// Configuration that comes with the program [default: recipe on CUDA, tiny on the CPU]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub preset: Option<FinetunePreset>,
    /// Hold out fold K of N to validate on, and train on the others; replaces both splits of the configuration
    #[arg(long, value_name = "K/N", value_parser = parse_fold)]
    pub fold: Option<(u32, u32)>,
    /// Train on N cases and validate on all others; replaces both splits of the configuration
    #[arg(long, value_name = "N", conflicts_with = "fold")]
    pub shots: Option<usize>,
    /// Train on all cases, validate on none
    #[arg(long, conflicts_with_all = ["fold", "shots"])]
    pub no_validation: bool,
    /// Of every run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of every run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Folder of shards, as hiend-shard writes it
    #[arg(long, value_name = "CACHE", required = true)]
    pub shards: Option<PathBuf>,
    /// Configuration of your own, a TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Several devices that train together, as cuda:0,cuda:1; each takes its share of every batch
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "device")]
    pub devices: Vec<DeviceChoice>,
    /// Folder where compiled and tuned GPU kernels are kept for the next run [default: what tuning chose alone is kept]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Stop after so many updates in all; the course of the learning rate stays the same
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
    /// Folder for checkpoints, journal and pictures [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Decides first weights, crops, augmentation and masks; replaces the configuration's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Go on from the last checkpoint in the run's folder
    #[arg(long)]
    pub resume: bool,
    /// Threads of the loader [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Memory of the loader's buffers, as 512MiB or 4GiB
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = hiend_loader::cli::parse_bytes)]
    pub memory: ByteSize,
    /// Updates from checkpoint to checkpoint; 0 for none but the last
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub checkpoint_every: u64,
    /// Checkpoints that stay, the best one aside
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep: usize,
    /// Keep only the inputs of transformer blocks and compute them again on the way back: less memory, more time
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Updates from line to line, where lines are shown; 0 for none
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub log_every: u64,
    /// How to show the run
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub display: Display,
}

/// Flags of the prediction.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// A fine-tuning run (its best checkpoint is taken) or one of its checkpoints
    #[arg(long, value_name = "RUN")]
    pub model: PathBuf,
    /// Scans, .nii or .nii.gz, or folders of them
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// Folder for the label maps, CASE.nii.gz
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Also write the probability of each class, a file each, into the folder probabilities/CASE
    #[arg(long)]
    pub probabilities: bool,
    /// Part of a window that the next one covers again, in [0, 1)
    #[arg(long, value_name = "PART", default_value_t = 0.5)]
    pub overlap: f64,
    /// How overlapping windows are averaged
    #[arg(long, value_enum, default_value = "constant")]
    pub weighting: Weighting,
    /// Average each window with its mirror images: eight times the work, slightly better
    #[arg(long)]
    pub mirror: bool,
    /// Windows predicted at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub sw_batch_size: usize,
    /// Where to compute: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Write over label maps that exist
    #[arg(long)]
    pub overwrite: bool,
}

fn parse_fold(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once('/').and_then(|(fold, of)| Some((fold.parse().ok()?, of.parse().ok()?)));
    match parsed {
        Some((fold, of)) if fold < of && of >= 2 => Ok((fold, of)),
        _ => Err("expected K/N with K from 0 to N-1, as 0/5".into()),
    }
}

impl ValueEnum for FinetunePreset {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Weighting {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Constant, Self::Gaussian]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Constant => PossibleValue::new("constant").help("every voxel the same, as in the recipe"),
            Self::Gaussian => PossibleValue::new("gaussian").help("the middle of a window counts most"),
        })
    }
}

impl ValueEnum for PretrainPreset {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn pretraining_needs_no_subcommand_but_takes_it() {
        let cli = Cli::try_parse_from(["hiend-train", "--shards", "cache", "--preset", "tiny"]).unwrap();
        assert_eq!(cli.pretrain.preset, Some(PretrainPreset::Tiny));
        let cli = Cli::try_parse_from(["hiend-train", "pretrain", "--shards", "cache"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Pretrain(args)) if args.run.shards == Some("cache".into())));
        let finetune = |flags: &[&str]| {
            let words = ["hiend-train", "finetune", "--shards", "c"].into_iter().chain(flags.iter().copied());
            Cli::try_parse_from(words)
        };
        let cli = finetune(&["--init", "none", "--fold", "1/5"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Finetune(args)) if args.fold == Some((1, 5))));
        assert!(finetune(&[]).is_err());
        assert!(finetune(&["--resume"]).is_ok());
        assert!(finetune(&["--init", "none", "--fold", "5/5"]).is_err());
        assert!(finetune(&["--init", "none", "--fold", "0/5", "--shots", "1"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train", "pretrain"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train", "--shards", "c", "--device", "gpu"]).is_err());
    }
}
