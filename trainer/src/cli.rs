//! Command-line arguments of `hiend-train`, as typed. [`crate::commands`] interprets them.

mod model;
mod train;

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::model::{AttendArgs, ExportArgs, ImportArgs, Layers, ModelArgs, ReconstructArgs, ScanArgs, SizesArgs};
pub use self::train::{AccessArg, FinetuneArgs, PretrainArgs, ResumeArg, RunArgs};
use crate::device::DeviceChoice;
use crate::inference::sliding_window::Weighting;

/// Train Hi-End-MAE on CT: pre-training, fine-tuning, prediction
///
/// Without a subcommand: pre-training.
#[derive(Debug, Parser)]
#[command(name = "hiend-train", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// The command; pre-training without one.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Arguments of pre-training.
    #[command(flatten)]
    pub pretrain: PretrainArgs,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pre-train a masked autoencoder on shards (the same as without a command)
    Pretrain(PretrainArgs),
    /// Train a segmentation network from pre-trained weights on labelled shards
    Finetune(FinetuneArgs),
    /// Segment scans; label maps have the scans' own grids
    Predict(PredictArgs),
    /// Compare predicted label maps with the true ones: Dice, surface Dice and HD95 per class
    Evaluate(EvaluateArgs),
    /// Check a run's checkpoints, configuration and journal for damage
    Verify(VerifyArgs),
    /// Print a built-in configuration, or list them
    Config(ConfigArgs),
    /// Draw the curves of a run from its journal
    Curves(CurvesArgs),
    /// Draw original, masked input and reconstruction of scans in three planes
    Reconstruct(ReconstructArgs),
    /// Draw the attention of a patch: self-attention of the encoder, cross-attention of the decoder
    Attend(AttendArgs),
    /// Report which tensors of a .pth or .safetensors file the model takes, and write them as .safetensors
    ///
    /// Importing is optional: every --model takes such files directly.
    Import(ImportArgs),
    /// Write a model's weights as .safetensors with the reference's names and layouts
    Export(ExportArgs),
    /// Check this machine: driver, devices, libraries, what would be faster with what, and one product
    Doctor(DoctorArgs),
}

/// Flags of the check.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Device to multiply on: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Folder of a run, or of one of its checkpoints
    #[arg(value_name = "RUN")]
    pub run_dir: PathBuf,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Name of the configuration, such as vit-l-p12 or finetune/tiny [default: list the names]
    #[arg(value_name = "PRESET")]
    pub preset: Option<String>,
}

/// Arguments of `curves`.
#[derive(Debug, Args)]
pub struct CurvesArgs {
    /// Folder of a run
    #[arg(value_name = "RUN")]
    pub run_dir: PathBuf,
    /// PNG file to write [default: RUN/curves.png]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pretrain::PretrainPreset;

    #[test]
    fn command_line_definition_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn pretraining_works_with_and_without_its_command() {
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
        assert!(finetune(&["--resume-from", "500"]).is_ok());
        assert!(finetune(&["--resume", "--resume-from", "500"]).is_err());
        let resume = |flags: &[&str]| match finetune(flags).unwrap().command {
            Some(Command::Finetune(args)) => args.run.resume,
            _ => None,
        };
        assert_eq!(resume(&["--resume", "--keep", "1"]), Some(ResumeArg::Always));
        assert_eq!(resume(&["--resume", "auto"]), Some(ResumeArg::Auto));
        assert!(finetune(&["--init", "none", "--fold", "5/5"]).is_err());
        assert!(finetune(&["--init", "none", "--fold", "0/5", "--shots", "1"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train", "pretrain"]).is_err());
        assert!(Cli::try_parse_from(["hiend-train", "--shards", "c", "--device", "gpu"]).is_err());
    }
}
