//! Power cuts and failing disks during conversion.
//!
//! Three runs are recorded: a first conversion, one with a changed and a new case, and one that prunes. After each cut
//! every case that was reported before is there with the voxels of an undisturbed run, verification finds no fault, and
//! the same command completes the cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hiend_cache::durable::operation::Operation;
use hiend_cache::verify::{survey, verify_case};
use hiend_cache::{Cache, StoredVolume, VolumeReader};
use hiend_loader::convert::{Conversion, ConvertError, ConvertOptions, Prune, Summary};
use hiend_loader::dataset;

use crate::effort::seeds;
use crate::scans::{preprocessing, write_case};
use crate::simulator::{Fault, Image, Loss, Plan, Recorder, Selection};

const DATASET: &str = "Dataset001_Scans";

/// Volumes by the key of their case.
pub(crate) type Volumes = BTreeMap<String, StoredVolume>;

/// A state of the data and the options of the run that converts it.
#[derive(Clone, Copy, Debug)]
enum Stage {
    First,
    Changed,
    Pruned,
}

const STAGES: [Stage; 3] = [Stage::First, Stage::Changed, Stage::Pruned];

impl Stage {
    /// Changes the data from the previous stage's state to this one.
    fn prepare(self, data: &Path) {
        let dataset = data.join(DATASET);
        match self {
            Self::First => {
                for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
                    write_case(&dataset, name, seed, name != "c");
                }
            }
            Self::Changed => {
                write_case(&dataset, "b", 12, true);
                write_case(&dataset, "d", 4, true);
            }
            Self::Pruned => std::fs::remove_file(dataset.join("imagesTr/a_0000.nii"))
                .and_then(|()| std::fs::remove_file(dataset.join("labelsTr/a.nii")))
                .unwrap(),
        }
    }

    /// Options of the run, with one worker so that operations always have the same order.
    fn options(self) -> ConvertOptions {
        ConvertOptions {
            jobs: 1,
            // Two cases to a shard.
            shard_bytes: 9000,
            // Each stage has its own folder, and a case that is gone was converted from that of an earlier stage.
            prune: if matches!(self, Self::Pruned) { Prune::All } else { Prune::Nothing },
            ..ConvertOptions::default()
        }
    }
}

/// Converts a folder.
pub(crate) fn convert(data: &Path, cache: &Path, options: ConvertOptions) -> Result<Summary, ConvertError> {
    let datasets = dataset::find(data).unwrap();
    Conversion::new(data, &datasets, cache).config(preprocessing()).options(options).run()
}

/// Volumes of all cases of a cache; empty if the folder holds no cache.
pub(crate) fn volumes(cache: &Path) -> Result<Volumes, String> {
    let cache = match Cache::open(cache) {
        Ok(cache) => cache,
        Err(hiend_cache::Error::NoCache { .. }) => return Ok(Volumes::new()),
        Err(err) => return Err(format!("the cache does not open: {err}")),
    };
    let mut reader = VolumeReader::new();
    let read = |case: &hiend_cache::Case, reader: &mut VolumeReader| {
        let volume = case.read_whole(reader).map_err(|err| format!("{} is not readable: {err}", case.key()))?;
        Ok((case.key().to_owned(), volume))
    };
    cache.cases().iter().map(|case| read(case, &mut reader)).collect()
}

/// Faults found by verification, one line each; empty if the folder holds no cache.
pub(crate) fn faults(cache: &Path) -> Vec<String> {
    let survey = match survey(cache) {
        Ok(survey) => survey,
        Err(hiend_cache::Error::NoCache { .. }) => return Vec::new(),
        Err(err) => return vec![err.to_string()],
    };
    let mut faults = survey.faults;
    let mut reader = VolumeReader::new();
    for shard in &survey.shards {
        faults.extend((0..shard.cases().len()).flat_map(|idx| verify_case(shard, idx, &mut reader)));
    }
    faults.iter().map(ToString::to_string).collect()
}

/// Names of temporary files in a folder.
pub(crate) fn temporaries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let temporary = paths.filter(|path| path.extension().is_some_and(|extension| extension == "tmp"));
    temporary.map(|path| path.display().to_string()).collect()
}

/// Data and cache of a stage before an undisturbed run, from which a disturbed run starts.
struct Recorded {
    stage: Stage,
    /// Folder of the data.
    data: PathBuf,
    /// Cache before the run.
    before: PathBuf,
    volumes_before: Volumes,
    volumes_after: Volumes,
    images: Vec<Image>,
}

/// Records all stages in a folder, on a disk that ignores some syncs.
fn record(dir: &Path, ignored_sync: Option<Selection>) -> Vec<Recorded> {
    let mut stages = Vec::new();
    let mut cache = dir.join("cache-0");
    std::fs::create_dir(&cache).unwrap();
    let mut data = dir.join("data-0");
    std::fs::create_dir(&data).unwrap();
    for (number, stage) in STAGES.into_iter().enumerate() {
        let [next_data, next_cache] = ["data", "cache"].map(|name| dir.join(format!("{name}-{}", number + 1)));
        copy(&data, &next_data);
        copy(&cache, &next_cache);
        stage.prepare(&next_data);
        let volumes_before = volumes(&cache).unwrap();
        let plan = Plan { every_image: true, ignored_sync, ..Plan::default() };
        let (recorder, observation) = Recorder::start(&next_cache, plan);
        convert(&next_data, &next_cache, stage.options()).unwrap();
        recorder.report();
        let images = recorder.images();
        drop(observation);
        let volumes_after = volumes(&next_cache).unwrap();
        stages.push(Recorded { stage, data: next_data.clone(), before: cache, volumes_before, volumes_after, images });
        (data, cache) = (next_data, next_cache);
    }
    stages
}

/// Copies a folder with the times of its files.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            let modified = entry.metadata().unwrap().modified().unwrap();
            std::fs::File::options().append(true).open(&target).unwrap().set_modified(modified).unwrap();
        }
    }
}

impl Recorded {
    /// Checks a cache after a disturbance; `is_done` is true if the run had reported its end.
    fn check(&self, cache: &Path, is_done: bool) -> Result<(), String> {
        let found = volumes(cache)?;
        let reported = if is_done { &self.volumes_after } else { &self.volumes_before };
        for (key, volume) in reported {
            let is_unwanted = !self.volumes_after.contains_key(key);
            match found.get(key) {
                None if is_unwanted => {}
                None => return Err(format!("{key} was reported and is gone")),
                Some(found) if found == volume || !is_done && self.volumes_after.get(key) == Some(found) => {}
                Some(_) => return Err(format!("{key} has other voxels")),
            }
        }
        let known = |key: &String| self.volumes_before.contains_key(key) || self.volumes_after.contains_key(key);
        if let Some(stray) = found.keys().find(|key| !known(key)) {
            return Err(format!("{stray} was never written"));
        }
        let faults = faults(cache);
        if !faults.is_empty() {
            return Err(format!("verification finds {faults:?}"));
        }
        convert(&self.data, cache, self.stage.options()).map_err(|err| format!("the next run fails: {err}"))?;
        if volumes(cache)? != self.volumes_after {
            return Err("the next run leaves other volumes than an undisturbed one".into());
        }
        let left = temporaries(cache);
        if left.is_empty() { Ok(()) } else { Err(format!("the next run leaves {left:?}")) }
    }

    /// Cuts the power as determined by this seed, and checks the remaining state.
    fn cut(&self, dir: &Path, seed: u64) -> Result<(), String> {
        let image = &self.images[usize::try_from(seed).unwrap() / STAGES.len() % self.images.len()];
        let left = dir.join(format!("left-{seed}"));
        image.leave(Loss::of_seed(seed), &left);
        let result = self.check(&left, image.num_reported > 0);
        std::fs::remove_dir_all(&left).unwrap();
        result.map_err(|fault| format!("{:?}, cut before {}: {fault}", self.stage, image.before))
    }
}

/// Failures found with power cuts by these seeds.
fn failures(seeds: std::ops::Range<u64>, ignored_sync: Option<Selection>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let stages = record(dir.path(), ignored_sync);
    let cut = |seed: u64| {
        let stage = &stages[usize::try_from(seed % STAGES.len() as u64).unwrap()];
        stage.cut(dir.path(), seed).err().map(|fault| format!("HIEND_CAMPAIGN_SEED={seed}: {fault}"))
    };
    seeds.filter_map(cut).collect()
}

#[test]
fn power_cut_loses_no_case_that_was_reported() {
    assert_eq!(failures(seeds(500), None), Vec::<String>::new());
}

/// A disk that ignores one kind of sync loses cases, so the simulator notices a missing sync.
#[test]
fn ignored_sync_of_any_kind_is_found() {
    let is_shard = |operation: &Operation<'_>| matches!(operation, Operation::SyncFile { path } if path.to_string_lossy().contains(".shard-"));
    let is_manifest = |operation: &Operation<'_>| matches!(operation, Operation::SyncFile { path } if path.to_string_lossy().contains(".hiend-"));
    let is_folder = |operation: &Operation<'_>| matches!(operation, Operation::SyncDir { .. });
    let kinds: [(&str, Selection); 3] =
        [("content of shards", is_shard), ("content of the manifest", is_manifest), ("names", is_folder)];
    for (kind, ignored) in kinds {
        assert!(!failures(0..120, Some(ignored)).is_empty(), "no power cut shows that {kind} are not synced");
    }
}

/// A kill loses nothing that was written, and the next run completes the cache.
#[test]
fn kill_before_any_operation_loses_no_case_that_was_reported() {
    let dir = tempfile::tempdir().unwrap();
    for recorded in record(dir.path(), None) {
        for (number, image) in recorded.images.iter().enumerate() {
            let left = dir.path().join(format!("killed-{number}"));
            image.leave(Loss::Nothing, &left);
            let result = recorded.check(&left, image.num_reported > 0);
            assert_eq!(result, Ok(()), "{:?}, killed before {}", recorded.stage, image.before);
            std::fs::remove_dir_all(&left).unwrap();
        }
    }
}

/// Each operation fails with one of several errors, and writes are short at random. The run ends with an error that
/// names a path in the cache, every reported case is kept, and the next run completes the cache.
#[test]
fn failing_disk_loses_no_case_that_was_reported() {
    let dir = tempfile::tempdir().unwrap();
    let stages = record(dir.path(), None);
    for seed in seeds(150) {
        let stage = &stages[usize::try_from(seed % STAGES.len() as u64).unwrap()];
        let cache = dir.path().join(format!("failed-{seed}"));
        copy(&stage.before, &cache);
        let operation = usize::try_from(seed).unwrap() / STAGES.len() % stage.images.len();
        // ENOSPC, EIO, EDQUOT, EROFS.
        let errno = [28, 5, 122, 30][usize::try_from(seed / 7 % 4).unwrap()];
        let plan = Plan { fault: Some(Fault { operation, errno }), short_writes: Some(seed), ..Plan::default() };
        let (recorder, observation) = Recorder::start(&cache, plan);
        let result = convert(&stage.data, &cache, stage.stage.options());
        let num_operations = recorder.num_operations();
        drop(observation);
        let place = format!("HIEND_CAMPAIGN_SEED={seed}: {:?}, operation {operation}, error {errno}", stage.stage);
        match &result {
            Ok(_) => assert!(num_operations <= operation, "{place}: no error although it failed"),
            Err(err) => {
                let chain = error_chain(err);
                assert!(chain.contains(&*cache.to_string_lossy()) && chain.contains("os error"), "{place}: {chain}");
            }
        }
        assert_eq!(stage.check(&cache, result.is_ok()), Ok(()), "{place}");
        std::fs::remove_dir_all(&cache).unwrap();
    }
}

/// Formats an error and its sources in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
