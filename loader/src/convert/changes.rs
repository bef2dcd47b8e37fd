//! Changes that a conversion would make to a cache, derived from its records and from file sizes and times. Writes
//! nothing and reads no voxels; reads only those headers that name a separate file with the voxels.

use std::path::Path;
use std::time::SystemTime;

use hiend_cache::{Cache, Location, OpenOptions};

use super::known::Known;
use super::source::{is_undecided, source_of};
use super::{ConvertError, ConvertOptions, NotInData, OtherFolder, Present, folder, identity, keep_share, origin};
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
    /// Cases of which a file changed less than [`SETTLED`](super::SETTLED) before it was looked at: its size is that in the
    /// record, and its time proves nothing. A conversion compares the content.
    pub undecided: Vec<String>,
    /// Cases of the cache that are not in the data.
    pub not_in_data: NotInData,
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
    let known = match Cache::salvage_unlisted(&location, OpenOptions::for_one_pass()) {
        Ok((cache, mut faults)) => {
            // Shards that are whole but cannot be read are not lost; the conversion refuses them, too.
            if let Some(other) = faults.iter().position(|fault| !folder::is_damage(fault)) {
                return Err(faults.swap_remove(other).into());
            }
            let known = folder::check(&cache, &faults, root, datasets, config, options)?;
            Known { seen: folder::seen(&location), ..known }
        }
        Err(hiend_cache::Error::NoCache { .. }) => Known::nothing(),
        Err(error) => return Err(error.into()),
    };
    let other_folders = origin::undecided(root, datasets, &known, options);
    let not_in_data = Present::of(root, datasets).not_in_data(known.records.values());
    let mut changes = Changes { not_in_data, other_folders, ..Changes::default() };
    let mut share = datasets.to_vec();
    keep_share(&mut share, options.worker);
    let now = SystemTime::now();
    for case in share.iter().flat_map(|dataset| &dataset.cases) {
        let Ok(source) = source_of(root, case, now) else { continue };
        let key = case.key();
        let list = match known.record(&key) {
            None => &mut changes.new,
            Some(record) if record.parameters != parameters || options.reconvert.contains(&key) => &mut changes.changed,
            Some(record) if known.is_untouched(record, &source) => &mut changes.unchanged,
            Some(record) if is_undecided(&record.source, &source) => &mut changes.undecided,
            Some(_) => &mut changes.changed,
        };
        list.push(key);
    }
    Ok(changes)
}
