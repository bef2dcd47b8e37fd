//! Errors of opening and reading a stream.

use std::path::PathBuf;

use crate::escape::escape_name;
use crate::mix::MixError;
use crate::plural::count;
use crate::preprocess::normalize::Normalize;
use crate::split::SelectError;

/// Error of opening or reading a stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of the configuration is out of range.
    #[error("stream.{key}: {reason}")]
    BadConfig {
        /// Key of the configuration, without its prefix `stream.`.
        key: &'static str,
        /// Value of the key, and what was expected.
        reason: String,
    },
    /// The visits of a batch cannot be shared by the ranks.
    #[error(
        "stream.visits_per_batch: {visits}; expected a multiple of the {ranks} ranks, and rank {rank} below {ranks}"
    )]
    Share {
        /// Visits of a global batch.
        visits: usize,
        /// Rank of this process.
        rank: usize,
        /// Number of ranks.
        ranks: usize,
    },
    /// No cache was given.
    #[error("no cache to stream from")]
    NoCache,
    /// The weights of the caches make no mix.
    #[error(transparent)]
    Mix(#[from] MixError),
    /// The list of cases cannot be used.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// A cache is unsuitable for the stream.
    #[error("{}: {reason}", path.display())]
    Unsuitable {
        /// Folder of the cache, or a shard of it.
        path: PathBuf,
        /// Reason why it is unsuitable.
        reason: Unsuitable,
    },
    /// The memory budget is too small.
    #[error(
        "two batches of {} ({batch_bytes} bytes each) and {} take {needed} bytes{}, but the budget is {memory_bytes}; raise \
         --memory, or make the batch smaller",
        count(crops, "crop"),
        count(threads, "thread"),
        if *fetch_bytes == 0 { String::new() } else { format!(", {fetch_bytes} of them for object storage") }
    )]
    TooLittleMemory {
        /// Crops of this rank's batch.
        crops: usize,
        /// Bytes of a batch.
        batch_bytes: u64,
        /// Number of threads.
        threads: usize,
        /// Bytes for requests to object storage and for mappings of the disk cache.
        fetch_bytes: u64,
        /// Bytes needed in total.
        needed: u64,
        /// Bytes of the budget.
        memory_bytes: u64,
    },
    /// A batch is larger than a service allows.
    #[error(
        "a batch of {} takes {batch_bytes} bytes, but at most {most} are allowed; make the batch smaller, share it among \
         more ranks, or raise --client-memory of the service",
        count(crops, "crop")
    )]
    BatchTooLarge {
        /// Crops of this rank's batch.
        crops: usize,
        /// Bytes of a batch with its records.
        batch_bytes: u64,
        /// Largest size of a batch, in bytes.
        most: u64,
    },
    /// The system has less memory than the budget.
    #[error("cannot allocate the {bytes} bytes of the batch buffers; lower --memory, or make the batch smaller")]
    NoMemory {
        /// Bytes of all batch buffers.
        bytes: u64,
    },
    /// The system provided no thread.
    #[error("cannot start the loader's threads: {reason}")]
    NoThreads {
        /// Message of the system.
        reason: String,
    },
    /// A thread of the stream panicked.
    #[error("a thread of the loader panicked (a bug): {message}")]
    Panicked {
        /// Message of the panic.
        message: String,
    },
    /// A chunk could not be read or is corrupt.
    #[error(transparent)]
    Read(#[from] hiend_cache::Error),
}

/// Clause about splits that leave no case; empty if another selection does. Only hashed folds may be empty.
fn of_empty_fold(by_split: bool) -> &'static str {
    if by_split { "; a fold by rule = \"hashed\" may be empty, and rule = \"dealt\" makes equal ones" } else { "" }
}

/// Reason why a cache is unsuitable for a stream.
#[derive(Debug, thiserror::Error)]
pub enum Unsuitable {
    /// The cache is empty.
    #[error("the cache holds no cases")]
    Empty,
    /// The selection takes no case.
    #[error("include, exclude and split leave none of its {}{}", count(cases, "case"), of_empty_fold(*by_split))]
    NothingSelected {
        /// Cases in the cache.
        cases: usize,
        /// True if the split leaves none of the cases that include and exclude select.
        by_split: bool,
    },
    /// The selection does not match the cases.
    #[error(transparent)]
    Select(SelectError),
    /// Cases were converted with different parameters.
    #[error(
        "cases {first} and {other} were converted with different parameters; run hiend-shard again to the end, and remove cases \
         that it skips with --exclude NAME --prune"
    )]
    MixedParameters {
        /// Key of the first case.
        first: String,
        /// Key of a case that differs.
        other: String,
    },
    /// A case is stored with a codec that a device cannot decode.
    #[error(
        "case {} is stored with a codec other than \"fast\", which a device decodes; convert again with --codec fast, \
         or decode on the CPU",
        escape_name(case)
    )]
    NotPacked {
        /// Key of the case.
        case: String,
    },
    /// The manifest does not say how the cases were made.
    #[error("manifest.json: invalid preprocess: {reason}")]
    Manifest {
        /// Message of the parser.
        reason: String,
    },
    /// The range of HU in the cache does not contain the whole window.
    #[error(
        "the cache holds only {} to {} HU, but stream.window is {} to {}; convert again with --store full",
        stored[0], stored[1], window[0], window[1]
    )]
    Window {
        /// HU range of the cache.
        stored: [f64; 2],
        /// HU range of the stream.
        window: [f64; 2],
    },
    /// A case holds values other than the manifest states.
    #[error(
        "case {} does not hold {}, as manifest.json says of the cache; run hiend-shard again to the end",
        escape_name(case), expected.values()
    )]
    OtherManifest {
        /// Key of the case.
        case: String,
        /// Normalisation that the manifest states.
        expected: Normalize,
    },
    /// A case has other parameters than the manifest states.
    #[error(
        "case {} was converted with another spacing, window or range of stored values than manifest.json says; run \
         hiend-shard again to the end, with the parameters that the cases shall have, and remove cases that it skips with \
         --exclude NAME --prune",
        escape_name(case)
    )]
    OtherParameters {
        /// Key of the case.
        case: String,
    },
    /// A window in HU for z-scores.
    #[error(
        "the cache holds z-scores, but stream.window is {} to {} HU; leave stream.window out",
        window[0], window[1]
    )]
    WindowOfZscores {
        /// HU range of the stream.
        window: [f64; 2],
    },
    /// Normalisation differs from that of the first cache.
    #[error(
        "the cache holds {}, but the first one {}; stream caches of one normalisation, or convert again with \
         --normalize {}",
        found.values(), expected.values(), expected.name()
    )]
    OtherNormalize {
        /// Normalisation of this cache.
        found: Normalize,
        /// Normalisation of the first cache.
        expected: Normalize,
    },
    /// A dataset has other classes than in another cache of a stream with labels.
    #[error(
        "two caches describe the classes of dataset {dataset} differently: {difference}; stream one of them, or give both the \
         same dataset.json and run hiend-shard again"
    )]
    OtherClasses {
        /// Name of the dataset.
        dataset: String,
        /// The first class that differs, with its names in both caches.
        difference: String,
    },
    /// Spacing differs from that of the first cache.
    #[error("spacing is {}, but {} in the first cache", spacing(*found), spacing(*expected))]
    OtherSpacing {
        /// Spacing of this cache in mm; `None` if each case has its own.
        found: Option<[f64; 3]>,
        /// Spacing of the first cache.
        expected: Option<[f64; 3]>,
    },
    /// The window differs from that of the first cache.
    #[error(
        "the window is {} to {} HU, but {} to {} HU in the first cache; set stream.window",
        found[0], found[1], expected[0], expected[1]
    )]
    OtherWindow {
        /// HU range of the cache at fault.
        found: [f64; 2],
        /// HU range of the first cache.
        expected: [f64; 2],
    },
}

/// Spacing as text.
fn spacing(spacing: Option<[f64; 3]>) -> String {
    spacing.map_or_else(|| "the case's own".into(), |[x, y, z]| format!("{x} x {y} x {z} mm"))
}
