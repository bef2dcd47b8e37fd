//! Flags of the commands that read a stream: `stream` and `replay`.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use crate::pipeline::OnCorrupt;
use crate::program::{Fold, StorageArgs, parse_fold, parse_rank, parse_shape, parse_some_bytes};
use crate::sampler::SampleBy;
use crate::transform::Chain;

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Folder or URL of the cache
    pub cache: PathBuf,
    /// Step of the batch, from 0
    #[arg(long, value_name = "N")]
    pub step: u64,
    /// Picture to write: the middle slice of every crop
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
    /// Print JSON: one line for the batch, then one for each crop
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub options: StreamOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Stream {
    /// Folder of the cache, or of several caches to mix
    #[cfg_attr(feature = "client", arg(required_unless_present = "loader", value_name = "CACHE"))]
    #[cfg_attr(not(feature = "client"), arg(required = true, value_name = "CACHE"))]
    pub caches: Vec<PathBuf>,
    #[cfg(feature = "client")]
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Weight of each cache, whole numbers from 1 [default: equal]
    #[arg(long, value_name = "W,W", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub weights: Vec<u32>,
    /// Number of batches
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub batches: u64,
    /// Step of the first batch, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub start_step: u64,
    #[command(flatten)]
    pub options: StreamOptions,
}

/// Arguments for shards read by this program, which have no effect on the servers of `--loader`.
#[cfg(feature = "client")]
const STAYS_WITH_SHARDS: [&str; 7] =
    ["caches", "weights", "threads", "access", "disk_cache", "disk_cache_size", "storage_retry"];

/// Servers that make the batches of a stream.
#[cfg(feature = "client")]
#[derive(Debug, Args)]
pub(crate) struct RemoteArgs {
    // A requirement does not count where the required argument conflicts with one that was given: hence both.
    /// Server to get the batches from instead of making them: `http://HOST:PORT`, `https://HOST:PORT` or
    /// `unix:///PATH`; several are separated by commas
    #[arg(long, value_name = "URL", value_delimiter = ',', conflicts_with_all = STAYS_WITH_SHARDS)]
    pub loader: Vec<String>,
    /// File with the token for the servers
    #[arg(long, value_name = "FILE", requires = "loader", conflicts_with = "caches")]
    pub token_file: Option<PathBuf>,
    /// File with the certificates (PEM) that servers are checked against [default: the system's]
    #[arg(long, value_name = "FILE", requires = "loader", conflicts_with = "caches")]
    pub tls_ca: Option<PathBuf>,
    /// Receive voxels through the Unix socket instead of shared memory
    #[arg(long, requires = "loader", conflicts_with = "caches")]
    pub no_shared_memory: bool,
    /// Seconds to keep trying while no server answers
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "loader", conflicts_with = "caches")]
    pub loader_retry: u64,
}

/// Parameters of a stream and resources for making it.
#[derive(Debug, Args)]
pub(crate) struct StreamOptions {
    /// Seed of the stream
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Threads that decode and augment [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Share of every batch to make: rank R of N, R from 0
    #[arg(long, value_name = "R/N", default_value = "0/1", value_parser = parse_rank)]
    pub rank: (usize, usize),
    /// Memory limit for batches, threads and reading ahead
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_some_bytes)]
    pub memory: ByteSize,
    /// Crop size in voxels, one number or three (x,y,z)
    #[arg(long, value_name = "N", default_value = "96", value_parser = parse_shape, allow_hyphen_values = true)]
    pub crop_size: [usize; 3],
    /// Crops per visit of a case
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub crops_per_visit: usize,
    /// Cases per batch, over all ranks
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub visits_per_batch: usize,
    /// Augmentations of the crops
    #[arg(long, value_enum, value_name = "CHAIN", default_value = "recipe")]
    pub augment: AugmentArg,
    /// Include labels
    #[arg(long)]
    pub labels: bool,
    /// Definition of the foreground that crops are centred on
    #[arg(long, value_enum, value_name = "KIND", default_value = "intensity")]
    pub sample_by: SampleByArg,
    /// Probability that a crop is centred on foreground, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.75)]
    pub foreground_rate: f64,
    /// Use only this dataset (`Dataset009_WORD` or `WORD`); `*` and `?` are wildcards; may be repeated
    #[arg(long, value_name = "NAME")]
    pub include: Vec<String>,
    /// Exclude a dataset; `*` and `?` are wildcards; may be repeated
    #[arg(long, value_name = "NAME")]
    pub exclude: Vec<String>,
    /// Use the training cases of fold K of N, K from 0; with --splits, K alone is enough
    #[arg(long, value_name = "K/N", value_parser = parse_fold, conflicts_with = "list")]
    pub fold: Option<Fold>,
    /// File of folds in nnU-Net's format, from which --fold chooses
    #[arg(long, value_name = "FILE", requires = "fold")]
    pub splits: Option<PathBuf>,
    /// Use the cases that --fold holds out
    #[arg(long, requires = "fold")]
    pub validation: bool,
    /// Use the cases that this file names, one per line; lines that begin with `#` are comments
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// Action on a corrupt case
    #[arg(long, value_enum, value_name = "ACTION", default_value = "fail")]
    pub on_corrupt: OnCorruptArg,
    #[command(flatten)]
    pub storage: StorageArgs,
}

/// Command-line value of a preset of [`Chain`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum AugmentArg {
    /// Augmentation of Hi-End-MAE: flips, quarter turns, intensity
    Recipe,
    /// Augmentation of nnU-Net
    Nnunet,
    /// No augmentation
    Plain,
}

impl From<AugmentArg> for Chain {
    fn from(arg: AugmentArg) -> Self {
        match arg {
            AugmentArg::Recipe => Self::recipe(),
            AugmentArg::Nnunet => Self::nnunet(),
            AugmentArg::Plain => Self::plain(),
        }
    }
}

/// Command-line value of [`SampleBy`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SampleByArg {
    /// Voxels above the lower end of the cache's window
    Intensity,
    /// Voxels with a label other than 0; needs --labels
    Label,
    /// Voxels of one class, every class with the same probability; needs --labels
    Class,
}

impl From<SampleByArg> for SampleBy {
    fn from(arg: SampleByArg) -> Self {
        match arg {
            SampleByArg::Intensity => Self::Intensity,
            SampleByArg::Label => Self::Label,
            SampleByArg::Class => Self::Class,
        }
    }
}

/// Command-line value of [`OnCorrupt`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OnCorruptArg {
    /// End with an error
    Fail,
    /// Leave its crops out of the batch
    Skip,
}

impl From<OnCorruptArg> for OnCorrupt {
    fn from(arg: OnCorruptArg) -> Self {
        match arg {
            OnCorruptArg::Fail => Self::Fail,
            OnCorruptArg::Skip => Self::Skip,
        }
    }
}
