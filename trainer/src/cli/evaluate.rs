//! Flags of `evaluate`.

use std::path::PathBuf;

use clap::Args;

/// Flags of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Folder of true label maps, CASE.nii.gz
    #[arg(long, value_name = "DIR")]
    pub labels: PathBuf,
    /// Folder of predicted label maps with the same names and grids
    #[arg(long, value_name = "DIR")]
    pub predictions: PathBuf,
    /// Folder of the dataset, whose dataset.json names the classes and the ignore label
    #[arg(long, value_name = "DIR")]
    pub dataset: Option<PathBuf>,
    /// Label of voxels that count for no metric [default: the dataset's, if it has one]
    #[arg(long, value_name = "LABEL")]
    pub ignore_label: Option<u8>,
    /// Distance in mm within which two surfaces agree
    #[arg(long, value_name = "MM", default_value_t = 1.0)]
    pub tolerance_mm: f64,
    /// Print the metrics of every case and class as JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// File for the metrics of every case and class, as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}
