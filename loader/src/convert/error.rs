//! Errors that end a whole conversion.

use std::path::PathBuf;

use crate::case::SkippedCase;

/// Reason why a conversion could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The cache cannot be read or written.
    #[error(transparent)]
    Cache(#[from] hiend_cache::Error),
    /// The cache folder cannot be created or accessed.
    #[error("{}: cannot make or use this folder", path.display())]
    Folder {
        /// Path of the folder, or of the file in it.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The cache holds cases that are not in the data and were made with other parameters.
    #[error(
        "{}: holds {} made with other parameters that are not in this data, such as {example}; \
         choose another --out, or drop {}",
        path.display(),
        crate::plural::count(count, "case"),
        remedy(*are_gone)
    )]
    OtherParameters {
        /// Path of the cache.
        path: PathBuf,
        /// Number of such cases.
        count: usize,
        /// Example to name in the message, as `DATASET/CASE`.
        example: String,
        /// True if all were converted from the folder of the data.
        are_gone: bool,
    },
    /// The cache holds cases of the data that were made with other parameters.
    #[error(
        "{}: cases of this data made with other parameters ({changes}): {count}; --change-parameters converts them again, \
         another --out keeps both",
        path.display()
    )]
    ChangedParameters {
        /// Path of the cache.
        path: PathBuf,
        /// Number of such cases.
        count: usize,
        /// The parameters that changed, with their values.
        changes: String,
    },
    /// Lost or damaged shards held cases that are not in the data.
    #[error(
        "{}: lost or damaged, with cases that are not in this data: {count}, such as {example}; restore the file, or \
         continue with --forget-lost and convert the data of these cases again",
        shards.iter().map(|shard| shard.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    LostCases {
        /// Paths of the lost or damaged shards.
        shards: Vec<PathBuf>,
        /// Number of such cases.
        count: usize,
        /// Example to name in the message, as `DATASET/CASE`.
        example: String,
    },
    /// A lost or damaged shard held cases whose names are unknown.
    #[error(
        "{}: lost or damaged, and manifest.json, written by an earlier version, does not name its cases: some may not be \
         in this data; restore the file, or continue without it with --forget-lost",
        path.display()
    )]
    LostShard {
        /// Path of the lost or damaged shard.
        path: PathBuf,
    },
    /// The masks of a dataset give its classes other numbers than the cache does.
    #[error(
        "{}: class {class} of {dataset} is {name:?} in the cache and {} in this data, whose masks are numbered by their \
         sorted names, without regard to capital letters; choose another --out, or convert with the masks that the cache was made \
         from",
        path.display(),
        found.as_ref().map_or_else(|| "missing".to_owned(), |found| format!("{found:?}"))
    )]
    OtherClasses {
        /// Path of the cache.
        path: PathBuf,
        /// Name of the dataset.
        dataset: String,
        /// Number of the class.
        class: u8,
        /// Name of the class in the cache.
        name: String,
        /// Name of the class in the data; `None` if no class has this number.
        found: Option<String>,
    },
    /// Labelled cases in the cache belong to a dataset of the same name whose classes differ from those of this data.
    #[error(
        "{}: holds {} of another dataset named {dataset}, such as {example}, whose classes are not those of this data: \
         {difference}; rename one of the two folders, or choose another --out; if dataset.json was corrected, convert all \
         cases of the dataset at once, or drop {}",
        path.display(),
        crate::plural::count(count, "labelled case"),
        remedy(*are_gone)
    )]
    OtherNames {
        /// Path of the cache.
        path: PathBuf,
        /// Name of both datasets.
        dataset: String,
        /// Number of labelled cases in the cache that are not in the data.
        count: usize,
        /// Example to name in the message, as `DATASET/CASE`.
        example: String,
        /// True if all of them were converted from the folder of the data.
        are_gone: bool,
        /// The first class that differs, with both names and an example image.
        difference: String,
    },
    /// The cache has scans of the names in this data from another dataset.
    #[error(
        "{}: holds {} of another dataset named {dataset}, such as {example} from {}, which this data would replace; rename \
         one of the two folders, choose another --out, or replace them with --reconvert {}",
        path.display(),
        crate::plural::count(count, "case"),
        crate::case::shown(from),
        if *count == 1 { example } else { dataset }
    )]
    OtherFolder {
        /// Path of the cache.
        path: PathBuf,
        /// Name of both datasets.
        dataset: String,
        /// Number of cases that both have.
        count: usize,
        /// Example to name in the message, as `DATASET/CASE`.
        example: String,
        /// Path of the image that the example was made from.
        from: PathBuf,
    },
    /// Pruning would drop cases whose folder is empty.
    #[error(
        "{}: {} of the cache, such as {example}, of a folder that exists but is empty (is its disk mounted?) or whose \
         dataset.json cannot be used; nothing was pruned; remove the folder if its data is gone for good",
        path.display(),
        crate::plural::count(count, "case")
    )]
    Vacant {
        /// Path of the cache.
        path: PathBuf,
        /// Number of such cases.
        count: usize,
        /// Example to name in the message, as `DATASET/CASE`.
        example: String,
    },
    /// A lock file cannot be used.
    #[error(transparent)]
    Lock(#[from] hiend_cache::FileError),
    /// The run was asked to stop while it waited for another one.
    #[error("{}: interrupted while waiting for another conversion into this cache", path.display())]
    StoppedWaiting {
        /// Path of the cache.
        path: PathBuf,
    },
    /// A suspicious case, in a run set to end at the first such case.
    #[error("{0}")]
    Suspect(SkippedCase),
}

/// Cases that pruning drops, and the flag; `are_gone` is true if all cases of the message were converted from the folder of the
/// data.
fn remedy(are_gone: bool) -> &'static str {
    if are_gone { "those that are gone with --prune" } else { "all cases that are not in this data with --prune=all" }
}
