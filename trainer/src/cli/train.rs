//! Arguments of the commands that train.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use hiend_loader::program::{Expected, Fold, StorageArgs, parse_bytes, parse_fold};

use super::RanksArgs;
use super::values::{parse_positive, parse_whole};
use crate::config::finetune::FinetunePreset;
use crate::config::pretrain::PretrainPreset;
use crate::device::DeviceChoice;
use crate::report::mlflow::ServerUrl;
use crate::report::watcher::Display;

/// Arguments of pre-training.
#[derive(Debug, Args)]
pub struct PretrainArgs {
    /// Initial weights of a new run, all tensors of the masked autoencoder: a run or checkpoint of hiend-train, a .pth
    /// or .safetensors file or its URL (https://… or `hf://OWNER/REPOSITORY/FILE`) [default: random]
    #[arg(long, value_name = "FROM")]
    pub init: Option<PathBuf>,
    /// Built-in configuration [default: vit-l-p12 on CUDA, tiny on the CPU]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub preset: Option<PretrainPreset>,
    /// Arguments of every run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of fine-tuning.
#[derive(Debug, Args)]
pub struct FinetuneArgs {
    /// Initial weights: a run or checkpoint of hiend-train, a .pth or .safetensors file or its URL (https://… or
    /// `hf://OWNER/REPOSITORY/FILE`), or `none` for random weights
    #[arg(long, value_name = "FROM", required_unless_present_any = ["resume", "resume_from"])]
    pub init: Option<PathBuf>,
    /// Built-in configuration [default: recipe on CUDA, tiny on the CPU]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub preset: Option<FinetunePreset>,
    /// Validate on fold K (from 0) of N and train on the others, of the cases with labels; replaces both splits of the
    /// configuration
    #[arg(long, value_name = "K/N", value_parser = parse_fold)]
    pub fold: Option<Fold>,
    /// File of folds in nnU-Net's format, of which --fold K chooses one; --fold K/N also checks that it has N
    #[arg(long, value_name = "FILE", requires = "fold")]
    pub splits: Option<PathBuf>,
    /// Train on N of the cases with labels and validate on the others; replaces both splits of the configuration
    #[arg(long, value_name = "N", conflicts_with = "fold", value_parser = parse_whole::<usize>)]
    pub shots: Option<usize>,
    /// Train on all cases with labels, without validation
    #[arg(long, conflicts_with_all = ["fold", "shots"])]
    pub no_validation: bool,
    /// Arguments of every run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of every run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Folder or URL of a cache written by hiend-shard
    #[arg(long, value_name = "CACHE", required_unless_present = "loader")]
    pub shards: Option<PathBuf>,
    /// Servers that make the batches.
    #[command(flatten)]
    pub service: ServiceArgs,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one value of the configuration, such as optim.lr=1e-4; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
    /// Device: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Devices of this machine that train together, such as cuda:0,cuda:1: one process each, with its share of every batch
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "device")]
    pub devices: Vec<DeviceChoice>,
    /// Folder for compiled and tuned GPU kernels, reused by later runs [default: hiend/kernels in
    /// `XDG_CACHE_HOME` or `~/.cache`]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Total number of optimizer steps to stop after; the learning-rate schedule is unaffected
    #[arg(long, value_name = "N", value_parser = parse_positive::<u64>)]
    pub max_steps: Option<u64>,
    /// Folder for checkpoints, journal and pictures [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Seed of initial weights, crops, augmentation and masks [default: the configuration's]
    #[arg(long, value_name = "N", value_parser = parse_whole::<u64>)]
    pub seed: Option<u64>,
    /// Continue the run in the run's folder from its newest checkpoint; `auto` begins a run if there is none
    #[arg(long, value_name = "WHEN", num_args = 0..=1, default_missing_value = "always", conflicts_with = "resume_from")]
    pub resume: Option<ResumeArg>,
    /// Continue from the checkpoint of this step; later checkpoints are kept under other names
    #[arg(long, value_name = "STEP", value_parser = parse_positive::<u64>)]
    pub resume_from: Option<u64>,
    /// Resume although an NVIDIA library that computed the run is missing now or rejects a choice recorded in products.json
    /// or plans.json: results then differ by rounding
    #[arg(long)]
    pub other_rounding: bool,
    /// Try everything once and keep nothing: two steps, a validation, a checkpoint and a picture
    #[arg(long, conflicts_with_all = ["resume", "resume_from", "max_steps"])]
    pub smoke: bool,
    /// Measure the cost of the data and keep nothing: STEPS optimizer steps on streamed batches and as many on one batch
    /// that stays on the device, in turn, three times
    #[arg(
        long,
        value_name = "STEPS",
        num_args = 0..=1,
        default_missing_value = "20",
        value_parser = clap::value_parser!(u32).range(1..),
        conflicts_with_all = ["resume", "resume_from", "max_steps", "smoke", "devices", "run_dir"]
    )]
    pub headspace: Option<u32>,
    /// Threads of the loader, for all ranks that share this machine's cores [default: one per core]
    #[arg(long, value_name = "N", conflicts_with = "loader", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Memory of the loader's buffers, such as 512MiB or 4GiB, for all ranks that share this machine's cores
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_bytes)]
    pub memory: ByteSize,
    /// Access to the cache.
    #[command(flatten)]
    pub storage: StorageArgs,
    /// Optimizer steps between checkpoints; 0 writes only the last one
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = parse_whole::<u64>)]
    pub checkpoint_every: u64,
    /// Number of checkpoints to keep, not counting the best one: that of the highest mean Dice with background in a
    /// validation of fine-tuning
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_positive::<usize>)]
    pub keep: usize,
    /// Keep only the inputs of transformer blocks and recompute everything else in the backward pass: less memory, more
    /// time
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Optimizer steps between log lines, where lines are shown; 0 for none
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = parse_whole::<u64>)]
    pub log_every: u64,
    /// Display of the run's progress
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub display: Display,
    /// Address on which /metrics (Prometheus) and /healthz are served, such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Seconds without an optimizer step, a validated case or an awaited batch after which a warning names the stage that
    /// stands still and /healthz answers 503
    #[arg(long, value_name = "SECS", default_value_t = 600, value_parser = parse_positive::<u64>)]
    pub stalled_after: u64,
    /// MLflow server that receives settings, steps and validations, such as `http://127.0.0.1:5000`; credentials are taken
    /// from `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`
    #[arg(long, value_name = "URL", conflicts_with = "headspace")]
    pub mlflow: Option<ServerUrl>,
    /// Experiment of MLflow, created if missing [default: hiend-pretrain or hiend-finetune]
    #[arg(long, value_name = "NAME", requires = "mlflow")]
    pub mlflow_experiment: Option<String>,
    /// Arguments of runs with several ranks.
    #[command(flatten)]
    pub ranks: RanksArgs,
}

/// Arguments for loader servers.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// Servers (hiend-serve) that make the batches instead of this process, separated by commas: http://HOST:PORT,
    /// https://HOST:PORT or `unix:///PATH`
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub loader: Vec<String>,
    /// File that holds the servers' bearer token
    #[arg(long, value_name = "FILE", requires = "loader")]
    pub loader_token_file: Option<PathBuf>,
    /// File with the certificates (PEM) that https:// servers are checked against
    #[arg(long, value_name = "FILE", requires = "loader")]
    pub loader_ca: Option<PathBuf>,
    /// Seconds to keep trying while no server answers; then the run saves a checkpoint and ends [default: 300]
    #[arg(long, value_name = "SECS", requires = "loader", value_parser = parse_whole::<u64>)]
    pub loader_retry: Option<u64>,
}

impl RunArgs {
    /// Folder of the run: as given, or `runs/NAME`.
    #[must_use]
    pub fn run_dir(&self, name: &str) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(name))
    }
}

/// Condition on which `--resume` continues a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResumeArg {
    /// Continue the run, which must exist
    Always,
    /// Continue the run, or begin one if there is none
    Auto,
}

fn parse_setting(text: &str) -> Result<(String, String), Expected> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(Expected("KEY=VALUE, such as optim.lr=1e-4")),
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

impl ValueEnum for PretrainPreset {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
