//! What can be typed after `hiend-shard`.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turns CT volumes into shards that a training run streams crops from.
///
/// Finds nnU-Net datasets (`DATA/DatasetXXX_NAME/imagesTr`, or one such folder given directly), Medical Segmentation
/// Decathlon datasets, or plain .nii/.nii.gz files; brings every scan to RAS orientation, one spacing and one HU
/// window; and writes checksummed zstd shards. Running it again converts only what is new or changed.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) convert: Convert,
}

const EXIT_CODES: &str = "Exit codes: 0 all done, 3 done with cases left out, 1 failed, 2 usage, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the batch stream of a cache dry: one JSON line a batch.
    Stream(Stream),
    /// Makes one batch of the stream again: where each crop came from and what was done to it.
    Replay(Replay),
    /// Tables of what a cache holds, or of one of its cases; pictures of a case.
    Inspect(Inspect),
    /// Checks every byte of a cache: checksums, chunks, counts, lists.
    Verify(Verify),
    /// Says what converting DATA will take: disk, time and memory.
    Plan(Plan),
}

/// What is converted, into what, and how: shared by converting and by planning it.
#[derive(Debug, Args)]
pub(crate) struct PreprocessArgs {
    /// Leave out a dataset (`Dataset009_WORD` or `WORD`) or a case; `*` and `?` stand for any text. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub exclude: Vec<String>,
    /// Voxel side lengths in mm, one number or three (x,y,z); `original` keeps each scan's own.
    #[arg(long, value_name = "MM", default_value = "1.5", value_parser = parse_spacing)]
    pub spacing: Spacing,
    /// HU range that becomes 0 to 1; foreground is what lies above its lower end.
    #[arg(long, value_name = "LOW,HIGH", default_value = "-175,250", value_parser = parse_window, allow_hyphen_values = true)]
    pub window: [f64; 2],
    /// Values to keep: only the window, or the full HU range (larger, but the window can be chosen when streaming).
    #[arg(long, value_enum, default_value = "window")]
    pub store: StoreArg,
    /// Codec: fast to decode, a little smaller and several times slower, or LZ4 for comparison.
    #[arg(long, value_enum, default_value = "fast")]
    pub codec: CodecArg,
    /// Cases to work on at a time [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Memory that cases in work may take together.
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = parse_bytes)]
    pub memory: ByteSize,
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// Folder with the volumes.
    #[arg(required = true)]
    pub data: Option<PathBuf>,
    /// Folder of the cache; made if it does not exist.
    #[arg(long, value_name = "DIR", default_value = "cache")]
    pub out: PathBuf,
    #[command(flatten)]
    pub recipe: PreprocessArgs,
    /// Size at which a shard is finished and the next one begun.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_bytes)]
    pub shard_size: ByteSize,
    /// Drop from the cache what this command does not list, and the space of records that were superseded.
    #[arg(long, conflicts_with = "worker")]
    pub prune: bool,
    /// Compare the bytes of files whose size and time of change are as before, too. Reads all data.
    #[arg(long)]
    pub checksum: bool,
    /// Convert only this worker's share of the cases, as WORKER/WORKERS from 0: N runs, on any machines that see the
    /// same folders, fill one cache without a coordinator.
    #[arg(long, value_name = "I/N", value_parser = parse_rank)]
    pub worker: Option<(usize, usize)>,
    /// Say what would be done and how large the cache would get; write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Folder with the volumes.
    pub data: PathBuf,
    #[command(flatten)]
    pub recipe: PreprocessArgs,
    /// Seconds to spend on converting cases in memory, to see what they take.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = parse_seconds)]
    pub probe: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The cache.
    pub cache: PathBuf,
    /// Threads that read and decode [default: one a core].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The cache.
    pub cache: PathBuf,
    /// A case, as DATASET/CASE or CASE alone.
    pub case: Option<String>,
    /// Write the case's middle slices in three planes, with labels in colour.
    #[arg(long, value_name = "FILE", requires = "case")]
    pub png: Option<PathBuf>,
    /// Cases to list at most; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub rows: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The cache.
    pub cache: PathBuf,
    /// Step of the batch.
    #[arg(long, value_name = "N")]
    pub step: u64,
    /// Draw the middle slice of every crop into one picture.
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
    /// Print JSON: one line for the batch, then one a crop.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub options: StreamOptions,
}

/// Voxel side lengths as typed.
#[derive(Clone, Debug, PartialEq)]
pub enum Spacing {
    /// Each scan's own.
    Original,
    /// These, along x, y, z in mm.
    Mm([f64; 3]),
}

impl Spacing {
    /// As [`PreprocessConfig`](crate::preprocess::PreprocessConfig) has it.
    #[must_use]
    pub fn mm(&self) -> Option<[f64; 3]> {
        match self {
            Self::Original => None,
            Self::Mm(sides) => Some(*sides),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StoreArg {
    Window,
    Full,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CodecArg {
    Fast,
    Dense,
    Lz4,
}

#[derive(Debug, Args)]
pub(crate) struct Stream {
    /// The cache, or several to be mixed.
    #[arg(required = true, value_name = "CACHE")]
    pub caches: Vec<PathBuf>,
    /// Weight of each cache, whole numbers [default: all the same].
    #[arg(long, value_name = "W,W", value_delimiter = ',')]
    pub weights: Vec<u32>,
    /// How many batches.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub batches: u64,
    /// Step to begin with.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub start_step: u64,
    #[command(flatten)]
    pub options: StreamOptions,
}

/// What decides the batches, and how they are made: the same for every command that makes them.
#[derive(Debug, Args)]
pub(crate) struct StreamOptions {
    /// Seed of the run.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Threads that decode and augment [default: one a core].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// This process's share of every batch, as RANK/RANKS.
    #[arg(long, value_name = "R/N", default_value = "0/1", value_parser = parse_rank)]
    pub rank: (usize, usize),
    /// Memory for batches, threads and reading ahead.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_bytes)]
    pub memory: ByteSize,
    /// Voxels of a crop: one number or three.
    #[arg(long, value_name = "N", default_value = "96", value_parser = parse_size)]
    pub crop_size: [usize; 3],
    /// Crops cut each time a case is visited.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub crops_per_visit: usize,
    /// Cases in a batch, over all ranks.
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub visits_per_batch: usize,
    /// What is done to crops.
    #[arg(long, value_enum, default_value = "recipe")]
    pub augment: AugmentArg,
    /// Carry labels along.
    #[arg(long)]
    pub labels: bool,
    /// What foreground is; by label and by class need --labels.
    #[arg(long, value_enum, default_value = "intensity")]
    pub sample_by: SampleByArg,
    /// Share of crops whose centre is foreground.
    #[arg(long, value_name = "RATE", default_value_t = 0.75)]
    pub foreground_rate: f64,
    /// Take only this dataset (`Dataset009_WORD` or `WORD`; `*` and `?` stand for any text). May be repeated.
    #[arg(long, value_name = "NAME")]
    pub include: Vec<String>,
    /// Leave out a dataset. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub exclude: Vec<String>,
    /// Take the cases of one fold's training, as FOLD/FOLDS; with --validation those held out.
    #[arg(long, value_name = "K/N", value_parser = parse_rank, conflicts_with = "list")]
    pub fold: Option<(usize, usize)>,
    /// Take the cases that --fold holds out.
    #[arg(long, requires = "fold")]
    pub validation: bool,
    /// Take the cases that this file names, one a line.
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// What to do when a case turns out to be corrupt: end, or leave its crops out of the batch.
    #[arg(long, value_enum, default_value = "fail")]
    pub on_corrupt: OnCorruptArg,
    /// How shard files are read: mapped into memory, or by positioned reads (network file systems).
    #[arg(long, value_enum, default_value = "mmap")]
    pub access: AccessArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum AugmentArg {
    Recipe,
    Nnunet,
    Plain,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SampleByArg {
    Intensity,
    Label,
    Class,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OnCorruptArg {
    Fail,
    Skip,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum AccessArg {
    Mmap,
    Pread,
}

fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    let number = |part: &str| part.trim().parse::<T>().map_err(|_| format!("`{part}` is not a number"));
    text.split(',').map(number).collect()
}

fn one_or_three<T: Copy + std::str::FromStr>(text: &str) -> Result<[T; 3], String> {
    match numbers(text)?.as_slice() {
        [all] => Ok([*all; 3]),
        [x, y, z] => Ok([*x, *y, *z]),
        _ => Err("expected one number or three, as 1.5 or 1,1,3".into()),
    }
}

/// Voxel side lengths as typed: `original`, one number or three.
///
/// # Errors
/// If the text is none of these.
pub fn parse_spacing(text: &str) -> Result<Spacing, String> {
    if text == "original" { Ok(Spacing::Original) } else { one_or_three(text).map(Spacing::Mm) }
}

fn parse_size(text: &str) -> Result<[usize; 3], String> {
    one_or_three(text)
}

/// A size in bytes as typed, such as 512MiB; the message says so when it is none.
///
/// # Errors
/// If the text is no size.
pub fn parse_bytes(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "expected a size, as 512MiB or 4GiB".into())
}

/// A HU range as typed, such as -175,250.
///
/// # Errors
/// If the text is no two numbers.
pub fn parse_window(text: &str) -> Result<[f64; 2], String> {
    match numbers(text)?.as_slice() {
        [low, high] => Ok([*low, *high]),
        _ => Err("expected two numbers, as -175,250".into()),
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(secs) if (0.0..=3600.0).contains(&secs) => Ok(secs),
        _ => Err("expected 0 to 3600 seconds".into()),
    }
}

fn parse_rank(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('/').and_then(|(rank, ranks)| Some((rank.parse().ok()?, ranks.parse().ok()?)));
    match parsed {
        Some((rank, ranks)) if rank < ranks => Ok((rank, ranks)),
        _ => Err("expected I/N with I from 0 to N-1, as 0/4".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_parsed_or_refused() {
        assert_eq!(parse_spacing("1,1,3"), Ok(Spacing::Mm([1.0, 1.0, 3.0])));
        assert_eq!(parse_spacing("original"), Ok(Spacing::Original));
        assert!(parse_spacing("1,2").is_err());
        assert_eq!(parse_window("-175,250"), Ok([-175.0, 250.0]));
        assert_eq!(parse_rank("1/4"), Ok((1, 4)));
        assert!(parse_rank("4/4").is_err());
    }
}
