//! Power cuts and failing disks during training.
//!
//! A run of a few steps with a checkpoint after each is recorded. After each cut the checkpoints that were reported are
//! there up to the number to keep, every checkpoint under its final name is whole and loads, the journal is not behind
//! the newest, and the run resumes with the losses of one that was never disturbed.

use std::path::Path;
use std::sync::Arc;

use hiend_cache::Cache;
use hiend_cache::durable::operation::Operation;
use hiend_loader::pipeline::{LoaderOptions, StreamConfig};
use hiend_trainer::checkpoint::{self, Kind};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::device::{Compute, DeviceChoice};
use hiend_trainer::journal::{self, Entry, Journal};
use hiend_trainer::model::hi_end_mae::HiEndMaeConfig;
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::training::{self, CHECKPOINTS, Event, JOURNAL, Resume, Stream, TrainOptions, TrainingError};

use crate::conversion::{convert, error_chain, temporaries};
use crate::effort::seeds;
use crate::scans::write_case;
use crate::simulator::{Fault, Image, Loss, Plan, Recorder, Selection};

/// Optimizer steps of the run; each writes a checkpoint.
const STEPS: u64 = 4;
/// Number of checkpoints to keep.
const KEEP: usize = 2;

/// A tiny run and the data it trains on.
struct Lab {
    dir: tempfile::TempDir,
    cache: Arc<Cache>,
    compute: Compute,
    config: PretrainConfig,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (data, cache) = (dir.path().join("data"), dir.path().join("cache"));
        for (name, seed) in [("a", 1), ("b", 2)] {
            write_case(&data.join("Dataset001_Scans"), name, seed, false);
        }
        convert(&data, &cache, hiend_loader::convert::ConvertOptions::default()).unwrap();
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
        let cache = Arc::new(Cache::open(cache).unwrap());
        Self { dir, cache, compute: Compute::open(DeviceChoice::Cpu).unwrap(), config }
    }

    fn train(&self, run: &Path, resume: Resume, report: &mut dyn FnMut()) -> Result<Vec<f64>, TrainingError> {
        let loader = LoaderOptions { threads: 1, ..LoaderOptions::default() };
        let stream =
            Stream::open(Arc::clone(&self.cache), &self.config.stream, self.config.train.seed, &loader).unwrap();
        let mut options = TrainOptions::new(run);
        options.max_steps = Some(STEPS);
        options.checkpoint_every = 1;
        options.keep = KEEP;
        options.resume = resume;
        let mut watch = |event: &Event<'_>| {
            if let Event::Checkpoint(_) = event {
                report();
            }
        };
        Ok(pretrain(&self.config, stream, &self.compute, &options, &mut watch)?.losses)
    }

    /// Records an undisturbed run; returns its losses and its states.
    fn record(&self, run: &Path, ignored_sync: Option<Selection>) -> (Vec<f64>, Vec<Image>) {
        std::fs::create_dir(run).unwrap();
        let plan = Plan { every_image: true, ignored_sync, ..Plan::default() };
        let (recorder, _observation) = Recorder::start(run, plan);
        let losses = self.train(run, Resume::Begin, &mut || recorder.report()).unwrap();
        (losses, recorder.images())
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
        if let Some((_, path)) = checkpoints.last() {
            self.load(path)?;
            let verified = training::verify(run).map_err(|err| error_chain(&err))?;
            // The journal may end in garbage until the run is resumed.
            if let (file, Err(fault)) = &verified.files[0] {
                return Err(format!("{}: {fault}", file.display()));
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
        let init =
            || self.config.model.init(self.config.stream.crop_size, &mut WeightInit::new(9, &self.compute.autodiff()));
        let loaded = || {
            checkpoint::read_state::<PretrainConfig>(path, Kind::Pretrain)?;
            checkpoint::load_averaged(path, init())?;
            let model = checkpoint::load_model(path, init())?;
            checkpoint::load_optimizer(path, &model, self.config.optim.init(&model))
        };
        loaded().map(drop).map_err(|err: checkpoint::CheckpointError| error_chain(&err))
    }

    /// Resumes a run whose newest checkpoint is that of step `newest`, and compares its losses with those of
    /// `straight`.
    fn resume(&self, run: &Path, newest: u64, straight: &[f64]) -> Result<(), String> {
        // A run that died before its configuration was saved is begun again.
        let begun = newest > 0 || std::fs::read(run.join(training::CONFIG)).is_ok_and(|text| !text.is_empty());
        let resume = if begun { Resume::Newest } else { Resume::Begin };
        let losses = self.train(run, resume, &mut || ()).map_err(|err| error_chain(&err))?;
        let expected = &straight[usize::try_from(newest).unwrap()..];
        if losses != expected {
            return Err(format!("resumed after step {newest} with losses {losses:?} instead of {expected:?}"));
        }
        let left: Vec<String> =
            [run.to_owned(), run.join(CHECKPOINTS)].iter().flat_map(|dir| temporaries(dir)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("resumed, with {left:?} left")) }
    }

    /// Failures found with power cuts by these seeds; after every `resumed`th cut the run is resumed.
    fn failures(&self, seeds: std::ops::Range<u64>, resumed: u64, ignored_sync: Option<Selection>) -> Vec<String> {
        let name = format!("run-{}", ignored_sync.is_some());
        let _ = std::fs::remove_dir_all(self.dir.path().join(&name));
        let (straight, images) = self.record(&self.dir.path().join(&name), ignored_sync);
        assert_eq!(straight.len(), usize::try_from(STEPS).unwrap());
        let cut = |seed: u64| {
            // A stride that has no factor in common with the number of images visits all of them.
            let image = &images[usize::try_from(seed).unwrap() * 7919 % images.len()];
            let left = self.dir.path().join(format!("left-{seed}"));
            image.leave(Loss::of_seed(seed), &left);
            let mut result = self.check(&left, image.num_reported);
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
}

#[test]
fn power_cut_loses_no_checkpoint_that_was_reported() {
    assert_eq!(Lab::new().failures(seeds(500), 25, None), Vec::<String>::new());
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
    let lab = Lab::new();
    for (kind, ignored) in kinds {
        let failures = lab.failures(0..60, u64::MAX, Some(ignored));
        assert!(!failures.is_empty(), "no power cut shows that the {kind} are not synced");
    }
}

/// Each operation fails with one of several errors. The run ends with an error that names a file of the run, or
/// continues if only a picture is lost; it can be resumed from the newest checkpoint with the losses of an undisturbed
/// run.
#[test]
fn failing_disk_loses_no_checkpoint_that_was_reported() {
    let lab = Lab::new();
    let (straight, images) = lab.record(&lab.dir.path().join("straight"), None);
    for seed in seeds(24) {
        let run = lab.dir.path().join(format!("failed-{seed}"));
        std::fs::create_dir(&run).unwrap();
        let operation = usize::try_from(seed).unwrap() * 7919 % images.len();
        // ENOSPC, EIO, EDQUOT, EROFS.
        let errno = [28, 5, 122, 30][usize::try_from(seed % 4).unwrap()];
        let plan = Plan { fault: Some(Fault { operation, errno }), short_writes: Some(seed), ..Plan::default() };
        let (recorder, observation) = Recorder::start(&run, plan);
        let mut num_reported = 0;
        let result = lab.train(&run, Resume::Begin, &mut || num_reported += 1);
        drop((recorder, observation));
        let place = format!("HIEND_CAMPAIGN_SEED={seed}: operation {operation}, error {errno}");
        if let Err(err) = &result {
            let chain = error_chain(err);
            assert!(chain.contains(&*run.to_string_lossy()) && chain.contains("os error"), "{place}: {chain}");
        }
        let newest = lab.check(&run, num_reported).unwrap_or_else(|fault| panic!("{place}: {fault}"));
        if let Ok(losses) = result {
            assert_eq!(losses, straight, "{place}");
        } else if let Err(fault) = lab.resume(&run, newest, &straight) {
            panic!("{place}: {fault}");
        }
        std::fs::remove_dir_all(&run).unwrap();
    }
}
