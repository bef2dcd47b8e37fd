//! Changes that a conversion would make to a cache, derived from its records and from file sizes and times. Writes
//! nothing and reads no voxels; reads only those headers that name a separate file with the voxels.

use std::path::Path;
use std::time::SystemTime;

use hiend_cache::{Cache, Location, OpenOptions};

use super::known::Known;
use super::source::{looks_the_same, source_of};
use super::{ConvertError, ConvertOptions, OtherFolder, folder, identity, keep_share, origin};
use crate::dataset::Dataset;
use crate::preprocess::PreprocessConfig;

/// Cases of a conversion, as `DATASET/CASE`, grouped by the change it would make. Cases that would be skipped are in no
/// list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Cases without a record in the cache.
    pub new: Vec<String>,
    /// Cases whose files or parameters differ from their record, and those of [`ConvertOptions::reconvert`]. Where only
    /// times differ, a conversion compares the content and may find a case unchanged; with [`ConvertOptions::checksum`]
    /// it compares the content of unchanged ones too.
    pub changed: Vec<String>,
    /// Cases whose record is kept.
    pub unchanged: Vec<String>,
    /// Cases of the cache that are not in the data; [`ConvertOptions::prune`] removes them.
    pub not_in_data: Vec<String>,
    /// Datasets that a conversion would refuse if their content shows that they are others than those of the same name in
    /// the cache.
    pub other_folders: Vec<OtherFolder>,
}

/// Finds the changes that converting `datasets`, found in `root`, would make to the cache at `out`.
///
/// A cache that does not exist counts as empty; one without a manifest holds the cases of its shards. Cases of lost and
/// damaged shards count as new.
///
/// # Errors
/// If the cache cannot be read, or the conversion would refuse it for its records. Whether scans of another folder would be
/// replaced takes their content: [`Changes::other_folders`] lists what sizes and times leave undecided.
pub fn changes(
    root: &Path,
    datasets: &[Dataset],
    out: &Path,
    config: &PreprocessConfig,
    options: &ConvertOptions,
) -> Result<Changes, ConvertError> {
    let parameters = identity::parameters(config, options.codec);
    let location = Location::from(out).with_retry(options.storage_retry);
    let known = match Cache::salvage_unlisted(location, OpenOptions::for_one_pass()) {
        Ok((cache, mut faults)) => {
            // Shards that are whole but cannot be read are not lost; the conversion refuses them, too.
            if let Some(other) = faults.iter().position(|fault| !folder::is_damage(fault)) {
                return Err(faults.swap_remove(other).into());
            }
            folder::check(&cache, &faults, datasets, config, options)?
        }
        Err(hiend_cache::Error::NoCache { .. }) => Known::nothing(),
        Err(error) => return Err(error.into()),
    };
    let listed = folder::listed(datasets);
    let other_folders = origin::undecided(root, datasets, &known, options);
    let mut changes = Changes { other_folders, ..Changes::default() };
    changes.not_in_data.extend(known.records.keys().filter(|key| !listed.contains(*key)).cloned());
    changes.not_in_data.sort();
    let mut share = datasets.to_vec();
    keep_share(&mut share, options.worker);
    let now = SystemTime::now();
    for case in share.iter().flat_map(|dataset| &dataset.cases) {
        let Ok(source) = source_of(root, case, now) else { continue };
        let list = match known.record(&case.key()) {
            None => &mut changes.new,
            Some(record)
                if record.parameters == parameters
                    && looks_the_same(&record.source, &source)
                    && !options.reconvert.contains(&case.key()) =>
            {
                &mut changes.unchanged
            }
            Some(_) => &mut changes.changed,
        };
        list.push(case.key());
    }
    Ok(changes)
}
