//! Flags of `predict`.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use hiend_loader::program::OnSuspectArg;

use super::values::{parse_fraction, parse_positive};
use crate::device::DeviceChoice;
use crate::distributed::Launcher;
use crate::sliding_window::Weighting;

/// Flags of `predict`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags that are independent of each other")]
pub struct PredictArgs {
    /// Fine-tuning run, whose best checkpoint is used, or one of its checkpoints; given several times, the
    /// probabilities of the models are averaged
    #[arg(long, value_name = "RUN", required = true)]
    pub model: Vec<PathBuf>,
    /// Scans (.nii, .nii.gz, .nrrd, .mha, or a file of a DICOM series), or folders of them
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// Folder for the label maps, created if missing: CASE.nii.gz, or CASE.nrrd and CASE.mha for scans of these formats
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Also write the probability of each class to probabilities/CASE, one file per class
    #[arg(long)]
    pub probabilities: bool,
    /// Fraction by which adjacent windows overlap, in [0, 1)
    #[arg(long, value_name = "FRACTION", default_value_t = 0.5, value_parser = parse_fraction)]
    pub overlap: f64,
    /// Weights of a window's voxels where windows overlap
    #[arg(long, value_enum, default_value = "constant")]
    pub weighting: Weighting,
    /// Average each window with its mirror images: eight times the work, slightly better labels
    #[arg(long)]
    pub mirror: bool,
    /// Keep only the largest connected part of these classes, by name or number, or of `all`; the rest becomes background
    #[arg(long, value_name = "CLASS,CLASS", value_delimiter = ',')]
    pub keep_largest: Vec<String>,
    /// Maximum number of windows predicted at a time on a GPU, which takes as many as its free memory holds; a CPU always
    /// predicts one
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = parse_positive::<usize>)]
    pub sw_batch_size: usize,
    /// Device to compute on: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Action on a scan that does not look like a CT in HU (offset, [0, 1], constant, 8-bit, MR)
    #[arg(long, value_enum, default_value = "warn")]
    pub on_suspect: OnSuspectArg,
    /// Program that started several processes, which divide the scans; its environment determines this process's share
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub ranks: Launcher,
    /// Replace existing label maps; inputs are never replaced
    #[arg(long)]
    pub overwrite: bool,
    /// Skip scans whose label maps exist, so that an interrupted prediction can be continued
    #[arg(long, conflicts_with = "overwrite")]
    pub skip_existing: bool,
}

impl ValueEnum for Weighting {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Constant, Self::Gaussian]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Constant => PossibleValue::new("constant").help("Equal weights, as in the recipe"),
            Self::Gaussian => PossibleValue::new("gaussian").help("Highest weight at the centre of a window"),
        })
    }
}
