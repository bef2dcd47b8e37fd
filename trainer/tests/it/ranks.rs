//! Several ranks, as threads on the CPU: the losses of a single rank, and no wait for a rank that failed.

use std::path::Path;

use hiend_trainer::checkpoint;
use hiend_trainer::config::pretrain::{PretrainConfig, PretrainPreset};
use hiend_trainer::device::Compute;
use hiend_trainer::feed::SourceError;
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::{Stream, Summary, TrainOptions, TrainingError};

const STREAM: SyntheticStream = SyntheticStream { seed: 3, crop_size: [16; 3], crops: 6, steps_per_epoch: 4 };

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
    config.optim.clip_norm = Some(1.0);
    config.schedule.warmup = 2;
    config.schedule.total = 40;
    config
}

fn run(stream: Stream, run_dir: &Path, ranks: usize, steps: u64, resume: bool) -> Result<Summary, TrainingError> {
    let others = vec![Compute::cpu(); ranks - 1];
    let options = TrainOptions { max_steps: Some(steps), resume: resume.into(), others, ..TrainOptions::new(run_dir) };
    pretrain(&config(), stream, &Compute::cpu(), &options, &mut |_| ())
}

#[test]
fn ranks_give_the_losses_of_one_rank() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let one = run(STREAM.stream(), dirs[0].path(), 1, 8, false).unwrap();
    for (ranks, dir) in [2, 3].into_iter().zip(&dirs[1..]) {
        let many = run(STREAM.stream(), dir.path(), ranks, 8, false).unwrap();
        let error = one.losses.iter().zip(&many.losses).fold(0f64, |most, (a, b)| most.max((a - b).abs() / a));
        println!("{ranks} ranks: losses differ by {error:.1e} at most");
        assert_eq!(many.losses.len(), 8);
        assert!(error < 1e-5, "{ranks} ranks: {:?} and {:?}", one.losses, many.losses);
    }
}

#[test]
fn ranks_resume_bit_for_bit() {
    let (straight_dir, parts_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let straight = run(STREAM.stream(), straight_dir.path(), 2, 6, false).unwrap();
    let mut parts = run(STREAM.stream(), parts_dir.path(), 2, 3, false).unwrap().losses;
    parts.extend(run(STREAM.stream(), parts_dir.path(), 2, 6, true).unwrap().losses);
    let bits = |losses: &[f64]| losses.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&straight.losses), bits(&parts));
}

#[test]
fn failing_rank_ends_the_run_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut stream = STREAM.stream();
    stream.open = Box::new(|start, share| {
        let fails = move |step: u64| share.0 == 1 && step == 3;
        let batches = STREAM.share(start, share).zip(start..);
        Ok(Box::new(batches.map(move |(batch, step)| if fails(step) { Err(SourceError::from("gone")) } else { batch })))
    });
    let error = run(stream, dir.path(), 3, 6, false).unwrap_err();
    // The weights are sound, so the steps before the failure are saved.
    let saved = checkpoint::latest(&dir.path().join("checkpoints")).unwrap().unwrap();
    let expected = "cpu (rank 1) failed at step 4: no batch for step 3: gone; last good checkpoint: ";
    assert_eq!(error.to_string(), format!("{expected}{}", saved.display()));
    assert!(saved.ends_with("step-00000003"), "{}", saved.display());
}

#[test]
fn rank_with_only_corrupt_cases_takes_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut stream = STREAM.stream();
    // The second rank's share of step 1 is lost, and both of step 2.
    stream.open = Box::new(|start, share| {
        let lost = move |step: u64| step == 2 || (share.0 == 1 && step == 1);
        let empty = |step| SyntheticStream { crops: 0, ..STREAM }.batch(step);
        let batches = STREAM.share(start, share).zip(start..);
        Ok(Box::new(batches.map(move |(batch, step)| if lost(step) { Ok(empty(step)) } else { batch })))
    });
    let summary = run(stream, dir.path(), 2, 5, false).unwrap();
    assert_eq!((summary.step, summary.losses.len()), (5, 4));
    assert!(summary.losses.iter().all(|loss| loss.is_finite()));
}
