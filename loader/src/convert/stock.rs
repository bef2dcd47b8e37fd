//! State of the cache after a conversion: superseded, stale, lost and repeated cases, and pruning.

use std::collections::HashSet;
use std::path::Path;

use hiend_cache::prune::prune;
use hiend_cache::seen::Seen;
use hiend_cache::{Cache, Case, Location, OpenOptions};

use super::{ConvertError, ConvertOptions, Present, Prune, RunLock, Stop, Summary, same_scan, unnamed, unseen};
use crate::case::{CaseFiles, SkippedCase};
use crate::dataset::Dataset;

/// Examines the cache once everything is converted with the `parameters`, and prunes it if that was requested.
pub(super) fn take(
    out: &Location,
    datasets: &[Dataset],
    present: &Present,
    (options, parameters): (&ConvertOptions, &str),
    (lock, stop): (&RunLock, &Stop),
    summary: &mut Summary,
) -> Result<(), ConvertError> {
    if options.prune != Prune::Nothing && !summary.interrupted {
        if options.prune.removes_cases() {
            refuse_vacant(out, datasets, present, options.prune)?;
        }
        let is_wanted = |case: &Case| !present.is_removed(case.record(), options.prune);
        summary.pruned = prune(lock, options.shard_bytes, is_wanted)?;
    }
    let (cache, faults) = Cache::salvage(out, OpenOptions::for_one_pass())?;
    for fault in faults {
        let hiend_cache::Error::MissingShard { path } = fault else { return Err(fault.into()) };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The manifest lists the cases of a missing shard that are still to be converted.
        summary.lost.extend(cache.manifest().cases.get(name.as_ref()).into_iter().flatten().cloned());
    }
    summary.lost.sort();
    if summary.pruned.is_some()
        && let Err(error) = Seen::retain(out, |key| cache.case(key).map(|case| &case.record().source))
    {
        tracing::warn!("{error}; notes of pruned cases stay in it");
    }
    summary.superseded_bytes = cache.superseded_bytes();
    let skipped = skipped_keys(&summary.skipped, datasets);
    let stale: Vec<&Case> = cache.cases().iter().filter(|case| skipped.contains(case.key())).collect();
    let outdated = stale.iter().filter(|case| case.record().parameters != parameters);
    summary.outdated = outdated.map(|case| case.key().to_owned()).collect();
    summary.stale = stale.iter().map(|case| case.key().to_owned()).collect();
    // In object storage, each index takes a request.
    if !summary.interrupted && out.url().is_none() {
        // Lost cases may have the classes.
        if summary.lost.is_empty() {
            summary.unseen = unseen::find(&cache, datasets, &skipped);
        }
        summary.unnamed = unnamed::find(&cache, datasets, options.worker, stop);
    }
    summary.not_in_data = present.not_in_data(cache.cases().iter().map(Case::record));
    let same = same_scan::find(&cache, &present.listed);
    summary.twice = same.twice;
    summary.repeated = same.repeated;
    Ok(())
}

/// Keys of the cases among `skipped`, without those of which the data have several images: one image is converted, and the others
/// are skipped under the same key.
fn skipped_keys<'a>(skipped: &'a [SkippedCase], datasets: &[Dataset]) -> HashSet<&'a str> {
    let converted: HashSet<String> = datasets.iter().flat_map(|dataset| &dataset.cases).map(CaseFiles::key).collect();
    let of_listing = datasets.iter().flat_map(|dataset| &dataset.skipped);
    let further: HashSet<(&str, &Path)> =
        of_listing.filter(|skipped| converted.contains(&skipped.case)).map(place_of).collect();
    skipped
        .iter()
        .filter(|skipped| !further.contains(&place_of(skipped)))
        .map(|skipped| skipped.case.as_str())
        .collect()
}

/// Key and file of a skipped case.
fn place_of(SkippedCase { case, path, .. }: &SkippedCase) -> (&str, &Path) {
    (case.as_str(), path.as_path())
}

/// Refuses to prune cases below folders that are now empty.
fn refuse_vacant(out: &Location, datasets: &[Dataset], present: &Present, prune: Prune) -> Result<(), ConvertError> {
    let vacant: Vec<&String> = datasets.iter().flat_map(|dataset| &dataset.vacant).collect();
    let cache = Cache::open_with(out, OpenOptions::for_one_pass())?;
    // `D/p1` stands for itself and for `D/p1/ct`, not for `D/p10`.
    let is_below = |key: &str, prefix: &str| {
        let rest = key.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
    };
    let is_vacant = |case: &&Case| {
        present.is_removed(case.record(), prune) && vacant.iter().any(|prefix| is_below(case.key(), prefix))
    };
    let mut gone = cache.cases().iter().filter(is_vacant).map(Case::key);
    let Some(example) = gone.next() else { return Ok(()) };
    let example = example.to_owned();
    Err(ConvertError::Vacant { path: out.as_path().to_owned(), count: 1 + gone.count(), example })
}
