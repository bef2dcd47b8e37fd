//! Power cuts and failing disks during training.
//!
//! A run of a few steps with a checkpoint after each is recorded. After each cut the checkpoints that were reported are
//! there up to the number to keep, and the best one, every checkpoint under its final name is whole and loads, the journal
//! is not behind the newest, pictures are those of a run that was never disturbed, and the run resumes with its losses and
//! validations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hiend_cache::Cache;
use hiend_cache::durable::operation::Operation;
use hiend_loader::pipeline::{LoaderOptions, StreamConfig};
use hiend_trainer::checkpoint;
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::device::{Compute, DeviceChoice};
use hiend_trainer::journal::{self, Entry, Journal};
use hiend_trainer::model::hi_end_mae::HiEndMaeConfig;
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::training::{
    self, CHECKPOINTS, Event, JOURNAL, PICTURES, Resume, Stream, Task, TrainOptions, TrainingError, train,
};

use crate::conversion::{convert, error_chain, temporaries};
use crate::effort::seeds;
use crate::scans::write_case;
use crate::simulator::{Fault, Image, Loss, Plan, Recorder, Selection};

/// Optimizer steps of the run; each writes a checkpoint.
const STEPS: u64 = 4;
/// Number of checkpoints to keep.
const KEEP: usize = 2;

/// Two cases in a cache, and the folder of all files.
pub(crate) struct Data {
    dir: tempfile::TempDir,
    pub cache: Arc<Cache>,
}

impl Data {
    /// Converts two cases, with label maps if `labelled`.
    pub(crate) fn new(labelled: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (data, cache) = (dir.path().join("data"), dir.path().join("cache"));
        for (name, seed) in [("a", 1), ("b", 2)] {
            write_case(&data.join("Dataset001_Scans"), name, seed, labelled);
        }
        convert(&data, &cache, hiend_loader::convert::ConvertOptions::default()).unwrap();
        let cache = Arc::new(Cache::open(cache).unwrap());
        Self { dir, cache }
    }
}

/// Numbers that a run reported.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    losses: Vec<f64>,
    /// Step and mean Dice of each validation.
    validations: Vec<(u64, f64)>,
    /// Step of the best validation.
    best: Option<u64>,
}

impl Told {
    /// Numbers that a run reports which goes on after `step`.
    fn after(&self, step: u64) -> Self {
        Self {
            losses: self.losses[usize::try_from(step).unwrap()..].to_vec(),
            validations: self.validations.iter().copied().filter(|(at, _)| *at > step).collect(),
            best: self.best,
        }
    }
}

/// A tiny run of a task and the data it trains on.
pub(crate) struct Lab<T> {
    data: Data,
    compute: Compute,
    task: T,
}

impl<T: Task> Lab<T> {
    pub(crate) fn new(data: Data, task: T) -> Self {
        Self { data, compute: Compute::open(DeviceChoice::Cpu).unwrap(), task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.data.dir.path().join(name)
    }

    fn train(&self, run: &Path, resume: Resume, report: &mut dyn FnMut()) -> Result<Told, TrainingError> {
        let config = self.task.config();
        let loader = LoaderOptions { threads: 1, ..LoaderOptions::default() };
        let stream = Stream::open(Arc::clone(&self.data.cache), config.stream(), config.train().seed, &loader).unwrap();
        let mut options = TrainOptions::new(run);
        options.max_steps = Some(STEPS);
        options.checkpoint_every = 1;
        options.keep = KEEP;
        options.resume = resume;
        let mut validations = Vec::new();
        let mut watch = |event: &Event<'_>| match event {
            Event::Checkpoint(_) => report(),
            Event::Validation(record) => validations.push((record.step, record.mean_dice)),
            _ => {}
        };
        let summary = train(&self.task, stream, &self.compute, &options, &mut watch)?;
        Ok(Told { losses: summary.losses, validations, best: summary.best.map(|best| best.step) })
    }

    /// Records an undisturbed run; returns its numbers and its states.
    fn record(&self, run: &Path, ignored_sync: Option<Selection>) -> (Told, Vec<Image>) {
        std::fs::create_dir(run).unwrap();
        let plan = Plan { every_image: true, ignored_sync, ..Plan::default() };
        let (recorder, _observation) = Recorder::start(run, plan);
        let told = self.train(run, Resume::Begin, &mut || recorder.report()).unwrap();
        (told, recorder.images())
    }

    /// Checks a run's folder after `num_reported` checkpoints had been reported; returns the step of the newest.
    fn check(&self, run: &Path, num_reported: usize) -> Result<u64, String> {
        let checkpoints = checkpoint::all(&run.join(CHECKPOINTS)).map_err(|err| error_chain(&err))?;
        let newest = checkpoints.last().map_or(0, |(step, _)| *step);
        if newest < num_reported as u64 || checkpoints.len() < num_reported.min(KEEP) {
            return Err(format!("checkpoints {checkpoints:?} of {num_reported} reported"));
        }
        for (step, path) in &checkpoints {
            checkpoint::check(path).map_err(|err| format!("checkpoint {step}: {}", error_chain(&err)))?;
        }
        let lost = checkpoint::lost_best(&run.join(CHECKPOINTS)).map_err(|err| error_chain(&err))?;
        if let Some(best) = lost {
            return Err(format!("the best checkpoint, of step {}, is gone", best.step));
        }
        if let Some((_, path)) = checkpoints.last() {
            self.load(path)?;
            let verified = training::verify(run).map_err(|err| error_chain(&err))?;
            // The journal may end in garbage until the run is resumed.
            for (file, result) in verified.files.iter().filter(|(file, _)| !file.ends_with(JOURNAL)) {
                if let Err(fault) = result {
                    return Err(format!("{}: {fault}", file.display()));
                }
            }
        }
        let journal = run.join(JOURNAL);
        if newest > 0 {
            drop(Journal::open(&journal, true).map_err(|err| format!("journal: {err}"))?);
            let entries: Result<Vec<Entry>, _> = journal::read(&journal).map_err(|err| error_chain(&err))?.collect();
            let entries = entries.map_err(|err| error_chain(&err))?;
            for step in 1..=newest {
                if !entries.iter().any(|entry| matches!(entry, Entry::Step(record) if record.step == step)) {
                    return Err(format!("step {step} of checkpoint {newest} is not in the journal"));
                }
            }
        }
        Ok(newest)
    }

    fn load(&self, path: &Path) -> Result<(), String> {
        let init = || self.task.init(&mut WeightInit::new(9, &self.compute.autodiff()));
        let loaded = || {
            checkpoint::read_state::<T::Config>(path, T::KIND)?;
            checkpoint::load_averaged(path, init())?;
            let model = checkpoint::load_model(path, init())?;
            checkpoint::load_optimizer(path, &model, self.task.config().optim().init(&model))
        };
        loaded().map(drop).map_err(|err: checkpoint::CheckpointError| error_chain(&err))
    }

    /// Resumes a run whose newest checkpoint is that of step `newest`, and compares its numbers with those of
    /// `straight`.
    fn resume(&self, run: &Path, newest: u64, straight: &Told) -> Result<(), String> {
        // A run that died before its configuration was saved is begun again.
        let begun = newest > 0 || std::fs::read(run.join(training::CONFIG)).is_ok_and(|text| !text.is_empty());
        let resume = if begun { Resume::Newest } else { Resume::Begin };
        let told = self.train(run, resume, &mut || ()).map_err(|err| error_chain(&err))?;
        let expected = straight.after(newest);
        if told != expected {
            return Err(format!("resumed after step {newest} with {told:?} instead of {expected:?}"));
        }
        let left: Vec<String> =
            [run.to_owned(), run.join(CHECKPOINTS)].iter().flat_map(|dir| temporaries(dir)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("resumed, with {left:?} left")) }
    }

    /// Failures found with power cuts by these seeds; after every `resumed`th cut the run is resumed.
    pub(crate) fn failures(
        &self,
        seeds: std::ops::Range<u64>,
        resumed: u64,
        ignored_sync: Option<Selection>,
    ) -> Vec<String> {
        let run = self.path(&format!("run-{}", ignored_sync.is_some()));
        let _ = std::fs::remove_dir_all(&run);
        let (straight, images) = self.record(&run, ignored_sync);
        assert_eq!(straight.losses.len(), usize::try_from(STEPS).unwrap());
        let cut = |seed: u64| {
            // A stride that has no factor in common with the number of images visits all of them.
            let image = &images[usize::try_from(seed).unwrap() * 7919 % images.len()];
            let left = self.path(&format!("left-{seed}"));
            image.leave(Loss::of_seed(seed), &left);
            let mut result = self.check(&left, image.num_reported).and_then(|newest| {
                check_pictures(&left, &run, image.num_reported)?;
                Ok(newest)
            });
            if seed.is_multiple_of(resumed)
                && let Ok(newest) = result
            {
                result = self.resume(&left, newest, &straight).map(|()| newest);
            }
            std::fs::remove_dir_all(&left).unwrap();
            result.err().map(|fault| format!("HIEND_CAMPAIGN_SEED={seed}: cut before {}: {fault}", image.before))
        };
        seeds.filter_map(cut).collect()
    }

    /// Lets one operation fail for each seed, with one of several errors. The run ends with an error that names a file of
    /// the run, or goes on if only a picture is lost; it can be resumed from the newest checkpoint with the numbers of an
    /// undisturbed run.
    pub(crate) fn survive_failing_operations(&self, seeds: std::ops::Range<u64>) {
        let (straight, images) = self.record(&self.path("straight"), None);
        for seed in seeds {
            let run = self.path(&format!("failed-{seed}"));
            std::fs::create_dir(&run).unwrap();
            let operation = usize::try_from(seed).unwrap() * 7919 % images.len();
            // ENOSPC, EIO, EDQUOT, EROFS.
            let errno = [28, 5, 122, 30][usize::try_from(seed % 4).unwrap()];
            let plan = Plan { fault: Some(Fault { operation, errno }), short_writes: Some(seed), ..Plan::default() };
            let (recorder, observation) = Recorder::start(&run, plan);
            let mut num_reported = 0;
            let result = self.train(&run, Resume::Begin, &mut || num_reported += 1);
            drop((recorder, observation));
            let place = format!("HIEND_CAMPAIGN_SEED={seed}: operation {operation}, error {errno}");
            if let Err(err) = &result {
                let chain = error_chain(err);
                assert!(chain.contains(&*run.to_string_lossy()) && chain.contains("os error"), "{place}: {chain}");
            }
            let newest = self.check(&run, num_reported).unwrap_or_else(|fault| panic!("{place}: {fault}"));
            // A picture that cannot be written is lost with a warning.
            assert_eq!(check_pictures(&run, &self.path("straight"), 0), Ok(()), "{place}");
            if let Ok(told) = result {
                assert_eq!(told, straight, "{place}");
            } else if let Err(fault) = self.resume(&run, newest, &straight) {
                panic!("{place}: {fault}");
            }
            std::fs::remove_dir_all(&run).unwrap();
        }
    }
}

/// Compares the pictures of a run with those of the undisturbed run in `straight`. Those of the first `num_reported` steps
/// are there; another one is whole or absent.
fn check_pictures(run: &Path, straight: &Path, num_reported: usize) -> Result<(), String> {
    for step in 1..=STEPS {
        let name = Path::new(PICTURES).join(format!("step-{step:06}.png"));
        let expected = std::fs::read(straight.join(&name)).unwrap();
        match std::fs::read(run.join(&name)) {
            Ok(bytes) if bytes == expected => {}
            Ok(_) => return Err(format!("{} has other bytes than were written", name.display())),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound && step > num_reported as u64 => {}
            Err(err) => return Err(format!("{}: {err}", name.display())),
        }
    }
    Ok(())
}

fn tiny() -> PretrainConfig {
    let smoke = include_str!("../../configs/smoke.toml");
    let mut config = PretrainConfig::parse(smoke, "configs/smoke.toml").unwrap();
    config.model = HiEndMaeConfig {
        patch_size: 4,
        embed_dim: 12,
        depth: 2,
        num_heads: 2,
        taps: vec![0],
        decoder_embed_dim: 12,
        decoder_self_depth: 1,
        decoder_num_heads: 2,
        ..HiEndMaeConfig::tiny()
    };
    config.stream = StreamConfig { crop_size: [8; 3], crops_per_visit: 1, visits_per_batch: 1, ..config.stream };
    config.train.ema_decay = Some(0.9);
    config
}

#[test]
fn power_cut_loses_no_checkpoint_that_was_reported() {
    let config = tiny();
    let lab = Lab::new(Data::new(false), Pretraining::new(&config));
    assert_eq!(lab.failures(seeds(500), 25, None), Vec::<String>::new());
}

/// A disk that ignores one kind of sync loses checkpoints, so the simulator notices a missing sync.
#[test]
fn ignored_sync_of_any_kind_is_found() {
    fn syncs(operation: &Operation<'_>, name: &str) -> bool {
        matches!(operation, Operation::SyncFile { path } if path.to_string_lossy().contains(name))
    }
    let kinds: [(&str, Selection); 6] = [
        ("weights", |operation| syncs(operation, "model.bpk")),
        ("averaged weights", |operation| syncs(operation, "ema.bpk")),
        ("moments", |operation| syncs(operation, "optimizer.bpk")),
        ("states and configurations", |operation| syncs(operation, ".hiend-")),
        ("journal", |operation| syncs(operation, "journal.jsonl")),
        ("names", |operation| matches!(operation, Operation::SyncDir { .. })),
    ];
    let config = tiny();
    let lab = Lab::new(Data::new(false), Pretraining::new(&config));
    for (kind, ignored) in kinds {
        let failures = lab.failures(0..60, u64::MAX, Some(ignored));
        assert!(!failures.is_empty(), "no power cut shows that the {kind} are not synced");
    }
}

#[test]
fn failing_disk_loses_no_checkpoint_that_was_reported() {
    let config = tiny();
    Lab::new(Data::new(false), Pretraining::new(&config)).survive_failing_operations(seeds(24));
}
