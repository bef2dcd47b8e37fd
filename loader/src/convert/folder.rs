//! The cache folder around a conversion: its cases, its manifest, and damaged shards.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use hiend_cache::CaseRecord;
use hiend_cache::seen::Seen;
use hiend_cache::shard::{generation_in_name, open_named, set_aside, writer::remove_stale};
use hiend_cache::{Cache, DatasetInfo, FileError, Location, Manifest, OpenOptions, ShardError};

use super::known::Known;
use super::{ConvertError, ConvertOptions, Present, identity, origin};
use crate::case::{CaseFiles, LabelFiles, shown};
use crate::dataset::{Dataset, Difference};
use crate::preprocess::PreprocessConfig;
use crate::preprocess::normalize::Normalize;

/// Creates the manifest if there is none, and reads the folder's content.
///
/// # Errors
/// If the folder cannot be read, [`check`] refuses it, or scans of another folder would be replaced.
pub(super) fn prepare(
    out: &Location,
    root: &Path,
    datasets: &[Dataset],
    config: &PreprocessConfig,
    options: &ConvertOptions,
) -> Result<Known, ConvertError> {
    let removed = remove_stale(out)?;
    if removed > 0 {
        tracing::info!(removed, "removed unfinished shards of killed runs");
    }
    let listed = listed(datasets);
    let is_given_up = |key: &str| options.forget_lost && !listed.contains(key);
    if !Manifest::exists(out)? {
        // Refused before there is a manifest: it would give the cases of earlier shards the parameters of this run.
        match Cache::salvage_unlisted(out, OpenOptions::for_one_pass()) {
            Ok((cache, faults)) => {
                check(&cache, &faults, root, datasets, config, options)?;
            }
            Err(hiend_cache::Error::NoCache { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        write_manifest(out, datasets, config, Names::Replaced, &is_given_up)?;
    }
    let (cache, faults) = Cache::salvage(out, OpenOptions::for_one_pass())?;
    let known = Known { seen: seen(out), ..check(&cache, &faults, root, datasets, config, options)? };
    origin::check(cache.dir(), root, datasets, &known, options)?;
    for fault in faults {
        handle_fault(out, fault)?;
    }
    // Done before the first case: a run that is killed leaves no labelled case whose classes have no names.
    let is_new = |dataset: &Dataset| !cache.manifest().datasets.contains_key(&dataset.name);
    if datasets.iter().any(|dataset| dataset.num_listed() > 0 && is_new(dataset)) {
        write_manifest(out, datasets, config, Names::Kept, &is_given_up)?;
    }
    Ok(known)
}

/// Checks that a conversion of `datasets`, found in `root`, loses nothing that the cache holds; returns the cache's content
/// without [`seen`] files.
///
/// `faults` are the errors of its lost and damaged shards.
///
/// # Errors
/// If a lost shard held cases outside the data, cases were made with other parameters, classes are numbered differently, or
/// labelled cases that are not in the data would get other class names.
pub(super) fn check(
    cache: &Cache,
    faults: &[hiend_cache::Error],
    root: &Path,
    datasets: &[Dataset],
    config: &PreprocessConfig,
    options: &ConvertOptions,
) -> Result<Known, ConvertError> {
    let present = Present::of(root, datasets);
    let records: HashMap<String, CaseRecord> =
        cache.cases().iter().map(|case| (case.key().to_owned(), case.record().clone())).collect();
    let lost = check_lost(cache, faults, datasets, options)?;
    check_parameters(cache, &present, config, options)?;
    check_classes(cache.dir(), &cache.manifest().datasets, &records, datasets)?;
    check_names(cache, &records, datasets, &present, options)?;
    // Above that of lost shards, too: one that a new shard replaced under its name would no longer be missed.
    let of_lost = faults.iter().filter_map(|fault| generation_in_name(path_of_lost(fault)?));
    let generation = cache
        .shards()
        .iter()
        .map(|shard| shard.generation())
        .chain(of_lost)
        .max()
        .map_or(1, |last| last.saturating_add(1));
    Ok(Known { records, lost, generation, seen: Seen::default() })
}

/// Source files that earlier conversions into a cache found unchanged; none, with a warning, if the notes cannot be used.
pub(super) fn seen(location: &Location) -> Seen {
    let fault = match Seen::read(location) {
        Ok(Some(seen)) => return seen,
        Ok(None) => "is damaged".to_owned(),
        Err(error) => format!("cannot be read ({error})"),
    };
    tracing::warn!("{location}: .seen.json {fault}; files whose times are noted only there are read again");
    Seen::default()
}

/// Checks that all cases of lost and damaged shards are in the data, so that they can be converted again, unless
/// [`ConvertOptions::forget_lost`] gives them up. Returns the cases whose newest record was in such a shard.
fn check_lost(
    cache: &Cache,
    faults: &[hiend_cache::Error],
    datasets: &[Dataset],
    options: &ConvertOptions,
) -> Result<BTreeSet<String>, ConvertError> {
    let listed = listed(datasets);
    let mut lost: BTreeSet<&String> = BTreeSet::new();
    let mut gone: BTreeSet<&String> = BTreeSet::new();
    let mut shards: Vec<PathBuf> = Vec::new();
    for fault in faults {
        let Some(path) = path_of_lost(fault) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(keys) = cache.manifest().cases.get(name.as_ref()) else {
            if options.forget_lost {
                continue;
            }
            return Err(ConvertError::LostShard { path: path.to_owned() });
        };
        // An older record of the case does not replace the lost one.
        let generation = generation_in_name(path);
        let is_lost = |key: &str| match (cache.case(key), generation) {
            (None, _) => true,
            (Some(case), Some(generation)) => case.shard().generation() < generation,
            (Some(_), None) => false,
        };
        let own: Vec<&String> = keys.iter().filter(|key| is_lost(key)).collect();
        let before = gone.len();
        gone.extend(own.iter().copied().filter(|key| !listed.contains(*key)));
        if gone.len() > before {
            shards.push(path.to_owned());
        }
        lost.extend(own);
    }
    match gone.first().filter(|_| !options.forget_lost) {
        Some(example) => Err(ConvertError::LostCases { shards, count: gone.len(), example: (*example).clone() }),
        None => Ok(lost.into_iter().cloned().collect()),
    }
}

/// Checks that the cache holds no cases with other parameters, unless they are in the data and
/// [`ConvertOptions::change_parameters`] is set, or are not in the data and will be pruned.
fn check_parameters(
    cache: &Cache,
    present: &Present,
    config: &PreprocessConfig,
    options: &ConvertOptions,
) -> Result<(), ConvertError> {
    let parameters = identity::parameters(config, options.codec);
    let others = cache.cases().iter().filter(|case| case.record().parameters != parameters);
    let (own, kept): (Vec<_>, Vec<_>) = others.partition(|case| present.listed.contains(case.key()));
    let path = || cache.dir().to_owned();
    // The normalisation decides whether a file's name makes it an image: with another one, such cases may still be in
    // the data, and a forgotten flag must not prune them.
    let other_kind = kept.iter().find(|case| Normalize::of_case(case.record()) != config.normalize);
    if let Some(example) = other_kind.filter(|_| !options.change_parameters) {
        let changes = identity::changes(cache.manifest(), example.record(), config, options.codec);
        return Err(ConvertError::ChangedParameters { path: path(), count: own.len() + kept.len(), changes });
    }
    let staying: Vec<_> = kept.into_iter().filter(|case| !present.is_removed(case.record(), options.prune)).collect();
    if let Some(example) = staying.first() {
        return Err(ConvertError::OtherParameters {
            path: path(),
            count: staying.len(),
            example: example.key().to_owned(),
            are_gone: staying.iter().all(|case| present.is_gone(case.record())),
        });
    }
    if let Some(example) = own.first().filter(|_| !options.change_parameters) {
        let changes = identity::changes(cache.manifest(), example.record(), config, options.codec);
        return Err(ConvertError::ChangedParameters { path: path(), count: own.len(), changes });
    }
    Ok(())
}

/// Checks that datasets of one mask per class keep the class numbers of their labelled cases in the cache.
///
/// Such a dataset numbers its classes by the sorted names of all masks found, so a mask of a new class renumbers those
/// sorted after it, while records that are not converted again keep the old numbers. New classes sorted last are
/// compatible.
fn check_classes(
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

/// Checks that labelled cases which are in the cache and not in the data keep their classes: a manifest has one description
/// per dataset name, and the description of another dataset of this name would give them other classes. Cases that will be
/// pruned do not count. Warns of a description that changes for all cases of a dataset.
///
/// Datasets of one mask per class may append new classes; [`check_classes`] compares their classes.
fn check_names(
    cache: &Cache,
    records: &HashMap<String, CaseRecord>,
    datasets: &[Dataset],
    present: &Present,
    options: &ConvertOptions,
) -> Result<(), ConvertError> {
    for dataset in datasets.iter().filter(|dataset| dataset.num_listed() > 0 && dataset.has_classes()) {
        let is_numbered_by_masks =
            dataset.cases.iter().any(|case| matches!(case.label, Some(LabelFiles::Masks { .. })));
        let in_cache = cache.manifest().datasets.get(&dataset.name);
        let Some(known) = in_cache.filter(|_| !is_numbered_by_masks) else { continue };
        let Some(difference) = Difference::between(known, &dataset.info()) else { continue };
        let has_labelled = |record: &&CaseRecord| record.dataset == dataset.name && record.label.is_some();
        let labelled: Vec<&CaseRecord> = records.values().filter(has_labelled).collect();
        let is_staying =
            |record: &CaseRecord| !present.listed.contains(&record.key()) && !present.is_removed(record, options.prune);
        let others: BTreeMap<String, &CaseRecord> =
            labelled.iter().filter(|record| is_staying(record)).map(|record| (record.key(), *record)).collect();
        if let Some((example, _)) = others.first_key_value() {
            let skipped = || dataset.skipped.first().map(|skipped| &skipped.path);
            let image = dataset.cases.first().map(|case| &case.image).or_else(skipped);
            let image = image.map(|image| format!(" ({})", shown(image))).unwrap_or_default();
            return Err(ConvertError::OtherNames {
                path: cache.dir().to_owned(),
                dataset: dataset.name.clone(),
                count: others.len(),
                example: example.clone(),
                are_gone: others.values().all(|record| present.is_gone(record)),
                difference: difference.described("in the cache", &format!("in this data{image}")),
            });
        }
        let difference = difference.described("in the cache", "in this data");
        if !labelled.is_empty() {
            tracing::warn!("{}: {difference}; from now on, all its cases in the cache have the latter", dataset.name);
        }
    }
    Ok(())
}

/// Keys of all cases of the data, skipped ones included.
pub(super) fn listed(datasets: &[Dataset]) -> HashSet<String> {
    let cases = datasets.iter().flat_map(|dataset| &dataset.cases).map(CaseFiles::key);
    cases.chain(datasets.iter().flat_map(|dataset| &dataset.skipped).map(|skipped| skipped.case.clone())).collect()
}

pub(super) fn folder_error(error: hiend_cache::Error) -> ConvertError {
    match error {
        hiend_cache::Error::File(FileError { path, source, .. }) => ConvertError::Folder { path, source },
        other => other.into(),
    }
}

/// Path of a shard that is lost or damaged; `None` for one that cannot be read or that a later version wrote, which is an
/// error of its own.
fn path_of_lost(fault: &hiend_cache::Error) -> Option<&Path> {
    match fault {
        hiend_cache::Error::BadShard { reason: ShardError::Version { .. }, .. } => None,
        hiend_cache::Error::MissingShard { path } | hiend_cache::Error::BadShard { path, .. } => Some(path),
        _ => None,
    }
}

/// Returns `true` for a shard that is lost or damaged, and `false` for one that cannot be read or that a later version wrote.
pub(super) fn is_damage(fault: &hiend_cache::Error) -> bool {
    path_of_lost(fault).is_some()
}

/// Renames a damaged shard, so that it is kept for inspection but no longer read. The cases of a lost or damaged shard
/// count as new: those in this data and this worker's share are converted again; others are missing until a run with
/// their data.
fn handle_fault(out: &Location, fault: hiend_cache::Error) -> Result<(), ConvertError> {
    match &fault {
        hiend_cache::Error::MissingShard { path } => {
            tracing::warn!(
                "{}: listed but missing; converting its cases again, as far as they are in this data and share",
                shown(path)
            );
            Ok(())
        }
        // A shard of a later version is not damaged, and its cases must not be replaced.
        hiend_cache::Error::BadShard { reason: ShardError::Version { .. }, .. } => Err(fault.into()),
        hiend_cache::Error::BadShard { path, reason } => {
            let damaged = set_aside(out, path)?;
            tracing::warn!(
                "{}: not a whole shard ({reason}); kept as {}; converting its cases again, as far as they are in this data \
                 and share",
                shown(path),
                shown(&damaged)
            );
            Ok(())
        }
        _ => Err(fault.into()),
    }
}

/// Source of the class names of datasets that are already in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Names in the cache are kept while it holds cases that are not in the data.
    Kept,
    /// Names in the data replace those in the cache.
    Replaced,
}

/// Writes parameters, datasets and the list of shards into the manifest. A dataset whose data names no classes, such as
/// further scans without label maps, keeps the classes that the cache names. Lost shards stay in the list, so that they are
/// missed, while one of their cases is neither converted again nor given up.
pub(super) fn write_manifest(
    out: &Location,
    datasets: &[Dataset],
    config: &PreprocessConfig,
    names: Names,
    is_given_up: &dyn Fn(&str) -> bool,
) -> Result<(), ConvertError> {
    Manifest::update(out, |manifest| {
        manifest.created_by = concat!("hiend-shard ", env!("CARGO_PKG_VERSION")).into();
        manifest.preprocess = serde_json::to_value(config).expect("a struct of numbers");
        for dataset in datasets.iter().filter(|dataset| dataset.num_listed() > 0) {
            let is_replaced = names == Names::Replaced && dataset.has_classes();
            if is_replaced || !manifest.datasets.contains_key(&dataset.name) {
                manifest.datasets.insert(dataset.name.clone(), dataset.info());
            }
        }
        let mut cases = cases_by_shard(out, &manifest.shards, &manifest.cases);
        let lost = still_lost(&cases, &manifest.cases, is_given_up);
        manifest.shards.extend(lost.keys().cloned());
        manifest.shards.sort_unstable();
        cases.extend(lost);
        manifest.cases = cases;
    })?;
    Ok(())
}

/// Cases that are lost with their shards, by shard: cases of shards that are `listed` and not `present`, of which there is no
/// record, or an older one, and which are not given up.
fn still_lost(
    present: &BTreeMap<String, Vec<String>>,
    listed: &BTreeMap<String, Vec<String>>,
    is_given_up: &dyn Fn(&str) -> bool,
) -> BTreeMap<String, Vec<String>> {
    let generation = |name: &str| generation_in_name(Path::new(name));
    let mut newest: HashMap<&str, Option<u64>> = HashMap::new();
    for (name, keys) in present {
        for key in keys {
            let known = newest.entry(key.as_str()).or_default();
            *known = generation(name).max(*known);
        }
    }
    let of_shard = |name: &String, keys: &Vec<String>| {
        let is_lost = |key: &&String| {
            let is_older = newest.get(key.as_str()).is_none_or(|&known| known < generation(name));
            is_older && !is_given_up(key)
        };
        let keys: Vec<String> = keys.iter().filter(is_lost).cloned().collect();
        (!keys.is_empty()).then(|| (name.clone(), keys))
    };
    let gone = listed.iter().filter(|(name, _)| !present.contains_key(*name));
    gone.filter_map(|(name, keys)| of_shard(name, keys)).collect()
}

/// Keys of the cases in each shard; for a shard that cannot be opened, the keys that the manifest already lists.
fn cases_by_shard(
    location: &Location,
    shards: &[String],
    listed: &BTreeMap<String, Vec<String>>,
) -> BTreeMap<String, Vec<String>> {
    let keys = |name: &String| match listed.get(name) {
        // A shard never changes, and opening one in object storage takes requests.
        Some(keys) if location.url().is_some() => Some(keys.clone()),
        keys => match open_named(location, name) {
            Ok(shard) => Some(shard.cases().iter().map(CaseRecord::key).collect()),
            Err(_) => keys.cloned(),
        },
    };
    shards.iter().filter_map(|name| Some((name.clone(), keys(name)?))).collect()
}
