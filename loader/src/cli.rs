//! Command line of `hiend-shard`, parsed but not yet acted on; [`crate::commands`] runs it.

mod stream;

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::convert::Prune;
use crate::preprocess::window::Store;
use crate::program::{
    CodecArg, CompletionsArgs, Expected, ManArgs, NormalizeArg, OnSuspectArg, RetryArg, Spacing, parse_bytes,
    parse_rank, parse_some_bytes, parse_spacing, parse_window,
};
#[cfg(feature = "client")]
pub(crate) use stream::RemoteArgs;
pub(crate) use stream::{Replay, SampleByArg, Stream, StreamOptions};

/// Smallest memory limit of a conversion: a case of ordinary size takes more.
const MIN_MEMORY: ByteSize = ByteSize::mib(16);

/// Convert CT volumes to shards for training
///
/// DATA is a folder of nnU-Net datasets (`DATA/DatasetXXX_NAME/imagesTr`) or one of them, a Medical Segmentation
/// Decathlon dataset, a folder in the layout of `TotalSegmentator`, `KiTS`, BTCV or FLARE, or any folder with .nii, .nii.gz,
/// .nrrd, .nhdr, .mha or .mhd files or DICOM series. Every scan is oriented to RAS+, resampled to one spacing, clamped to
/// one HU window (or normalised to z-scores) and written to checksummed shards. Running the command again converts only
/// new and changed cases
#[derive(Debug, Parser)]
#[command(
    name = "hiend-shard",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = AFTER_HELP
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub convert: Convert,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done, with cases skipped or scans not converted, 130 interrupted
Environment: HIEND_LOG sets the log level, such as debug";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Convert CT volumes to shards (the same as without a command)
    Convert(Convert),
    /// Print the batches of a cache, one JSON line each
    Stream(Stream),
    /// Reproduce one batch of a stream and show the origin and augmentation of its crops
    Replay(Replay),
    /// Show the content of a cache or of one of its cases, as tables and pictures
    Inspect(Inspect),
    /// Check every byte of a cache: checksums, chunks, counts, lists
    Verify(Verify),
    /// Estimate the disk space, time and memory that converting DATA takes
    Plan(Plan),
    /// Print completions for a shell, such as `source <(hiend-shard completions bash)`
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(ManArgs),
}

/// Selection of cases and parameters of their conversion, for converting and for planning.
#[derive(Debug, Args)]
pub(crate) struct PreprocessArgs {
    /// Exclude a dataset (`Dataset009_WORD` or `WORD`) or a case; `*` and `?` are wildcards; may be repeated
    #[arg(long, value_name = "NAME")]
    pub exclude: Vec<String>,
    /// Normalisation of the values
    #[arg(long, value_enum, value_name = "KIND", default_value = "hu")]
    pub normalize: NormalizeArg,
    /// Voxel side lengths in mm: one number, three (x,y,z), or `native` for those of each scan
    #[arg(long, value_name = "MM", default_value = "1.5", value_parser = parse_spacing, allow_hyphen_values = true)]
    pub spacing: Spacing,
    /// HU range mapped to [0, 1]; voxels above its lower end are foreground; with `--normalize zscore`, z-scores to keep
    /// [default: -175,250 for hu, -20,40 for zscore]
    #[arg(long, value_name = "LOW,HIGH", value_parser = parse_window, allow_hyphen_values = true)]
    pub window: Option<[f64; 2]>,
    /// HU range to keep
    #[arg(long, value_enum, value_name = "RANGE", default_value = "window")]
    pub store: StoreArg,
    /// Compression of the shards
    #[arg(long, value_enum, default_value = "fast")]
    pub codec: CodecArg,
    /// Cases to convert at the same time [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Memory limit of all cases being converted, at least 16MiB; a case that needs more is converted alone
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = parse_memory)]
    pub memory: ByteSize,
    /// Action when an image to be converted does not look like a CT in HU (offset, [0, 1], constant, 8-bit, MR) or, as
    /// z-scores, is constant or clamped; images already in the cache are only reported
    #[arg(long, value_enum, default_value = "warn")]
    pub on_suspect: OnSuspectArg,
    /// List every file in DATA that belongs to no case, with the reason
    #[arg(long)]
    pub list_skipped: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags that are independent of each other")]
pub(crate) struct Convert {
    /// Folder with the volumes
    #[arg(required = true)]
    pub data: Option<PathBuf>,
    /// Folder of the cache, created if missing, or a URL that begins with `s3://`, `gs://` or `az://`
    #[arg(long, value_name = "CACHE", default_value = "cache")]
    pub out: PathBuf,
    #[command(flatten)]
    pub retry: RetryArg,
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    /// Size at which a shard is closed and the next one started
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_some_bytes)]
    pub shard_size: ByteSize,
    /// Remove superseded records, and the cases that were converted from DATA and are no longer in it; `--prune=all` also
    /// removes the cases of other folders
    #[arg(
        long,
        value_enum,
        value_name = "CASES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "gone",
        conflicts_with_all = ["worker", "claim"]
    )]
    pub prune: Option<PruneArg>,
    /// Free the space of records that newer ones supersede; removes no case
    #[arg(long, conflicts_with_all = ["worker", "claim", "dry_run"])]
    pub compact: bool,
    /// Compare the content of files even where size and modification time are unchanged; reads all data
    #[arg(long, conflicts_with = "dry_run")]
    pub checksum: bool,
    /// Convert a dataset or case again even if unchanged, for example to repair damage that `verify` found, or to replace
    /// the scans of another folder of the same name; `*` and `?` are wildcards; may be repeated
    #[arg(long, value_name = "NAME")]
    pub reconvert: Vec<String>,
    /// Convert again cases that the cache holds with another normalisation, spacing, window, range or codec
    #[arg(long)]
    pub change_parameters: bool,
    /// Continue although lost or damaged shards held cases that are not in DATA
    #[arg(long)]
    pub forget_lost: bool,
    /// Convert only share I of N of the cases, I from 0
    ///
    /// N such runs, on any machines that see the same folders, fill one cache without a coordinator
    #[arg(long, value_name = "I/N", value_parser = parse_rank)]
    pub worker: Option<(usize, usize)>,
    /// Take cases one by one, so that any number of such runs share them and take over those of slow or dead ones
    ///
    /// The runs need the same DATA and --out, but neither worker numbers nor a coordinator. Each signals that it is
    /// alive through a small file in --out
    #[arg(long, conflicts_with_all = ["worker", "dry_run"])]
    pub claim: bool,
    /// Seconds without a sign of life after which other runs with --claim take over a run's cases
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "claim", value_parser = clap::value_parser!(u64).range(2..))]
    pub claim_lifetime: u64,
    /// Show what would be converted and how large the cache would become; write nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Folder with the volumes
    pub data: PathBuf,
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    /// Print the estimate as JSON
    #[arg(long)]
    pub json: bool,
    /// Time for converting sample cases in memory, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = parse_seconds)]
    pub probe: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Print the result as JSON at the end, with the reason in `failure` if not everything was checked
    #[arg(long)]
    pub json: bool,
    /// Folder or URL of the cache
    pub cache: PathBuf,
    /// Threads that read and decode [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub retry: RetryArg,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Folder or URL of the cache
    pub cache: PathBuf,
    /// Case to describe, as DATASET/CASE or CASE
    pub case: Option<String>,
    /// Picture to write: the case's middle slices in three planes, with labels in colour
    #[arg(long, value_name = "FILE", requires = "case")]
    pub png: Option<PathBuf>,
    /// Largest number of cases to list; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub rows: usize,
    /// Print all cases with their records as JSON
    #[arg(long, conflicts_with_all = ["case", "rows"])]
    pub json: bool,
    /// Folder for a report of the whole cache: one HTML page with charts, class volumes, suspicious cases and slices
    #[arg(long, value_name = "DIR", conflicts_with_all = ["case", "json"])]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub retry: RetryArg,
}

/// Command-line value of [`Prune`] that removes cases.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PruneArg {
    /// Cases that were converted from DATA and are no longer in it
    Gone,
    /// All cases that are not in DATA, those of other folders included
    All,
}

impl From<PruneArg> for Prune {
    fn from(arg: PruneArg) -> Self {
        match arg {
            PruneArg::Gone => Self::Gone,
            PruneArg::All => Self::All,
        }
    }
}

/// Command-line value of [`Store`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StoreArg {
    /// The window only: the smallest cache
    Window,
    /// -32768 to 32767 HU: a larger cache, whose window is chosen when streaming
    Full,
}

impl From<StoreArg> for Store {
    fn from(arg: StoreArg) -> Self {
        match arg {
            StoreArg::Window => Self::Window,
            StoreArg::Full => Self::Full,
        }
    }
}

fn parse_memory(text: &str) -> Result<ByteSize, Expected> {
    let memory = parse_bytes(text).ok().filter(|memory| *memory >= MIN_MEMORY);
    memory.ok_or(Expected("a size of at least 16MiB, such as 512MiB or 4GiB"))
}

fn parse_seconds(text: &str) -> Result<f64, Expected> {
    let secs = text.parse().ok().filter(|secs| (0.0..=3600.0).contains(secs));
    secs.ok_or(Expected("0 to 3600 seconds"))
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
    fn conversion_needs_no_subcommand() {
        let cli = Cli::try_parse_from(["hiend-shard", "data", "--spacing", "1,1,3"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.convert.preprocess.spacing, Spacing::Mm([1.0, 1.0, 3.0]));
        let cli = Cli::try_parse_from(["hiend-shard", "stream", "a", "b", "--weights", "1,2"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Stream(stream)) if stream.weights == [1, 2]));
    }

    #[cfg(feature = "client")]
    #[test]
    fn flags_about_shards_are_refused_with_servers() {
        let parse =
            |flags: &str| Cli::try_parse_from(format!("hiend-shard stream --loader http://a:1 {flags}").split(' '));
        assert!(parse("--loader-retry 5").is_ok());
        for flags in ["--disk-cache x", "--disk-cache-size 1GiB", "--storage-retry 5", "--threads 2", "--access mmap"] {
            let error = parse(flags).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict, "{flags}");
        }
        for flags in ["--loader-retry 5", "--token-file x", "--tls-ca x", "--no-shared-memory"] {
            let words = format!("hiend-shard stream cache {flags}");
            assert!(Cli::try_parse_from(words.split(' ')).is_err(), "{flags}");
        }
    }

    #[test]
    fn help_lists_every_format() {
        let about = Cli::command().get_long_about().unwrap().to_string();
        for format in [".nii,", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", "DICOM"] {
            assert!(about.contains(format), "{format}: {about}");
        }
    }

    #[test]
    fn help_has_one_style() {
        fn check(command: &clap::Command) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let helps = command.get_arguments().filter_map(|arg| arg.get_help().map(ToString::to_string));
            for help in helps.chain([about]) {
                assert!(!help.is_empty() && !help.ends_with('.'), "{}: {help:?}", command.get_name());
                assert!(help.starts_with(char::is_uppercase), "{}: {help:?}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
