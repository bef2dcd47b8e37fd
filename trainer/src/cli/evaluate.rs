//! Flags of `evaluate`.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{ArgAction, Args, ValueEnum};
use hiend_loader::program::Expected;

use super::values::{parse_mm, parse_whole};
use crate::metric::overlap::Absent;
use crate::metric::surface::Surface;

/// Flags of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Folder of true label maps, such as CASE.nii.gz, CASE.nrrd or CASE.mha
    #[arg(long, value_name = "DIR")]
    pub labels: PathBuf,
    /// Folder of predicted label maps with the same names and grids
    #[arg(long, value_name = "DIR", required_unless_present = "compare")]
    pub predictions: Option<PathBuf>,
    /// Two folders of predicted label maps, compared case by case: mean differences with intervals, Wilcoxon's test
    #[arg(
        long,
        action = ArgAction::Set,
        value_names = ["DIR", "DIR"],
        num_args = 2,
        conflicts_with_all = ["predictions", "csv", "report", "summary"]
    )]
    pub compare: Vec<PathBuf>,
    /// Score only the labels that have a prediction (with --compare, in both folders), and name the others
    #[arg(long)]
    pub partial: bool,
    /// Folder of the dataset, or its dataset.json alone, which names the classes and the ignore label
    #[arg(long, value_name = "PATH")]
    pub dataset: Option<PathBuf>,
    /// Label of voxels that count for no metric [default: the dataset's, if it has one]
    #[arg(long, value_name = "LABEL")]
    pub ignore_label: Option<u8>,
    /// Surface of surface Dice, HD95 and ASSD
    #[arg(long, value_enum, value_name = "KIND", default_value = "voxels")]
    pub surface: Surface,
    /// Distance in mm within which two surfaces agree
    #[arg(long, value_name = "MM", default_value_t = 1.0, value_parser = parse_mm)]
    pub tolerance_mm: f64,
    /// Distance in mm within which the surfaces of one class agree, by name or number; may be repeated
    #[arg(long, value_name = "CLASS=MM", value_parser = parse_tolerance)]
    pub tolerance: Vec<(String, f64)>,
    /// Dice of a class that is absent from the label of a case
    #[arg(long, value_enum, value_name = "AS", default_value = "monai")]
    pub absent: Absent,
    /// Number of resamples of the cases for the 95% confidence intervals of means, at least 100; 0 for no intervals
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = parse_resamples)]
    pub bootstrap: u32,
    /// Seed of the resamples
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_whole::<u64>)]
    pub seed: u64,
    /// Print the metrics of every case and class as JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// File for the metrics of every case and class, as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// File for the metrics in the form of nnU-Net's summary.json, by nnU-Net's conventions
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Folder for a report: one HTML page with box plots of each class and slices of the cases with the lowest Dice
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

fn parse_resamples(text: &str) -> Result<u32, Expected> {
    let number = text.parse::<u32>().ok().filter(|number| *number == 0 || (100..=1_000_000).contains(number));
    number.ok_or(Expected("0 or a number of resamples from 100 to 1000000"))
}

fn parse_tolerance(text: &str) -> Result<(String, f64), Expected> {
    let parsed = text.rsplit_once('=').and_then(|(class, mm)| Some((class.trim(), parse_mm(mm).ok()?)));
    match parsed {
        Some((class, mm)) if !class.is_empty() => Ok((class.to_owned(), mm)),
        _ => Err(Expected("CLASS=MM with a distance of 0 or more, such as liver=3")),
    }
}

impl ValueEnum for Surface {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Voxels, Self::Area]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(match self {
            Self::Voxels => "Voxels that touch the outside, all of equal weight, as in MONAI",
            Self::Area => "Surface elements weighted by area, as in DeepMind's surface-distance",
        }))
    }
}

impl ValueEnum for Absent {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Monai, Self::NnUnet]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(match self {
            Self::Monai => "Not measured, whatever is predicted",
            Self::NnUnet => "0 where the class is predicted, not measured otherwise",
        }))
    }
}
