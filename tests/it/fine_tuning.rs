//! Test that segments phantoms as a user would: pre-train, fine-tune, predict, compare.

mod labels;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hiend_cache::{Cache, Manifest};
use hiend_loader::convert::{Conversion, OnSuspect};
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::pipeline;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::split::{ListSplit, Part, ShotSplit, Split};
use hiend_loader::transform::Chain;
use hiend_loader::volume::{read_labels, read_volume, write_like};
use hiend_trainer::config::finetune::{FinetuneConfig, FinetunePreset};
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::config::{AugmentOn, DecodeOn, MicroBatch, RunConfig as _};
use hiend_trainer::device::Compute;
use hiend_trainer::finetune::Finetuning;
use hiend_trainer::inference::predict::{Predictor, ScanPredictionError, WindowSettings};
use hiend_trainer::initial_weights::Init;
use hiend_trainer::journal::ValidationRecord;
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::report::history::History;
use hiend_trainer::report::watcher::draw_curves;
use hiend_trainer::schedule::{Every, ScheduleConfig, Unit};
use hiend_trainer::sliding_window::Weighting;
use hiend_trainer::testing::small_pretraining;
use hiend_trainer::training::{Event, Outcome, Stop, Stream, Summary, Task, TrainOptions, train};

/// Cache of phantoms with voxels of 6 mm, so that a body fits into a few crops.
struct Data {
    dir: tempfile::TempDir,
    cache: Arc<Cache>,
}

fn data(cases: usize) -> Data {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let phantoms = PhantomConfig { cases, seed: 5, spacing_mm: [5.0, 7.0] };
    write_dataset(&raw.join("Dataset007_Phantoms"), &phantoms).unwrap();
    let config = PreprocessConfig { spacing: Some([6.0; 3]), ..PreprocessConfig::default() };
    let datasets = dataset::find(&raw).unwrap();
    Conversion::new(&raw, &datasets, &dir.path().join("cache")).config(config).run().unwrap();
    let cache = Arc::new(Cache::open(dir.path().join("cache")).unwrap());
    Data { dir, cache }
}

impl Data {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn scan(&self, case: usize) -> PathBuf {
        self.path(&format!("raw/Dataset007_Phantoms/imagesTr/phantom_{case:03}_0000.nii.gz"))
    }

    fn run<T: Task>(&self, task: &T, options: &TrainOptions) -> (Summary, Vec<ValidationRecord>) {
        let mut validations = Vec::new();
        let config = task.config();
        let form = config.train().voxel_form(&config.stream().augment, true);
        let loader = pipeline::LoaderOptions { form, ..pipeline::LoaderOptions::default() };
        let stream = Stream::open(Arc::clone(&self.cache), config.stream(), 0, &loader).unwrap();
        let summary = train(task, stream, &Compute::cpu(), options, &mut |event| {
            if let Event::Validation(record) = event {
                validations.push((*record).clone());
            }
        });
        (summary.unwrap(), validations)
    }

    fn finetuning(&self, config: FinetuneConfig, init: Init) -> Finetuning {
        Finetuning::new(config, &self.cache, init).unwrap()
    }
}

fn pretraining() -> PretrainConfig {
    let mut config = small_pretraining(8);
    config.model.depth = 4;
    config.model.taps = vec![1, 2, 3];
    config.stream.visits_per_batch = 1;
    config.stream.crops_per_visit = 2;
    config
}

/// Configuration with one training case, a small crop, and the encoder of [`pretraining`].
fn finetune() -> FinetuneConfig {
    let mut config = FinetunePreset::Tiny.config();
    config.model = config.model.with_encoder_of(&pretraining().model).unwrap();
    config.model.feature_size = 4;
    config.stream.crop_size = [16; 3];
    config.stream.crops_per_visit = 3;
    config.stream.split = Split::Shots(ShotSplit { shots: 1, part: Part::Train, seed: 0 });
    config.schedule = ScheduleConfig { unit: Unit::Step, total: 40, warmup: 2, rate_changes: Every::Step };
    config.optim.lr = 3e-3;
    let validation = config.validation.as_mut().unwrap();
    validation.every = 3;
    validation.overlap = 0.25;
    validation.split = Split::Shots(ShotSplit { shots: 1, part: Part::Validation, seed: 0 });
    config
}

fn options(dir: &Path, max_steps: u64, resume: bool) -> TrainOptions {
    TrainOptions {
        max_steps: Some(max_steps),
        resume: resume.into(),
        checkpoint_every: 2,
        keep: 1,
        ..TrainOptions::new(dir)
    }
}

fn settings() -> WindowSettings {
    WindowSettings { overlap: 0.25, weighting: Weighting::Gaussian, mirror: false, sw_batch_size: 4 }
}

#[test]
fn a_pretrained_encoder_is_fine_tuned_and_predicts_on_the_scan_s_grid() {
    let data = data(2);
    data.run(&Pretraining::new(&pretraining()), &options(&data.path("pretrained"), 2, false));

    let mut config = finetune();
    config.validation.as_mut().unwrap().every = 15;
    let task = data.finetuning(config, Init::read(&data.path("pretrained")).unwrap());
    assert_eq!(task.config().classes[0], "background");
    assert_eq!(task.num_validation_cases(), 1);
    let run_dir = data.path("run");
    let (summary, validations) = data.run(&task, &options(&run_dir, 40, false));
    let sum = |losses: &[f64]| losses.iter().sum::<f64>();
    let (first, last) = (sum(&summary.losses[..5]), sum(&summary.losses[35..]));
    assert!(last < 0.9 * first, "{first} -> {last}");
    // Every fifteenth step, and the last one.
    assert_eq!(validations.iter().map(|record| record.step).collect::<Vec<_>>(), [15, 30, 40]);
    // The best step is the last one only by chance: in forty steps on one case, the Dice of another case moves by
    // thousandths.
    let best = validations.iter().map(|record| record.mean_dice).fold(0.0, f64::max);
    let kept = summary.best.unwrap();
    assert!((kept.mean_dice - best).abs() < 1e-12);
    assert!(validations.iter().any(|record| record.step == kept.step && (record.mean_dice - best).abs() < 1e-12));
    assert!(run_dir.join("pictures/step-000040.png").exists());
    let init = std::fs::read_to_string(run_dir.join("init.txt")).unwrap();
    assert!(init.contains("encoder.cls_token"), "{init}");

    // The best checkpoint outlives the newest one, and is what predicts.
    let predictor = Predictor::open(std::slice::from_ref(&run_dir), &Compute::cpu(), settings()).unwrap();
    let best_dir = format!("step-{:08}", kept.step);
    assert!(predictor.checkpoints()[0].ends_with(&best_dir), "{:?}", predictor.checkpoints());
    let mut heard = (0, 0);
    let prediction = predictor
        .predict(&data.scan(1), OnSuspect::Warn, true, &Stop::default(), &mut |done, total| heard = (done, total))
        .unwrap();
    assert!(heard.0 == heard.1 && heard.1 > 1, "{heard:?}");
    let exported = &prediction.exported;
    let path = data.path("label.nii.gz");
    write_like(&path, &prediction.info, &exported.labels).unwrap();
    let (written, scan) = (read_labels(&path).unwrap(), read_volume(&data.scan(1)).unwrap());
    assert_eq!((written.info.shape, written.info.affine), (scan.info.shape, scan.info.affine));
    assert!(exported.labels.iter().any(|&label| label > 0));
    assert_eq!(exported.probabilities.len(), task.config().classes.len());
    for voxel in 0..exported.labels.len() {
        let of = |class: usize| u32::from(exported.probabilities[class][voxel]);
        let sum: u32 = (0..exported.probabilities.len()).map(of).sum();
        assert!(sum.abs_diff(65_535) < 16, "{sum}");
        let label = usize::from(exported.labels[voxel]);
        assert!((0..exported.probabilities.len()).all(|class| of(class) <= of(label)), "voxel {voxel}");
    }

    let stop = Stop::default();
    stop.request();
    let stopped = predictor.predict(&data.scan(1), OnSuspect::Warn, false, &stop, &mut |_, _| ());
    assert!(matches!(stopped, Err(ScanPredictionError::Stopped)));
}

#[test]
fn going_on_is_bit_identical_with_averages_and_validations() {
    let data = data(2);
    let mut config = finetune();
    config.train.ema_decay = Some(0.9);
    let task = data.finetuning(config, Init::Random);
    let (straight, all) = data.run(&task, &options(&data.path("straight"), 7, false));
    let (first, mut parts) = data.run(&task, &options(&data.path("parts"), 4, false));
    let (second, later) = data.run(&task, &options(&data.path("parts"), 7, true));
    assert_eq!([first.losses, second.losses].concat(), straight.losses);
    // The end at 4 is a validation more.
    assert_eq!(parts.pop().unwrap().step, 4);
    parts.extend(later);
    let figures = |records: &[ValidationRecord]| {
        records.iter().map(|record| (record.step, record.mean_dice.to_bits())).collect::<Vec<_>>()
    };
    assert_eq!(figures(&parts), figures(&all));
}

#[test]
fn a_validation_cut_short_comes_first_when_the_run_goes_on() {
    let data = data(2);
    let task = data.finetuning(finetune(), Init::Random);
    let options = TrainOptions { max_steps: Some(6), ..TrainOptions::new(data.path("run")) };
    let stop = options.stop.clone();
    let stream = || {
        Stream::open(Arc::clone(&data.cache), &task.config().stream, 0, &pipeline::LoaderOptions::default()).unwrap()
    };
    let summary = train(&task, stream(), &Compute::cpu(), &options, &mut |event| {
        assert!(!matches!(event, Event::Validation(_)), "it was asked to stop");
        if matches!(event, Event::Validating { done: 0, .. }) {
            stop.request();
        }
    });
    assert_eq!(summary.unwrap().step, 3);
    let options = TrainOptions { resume: true.into(), stop: Stop::default(), ..options };
    let mut heard = Vec::new();
    train(&task, stream(), &Compute::cpu(), &options, &mut |event| match event {
        Event::Validation(record) => heard.push(format!("validation {}", record.step)),
        Event::Step(record) => heard.push(format!("step {}", record.step)),
        Event::Note(text) if text.contains("is repeated") => heard.push((*text).to_owned()),
        _ => {}
    })
    .unwrap();
    let repeated = "the validation after step 3, which was interrupted, is repeated";
    assert_eq!(heard, [repeated, "validation 3", "step 4", "step 5", "step 6", "validation 6"]);
}

#[test]
fn a_run_stopped_during_its_last_validation_counts_as_interrupted() {
    let data = data(2);
    let task = data.finetuning(finetune(), Init::Random);
    let options = TrainOptions { max_steps: Some(3), ..TrainOptions::new(data.path("run")) };
    let stream =
        Stream::open(Arc::clone(&data.cache), &task.config().stream, 0, &pipeline::LoaderOptions::default()).unwrap();
    let stop = options.stop.clone();
    let summary = train(&task, stream, &Compute::cpu(), &options, &mut |event| {
        if matches!(event, Event::Validating { done: 0, .. }) {
            stop.request();
        }
    });
    let summary = summary.unwrap();
    assert_eq!((summary.step, summary.outcome), (3, Outcome::Interrupted));
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let data = data(2);
    let whole = data.finetuning(finetune(), Init::Random);
    let mut config = finetune();
    config.train.micro_batch = Some(MicroBatch::Crops(2));
    let parted = data.finetuning(config, Init::Random);
    let (whole, _) = data.run(&whole, &options(&data.path("whole"), 3, false));
    let (parted, _) = data.run(&parted, &options(&data.path("parted"), 3, false));
    for (a, b) in whole.losses.iter().zip(&parted.losses) {
        assert!((a - b).abs() < 1e-5 * a, "{a} {b}");
    }
}

/// The chain computed on the device gives the losses of the chain computed by the loader.
///
/// Weights that never change (a learning rate of 0) separate the chains from training: every loss is then a function of
/// its own batch. Crops of the two chains agree to 5e-6 of the window (`hiend_trainer::augment`), the loss is a mean over
/// voxels whose relative sensitivity to an intensity is below 1, and one f32 holds it to 1.2e-7: hence 5e-6. Measured:
/// at most 2.1e-7 on AMD EPYC.
///
/// Rounding errors grow with each step, because `AdamW`'s first steps divide each gradient by its own magnitude: where
/// a gradient is itself a rounding error, its sign decides the step. That is not a property of the chain: two runs that
/// differ only in their micro-batches, both augmented by the loader, drift apart in the same way. Only a small part of the
/// gradients is that small, so the drift stays a small part of what the steps change in each loss; 3% is allowed.
#[test]
fn augmenting_on_the_device_is_the_same_training() {
    let data = data(2);
    let losses = |augment_on, micro_batch: Option<usize>, lr| {
        let mut config = finetune();
        config.stream.augment = Chain::nnunet();
        config.train.augment_on = augment_on;
        config.train.micro_batch = micro_batch.map(MicroBatch::Crops);
        config.optim.lr = lr;
        let task = data.finetuning(config, Init::Random);
        data.run(&task, &options(tempfile::tempdir().unwrap().path(), 6, false)).0.losses
    };
    let untrained = losses(AugmentOn::Cpu, None, 0.0);
    for micro_batch in [None, Some(2)] {
        for (host, device) in untrained.iter().zip(losses(AugmentOn::Device, micro_batch, 0.0)) {
            assert!((host - device).abs() < 5e-6 * host, "micro-batch {micro_batch:?}: {host} and {device}");
        }
    }
    let lr = 3e-3;
    let [host, device] = [AugmentOn::Cpu, AugmentOn::Device].map(|augment_on| losses(augment_on, None, lr));
    assert!((host[0] - device[0]).abs() < 5e-6 * host[0], "before the first step: {} and {}", host[0], device[0]);
    let drift = host.iter().zip(&device).fold(0f64, |most, (a, b)| most.max((a - b).abs()));
    let trained = host.iter().zip(&untrained).fold(0f64, |most, (a, b)| most.max((a - b).abs()));
    println!("steps change a loss by up to {trained:.1e}; the chains drift apart by {drift:.1e}");
    assert!(trained > 0.01 && drift < 0.03 * trained, "{host:?}, {device:?}, untrained {untrained:?}");
}

/// Crops decoded on the device have the same bits as those that the loader cuts, and so do all losses.
#[test]
fn decoding_on_the_device_is_the_same_training() {
    let data = data(2);
    let losses = |decode_on, micro_batch: Option<usize>| {
        let mut config = pretraining();
        config.stream.visits_per_batch = 2;
        config.train.decode_on = decode_on;
        config.train.micro_batch = micro_batch.map(MicroBatch::Crops);
        let run = tempfile::tempdir().unwrap();
        data.run(&Pretraining::new(&config), &options(run.path(), 4, false)).0.losses
    };
    // Three crops of two visits of two, so that a part ends within a visit.
    for micro_batch in [None, Some(3)] {
        assert_eq!(losses(DecodeOn::Cpu, micro_batch), losses(DecodeOn::Device, micro_batch), "{micro_batch:?}");
    }
}

/// Fine-tuning has the same losses with crops and labels decoded on either side, for finished crops and for boxes that are
/// augmented on the device.
#[test]
fn decoding_on_the_device_is_the_same_fine_tuning() {
    let data = data(2);
    let losses = |augment: Chain, decode_on, micro_batch: Option<usize>| {
        let mut config = finetune();
        config.train.augment_on = if augment.is_linear() { AugmentOn::Cpu } else { AugmentOn::Device };
        config.stream.augment = augment;
        config.train.decode_on = decode_on;
        config.train.micro_batch = micro_batch.map(MicroBatch::Crops);
        config.validation = None;
        let run = tempfile::tempdir().unwrap();
        let task = data.finetuning(config, Init::Random);
        data.run(&task, &options(run.path(), 4, false)).0.losses
    };
    for (augment, micro_batch) in [(Chain::recipe(), Some(2)), (Chain::nnunet(), None), (Chain::nnunet(), Some(2))] {
        let [cpu, device] = [DecodeOn::Cpu, DecodeOn::Device].map(|on| losses(augment, on, micro_batch));
        assert_eq!(cpu, device, "{augment:?}, {micro_batch:?}");
    }
}

#[test]
fn a_crop_of_another_size_than_in_pretraining_gets_positions_of_its_own() {
    let data = data(2);
    data.run(&Pretraining::new(&pretraining()), &options(&data.path("pretrained"), 1, false));
    let mut config = finetune();
    config.stream.crop_size = [24, 24, 16];
    let task = data.finetuning(config, Init::read(&data.path("pretrained")).unwrap());
    let mut notes = Vec::new();
    let stream = Stream::open(Arc::clone(&data.cache), &task.config().stream, 0, &pipeline::LoaderOptions::default());
    let options = options(&data.path("run"), 1, false);
    train(&task, stream.unwrap(), &Compute::cpu(), &options, &mut |event| {
        if let Event::Note(text) = event {
            notes.push((*text).to_owned());
        }
    })
    .unwrap();
    assert!(notes[0].contains("positions recomputed"), "{notes:?}");
}

#[test]
fn weights_of_another_size_are_refused_and_the_reason_is_reported_once() {
    let data = data(2);
    data.run(&Pretraining::new(&pretraining()), &options(&data.path("pretrained"), 1, false));
    let mut config = finetune();
    config.model.embed_dim = 36;
    let task = data.finetuning(config, Init::read(&data.path("pretrained")).unwrap());
    let stream = Stream::open(Arc::clone(&data.cache), &task.config().stream, 0, &pipeline::LoaderOptions::default());
    let error = train(&task, stream.unwrap(), &Compute::cpu(), &options(&data.path("run"), 1, false), &mut |_| ());
    let text = with_sources(&error.unwrap_err());
    assert!(text.contains("step-00000001 does not fit the model of the configuration"), "{text}");
    assert_eq!(text.matches("the model needs").count(), 1, "{text}");
    assert!(!data.path("run").exists(), "a run that could not begin leaves nothing");
}

/// Text of an error with those of its sources, as the program shows it.
fn with_sources(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", with_sources(source)))
}

#[test]
fn mismatched_cache_and_configuration_are_named() {
    let data = data(2);
    let check = |change: &dyn Fn(&mut FinetuneConfig), expected: &str| {
        let mut config = finetune();
        change(&mut config);
        let error = Finetuning::new(config, &data.cache, Init::Random).unwrap_err();
        let error = with_sources(&error);
        assert!(error.contains(expected), "{error}");
    };
    check(&|config| config.classes = vec!["background".into(), "liver".into()], "Dataset007_Phantoms has");
    check(&|config| config.stream.split = Split::default(), "is in both stream.split and validation.split");
    check(&|config| config.stream.include = vec!["BTCV".into()], "no dataset matches \"BTCV\"");
    let lone = |config: &mut FinetuneConfig| {
        config.stream.split = Split::Shots(ShotSplit { shots: 2, part: Part::Train, seed: 0 });
    };
    check(&lone, "shots = 2 of 2 cases");
    check(&|config| config.preprocess = Some(PreprocessConfig::default()), "the configuration's preprocess says");
}

#[test]
fn figures_of_other_validation_cases_do_not_compete() {
    let data = data(3);
    let list = |name: &str, case: usize| {
        std::fs::write(data.path(name), format!("phantom_{case:03}\n")).unwrap();
        Split::List(ListSplit { list: data.path(name) })
    };
    let mut config = finetune();
    config.stream.split = list("training.txt", 0);
    config.validation.as_mut().unwrap().split = list("validation.txt", 1);
    let run = |max_steps, resume| {
        let task = data.finetuning(config.clone(), Init::Random);
        let loader = pipeline::LoaderOptions::default();
        let stream = Stream::open(Arc::clone(&data.cache), &task.config().stream, 0, &loader).unwrap();
        let mut told = Vec::new();
        let options = TrainOptions { keep: 5, ..options(&data.path("run"), max_steps, resume) };
        train(&task, stream, &Compute::cpu(), &options, &mut |event| match event {
            Event::Warning(text) => told.push(text.clone()),
            Event::Validation(record) => told.push(format!("best: {}", record.best)),
            _ => {}
        })
        .unwrap();
        told
    };
    assert_eq!(run(3, false), ["best: true"]);
    list("validation.txt", 2);
    let told = run(6, true);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("the validation cases or their labels are not those of the steps up to 3"), "{told:?}");
    assert_eq!(told[1], "best: true");
    // The state has the new digest.
    assert!(run(7, true).iter().all(|text| text.starts_with("best: ")));
}
