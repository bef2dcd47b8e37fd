//! Random sequences of operations on a data set and its cache, against a model of what the cache must hold.
//!
//! Operations: cases added, changed and removed; conversions that end, that are stopped, killed, cut off from power or
//! refused by the disk; two workers, two runs at once; a second folder in the cache; pruning; damaged and lost
//! shards; verification; streaming from any step. After each one the cache holds exactly the cases of the model, with the
//! voxels of their version. Where a conversion was disturbed, each case has its old or its new version.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hiend_cache::prune::{RunLock, prune};
use hiend_cache::{Cache, Manifest, StoredVolume, list_shards};
use hiend_loader::convert::{Conversion, ConvertError, ConvertOptions, Event, Prune};
use hiend_loader::dataset;
use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
use hiend_loader::stop::Stop;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::conversion::{convert, error_chain, faults, temporaries, volumes};
use crate::effort::seeds;
use crate::scans::{preprocessing, write_case};
use crate::simulator::{Fault, Loss, Plan, Recorder};

const DATASET: &str = "Dataset001_Scans";
/// Number of operations in a sequence.
const SEQUENCE_LEN: usize = 40;
/// Names of cases. The case `kept` always exists, so that the data set is never empty.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "kept"];
/// Name of the only case of the second folder, which has a dataset of the same name.
const ELSEWHERE: &str = "elsewhere";
/// Number of versions that a case may have.
const VERSIONS: u64 = 6;
/// Number of steps of a stream that are compared.
const STREAM_STEPS: u64 = 4;

/// Content of a case: its seed, and whether it has labels.
type Version = (u64, bool);
/// Versions by case name.
type Model = BTreeMap<String, Version>;

/// An operation and its random choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write { name: usize, version: Version },
    Remove { name: usize },
    Convert { prune: Prune, checksum: bool },
    Elsewhere { seed: u64, prune: Prune },
    Workers,
    TwoRuns,
    Stop { after: usize },
    Kill { before: usize, prune: Prune },
    PowerCut { before: usize, prune: Prune, seed: u64 },
    DiskFault { operation: usize, errno: i32, prune: Prune, seed: u64 },
    Prune { wanted: u8 },
    Flip { at: u64 },
    LoseShard { number: usize },
    Verify,
    Stream,
}

impl Step {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let prune = match rng.random_range(0..20u8) {
            0..14 => Prune::Nothing,
            14..16 => Prune::Superseded,
            16..19 => Prune::Gone,
            _ => Prune::All,
        };
        let operation = rng.random_range(0..40usize);
        let seed = rng.random_range(1..u64::MAX);
        match rng.random_range(0..100u8) {
            0..20 => Self::Write {
                name: rng.random_range(0..NAMES.len()),
                version: (rng.random_range(0..VERSIONS), rng.random_bool(0.6)),
            },
            20..26 => Self::Remove { name: rng.random_range(0..NAMES.len() - 1) },
            26..38 => Self::Convert { prune, checksum: rng.random_bool(0.2) },
            38..41 => Self::Elsewhere { seed: rng.random_range(0..VERSIONS), prune },
            41..45 => Self::Workers,
            45..48 => Self::TwoRuns,
            48..52 => Self::Stop { after: rng.random_range(0..3) },
            52..60 => Self::Kill { before: operation, prune },
            60..72 => Self::PowerCut { before: operation, prune, seed },
            72..80 => {
                let errno = [28, 5, 122, 30][rng.random_range(0..4usize)];
                Self::DiskFault { operation, errno, prune, seed }
            }
            80..84 => Self::Prune { wanted: rng.random_range(0..=u8::MAX) },
            84..88 => Self::Flip { at: seed },
            88..92 => Self::LoseShard { number: operation },
            92..96 => Self::Verify,
            _ => Self::Stream,
        }
    }
}

/// A data set and its cache, with models of both.
struct World<'a> {
    dir: PathBuf,
    num_caches: usize,
    references: &'a References,
    data: Model,
    stored: Model,
    /// Batches of each cache, by its digest.
    streams: HashMap<String, Vec<String>>,
}

/// Volumes of all versions, as an undisturbed conversion stores them.
struct References(HashMap<Version, StoredVolume>);

impl References {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut references = HashMap::new();
        let (data, cache) = (dir.path().join("data"), dir.path().join("cache"));
        let versions = || (0..VERSIONS).flat_map(|seed| [(seed, false), (seed, true)]);
        for (seed, labelled) in versions() {
            write_case(&data.join(DATASET), &format!("v{seed}{labelled}"), seed, labelled);
        }
        convert(&data, &cache, ConvertOptions::default()).unwrap();
        let mut volumes = volumes(&cache).unwrap();
        for (seed, labelled) in versions() {
            let volume = volumes.remove(&format!("{DATASET}/v{seed}{labelled}")).unwrap();
            references.insert((seed, labelled), volume);
        }
        Self(references)
    }

    fn version_of(&self, volume: &StoredVolume) -> Option<Version> {
        self.0.iter().find(|(_, reference)| *reference == volume).map(|(version, _)| *version)
    }
}

impl<'a> World<'a> {
    fn new(dir: &Path, references: &'a References) -> Self {
        std::fs::create_dir_all(dir.join("cache-0")).unwrap();
        let mut world = Self {
            dir: dir.to_owned(),
            num_caches: 1,
            references,
            data: Model::new(),
            stored: Model::new(),
            streams: HashMap::new(),
        };
        world.write(NAMES.len() - 1, (0, true));
        world
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn cache_dir(&self) -> PathBuf {
        self.dir.join(format!("cache-{}", self.num_caches - 1))
    }

    fn write(&mut self, name: usize, version: Version) {
        // The data set always has a labelled case: one that has lost all of them is an unmounted disk.
        let name = NAMES[name];
        let version = if name == "kept" { (version.0, true) } else { version };
        self.remove_files(name);
        write_case(&self.data_dir().join(DATASET), name, version.0, version.1);
        self.data.insert(name.to_owned(), version);
    }

    fn remove_files(&self, name: &str) {
        for path in [format!("imagesTr/{name}_0000.nii"), format!("labelsTr/{name}.nii")] {
            let _ = std::fs::remove_file(self.data_dir().join(DATASET).join(path));
        }
    }

    fn options(prune: Prune) -> ConvertOptions {
        ConvertOptions { jobs: 1, shard_bytes: 9000, prune, ..ConvertOptions::default() }
    }

    fn convert(&self, options: ConvertOptions) -> Result<(), ConvertError> {
        convert(&self.data_dir(), &self.cache_dir(), options).map(drop)
    }

    /// Expected content of the cache after a conversion that ended.
    fn converted(&self, prune: Prune) -> Model {
        let mut after = self.stored.clone();
        match prune {
            Prune::Nothing | Prune::Superseded => {}
            Prune::Gone => after.retain(|name, _| name == ELSEWHERE),
            Prune::All => after.clear(),
        }
        after.extend(self.data.clone());
        after
    }

    /// Converts the second folder, with its case in this version. Only [`Prune::All`] removes the cases of the first one.
    fn elsewhere(&mut self, seed: u64, prune: Prune) -> Result<(), String> {
        let folder = self.dir.join("second");
        // Labelled in all versions: a dataset that has lost all its label maps is an unmounted disk.
        let version = (seed, true);
        write_case(&folder.join(DATASET), ELSEWHERE, seed, true);
        convert(&folder, &self.cache_dir(), Self::options(prune)).map_err(|err| error_chain(&err))?;
        let mut expected = if prune == Prune::All { Model::new() } else { self.stored.clone() };
        expected.insert(ELSEWHERE.to_owned(), version);
        self.expect(expected)
    }

    /// Versions that the cache holds now.
    fn found(&self) -> Result<Model, String> {
        let prefix = format!("{DATASET}/");
        let version = |(key, volume): (String, StoredVolume)| {
            let name = key.strip_prefix(&prefix).ok_or_else(|| format!("{key} was never written"))?.to_owned();
            let version = self.references.version_of(&volume).ok_or_else(|| format!("{key} has wrong voxels"))?;
            Ok((name, version))
        };
        volumes(&self.cache_dir())?.into_iter().map(version).collect()
    }

    /// Accepts the cache if each case has its version from before or after a disturbed conversion, and no case that
    /// should stay is missing.
    fn accept(&mut self, prune: Prune) -> Result<(), String> {
        let (found, after) = (self.found()?, self.converted(prune));
        for (name, version) in &found {
            if self.stored.get(name) != Some(version) && after.get(name) != Some(version) {
                return Err(format!("{name} has version {version:?}"));
            }
        }
        if let Some(lost) = self.stored.keys().find(|name| after.contains_key(*name) && !found.contains_key(*name)) {
            return Err(format!("{lost} is gone"));
        }
        self.stored = found;
        self.verify()
    }

    fn verify(&self) -> Result<(), String> {
        let faults = faults(&self.cache_dir());
        if faults.is_empty() { Ok(()) } else { Err(format!("verification finds {faults:?}")) }
    }

    /// Converts under observation; the conversion may be killed or fail.
    fn disturbed(&mut self, plan: Plan, prune: Prune, loss: Option<Loss>) -> Result<(), String> {
        let (recorder, observation) = Recorder::start(&self.cache_dir(), plan);
        let result = self.convert(Self::options(prune));
        drop(observation);
        if let Some(loss) = loss
            && result.is_err()
        {
            let image = recorder.images().pop().expect("an image of the death");
            let old = self.cache_dir();
            self.num_caches += 1;
            image.leave(loss, &self.cache_dir());
            std::fs::remove_dir_all(old).unwrap();
        }
        match result {
            Ok(()) => self.expect_converted(prune),
            Err(err) => self.accept(prune).map_err(|fault| format!("{fault}, after {}", error_chain(&err))),
        }
    }

    /// Compares the cache with its expected content.
    fn expect(&mut self, expected: Model) -> Result<(), String> {
        let found = self.found()?;
        if found != expected {
            return Err(format!("the cache holds {found:?} instead of {expected:?}"));
        }
        self.stored = expected;
        Ok(())
    }

    /// Compares the cache with its expected content after a conversion, which must leave no temporary file.
    fn expect_converted(&mut self, prune: Prune) -> Result<(), String> {
        self.expect(self.converted(prune))?;
        let left = temporaries(&self.cache_dir());
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} left")) }
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        let chain = |err: ConvertError| error_chain(&err);
        match step {
            Step::Write { name, version } => {
                self.write(name, version);
                Ok(())
            }
            Step::Remove { name } => {
                self.remove_files(NAMES[name]);
                self.data.remove(NAMES[name]);
                Ok(())
            }
            Step::Convert { prune, checksum } => {
                self.convert(ConvertOptions { checksum, ..Self::options(prune) }).map_err(chain)?;
                self.expect_converted(prune)?;
                self.verify()
            }
            Step::Elsewhere { seed, prune } => self.elsewhere(seed, prune),
            Step::Workers => {
                for worker in 0..2 {
                    self.convert(ConvertOptions { worker: (worker, 2), ..Self::options(Prune::Nothing) })
                        .map_err(chain)?;
                }
                self.expect_converted(Prune::Nothing)
            }
            Step::TwoRuns => {
                let runs = std::thread::scope(|scope| {
                    let runs: Vec<_> =
                        (0..2).map(|_| scope.spawn(|| self.convert(Self::options(Prune::Nothing)))).collect();
                    runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
                });
                runs.into_iter().try_for_each(|run| run.map_err(chain))?;
                self.expect_converted(Prune::Nothing)
            }
            Step::Stop { after } => self.stop(after),
            Step::Kill { before, prune } => {
                let plan = Plan { die_before: Some(before), ..Plan::default() };
                self.disturbed(plan, prune, Some(Loss::Nothing))
            }
            Step::PowerCut { before, prune, seed } => {
                let plan = Plan { die_before: Some(before), ..Plan::default() };
                self.disturbed(plan, prune, Some(Loss::of_seed(seed)))
            }
            Step::DiskFault { operation, errno, prune, seed } => {
                let fault = Some(Fault { operation, errno });
                self.disturbed(Plan { fault, short_writes: Some(seed), ..Plan::default() }, prune, None)
            }
            Step::Prune { wanted } => self.prune(wanted),
            Step::Flip { at } => self.flip(at),
            Step::LoseShard { number } => self.lose_shard(number),
            Step::Verify => self.verify().and_then(|()| self.expect(self.stored.clone())),
            Step::Stream => self.stream(),
        }
    }

    /// Requests a stop after some cases; those converted before must be in the cache.
    fn stop(&mut self, after: usize) -> Result<(), String> {
        let (data, cache) = (self.data_dir(), self.cache_dir());
        let datasets = dataset::find(&data).unwrap();
        let stop = Stop::new();
        let mut reported = Vec::new();
        let observe = |event: Event<'_>| {
            if let Event::Converted { case, .. } = event {
                reported.push(case.strip_prefix(DATASET).unwrap()[1..].to_owned());
                if reported.len() > after {
                    stop.request();
                }
            }
        };
        let conversion = Conversion::new(&data, &datasets, &cache).config(preprocessing());
        let run = conversion.options(Self::options(Prune::Nothing)).stop(stop.clone()).observe(observe).run();
        run.map_err(|err| error_chain(&err))?;
        let mut expected = self.stored.clone();
        expected.extend(reported.into_iter().map(|name| (name.clone(), self.data[&name])));
        // A case in progress when the stop was requested is finished, and unchanged cases count as they are.
        self.accept(Prune::Nothing)?;
        let kept = expected.iter().all(|(name, version)| self.stored.get(name) == Some(version));
        if kept { Ok(()) } else { Err(format!("the cache holds {:?}; reported were {expected:?}", self.stored)) }
    }

    /// Prunes cases by a bit mask of their names.
    fn prune(&mut self, wanted: u8) -> Result<(), String> {
        let is_wanted =
            |name: &str| NAMES.iter().position(|other| *other == name).is_some_and(|bit| (wanted >> bit) & 1 == 1);
        if self.stored.is_empty() {
            return Ok(());
        }
        let lock = RunLock::shared(self.cache_dir()).map_err(|err| error_chain(&err))?;
        let pruned =
            prune(&lock, 9000, |case| is_wanted(&case.key()[DATASET.len() + 1..])).map_err(|err| error_chain(&err))?;
        if pruned.is_none() {
            return Err("another run was seen where there is none".into());
        }
        let expected = self.stored.clone().into_iter().filter(|(name, _)| is_wanted(name)).collect();
        self.expect(expected)
    }

    /// Flips a bit of a shard, which verification finds, and flips it back.
    fn flip(&mut self, at: u64) -> Result<(), String> {
        let shards = list_shards(self.cache_dir()).map_err(|err| error_chain(&err))?;
        let Some(path) = shards.get(usize::try_from(at % 97).unwrap() % shards.len().max(1)) else { return Ok(()) };
        let whole = std::fs::read(path).unwrap();
        let mut flipped = whole.clone();
        let byte = usize::try_from(at / 97 % whole.len() as u64).unwrap();
        flipped[byte] ^= 1 << (at % 8);
        std::fs::write(path, flipped).unwrap();
        let faults = faults(&self.cache_dir());
        std::fs::write(path, whole).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        if faults.is_empty() || !faults.iter().all(|fault| fault.contains(&*name)) {
            return Err(format!("byte {byte} of {name} was flipped, and verification finds {faults:?}"));
        }
        Ok(())
    }

    /// Removes a shard: its cases are converted again if the data has them, otherwise the run ends before it writes.
    fn lose_shard(&mut self, number: usize) -> Result<(), String> {
        // A shard that a killed run left is not in the manifest, and its cases were never reported.
        let Ok(manifest) = Manifest::read(self.cache_dir()) else { return Ok(()) };
        let Some(name) = manifest.shards.get(number % manifest.shards.len().max(1)) else { return Ok(()) };
        let path = &self.cache_dir().join(name);
        let whole = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        match self.convert(Self::options(Prune::Nothing)) {
            Ok(()) => self.expect_converted(Prune::Nothing),
            Err(ConvertError::LostCases { .. } | ConvertError::LostShard { .. }) => {
                std::fs::write(path, whole).unwrap();
                self.expect(self.stored.clone())
            }
            Err(err) => Err(error_chain(&err)),
        }
    }

    /// Streams a cache from the beginning, and again from each step, and compares the batches with earlier ones.
    fn stream(&mut self) -> Result<(), String> {
        if self.stored.is_empty() {
            return Ok(());
        }
        let cache = Arc::new(Cache::open(self.cache_dir()).map_err(|err| error_chain(&err))?);
        let key = cache.digest();
        let config =
            StreamConfig { crop_size: [8; 3], crops_per_visit: 1, visits_per_batch: 2, ..StreamConfig::default() };
        let options = LoaderOptions { threads: 1, memory_bytes: 64 << 20, ..LoaderOptions::default() };
        let loader = Loader::open(cache, config, 3, &options).map_err(|err| error_chain(&err))?;
        let digests = |start: u64| -> Result<Vec<String>, String> {
            let num_steps = usize::try_from(STREAM_STEPS - start).unwrap();
            let batches = loader.stream(start).take(num_steps);
            batches.map(|batch| Ok(batch.map_err(|err| error_chain(&err))?.digest())).collect()
        };
        let all = digests(0)?;
        if digests(STREAM_STEPS / 2)? != all[usize::try_from(STREAM_STEPS / 2).unwrap()..] {
            return Err("a stream from its middle has other batches".into());
        }
        let first = self.streams.entry(key).or_insert_with(|| all.clone());
        if *first == all { Ok(()) } else { Err("the same cases give other batches than before".into()) }
    }
}

#[test]
fn random_operations_leave_the_state_that_the_model_predicts() {
    let references = References::new();
    for seed in seeds(12) {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::new(dir.path(), &references);
        let mut taken = Vec::new();
        for _ in 0..SEQUENCE_LEN {
            let step = Step::random(&mut rng);
            taken.push(step);
            if let Err(fault) = world.take(step) {
                panic!("HIEND_CAMPAIGN_SEED={seed}: {fault}\nafter {taken:#?}");
            }
        }
    }
}
