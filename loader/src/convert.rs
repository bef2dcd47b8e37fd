//! Converts scans to shards: many cases at a time, in bounded memory, and only new or changed ones.
//!
//! Workers take cases from one list. Each worker estimates the case's memory from the headers, takes it from a byte
//! budget, prepares and encodes the case, and hands the encoded case (a tenth of the memory) to the single writer. A
//! case that cannot be read is reported and skipped; it never stops the others.
//!
//! # New and changed cases
//! A case is unchanged if the cache has a record of it with the same parameters and the same files. Files whose names,
//! sizes and times of change are those in the record are taken to be the same without reading them, so that a second
//! run over 10,000 cases looks at 10,000 directory entries and not at 600 GB. Where size or time differ, the bytes
//! decide, by their hash; a record is not written again for another time alone, but the time is noted next to the shards
//! ([`hiend_cache::seen`]), and the next run trusts it. A time of change within [`SETTLED`] of the moment the file was read
//! is not trusted. [`ConvertOptions::checksum`] compares the bytes in any case.
//!
//! # Nothing lost on account of what cannot be seen
//! A path that cannot be examined is an error ([`dataset`](crate::dataset)) or skips its case; the case's record stays.
//! Labelled records are not superseded by unlabelled ones when a dataset has lost all its label maps, and nothing is
//! pruned below a folder that exists but is empty: an unmounted disk looks like either. Cases that were
//! converted from other folders are pruned by [`Prune::All`] alone. Cases of lost and damaged shards are converted again
//! where they are in the data; where they are not, the run ends before it writes anything. So does a run whose data would
//! replace the scans of another dataset that has the same name.
//!
//! # Several workers
//! A case belongs to worker `blake3(DATASET/CASE) mod N` ([`keep_share`]): every worker finds its share by itself, and
//! all shares together are all cases. Workers only ever add shards ([`hiend_cache::shard`] says why that needs no
//! coordinator); each lists all shards of the folder in the manifest when it ends. Two runs with the same share would
//! both do all the work: the second one waits for the first, and then finds nothing left to do.
//!
//! With [`ConvertOptions::claim`], workers have no number: each takes cases one by one, with a lease
//! ([`hiend_cache::claims`]), and takes over those of a worker that shows no sign of life.
//!
//! # Object storage
//! The cache may be a URL. Each shard is one upload that appears complete or not at all, the manifest is replaced only if
//! no other process has replaced it, and leases take the place of locks.

mod case;
mod changes;
mod claiming;
mod error;
mod extent;
mod folder;
mod identity;
mod known;
mod label_texture;
mod labels;
mod lost;
mod memory;
mod modality;
mod origin;
mod pass;
mod prune;
mod same_scan;
mod segment_names;
mod share;
mod source;
mod stock;
mod suspicion;
mod unnamed;
mod unseen;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use hiend_cache::prune::{Pruned, RunLock};
use hiend_cache::seen::Seen;
use hiend_cache::{CodecPreset, Location, RollingShardWriter, SourceFiles};

use crate::budget::{ByteBudget, cores};
use crate::case::{CaseFiles, SkippedCase};
use crate::dataset::Dataset;
use crate::preprocess::PreprocessConfig;
use crate::stop::Stop;
use case::{CaseConverter, Outcome};
use claiming::Claiming;
use folder::Names;
use known::Known;

pub use case::{Probed, probe};
pub(crate) use case::{headers, label_notes};
pub use changes::{Changes, changes};
pub use error::ConvertError;
pub(crate) use extent::extent_findings;
pub use extent::{ExtentError, check_extent};
pub(crate) use identity::may_have;
pub use memory::memory_needed;
pub(crate) use modality::refuse as refuse_other_modality;
pub use origin::OtherFolder;
use pass::Pass;
use prune::Present;
pub use prune::{NotInData, Prune};
pub use share::keep_share;
pub use source::SETTLED;
pub use suspicion::{Judged, OnSuspect, Suspicion};
pub use unnamed::UnnamedLabels;
pub use unseen::UnseenClasses;
pub use values::{Air, BlankSlices, Peaks, RepeatedSlices, Shares, Slices, Tissue, ValueStats};

/// Options of a conversion; no option changes a voxel of the result.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Number of cases worked on at a time.
    pub jobs: usize,
    /// Memory that cases in progress may take together, in bytes.
    pub memory_bytes: u64,
    /// Size at which a shard is finished, in bytes.
    pub shard_bytes: u64,
    /// Codec of the chunks.
    pub codec: CodecPreset,
    /// Shape of a chunk in voxels along x, y, z.
    pub chunk: [usize; 3],
    /// Number of this worker, from 0, and number of workers; each converts its share of the cases, see [`keep_share`].
    pub worker: (usize, usize),
    /// Time without a sign of life after which a run counts as dead. Runs with this option take cases one by one and
    /// take over those of dead runs; `None` converts the share of [`Self::worker`].
    pub claim: Option<Duration>,
    /// True to compare the bytes of files whose size and modification time match the record.
    pub checksum: bool,
    /// Cases, as `DATASET/CASE`, to convert again even if unchanged, for example because their record is damaged.
    pub reconvert: BTreeSet<String>,
    /// True to convert cases of the data again that the cache holds with other parameters; otherwise such cases end the
    /// run before it writes anything.
    pub change_parameters: bool,
    /// True to continue without the cases of lost and damaged shards that are not in the data; otherwise such cases end
    /// the run before it writes anything.
    pub forget_lost: bool,
    /// Records to remove once everything is converted.
    pub prune: Prune,
    /// Treatment of images that do not look like a CT in HU.
    pub on_suspect: OnSuspect,
    /// Time for which a failed request to object storage is retried.
    pub storage_retry: Duration,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            jobs: cores(),
            memory_bytes: 8 << 30,
            shard_bytes: 1 << 30,
            codec: CodecPreset::Fast,
            chunk: [32; 3],
            worker: (0, 1),
            claim: None,
            checksum: false,
            reconvert: BTreeSet::new(),
            change_parameters: false,
            forget_lost: false,
            prune: Prune::Nothing,
            on_suspect: OnSuspect::Warn,
            storage_retry: Location::RETRY,
        }
    }
}

/// Result of a conversion.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Number of cases converted in this run.
    pub converted: usize,
    /// Number of converted cases of which the cache had an earlier version.
    pub replaced: usize,
    /// Number of cases that were already in the cache, from the same files with the same parameters.
    pub unchanged: usize,
    /// Number of cases that other runs converted or found unchanged; nonzero only with [`ConvertOptions::claim`].
    pub elsewhere: usize,
    /// Number of converted cases that have labels.
    pub with_label: usize,
    /// Cases that were not converted, with the reasons.
    pub skipped: Vec<SkippedCase>,
    /// Skipped cases of which the cache keeps an earlier version, which programs use.
    pub stale: Vec<String>,
    /// Cases of [`Summary::stale`] that have other parameters than this run. Programs refuse a cache that holds any.
    pub outdated: Vec<String>,
    /// Unusual features of the headers or values of cases that were converted nevertheless.
    pub findings: Vec<Finding>,
    /// Unusual features of unchanged cases, found when they were converted.
    pub known_findings: Vec<Finding>,
    /// Number of voxels stored by this run.
    pub voxels: u64,
    /// Size of the files read, in bytes.
    pub bytes_in: u64,
    /// Size of the shards written, in bytes.
    pub bytes_out: u64,
    /// Number of shards written.
    pub shards: usize,
    /// Cases in the cache that are not in this data.
    pub not_in_data: NotInData,
    /// Scans that the cache holds twice: a case that is not in this data, and a case of the data with the same image.
    pub twice: Vec<[String; 2]>,
    /// Scans that the data hold twice: a case, and the first one of the data with the same image.
    pub repeated: Vec<[String; 2]>,
    /// Classes that a dataset names but that occur in none of its label maps. Empty in object storage, and until all
    /// labelled cases of the dataset are in the cache.
    pub unseen: Vec<UnseenClasses>,
    /// Label values that label maps have and their dataset does not name. Empty in object storage.
    pub unnamed: Vec<UnnamedLabels>,
    /// Bytes of superseded records in the cache.
    pub superseded_bytes: u64,
    /// Cases of lost shards that were neither converted again nor given up. Programs refuse a cache that lacks any.
    pub lost: Vec<String>,
    /// Result of pruning; `None` if it was not requested, or another run was writing into the cache.
    pub pruned: Option<Pruned>,
    /// True if the run was asked to stop before the end of the list.
    pub interrupted: bool,
    /// Wall-clock time in seconds.
    pub secs: f64,
}

/// An unusual feature of a case that was converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `DATASET/CASE`.
    pub case: String,
    /// Description and remedy, in one line.
    pub text: String,
}

/// Progress of a case.
#[derive(Debug)]
pub enum Event<'a> {
    /// The case was added to the shard being written. It is durable once that shard is full, or the run has ended.
    Converted {
        /// `DATASET/CASE`.
        case: &'a str,
        /// Size of its files in bytes.
        bytes_in: u64,
    },
    /// The case was already in the cache.
    Unchanged {
        /// `DATASET/CASE`.
        case: &'a str,
        /// Size of its files in bytes.
        bytes_in: u64,
    },
    /// The case was skipped.
    Skipped(&'a SkippedCase),
    /// The case is about to be stored despite an unusual feature.
    Found(&'a Finding),
}

/// A conversion of datasets into a cache, configured before it runs.
///
/// ```no_run
/// use std::path::Path;
/// use hiend_loader::{convert::Conversion, dataset};
///
/// let data = Path::new("data");
/// let datasets = dataset::find(data)?;
/// let summary = Conversion::new(data, &datasets, Path::new("cache")).run()?;
/// println!("{} cases converted", summary.converted);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Conversion<'a> {
    root: &'a Path,
    datasets: &'a [Dataset],
    out: &'a Path,
    config: PreprocessConfig,
    options: ConvertOptions,
    stop: Stop,
    observe: Box<dyn FnMut(Event<'_>) + 'a>,
}

impl std::fmt::Debug for Conversion<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { root, out, config, options, .. } = self;
        f.debug_struct("Conversion")
            .field("root", root)
            .field("out", out)
            .field("config", config)
            .field("options", options)
            .finish_non_exhaustive()
    }
}

impl<'a> Conversion<'a> {
    /// Creates a conversion with the recipe's preprocessing and default options. `root` is the folder in which
    /// `datasets` were found; `out` is created if it does not exist.
    #[must_use]
    pub fn new(root: &'a Path, datasets: &'a [Dataset], out: &'a Path) -> Self {
        Self {
            root,
            datasets,
            out,
            config: PreprocessConfig::default(),
            options: ConvertOptions::default(),
            stop: Stop::new(),
            observe: Box::new(|_| ()),
        }
    }

    /// Sets the preprocessing.
    #[must_use]
    pub fn config(mut self, config: PreprocessConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the options.
    #[must_use]
    pub fn options(mut self, options: ConvertOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets a flag that ends the run early; cases completed before are kept.
    #[must_use]
    pub fn stop(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// Sets an observer, which is called on the thread of [`Conversion::run`].
    #[must_use]
    pub fn observe(mut self, observe: impl FnMut(Event<'_>) + 'a) -> Self {
        self.observe = Box::new(observe);
        self
    }

    /// Converts new and changed cases.
    ///
    /// # Errors
    /// If the cache cannot be written (disk full), holds cases of other parameters, lost cases that are not in the data, or
    /// scans of another dataset that would be replaced, or a case is suspicious under [`OnSuspect::Fail`].
    pub fn run(self) -> Result<Summary, ConvertError> {
        let started = Instant::now();
        let Self { root, datasets, out, config, options, stop, mut observe } = self;
        let parameters = identity::parameters(&config, options.codec);
        let out = &Location::from(out).with_retry(options.storage_retry);
        out.create().map_err(folder::folder_error)?;
        let mut claiming = options.claim.map(|lifetime| Claiming::join(out, lifetime)).transpose()?;
        let _working = if claiming.is_none() { Some(share::hold(out, options.worker, &stop)?) } else { None };
        let lock = RunLock::shared_telling(out, || {
            tracing::info!(cache = %out, "waiting for another run that prunes this cache");
        })?;
        let known = folder::prepare(out, root, datasets, &config, &options)?;
        let mut summary = Summary::default();
        let mut share = datasets.to_vec();
        keep_share(&mut share, options.worker);
        refuse_other_modalities(&mut share, options.on_suspect, &known)?;
        for skipped in share.iter().flat_map(|dataset| &dataset.skipped) {
            observe(Event::Skipped(skipped));
            summary.skipped.push(skipped.clone());
        }
        let labelled = with_labels(datasets);
        let mut cases: Vec<&CaseFiles> = share.iter().flat_map(|dataset| &dataset.cases).collect();
        // First, because the cache cannot be used without them.
        cases.sort_by_cached_key(|case| !known.is_lost(&case.key()));
        if let Some(claiming) = &claiming {
            cases = claiming.order(cases);
        }
        let budget = ByteBudget::new(options.memory_bytes);
        let present = Present::of(root, datasets);
        let converter = CaseConverter {
            root,
            datasets,
            folder: &present.folder,
            config: &config,
            options: &options,
            parameters: &parameters,
            known: &known,
            budget: &budget,
        };
        let worker_idx = u32::try_from(options.worker.0).unwrap_or(u32::MAX);
        let mut shards = RollingShardWriter::new(out, known.generation, worker_idx, options.shard_bytes);
        let (mut num_left, mut seen) = (0, BTreeMap::new());
        let mut convert_all = || {
            loop {
                let pass =
                    Pass { converter: &converter, labelled: &labelled, claiming: claiming.as_ref(), stop: &stop };
                let left = pass.run(&cases, &mut |outcome| {
                    store(outcome, &known, &mut shards, &mut seen, &mut summary, &mut observe)
                })?;
                let mut pending = left.pending;
                summary.elsewhere += left.over;
                num_left = left.untouched + pending.len();
                let Some(claiming) = &mut claiming else { return Ok(()) };
                if pending.is_empty() || stop.is_requested() {
                    return Ok(());
                }
                // Other workers wait for the cases in it.
                shards.finish_shard()?;
                let num_pending = pending.len();
                claiming.settle(out, &known.records, &parameters, &mut pending, &stop)?;
                summary.elsewhere += num_pending - pending.len();
                cases = pending.into_values().collect();
            }
        };
        let stored = convert_all();
        summary.interrupted = stop.is_requested() && num_left > 0;
        // A run that comes to its end has converted the lost cases of its share, or reported why it skipped them; an older
        // record does not replace that of a skipped one. Claims may be older than the loss.
        let is_over = stored.is_ok() && !summary.interrupted && options.claim.is_none();
        let own = folder::listed(&share);
        let is_skipped = |key: &str| is_over && own.contains(key) && !known.records.contains_key(key);
        let is_given_up = |key: &str| is_skipped(key) || (options.forget_lost && !present.listed.contains(key));
        // A case that ends the run does not take the finished ones with it.
        if let Err(ConvertError::Suspect(_)) | Ok(()) = &stored {
            let written = shards.finish()?;
            (summary.shards, summary.bytes_out) = (written.shards, written.bytes);
            // Cases to be pruned are still in the cache and may stay, so the names of their classes are kept.
            let names = if options.prune.removes_cases() { Names::Kept } else { Names::Replaced };
            folder::write_manifest(out, datasets, &config, names, &is_given_up)?;
            if let Err(error) = Seen::add(out, seen) {
                tracing::warn!("{error}; the next conversion reads again what this one found unchanged");
            }
        }
        stored?;
        claiming.map_or(Ok(()), |claiming| claiming.leave(num_left == 0))?;
        stock::take(out, datasets, &present, (&options, parameters.as_str()), (&lock, &stop), &mut summary)?;
        if summary.pruned.is_some() {
            // Lists the cases of each shard, and the names of the classes that are left.
            folder::write_manifest(out, datasets, &config, Names::Replaced, &is_given_up)?;
        }
        // Cases end in any order.
        summary.skipped.sort_by(|a, b| a.case.cmp(&b.case));
        summary.secs = started.elapsed().as_secs_f64();
        Ok(summary)
    }
}

/// Moves the cases of datasets whose `dataset.json` names another modality to the skipped ones, unless the user only
/// wants to be warned. Cases that the cache holds stay.
///
/// # Errors
/// The first of them under [`OnSuspect::Fail`].
fn refuse_other_modalities(share: &mut [Dataset], on_suspect: OnSuspect, known: &Known) -> Result<(), ConvertError> {
    if on_suspect == OnSuspect::Warn {
        return Ok(());
    }
    let is_stored = |key: &str| known.record(key).is_some();
    let refused: Vec<SkippedCase> = share.iter_mut().flat_map(|dataset| modality::refuse(dataset, is_stored)).collect();
    match refused.into_iter().next() {
        Some(first) if on_suspect == OnSuspect::Fail => Err(ConvertError::Suspect(first)),
        _ => Ok(()),
    }
}

/// Names of the datasets that have a label map.
fn with_labels(datasets: &[Dataset]) -> HashSet<&str> {
    let has_labels = |dataset: &&Dataset| dataset.cases.iter().any(|case| case.label.is_some());
    datasets.iter().filter(has_labels).map(|dataset| dataset.name.as_str()).collect()
}

fn store(
    outcome: Outcome,
    known: &Known,
    shards: &mut RollingShardWriter,
    all_seen: &mut BTreeMap<String, SourceFiles>,
    summary: &mut Summary,
    observe: &mut impl FnMut(Event<'_>),
) -> Result<(), ConvertError> {
    match outcome {
        Outcome::Encoded { case: encoded, bytes_in, findings } => {
            let record = encoded.record();
            let case = record.key();
            for text in findings {
                let finding = Finding { case: case.clone(), text };
                observe(Event::Found(&finding));
                summary.findings.push(finding);
            }
            summary.converted += 1;
            summary.replaced += usize::from(known.records.contains_key(&case));
            summary.with_label += usize::from(record.label.is_some());
            summary.voxels += record.shape.iter().product::<usize>() as u64;
            summary.bytes_in += bytes_in;
            shards.push(*encoded)?;
            observe(Event::Converted { case: &case, bytes_in });
        }
        Outcome::Unchanged { key, bytes_in, is_read, seen, findings } => {
            summary.unchanged += 1;
            all_seen.extend(seen.map(|files| (key.clone(), *files)));
            summary.bytes_in += if is_read { bytes_in } else { 0 };
            let finding = |text| Finding { case: key.clone(), text };
            summary.known_findings.extend(findings.into_iter().map(finding));
            observe(Event::Unchanged { case: &key, bytes_in });
        }
        Outcome::Skipped(skipped) => {
            observe(Event::Skipped(&skipped));
            summary.skipped.push(skipped);
        }
        Outcome::Refused(skipped) => return Err(ConvertError::Suspect(skipped)),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
