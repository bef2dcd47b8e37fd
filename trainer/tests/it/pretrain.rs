//! Runs: resuming is exact, stopping is clean, failures say what they should.

use std::fs;
use std::path::Path;

use hiend_loader::batch::Images;
use hiend_trainer::checkpoint;
use hiend_trainer::config::TrainConfig;
use hiend_trainer::config::pretrain::{PretrainConfig, PretrainPreset};
use hiend_trainer::device::Compute;
use hiend_trainer::feed::SourceError;
use hiend_trainer::optim::Decay;
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::report::journal::Entry;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::{Event, Outcome, Stream, Summary, TrainOptions, TrainingError};

const STREAM: SyntheticStream = SyntheticStream { seed: 3, crop_size: [16; 3], crops: 2, steps_per_epoch: 4 };

/// Small enough for a test; both groups of parameters, and clipping.
fn config() -> PretrainConfig {
    let mut config = PretrainPreset::Tiny.config();
    config.model.patch_size = 4;
    config.model.embed_dim = 24;
    config.model.depth = 4;
    config.model.taps = vec![1, 2];
    config.model.num_heads = 2;
    config.model.decoder_embed_dim = 12;
    config.model.decoder_num_heads = 2;
    config.model.decoder_self_depth = 1;
    config.stream.crop_size = [16; 3];
    config.optim.lr = 1e-3;
    config.optim.decay = Decay::Matrices;
    config.optim.clip_norm = Some(1.0);
    config.schedule.warmup = 2;
    config.schedule.total = 40;
    config
}

fn options(run_dir: &Path, max_steps: u64, resume: bool) -> TrainOptions {
    TrainOptions { max_steps: Some(max_steps), resume, ..TrainOptions::new(run_dir) }
}

fn run(config: &PretrainConfig, stream: Stream, options: &TrainOptions) -> Result<Summary, TrainingError> {
    pretrain(config, stream, &Compute::cpu(), options, &mut |_| ())
}

/// One line, as `main` prints it.
fn message(error: TrainingError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

#[test]
fn resuming_is_bit_identical() {
    let (straight_dir, parts_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = config();
    let straight = run(&config, STREAM.stream(), &options(straight_dir.path(), 6, false)).unwrap();
    let mut parts = run(&config, STREAM.stream(), &options(parts_dir.path(), 3, false)).unwrap().losses;
    // Another process would start with other parameter ids and other generators; the checkpoint must not care.
    let resumed = run(&config, STREAM.stream(), &options(parts_dir.path(), 6, true)).unwrap();
    assert_eq!((resumed.step, resumed.steps_done), (6, 3));
    parts.extend(resumed.losses);
    let bits = |losses: &[f64]| losses.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&straight.losses), bits(&parts));
    assert!(straight.losses.iter().all(|l| l.is_finite()));

    let journal = fs::read_to_string(parts_dir.path().join("journal.jsonl")).unwrap();
    let steps: Vec<u64> = journal
        .lines()
        .filter_map(|line| match serde_json::from_str(line).unwrap() {
            Entry::Step(record) => Some(record.step),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert!(parts_dir.path().join("pictures/step-000006.png").exists());
}

#[test]
fn reading_an_update_later_changes_nothing_but_when_it_is_told() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let config = PretrainConfig { train: TrainConfig { ema_decay: Some(0.9), ..config().train }, ..config() };
    let runs = [false, true].map(|overlap| {
        let dir = dirs[usize::from(overlap)].path();
        let options = TrainOptions { overlap: Some(overlap), checkpoint_every: 3, ..options(dir, 7, false) };
        let mut told = Vec::new();
        let mut watch = |event: &Event<'_>| match event {
            Event::Step(record) => told.push(format!("step {}", record.step)),
            Event::Checkpoint(path) => told.push(path.file_name().unwrap().to_string_lossy().into_owned()),
            _ => {}
        };
        let summary = pretrain(&config, STREAM.stream(), &Compute::cpu(), &options, &mut watch).unwrap();
        let weights = fs::read(summary.checkpoint.unwrap().join("model.bpk")).unwrap();
        (summary.losses, told, weights.len())
    });
    assert_eq!(runs[0], runs[1]);
    // What a checkpoint holds was looked at before it was written.
    let at = |what: &str| runs[1].1.iter().position(|told| told == what).unwrap();
    assert!(at("step 3") < at("step-00000003") && at("step-00000003") < at("step 4"));

    // A loss that is no number is found all the same, and the weights after it are not saved.
    let dir = tempfile::tempdir().unwrap();
    let mut stream = STREAM.stream();
    stream.open = Box::new(|start, _| {
        Ok(Box::new(STREAM.open(start).zip(start..).map(|(batch, step)| {
            let mut batch = batch?;
            if let (Images::Floats(voxels), 3) = (&mut batch.images, step) {
                voxels.fill(f32::NAN);
            }
            Ok(batch)
        })))
    });
    let options = TrainOptions { overlap: Some(true), checkpoint_every: 4, ..options(dir.path(), 7, false) };
    assert!(message(run(&config, stream, &options).unwrap_err()).contains("loss is NaN at step 4"));
    assert_eq!(checkpoint::latest(&dir.path().join("checkpoints")).unwrap(), None);
}

#[test]
fn a_step_whose_cases_are_all_corrupt_passes_without_an_update() {
    let dir = tempfile::tempdir().unwrap();
    let config = config();
    let damaged = || Stream {
        open: Box::new(|start, _| {
            let crops = |step| if step == 1 || step == 3 { 0 } else { 2 };
            Ok(Box::new((start..).map(move |step| Ok(SyntheticStream { crops: crops(step), ..STREAM }.batch(step)))))
        }),
        ..STREAM.stream()
    };
    let mut warnings = Vec::new();
    let mut watch = |event: &Event<'_>| {
        if let Event::Warning(warning) = event {
            warnings.push(warning.clone());
        }
    };
    let straight = pretrain(&config, damaged(), &Compute::cpu(), &options(dir.path(), 4, false), &mut watch).unwrap();
    assert_eq!((straight.step, straight.losses.len()), (4, 2));
    let said = |step| format!("step {step}: no update, all cases of its batch are corrupt");
    assert_eq!(warnings, [said(2), said(4)]);
    // The last step had no batch and was saved all the same; going on takes the next one.
    let resumed = run(&config, damaged(), &options(dir.path(), 5, true)).unwrap();
    assert_eq!((resumed.step, resumed.steps_done), (5, 1));
}

#[test]
fn a_kill_costs_the_steps_since_the_checkpoint_and_nothing_else() {
    let (straight_dir, killed_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = config();
    let straight = run(&config, STREAM.stream(), &options(straight_dir.path(), 6, false)).unwrap();
    // The stream breaks off after five batches, two of them after the checkpoint.
    let mut stream = STREAM.stream();
    let broken = |step, _| Ok(Box::new(STREAM.open(step).take(5)) as _);
    stream.open = Box::new(broken);
    let options_killed = TrainOptions { checkpoint_every: 3, ..options(killed_dir.path(), 6, false) };
    let error = run(&config, stream, &options_killed).unwrap_err();
    assert_eq!(message(error), "the stream of batches broke off before step 5");
    let resumed = run(&config, STREAM.stream(), &options(killed_dir.path(), 6, true)).unwrap();
    assert_eq!(resumed.steps_done, 3);
    assert_eq!(resumed.losses, straight.losses[3..]);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = config();
    let mut stream = STREAM.stream();
    stream.open = Box::new(|_, _| Err(SourceError::from("gone")));
    assert_eq!(
        message(run(&config, stream, &options(dir.path(), 2, false)).unwrap_err()),
        "the stream does not open at step 0: gone"
    );
    assert_eq!(run(&config, STREAM.stream(), &options(dir.path(), 2, true)).unwrap().steps_done, 2);
}

#[test]
fn what_changes_a_result_may_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let config = config();
    run(&config, STREAM.stream(), &options(dir.path(), 1, false)).unwrap();
    let check = |changed: &PretrainConfig, stream: Stream, resume: bool, expected: &str| {
        let text = message(run(changed, stream, &options(dir.path(), 2, resume)).unwrap_err());
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains('\n'), "{text}");
    };
    let mut other = config.clone();
    other.optim.weight_decay = 0.1;
    check(&other, STREAM.stream(), true, "optim.weight_decay is 0.1 now, and was 0.05 when the run began");
    let data = SyntheticStream { seed: 4, ..STREAM };
    check(&config, data.stream(), true, "the cache is synthetic-4 now, and was synthetic-3");
    check(&config, STREAM.stream(), false, "holds a run already");
}

#[test]
fn there_must_be_a_run_to_resume() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("mistyped");
    let error = run(&config(), STREAM.stream(), &options(&missing, 1, true)).unwrap_err();
    assert!(matches!(error, TrainingError::NothingToResume { .. }));
    assert!(!missing.exists());
}

#[test]
fn a_run_s_folder_is_one_run_s_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    run(&config(), STREAM.stream(), &options(dir.path(), 1, false)).unwrap();
    let held = std::fs::File::open(dir.path().join("lock")).unwrap();
    held.lock().unwrap();
    let error = run(&config(), STREAM.stream(), &options(dir.path(), 2, true)).unwrap_err();
    assert!(matches!(error, TrainingError::InUse { .. }), "{error}");
    drop(held);
    run(&config(), STREAM.stream(), &options(dir.path(), 2, true)).unwrap();
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_cases() {
    let dir = tempfile::tempdir().unwrap();
    let config = config();
    let mut stream = STREAM.stream();
    stream.open = Box::new(|step, _| {
        Ok(Box::new(STREAM.open(step).map(|batch| {
            let mut batch = batch?;
            if batch.step == 3 {
                let Images::Floats(voxels) = &mut batch.images else { unreachable!("made as floats") };
                voxels.fill(f32::NAN);
            }
            Ok(batch)
        })))
    });
    let options = TrainOptions { checkpoint_every: 2, ..options(dir.path(), 6, false) };
    let text = message(run(&config, stream, &options).unwrap_err());
    for part in ["loss is NaN at step 4", "lr 9.98", "synthetic/case1, synthetic/case2", "step-00000002"] {
        assert!(text.contains(part), "{text}");
    }
    let latest = checkpoint::latest(&dir.path().join("checkpoints")).unwrap().unwrap();
    assert!(latest.ends_with("step-00000002"), "{latest:?}");
}

#[test]
fn a_request_to_stop_finishes_the_step_and_saves() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 6, false);
    let stop = options.stop.clone();
    let summary = pretrain(&config(), STREAM.stream(), &Compute::cpu(), &options, &mut |event| {
        if matches!(event, Event::Step(record) if record.step == 2) {
            stop.request();
        }
    })
    .unwrap();
    assert_eq!((summary.outcome, summary.step), (Outcome::Interrupted, 2));
    assert!(summary.checkpoint.unwrap().ends_with("step-00000002"));
}

#[test]
fn recomputing_on_the_way_back_and_micro_batches_change_no_loss() {
    let losses = |gradient_checkpointing: bool, micro_batch: Option<usize>| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config.train.micro_batch = micro_batch;
        let options = TrainOptions { gradient_checkpointing, ..options(dir.path(), 3, false) };
        run(&config, STREAM.stream(), &options).unwrap().losses
    };
    let plain = losses(false, None);
    for (name, other) in [("checkpointing", losses(true, None)), ("micro-batches", losses(false, Some(1)))] {
        for (step, (a, b)) in plain.iter().zip(&other).enumerate() {
            assert!((a - b).abs() < 1e-6 * a, "{name}, step {step}: {a} {b}");
        }
    }
}

#[test]
fn training_learns() {
    let dir = tempfile::tempdir().unwrap();
    let losses = run(&config(), STREAM.stream(), &options(dir.path(), 40, false)).unwrap().losses;
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[35..]));
    assert!(last < 0.97 * first, "{first} -> {last}");
}
