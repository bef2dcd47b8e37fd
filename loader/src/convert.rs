//! Scans to shards: many cases at a time, in bounded memory, and only what is new or changed.
//!
//! Workers take cases from one list. Each estimates from the headers what the case will need, takes that from a byte
//! budget, prepares and encodes the case, and hands the encoded case (a tenth of the memory) to the one writer. A case
//! that cannot be read is reported and left out; it never stops the others.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use hiend_cache::shard::{record::CaseRecord, writer::remove_stale};
use hiend_cache::{Cache, DatasetInfo, EncodedCase, Manifest, NewCase, Preset, ShardWriter, Source, encode};

use crate::budget::ByteBudget;
use crate::case::{CaseFiles, LeftOut};
use crate::dataset::Dataset;
use crate::nifti::{read_info, read_volume};
use crate::preprocess::{PreprocessConfig, preprocess, resampled_shape};

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
    pub codec: Preset,
    /// Voxels of a chunk along x, y, z.
    pub chunk: [usize; 3],
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
    pub left_out: Vec<LeftOut>,
    /// Voxels stored by this run.
    pub voxels: u64,
    /// Bytes of the files read.
    pub bytes_in: u64,
    /// Bytes of the shards written.
    pub bytes_out: u64,
    /// Shards written.
    pub shards: usize,
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
    #[error("{}: cannot make this folder: {source}", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The cache holds something else.
    #[error(
        "{}: holds {count} cases made with other parameters that are not in this data, such as {example}; \
         choose another --out",
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
    LeftOut(&'a LeftOut),
}

enum Outcome {
    Encoded(Box<EncodedCase>, u64),
    Unchanged(String, u64),
    LeftOut(LeftOut),
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
    let (known, generation) = prepare_folder(out, datasets, config, &parameters)?;
    let mut summary = Summary::default();
    for left_out in datasets.iter().flat_map(|dataset| &dataset.left_out) {
        observe(Event::LeftOut(left_out));
        summary.left_out.push(left_out.clone());
    }
    let cases: Vec<&CaseFiles> = datasets.iter().flat_map(|dataset| &dataset.cases).collect();
    let budget = ByteBudget::new(options.memory_bytes);
    let next = AtomicUsize::new(0);
    let (give, take) = flume::bounded::<Outcome>(1);
    let worker = |give: flume::Sender<Outcome>| {
        while !stop.load(Ordering::Relaxed) {
            let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let outcome = convert_case(root, case, config, options, &parameters, &known, &budget);
            // Nobody listens any more once writing has failed.
            if give.send(outcome.unwrap_or_else(Outcome::LeftOut)).is_err() {
                break;
            }
        }
    };
    let mut shards = Shards { out, generation, limit: options.shard_bytes, open: None, bytes: 0, finished: 0 };
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
    summary.secs = started.elapsed().as_secs_f64();
    write_manifest(out, datasets, config)?;
    Ok(summary)
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
        Outcome::LeftOut(left_out) => {
            observe(Event::LeftOut(&left_out));
            summary.left_out.push(left_out);
        }
    }
    Ok(())
}

/// The shard being filled, and the count of those filled.
struct Shards<'a> {
    out: &'a Path,
    generation: u64,
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
            none => none.insert(ShardWriter::create(self.out, self.generation, 0)?),
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
) -> Result<Outcome, LeftOut> {
    let nifti = |err: crate::nifti::NiftiError| LeftOut::new(case, &err.path, err.reason);
    let image_info = read_info(&case.image).map_err(nifti)?;
    let label_info = case.label.as_deref().map(read_info).transpose().map_err(nifti)?;
    let file_bytes = |path: &Path| std::fs::metadata(path).map_or(0, |data| data.len());
    let files = file_bytes(&case.image) + case.label.as_deref().map_or(0, file_bytes);
    let inflated = image_info.data_bytes + label_info.as_ref().map_or(0, |info| 2 * info.data_bytes);
    let voxels: u64 = resampled_shape(&image_info, config).iter().map(|&n| n as u64).product();
    // Result (2 bytes a voxel, 1 for labels), and its coded form, which is smaller.
    let share = budget.take(files + inflated + voxels * if label_info.is_some() { 4 } else { 3 });

    let image = read_volume(&case.image).map_err(nifti)?;
    let label = case.label.as_deref().map(read_volume).transpose().map_err(nifti)?;
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let source = Source {
        image: relative(&case.image),
        image_blake3: image.blake3.clone(),
        label: case.label.as_deref().map(relative),
        label_blake3: label.as_ref().map(|label| label.blake3.clone()),
        bytes: image.file_bytes + label.as_ref().map_or(0, |label| label.file_bytes),
    };
    let key = case.key();
    if known.get(&key).is_some_and(|record| {
        record.parameters == parameters
            && record.source.image_blake3 == source.image_blake3
            && record.source.label_blake3 == source.label_blake3
    }) {
        return Ok(Outcome::Unchanged(key, source.bytes));
    }
    let prepared = preprocess(&image, label.as_ref(), config).map_err(|reason| {
        let at = case.label.as_deref().filter(|_| reason.starts_with("label")).unwrap_or(&case.image);
        LeftOut::new(case, at, reason)
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
        image_step: 1.0,
        foreground_above: prepared.quantiser.foreground_above,
        label: prepared.label.as_deref(),
        geometry: prepared.geometry.clone(),
        source,
        parameters: parameters.to_owned(),
    };
    let encoded = encode(&new, options.chunk, options.codec).map_err(|err| LeftOut::new(case, &case.image, err))?;
    drop(share);
    Ok(Outcome::Encoded(Box::new(encoded), bytes_in))
}

/// Makes the folder and its manifest; returns what it holds already and the generation to write.
fn prepare_folder(
    out: &Path,
    datasets: &[Dataset],
    config: &PreprocessConfig,
    parameters: &str,
) -> Result<(HashMap<String, CaseRecord>, u64), ConvertError> {
    std::fs::create_dir_all(out).map_err(|source| ConvertError::NoFolder { path: out.to_owned(), source })?;
    let removed = remove_stale(out)?;
    if removed > 0 {
        tracing::info!(removed, "removed unfinished shards of runs that were killed");
    }
    if !out.join(hiend_cache::manifest::FILE_NAME).exists() {
        write_manifest(out, datasets, config)?;
        return Ok((HashMap::new(), 1));
    }
    let cache = Cache::open(out)?;
    let generation = cache.shards().iter().map(|shard| shard.generation()).max().map_or(1, |last| last + 1);
    let known: HashMap<String, CaseRecord> =
        cache.cases().iter().map(|case| (case.key().to_owned(), case.record().clone())).collect();
    // Cases in the data are simply converted again when parameters changed; others would stay as they are.
    let listed: std::collections::HashSet<String> =
        datasets.iter().flat_map(|dataset| &dataset.cases).map(CaseFiles::key).collect();
    let mut others = known
        .iter()
        .filter(|(key, record)| record.parameters != parameters && !listed.contains(*key))
        .map(|(key, _)| key);
    if let Some(example) = others.next() {
        let count = others.count() + 1;
        return Err(ConvertError::OtherParameters { path: out.to_owned(), count, example: example.clone() });
    }
    Ok((known, generation))
}

fn write_manifest(out: &Path, datasets: &[Dataset], config: &PreprocessConfig) -> Result<(), ConvertError> {
    let mut manifest = match Manifest::read(out) {
        Ok(manifest) => manifest,
        Err(hiend_cache::Error::NoCache { .. }) => Manifest::default(),
        Err(err) => return Err(err.into()),
    };
    manifest.created_by = concat!("hiend-shard ", env!("CARGO_PKG_VERSION")).into();
    manifest.preprocess = serde_json::to_value(config).expect("a struct of numbers");
    let infos: BTreeMap<String, DatasetInfo> =
        datasets.iter().map(|dataset| (dataset.name.clone(), DatasetInfo { labels: dataset.labels.clone() })).collect();
    manifest.datasets.extend(infos);
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    manifest.shards = hiend_cache::cache::list_shards(out)?.into_iter().filter_map(name).collect();
    manifest.write(out)?;
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
) -> Result<(u64, f64), LeftOut> {
    let started = Instant::now();
    let budget = ByteBudget::new(options.memory_bytes);
    let bytes = match convert_case(root, case, config, options, "", &HashMap::new(), &budget)? {
        Outcome::Encoded(encoded, _) => encoded.len(),
        Outcome::Unchanged(_, bytes) => bytes,
        Outcome::LeftOut(left_out) => return Err(left_out),
    };
    Ok((bytes, started.elapsed().as_secs_f64()))
}
