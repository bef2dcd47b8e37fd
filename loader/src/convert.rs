//! Scans to shards: many cases at a time, in bounded memory, and only what is new or changed.
//!
//! Workers take cases from one list. Each estimates from the headers what the case will need, takes that from a byte
//! budget, prepares and encodes the case, and hands the encoded case (a tenth of the memory) to the one writer. A case
//! that cannot be read is reported and left out; it never stops the others.
//!
//! # What is new or changed
//! A case is unchanged if the cache has a record of it with the same parameters and the same files. Files whose names,
//! sizes and times of change are those in the record are taken to be the same without reading them, so that a second
//! run over 10,000 cases looks at 10,000 directory entries and not at 600 GB. Where size or time differ, the bytes
//! decide, by their hash; a record is not written anew for another time alone, so files that were copied without their
//! times are read by every run (`cp -p` and `rsync -t` keep them). A time of change within [`SETTLED`] of the moment the file was read is not trusted, as a
//! second change could have the same time. [`ConvertOptions::checksum`] compares the bytes in any case.
//!
//! # Several workers
//! A case belongs to worker `blake3(DATASET/CASE) mod N` ([`keep_share`]): every worker finds its share by itself, and
//! all shares together are all cases. Workers only ever add shards ([`hiend_cache::shard`] says why that needs no
//! coordinator); each lists all shards of the folder in the manifest when it ends.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hiend_cache::prune::{Pruned, RunLock, prune};
use hiend_cache::shard::{record::CaseRecord, writer::remove_stale};
use hiend_cache::{
    Access, Cache, CodecPreset, DatasetInfo, EncodedCase, Manifest, NewCase, ShardWriter, SourceFiles, encode,
};

use crate::budget::ByteBudget;
use crate::case::{CaseFiles, SkippedCase};
use crate::dataset::Dataset;
use crate::geometry::spacing;
use crate::nifti::{NiftiInfo, read_info, read_volume};
use crate::preprocess::{PreprocessConfig, preprocess, resampled_shape};
use crate::rng::case_key;

/// How to convert; changes no voxel of the result.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Cases worked on at a time.
    pub jobs: usize,
    /// Memory that cases in work may take together, in bytes.
    pub memory_bytes: u64,
    /// A shard is finished when it has grown to this many bytes.
    pub shard_bytes: u64,
    /// Small or fast.
    pub codec: CodecPreset,
    /// Voxels of a chunk along x, y, z.
    pub chunk: [usize; 3],
    /// This worker's number, from 0, and how many there are: converts its share of the cases, see [`keep_share`].
    pub worker: (usize, usize),
    /// Compare the bytes of files whose size and time of change are as before, too.
    pub checksum: bool,
    /// Drop cases that are not in the data, and superseded records, once everything is converted.
    pub prune: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: 8 << 30,
            shard_bytes: 1 << 30,
            codec: CodecPreset::Fast,
            chunk: [32; 3],
            worker: (0, 1),
            checksum: false,
            prune: false,
        }
    }
}

/// A file changed less than this before it was read could change again without another time of change: file systems
/// count time in steps of up to two seconds.
pub const SETTLED: Duration = Duration::from_secs(3);

/// Leaves the cases that belong to worker `number` of `workers`.
pub fn keep_share(datasets: &mut [Dataset], (number, workers): (usize, usize)) {
    let ours = |key: &str| case_key(key) % workers.max(1) as u64 == number as u64;
    for dataset in datasets {
        dataset.cases.retain(|case| ours(&case.key()));
        dataset.left_out.retain(|left_out| ours(&left_out.case));
    }
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Cases converted in this run.
    pub converted: usize,
    /// Cases that were in the cache already, from the same files with the same parameters.
    pub unchanged: usize,
    /// Of the converted, how many have labels.
    pub with_label: usize,
    /// Cases left out.
    pub left_out: Vec<SkippedCase>,
    /// Voxels stored by this run.
    pub voxels: u64,
    /// Bytes of the files read.
    pub bytes_in: u64,
    /// Bytes of the shards written.
    pub bytes_out: u64,
    /// Shards written.
    pub shards: usize,
    /// Cases that the cache holds and this data does not.
    pub not_in_data: usize,
    /// Bytes in the cache of records that no longer count.
    pub superseded_bytes: u64,
    /// What was pruned; `None` if nothing was to be, or another run was writing into the cache.
    pub pruned: Option<Pruned>,
    /// Whether the run was told to stop before the end of the list.
    pub interrupted: bool,
    /// Seconds on the clock.
    pub secs: f64,
}

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The cache cannot be read or written.
    #[error(transparent)]
    Cache(#[from] hiend_cache::Error),
    /// The cache folder cannot be made.
    #[error("{}: cannot make this folder", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The cache holds something else.
    #[error(
        "{}: holds {count} cases made with other parameters that are not in this data, such as {example}; \
         choose another --out, or drop them with --prune",
        path.display()
    )]
    OtherParameters {
        /// The cache.
        path: PathBuf,
        /// How many.
        count: usize,
        /// One of them.
        example: String,
    },
}

/// What happens to a case, for a progress display.
#[derive(Debug)]
pub enum Event<'a> {
    /// The case was stored.
    Converted {
        /// `DATASET/CASE`.
        case: &'a str,
        /// Bytes of its files.
        bytes_in: u64,
    },
    /// The case was there already.
    Unchanged {
        /// `DATASET/CASE`.
        case: &'a str,
        /// Bytes of its files.
        bytes_in: u64,
    },
    /// The case was left out.
    SkippedCase(&'a SkippedCase),
}

enum Outcome {
    Encoded(Box<EncodedCase>, u64),
    Unchanged(String, u64),
    SkippedCase(SkippedCase),
}

/// Converts the datasets into the cache at `out`, which is made if it does not exist.
///
/// `stop` ends the run early; what was done until then is kept. `observe` is called on the calling thread.
///
/// # Errors
/// If the cache cannot be written (disk full), or holds cases of other parameters.
pub fn convert(
    root: &Path,
    datasets: &[Dataset],
    out: &Path,
    config: &PreprocessConfig,
    options: &ConvertOptions,
    stop: &AtomicBool,
    mut observe: impl FnMut(Event<'_>),
) -> Result<Summary, ConvertError> {
    let started = Instant::now();
    let parameters = format!("{}-{:?}", config.digest(), options.codec).to_lowercase();
    std::fs::create_dir_all(out).map_err(|source| ConvertError::NoFolder { path: out.to_owned(), source })?;
    let lock = RunLock::shared(out)?;
    let (known, generation) = prepare_folder(out, datasets, config, &parameters, options)?;
    let mut summary = Summary::default();
    let mut share = datasets.to_vec();
    keep_share(&mut share, options.worker);
    for left_out in share.iter().flat_map(|dataset| &dataset.left_out) {
        observe(Event::SkippedCase(left_out));
        summary.left_out.push(left_out.clone());
    }
    let cases: Vec<&CaseFiles> = share.iter().flat_map(|dataset| &dataset.cases).collect();
    let budget = ByteBudget::new(options.memory_bytes);
    let next = AtomicUsize::new(0);
    let (give, take) = flume::bounded::<Outcome>(1);
    let worker = |give: flume::Sender<Outcome>| {
        while !stop.load(Ordering::Relaxed) {
            let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let outcome = convert_case(root, case, config, options, &parameters, &known, &budget);
            // Nobody listens any more once writing has failed.
            if give.send(outcome.unwrap_or_else(Outcome::SkippedCase)).is_err() {
                break;
            }
        }
    };
    let worker_number = u32::try_from(options.worker.0).unwrap_or(u32::MAX);
    let limit = options.shard_bytes;
    let mut shards = Shards { out, generation, worker: worker_number, limit, open: None, bytes: 0, finished: 0 };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, cases.len().max(1)) {
            let give = give.clone();
            scope.spawn(|| worker(give));
        }
        drop(give);
        // Ends when the last worker is done, or when an error drops `take`.
        let take = take;
        take.iter().try_for_each(|outcome| store(outcome, &mut shards, &mut summary, &mut observe))
    })?;
    shards.finish()?;
    summary.interrupted = stop.load(Ordering::Relaxed) && next.into_inner() < cases.len();
    summary.bytes_out = shards.bytes;
    summary.shards = shards.finished;
    write_manifest(out, datasets, config)?;
    take_stock(out, datasets, options, &lock, &mut summary)?;
    summary.secs = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// Looks at the cache once everything is converted, and drops what is gone if that was asked for.
fn take_stock(
    out: &Path,
    datasets: &[Dataset],
    options: &ConvertOptions,
    lock: &RunLock,
    summary: &mut Summary,
) -> Result<(), ConvertError> {
    // A case that cannot be read today is still in the data: what the cache has of it stays.
    let listed = listed(datasets);
    if options.prune && !summary.interrupted {
        summary.pruned = prune(lock, options.shard_bytes, |key| listed.contains(key))?;
    }
    let cache = Cache::open(out)?;
    summary.superseded_bytes = cache.superseded_bytes();
    summary.not_in_data = cache.cases().iter().filter(|case| !listed.contains(case.key())).count();
    Ok(())
}

/// Keys of everything the data speaks of.
fn listed(datasets: &[Dataset]) -> HashSet<String> {
    let cases = datasets.iter().flat_map(|dataset| &dataset.cases).map(CaseFiles::key);
    cases.chain(datasets.iter().flat_map(|dataset| &dataset.left_out).map(|left_out| left_out.case.clone())).collect()
}

fn store(
    outcome: Outcome,
    shards: &mut Shards<'_>,
    summary: &mut Summary,
    observe: &mut impl FnMut(Event<'_>),
) -> Result<(), ConvertError> {
    match outcome {
        Outcome::Encoded(encoded, bytes_in) => {
            let record = encoded.record();
            let case = record.key();
            summary.converted += 1;
            summary.with_label += usize::from(record.label.is_some());
            summary.voxels += record.shape.iter().product::<usize>() as u64;
            summary.bytes_in += bytes_in;
            shards.push(*encoded)?;
            observe(Event::Converted { case: &case, bytes_in });
        }
        Outcome::Unchanged(case, bytes_in) => {
            summary.unchanged += 1;
            observe(Event::Unchanged { case: &case, bytes_in });
        }
        Outcome::SkippedCase(left_out) => {
            observe(Event::SkippedCase(&left_out));
            summary.left_out.push(left_out);
        }
    }
    Ok(())
}

/// The shard being filled, and the count of those filled.
struct Shards<'a> {
    out: &'a Path,
    generation: u64,
    worker: u32,
    limit: u64,
    open: Option<ShardWriter>,
    bytes: u64,
    finished: usize,
}

impl Shards<'_> {
    fn push(&mut self, case: EncodedCase) -> Result<(), hiend_cache::Error> {
        if self.open.as_ref().is_some_and(|writer| !writer.is_empty() && writer.len() + case.len() > self.limit) {
            self.finish()?;
        }
        let writer = match &mut self.open {
            Some(writer) => writer,
            none => none.insert(ShardWriter::create(self.out, self.generation, self.worker)?),
        };
        writer.push(case)
    }

    fn finish(&mut self) -> Result<(), hiend_cache::Error> {
        if let Some(path) = self.open.take().map(ShardWriter::finish).transpose()?.flatten() {
            self.bytes += std::fs::metadata(&path).map_or(0, |data| data.len());
            self.finished += 1;
        }
        Ok(())
    }
}

/// Prepares and encodes one case, or finds that the cache has it.
fn convert_case(
    root: &Path,
    case: &CaseFiles,
    config: &PreprocessConfig,
    options: &ConvertOptions,
    parameters: &str,
    known: &HashMap<String, CaseRecord>,
    budget: &ByteBudget,
) -> Result<Outcome, SkippedCase> {
    let key = case.key();
    let mut source = source_of(root, case, SystemTime::now());
    let known = known.get(&key).filter(|record| record.parameters == parameters);
    if !options.checksum && known.is_some_and(|record| looks_the_same(&record.source, &source)) {
        return Ok(Outcome::Unchanged(key, source.bytes));
    }
    let nifti = |err: crate::nifti::NiftiError| SkippedCase::new(case, &err.path, err.reason);
    let image_info = read_info(&case.image).map_err(nifti)?;
    let label_info = case.label.as_deref().map(read_info).transpose().map_err(nifti)?;
    check_extent(&image_info, config).map_err(|reason| SkippedCase::new(case, &case.image, reason))?;
    let share = budget.take(memory_needed(source.bytes, &image_info, label_info.as_ref(), config));

    let image = read_volume(&case.image).map_err(nifti)?;
    let label = case.label.as_deref().map(read_volume).transpose().map_err(nifti)?;
    source.image_blake3.clone_from(&image.blake3);
    source.label_blake3 = label.as_ref().map(|label| label.blake3.clone());
    source.bytes = image.file_bytes + label.as_ref().map_or(0, |label| label.file_bytes);
    if known.is_some_and(|record| {
        record.source.image_blake3 == source.image_blake3 && record.source.label_blake3 == source.label_blake3
    }) {
        return Ok(Outcome::Unchanged(key, source.bytes));
    }
    let prepared = preprocess(&image, label.as_ref(), config).map_err(|reason| {
        let at = case.label.as_deref().filter(|_| reason.starts_with("label")).unwrap_or(&case.image);
        SkippedCase::new(case, at, reason)
    })?;
    drop((image, label));
    let bytes_in = source.bytes;
    let new = NewCase {
        dataset: case.dataset.clone(),
        case_id: case.case_id.clone(),
        shape: prepared.shape,
        image: &prepared.image,
        image_bits: prepared.quantiser.bits,
        image_offset: prepared.quantiser.offset,
        image_scale: 1.0,
        foreground_above: prepared.quantiser.foreground_above,
        label: prepared.label.as_deref(),
        geometry: prepared.geometry.clone(),
        source,
        parameters: parameters.to_owned(),
    };
    let encoded = encode(&new, options.chunk, options.codec).map_err(|err| SkippedCase::new(case, &case.image, err))?;
    drop(share);
    Ok(Outcome::Encoded(Box::new(encoded), bytes_in))
}

/// The most voxels that a scan may have once resampled: at 1.5 mm a cube of 2.4 m.
const MAX_RESAMPLED: f64 = 4_294_967_296.0;

/// Refuses a scan whose header gives it an extent that no scanner has; its resampled volume would fit no memory.
///
/// # Errors
/// Says how large it would get.
pub fn check_extent(info: &NiftiInfo, config: &PreprocessConfig) -> Result<(), String> {
    let Some(target) = config.spacing else { return Ok(()) };
    let sides = spacing(&info.affine);
    let mm: [f64; 3] = std::array::from_fn(|axis| info.shape[axis] as f64 * sides[axis]);
    // The target's axes may be in another order; its smallest side bounds every length.
    let finest = target.into_iter().fold(f64::INFINITY, f64::min);
    let voxels: f64 = mm.iter().product::<f64>() / target.iter().product::<f64>();
    if voxels <= MAX_RESAMPLED && mm.iter().all(|length| length / finest <= MAX_RESAMPLED / 1024.0) {
        return Ok(());
    }
    let [x, y, z] = sides;
    Err(format!(
        "voxels of {x} x {y} x {z} mm would make it {voxels:.1e} voxels large at the new spacing; mend the header"
    ))
}

/// Memory in bytes that converting a case takes: its files, their content in the files' own data types, the result
/// (2 bytes a voxel, 1 for labels) and its coded form, which is smaller.
#[must_use]
pub fn memory_needed(file_bytes: u64, image: &NiftiInfo, label: Option<&NiftiInfo>, config: &PreprocessConfig) -> u64 {
    let inflated = image.data_bytes + label.map_or(0, |info| 2 * info.data_bytes);
    let voxels: u64 = resampled_shape(image, config).iter().map(|&n| n as u64).product();
    file_bytes + inflated + voxels * if label.is_some() { 4 } else { 3 }
}

/// What the directory says of a case's files; hashes are still to be filled in.
fn source_of(root: &Path, case: &CaseFiles, now: SystemTime) -> SourceFiles {
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    SourceFiles {
        image: relative(&case.image),
        label: case.label.as_deref().map(relative),
        bytes: case.file_bytes(),
        image_modified_ns: settled_time(&case.image, now),
        label_modified_ns: case.label.as_deref().and_then(|path| settled_time(path, now)),
        ..SourceFiles::default()
    }
}

/// Time of the last change in nanoseconds since 1970, if it is long enough ago to tell a later change by it.
fn settled_time(path: &Path, now: SystemTime) -> Option<i64> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    // A time in the future tells nothing either.
    let settled = now.duration_since(modified).is_ok_and(|age| age >= SETTLED);
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    settled.then(|| i64::try_from(since.as_nanos()).ok()).flatten()
}

/// Whether nothing but the hashes could differ.
fn looks_the_same(known: &SourceFiles, now: &SourceFiles) -> bool {
    let timed = known.image_modified_ns.is_some() && (known.label.is_none() || known.label_modified_ns.is_some());
    let without_hashes = SourceFiles { image_blake3: String::new(), label_blake3: None, ..known.clone() };
    timed && without_hashes == *now
}

/// Makes the manifest; returns what it holds already and the generation to write.
fn prepare_folder(
    out: &Path,
    datasets: &[Dataset],
    config: &PreprocessConfig,
    parameters: &str,
    options: &ConvertOptions,
) -> Result<(HashMap<String, CaseRecord>, u64), ConvertError> {
    let removed = remove_stale(out)?;
    if removed > 0 {
        tracing::info!(removed, "removed unfinished shards of runs that were killed");
    }
    if !out.join(hiend_cache::manifest::FILE_NAME).exists() {
        write_manifest(out, datasets, config)?;
    }
    let (cache, faults) = Cache::salvage(out, Access::Mmap)?;
    for fault in faults {
        set_aside(fault)?;
    }
    let generation = cache.shards().iter().map(|shard| shard.generation()).max().map_or(1, |last| last + 1);
    let known: HashMap<String, CaseRecord> =
        cache.cases().iter().map(|case| (case.key().to_owned(), case.record().clone())).collect();
    // Cases in the data are simply converted again when parameters changed; others would stay as they are.
    let listed = listed(datasets);
    let stays = |key: &String| !options.prune && !listed.contains(key);
    let mut others =
        known.iter().filter(|(key, record)| record.parameters != parameters && stays(key)).map(|(key, _)| key);
    if let Some(example) = others.next() {
        let count = others.count() + 1;
        return Err(ConvertError::OtherParameters { path: out.to_owned(), count, example: example.clone() });
    }
    Ok((known, generation))
}

/// A shard that is lost, or is no shard any more, takes nothing with it that cannot be made again: its cases count as
/// new. The damaged file is kept under another name, in case somebody wants to look at it.
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
            std::fs::rename(path, &damaged).map_err(|_| ConvertError::Cache(fault))
        }
        _ => Err(fault.into()),
    }
}

fn write_manifest(out: &Path, datasets: &[Dataset], config: &PreprocessConfig) -> Result<(), ConvertError> {
    Manifest::update(out, |manifest| {
        manifest.created_by = concat!("hiend-shard ", env!("CARGO_PKG_VERSION")).into();
        manifest.preprocess = serde_json::to_value(config).expect("a struct of numbers");
        let infos =
            datasets.iter().map(|dataset| (dataset.name.clone(), DatasetInfo { labels: dataset.labels.clone() }));
        manifest.datasets.extend(infos);
    })?;
    Ok(())
}

/// Converts one case in memory; returns the bytes it takes and the seconds it took.
///
/// # Errors
/// Why it would be left out.
pub fn probe(
    root: &Path,
    case: &CaseFiles,
    config: &PreprocessConfig,
    options: &ConvertOptions,
) -> Result<(u64, f64), SkippedCase> {
    let started = Instant::now();
    let budget = ByteBudget::new(options.memory_bytes);
    let bytes = match convert_case(root, case, config, options, "", &HashMap::new(), &budget)? {
        Outcome::Encoded(encoded, _) => encoded.len(),
        Outcome::Unchanged(_, bytes) => bytes,
        Outcome::SkippedCase(left_out) => return Err(left_out),
    };
    Ok((bytes, started.elapsed().as_secs_f64()))
}
