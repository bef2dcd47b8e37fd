//! What was typed. What is meant is worked out in [`crate::commands`].

mod model;

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::model::{AttendArgs, ExportArgs, ImportArgs, Layers, ModelArgs, ReconstructArgs, ScanArgs, SizesArgs};
use crate::config::Preset;
use crate::device::DeviceChoice;

/// Hi-End-MAE pre-training on CT. Without a subcommand: pre-train.
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
    /// Compare predicted label maps with the true ones: Dice, surface Dice and HD95 by class
    Evaluate(EvaluateArgs),

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
    /// Folder of shards, as hiend-shard writes it
    #[arg(long, value_name = "CACHE", required = true)]
    pub shards: Option<PathBuf>,
    /// Configuration that comes with the program [default: vit-l-p12 on CUDA, tiny on the CPU]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub preset: Option<Preset>,
    /// Configuration of your own, a TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
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
    /// Checkpoints that stay
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep: usize,
    /// Updates from line to line; 0 for none
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub log_every: u64,
}

impl ValueEnum for Preset {
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
        assert_eq!(cli.pretrain.preset, Some(Preset::Tiny));
        let cli = Cli::try_parse_from(["hiend-train", "pretrain", "--shards", "cache"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Pretrain(args)) if args.shards == Some("cache".into())));
        assert!(Cli::try_parse_from(["hiend-train"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train", "pretrain"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train", "--shards", "c", "--device", "gpu"]).is_err());
    }
}
