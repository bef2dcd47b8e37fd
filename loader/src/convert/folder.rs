//! The cache folder around a conversion: what it holds already, its manifest, and damaged shards.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use hiend_cache::shard::{record::CaseRecord, writer::remove_stale};
use hiend_cache::{Access, Cache, DatasetInfo, FileError, Manifest, ShardError, durable, lookup};

use super::ConvertError;
use crate::case::{CaseFiles, LabelFiles};
use crate::dataset::Dataset;
use crate::preprocess::PreprocessConfig;

/// Content of a cache folder before a conversion.
pub(super) struct Known {
    /// Records that count, by case.
    pub records: HashMap<String, CaseRecord>,
    /// Generation of the shards to write.
    pub generation: u64,
}

impl Known {
    /// A folder without content.
    pub(super) fn nothing() -> Self {
        Self { records: HashMap::new(), generation: 1 }
    }
}

/// Makes the manifest where there is none, and reads what the folder holds.
///
/// `keep_others` is set if cases that are not in the data stay in the cache: they must then have the same parameters.
pub(super) fn prepare(
    out: &Path,
    datasets: &[Dataset],
    config: &PreprocessConfig,
    parameters: &str,
    keep_others: bool,
) -> Result<Known, ConvertError> {
    let removed = remove_stale(out)?;
    if removed > 0 {
        tracing::info!(removed, "removed unfinished shards of killed runs");
    }
    if !lookup::exists(&out.join(hiend_cache::manifest::FILE_NAME)).map_err(folder_error)? {
        write_manifest(out, datasets, config)?;
    }
    let (cache, faults) = Cache::salvage(out, Access::Mmap)?;
    for fault in faults {
        set_aside(fault)?;
    }
    let generation = cache.shards().iter().map(|shard| shard.generation()).max().map_or(1, |last| last + 1);
    let records: HashMap<String, CaseRecord> =
        cache.cases().iter().map(|case| (case.key().to_owned(), case.record().clone())).collect();
    check_parameters(out, &records, datasets, parameters, keep_others)?;
    check_classes(out, &cache.manifest().datasets, &records, datasets)?;
    Ok(Known { records, generation })
}

/// Checks that no case outside the data, kept by `keep_others`, was made with other parameters.
///
/// Cases in the data are simply converted again when parameters changed; others would stay as they are.
pub(super) fn check_parameters(
    out: &Path,
    records: &HashMap<String, CaseRecord>,
    datasets: &[Dataset],
    parameters: &str,
    keep_others: bool,
) -> Result<(), ConvertError> {
    let listed = listed(datasets);
    let mut others = records
        .iter()
        .filter(|(key, record)| keep_others && record.parameters != parameters && !listed.contains(*key))
        .map(|(key, _)| key);
    match others.next() {
        Some(example) => {
            let count = others.count() + 1;
            Err(ConvertError::OtherParameters { path: out.to_owned(), count, example: example.clone() })
        }
        None => Ok(()),
    }
}

/// Checks that datasets of one mask per class keep the class numbers of their labelled cases in the cache.
///
/// Such a dataset numbers its classes by the sorted names of all masks found, so a mask of a new class renumbers those
/// behind it, while records that are not converted again keep the old numbers. New classes behind all others are
/// compatible.
pub(super) fn check_classes(
    out: &Path,
    in_cache: &BTreeMap<String, DatasetInfo>,
    records: &HashMap<String, CaseRecord>,
    datasets: &[Dataset],
) -> Result<(), ConvertError> {
    for dataset in datasets {
        let is_numbered_by_masks =
            dataset.cases.iter().any(|case| matches!(case.label, Some(LabelFiles::Masks { .. })));
        let Some(known) = in_cache.get(&dataset.name).filter(|_| is_numbered_by_masks) else { continue };
        let is_kept = |(class, name): (&u8, &String)| dataset.labels.get(class) == Some(name);
        let has_labelled = |record: &CaseRecord| record.dataset == dataset.name && record.label.is_some();
        if let Some((class, name)) = known.labels.iter().find(|entry| !is_kept(*entry))
            && records.values().any(has_labelled)
        {
            return Err(ConvertError::OtherClasses {
                path: out.to_owned(),
                dataset: dataset.name.clone(),
                class: *class,
                name: name.clone(),
                found: dataset.labels.get(class).cloned(),
            });
        }
    }
    Ok(())
}

/// Keys of all cases of the data, skipped ones included.
pub(super) fn listed(datasets: &[Dataset]) -> HashSet<String> {
    let cases = datasets.iter().flat_map(|dataset| &dataset.cases).map(CaseFiles::key);
    cases.chain(datasets.iter().flat_map(|dataset| &dataset.skipped).map(|skipped| skipped.case.clone())).collect()
}

pub(super) fn folder_error(FileError { path, source, .. }: FileError) -> ConvertError {
    ConvertError::Folder { path, source }
}

/// Keeps a damaged shard under another name, in case somebody wants to look at it. The cases of a lost or damaged shard
/// count as new: those in this data and this worker's share are made again, others are missing until their own run.
fn set_aside(fault: hiend_cache::Error) -> Result<(), ConvertError> {
    match &fault {
        hiend_cache::Error::MissingShard { path } => {
            tracing::warn!(shard = %path.display(), "listed but missing; converting its cases again, as far as they are \
                in this data and share");
            Ok(())
        }
        // A later version of the program wrote it: it is whole, and its cases must not be replaced.
        hiend_cache::Error::BadShard { reason: ShardError::Version { .. }, .. } => Err(fault.into()),
        hiend_cache::Error::BadShard { path, reason } => {
            let damaged = free_name(path).map_err(folder_error)?;
            tracing::warn!(shard = %path.display(), kept_as = %damaged.display(), "not a whole shard ({reason}); \
                converting its cases again, as far as they are in this data and share");
            durable::rename(path, &damaged).map_err(folder_error)
        }
        _ => Err(fault.into()),
    }
}

/// Name for a damaged shard that no earlier one has.
fn free_name(shard: &Path) -> Result<PathBuf, FileError> {
    let mut name = shard.with_extension("damaged");
    for number in 2u32.. {
        if !lookup::exists(&name)? {
            break;
        }
        name = shard.with_extension(format!("damaged-{number}"));
    }
    Ok(name)
}

fn info_of(dataset: &Dataset) -> DatasetInfo {
    let Dataset { labels, regions, ignore, .. } = dataset;
    DatasetInfo { labels: labels.clone(), regions: regions.clone(), ignore: *ignore }
}

/// Writes parameters, datasets and the list of shards into the manifest.
pub(super) fn write_manifest(out: &Path, datasets: &[Dataset], config: &PreprocessConfig) -> Result<(), ConvertError> {
    Manifest::update(out, |manifest| {
        manifest.created_by = concat!("hiend-shard ", env!("CARGO_PKG_VERSION")).into();
        manifest.preprocess = serde_json::to_value(config).expect("a struct of numbers");
        let named = datasets.iter().filter(|dataset| dataset.num_listed() > 0);
        manifest.datasets.extend(named.map(|dataset| (dataset.name.clone(), info_of(dataset))));
    })?;
    Ok(())
}
