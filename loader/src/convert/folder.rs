//! The cache folder around a conversion: what it holds already, its manifest, and damaged shards.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use hiend_cache::shard::{record::CaseRecord, writer::remove_stale};
use hiend_cache::{Access, Cache, DatasetInfo, Manifest};

use super::ConvertError;
use crate::case::CaseFiles;
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
    let manifest = out.join(hiend_cache::manifest::FILE_NAME);
    let has_manifest =
        manifest.try_exists().map_err(|source| ConvertError::Folder { path: manifest.clone(), source })?;
    if !has_manifest {
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

/// Keys of all cases of the data, skipped ones included.
pub(super) fn listed(datasets: &[Dataset]) -> HashSet<String> {
    let cases = datasets.iter().flat_map(|dataset| &dataset.cases).map(CaseFiles::key);
    cases.chain(datasets.iter().flat_map(|dataset| &dataset.skipped).map(|skipped| skipped.case.clone())).collect()
}

/// Keeps a damaged shard under another name, in case somebody wants to look at it. A lost or damaged shard takes nothing
/// with it that cannot be made again: its cases count as new.
fn set_aside(fault: hiend_cache::Error) -> Result<(), ConvertError> {
    match &fault {
        hiend_cache::Error::MissingShard { path } => {
            tracing::warn!(shard = %path.display(), "listed but missing; converting its cases again");
            Ok(())
        }
        hiend_cache::Error::BadShard { path, reason } => {
            let damaged = path.with_extension("damaged");
            tracing::warn!(shard = %path.display(), kept_as = %damaged.display(), "not a whole shard ({reason}); \
                converting its cases again");
            std::fs::rename(path, &damaged).map_err(|source| ConvertError::Folder { path: path.clone(), source })
        }
        _ => Err(fault.into()),
    }
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
