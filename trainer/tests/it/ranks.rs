//! Tests of several ranks connected by TCP: they give the same bits as one process, end together, and can be resumed
//! with any number.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use hiend_cache::{Abandoned, FileError};
use hiend_trainer::checkpoint;
use hiend_trainer::config::MicroBatch;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::device::Compute;
use hiend_trainer::distributed::{AllReduce, Cause, Master, ProcessGroup, ReduceError, Sums, Timeouts, Token, World};
use hiend_trainer::feed::SourceError;
use hiend_trainer::journal::{Entry, read};
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::testing::{SyntheticStream, small_pretraining};
use hiend_trainer::training::{Event, Outcome, Stop, Stream, Summary, TrainOptions, TrainingError};

const STREAM: SyntheticStream = SyntheticStream { seed: 3, crop_size: [16; 3], crops: 8, steps_per_epoch: 4 };

/// Timeouts so long that, even on a busy machine, they never fail a test that expects no failure.
const TIMEOUTS: Timeouts =
    Timeouts { join: Duration::from_mins(5), peer: Duration::from_mins(5), step: Duration::from_mins(10) };

fn config() -> PretrainConfig {
    let mut config = small_pretraining(4);
    config.model.depth = 4;
    config.model.taps = vec![1, 2];
    config.model.decoder_self_depth = 1;
    config.optim.lr = 1e-3;
    config.optim.clip_norm = Some(1.0);
    config.schedule.warmup = 2;
    config.schedule.total = 40;
    config
}

fn with_micro_batch(crops: usize) -> PretrainConfig {
    let mut config = config();
    config.train.micro_batch = Some(MicroBatch::Crops(crops));
    config
}

/// Places of `num_ranks` ranks that find each other through a file in `dir`.
pub(crate) fn worlds(dir: &Path, num_ranks: usize) -> Vec<World> {
    let master = Master::File(dir.join("address"));
    let world = |rank| World {
        rank,
        num_ranks,
        local_rank: rank,
        num_sharing: num_ranks,
        may_see_one_gpu: false,
        master: master.clone(),
    };
    (0..num_ranks).map(world).collect()
}

/// Runs `rank` in a thread for each rank, with its process group.
pub(crate) fn each_rank<T: Send>(num_ranks: usize, rank: impl Fn(Arc<ProcessGroup>) -> T + Sync) -> Vec<T> {
    let (dir, token) = (tempfile::tempdir().unwrap(), Token::random().unwrap());
    let worlds = worlds(dir.path(), num_ranks);
    std::thread::scope(|scope| {
        let start = |world: &World| {
            let (world, token, rank) = (world.clone(), &token, &rank);
            scope.spawn(move || rank(ProcessGroup::join(&world, token, TIMEOUTS, None).unwrap()))
        };
        let threads: Vec<_> = worlds.iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

type Run = Result<Summary, TrainingError>;

fn options(run_dir: &Path, steps: u64, resume: bool) -> TrainOptions {
    TrainOptions { max_steps: Some(steps), resume: resume.into(), ..TrainOptions::new(run_dir) }
}

/// Trains on `ranks` ranks; returns the result of each.
fn run(
    config: &PretrainConfig,
    stream: fn() -> Stream,
    run_dir: &Path,
    ranks: usize,
    steps: u64,
    resume: bool,
) -> Vec<Run> {
    if ranks == 1 {
        return vec![pretrain(config, stream(), &Compute::cpu(), &options(run_dir, steps, resume), &mut |_| ())];
    }
    each_rank(ranks, |group| {
        let options = TrainOptions { group: Some(group), ..options(run_dir, steps, resume) };
        pretrain(config, stream(), &Compute::cpu(), &options, &mut |_| ())
    })
}

fn stream() -> Stream {
    STREAM.stream()
}

fn bits(losses: &[f64]) -> Vec<u64> {
    losses.iter().map(|loss| loss.to_bits()).collect()
}

/// Losses of rank 0, after all ranks have ended without an error.
fn losses(runs: Vec<Run>) -> Vec<f64> {
    let mut summaries: Vec<Summary> = runs.into_iter().map(Result::unwrap).collect();
    assert!(
        summaries.iter().all(|summary| summary.outcome == summaries[0].outcome && summary.step == summaries[0].step)
    );
    summaries.swap_remove(0).losses
}

#[test]
fn ranks_give_the_bits_of_one_process_with_the_same_micro_batches() {
    // Each crop is computed in a micro-batch of two, and four micro-batches are added in pairs, independent of the rank
    // that computes them.
    let config = with_micro_batch(2);
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [one, two, four] = [1, 2, 4].map(|ranks| {
        let dir = dirs[ranks / 2].path();
        losses(run(&config, stream, dir, ranks, 6, false))
    });
    println!("losses of 1 process: {one:?}\n             2 ranks: {two:?}\n             4 ranks: {four:?}");
    assert_eq!((one.len(), bits(&one)), (6, bits(&two)));
    assert_eq!(bits(&one), bits(&four));
}

#[test]
fn ranks_give_the_losses_of_one_process_with_the_whole_batch() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let six = || SyntheticStream { crops: 6, ..STREAM }.stream();
    let one = losses(run(&config(), six, dirs[0].path(), 1, 6, false));
    for (ranks, dir) in [2, 3].into_iter().zip(&dirs[1..]) {
        let many = losses(run(&config(), six, dir.path(), ranks, 6, false));
        let error = one.iter().zip(&many).fold(0f64, |most, (a, b)| most.max((a - b).abs() / a));
        println!("{ranks} ranks: losses differ by {error:.1e} at most");
        assert_eq!(many.len(), 6);
        // Sums of f32 gradients in another order, over six steps: 2^-24 times a few.
        assert!(error < 1e-5, "{ranks} ranks: {one:?} and {many:?}");
    }
}

#[test]
fn run_on_four_ranks_continues_on_two_and_on_one() {
    let config = with_micro_batch(2);
    let (straight_dir, parts_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let straight = losses(run(&config, stream, straight_dir.path(), 1, 6, false));
    let parts: Vec<f64> = [(4, 2), (2, 4), (1, 6)]
        .into_iter()
        .flat_map(|(ranks, steps)| losses(run(&config, stream, parts_dir.path(), ranks, steps, ranks < 4)))
        .collect();
    assert_eq!(bits(&straight), bits(&parts));
}

#[test]
fn journal_has_the_times_of_every_rank() {
    let dir = tempfile::tempdir().unwrap();
    losses(run(&config(), stream, dir.path(), 2, 2, false));
    let entries = read(&dir.path().join("journal.jsonl")).unwrap().map(Result::unwrap);
    let ranks: Vec<_> =
        entries.filter_map(|entry| if let Entry::Step(record) = entry { Some(record.ranks) } else { None }).collect();
    assert_eq!(ranks.len(), 2);
    for step in ranks {
        assert_eq!(step.iter().map(|rank| rank.rank).collect::<Vec<_>>(), [0, 1]);
        assert!(step.iter().any(|rank| rank.behind_ms == 0.0), "{step:?}");
    }
}

#[test]
fn failing_rank_ends_all_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let failing = || {
        let mut stream = SyntheticStream { crops: 6, ..STREAM }.stream();
        stream.open = Box::new(|start, share| {
            let fails = move |step: u64| share.0 == 1 && step == 3;
            let batches = SyntheticStream { crops: 6, ..STREAM }.share(start, share).zip(start..);
            Ok(Box::new(
                batches.map(move |(batch, step)| if fails(step) { Err(SourceError::from("gone")) } else { batch }),
            ))
        });
        stream
    };
    let runs = run(&config(), failing, dir.path(), 3, 6, false);
    let errors: Vec<String> =
        runs.into_iter().map(|run| format!("{:#}", anyhow::Error::from(run.unwrap_err()))).collect();
    // The weights are sound, so rank 0 saves the steps before the failure.
    let saved = checkpoint::latest(&dir.path().join("checkpoints")).unwrap().unwrap();
    assert!(saved.ends_with("step-00000003"), "{}", saved.display());
    let named = |error: &str, stopped: &[&str]| {
        error.starts_with("rank 1 (")
            && stopped.iter().any(|stopped| error.contains(&format!(") failed: no batch for step 3: gone; {stopped}")))
    };
    let end = format!("; last good checkpoint: {}", saved.display());
    assert!(named(&errors[0], &["stopped after step 3"]) && errors[0].ends_with(&end), "{errors:?}");
    assert_eq!(errors[1], "no batch for step 3: gone");
    // The failure may arrive before the last sum of step 3.
    assert!(named(&errors[2], &["stopped after step 2", "stopped after step 3"]), "{errors:?}");
}

/// Lets rank `waits` of two wait for a batch that does not come while the other one fails, and checks that both name the
/// rank that failed.
fn fail_next_to_a_rank_that_waits(waits: usize, stream: fn() -> Stream) {
    let dir = tempfile::tempdir().unwrap();
    let errors: Vec<TrainingError> =
        run(&config(), stream, dir.path(), 2, 6, false).into_iter().map(Result::unwrap_err).collect();
    let named = match &errors[waits] {
        TrainingError::Rank { failure, step: 3, .. } => failure.to_string(),
        error => panic!("{error:?}"),
    };
    assert!(named.contains(") failed: no batch for step 3: gone"), "{named}");
    assert!(named.starts_with(&format!("rank {} (", 1 - waits)), "{named}");
    assert_eq!(hiend_cache::with_sources(&errors[1 - waits]), "no batch for step 3: gone");
    let saved = checkpoint::latest(&dir.path().join("checkpoints")).unwrap().unwrap();
    assert!(saved.ends_with("step-00000003"), "{}", saved.display());
}

/// Stream that gives no batch of step 3: rank `waits` waits a minute for it, the others fail.
fn stream_that_stops(waits: usize) -> Stream {
    let mut stream = STREAM.stream();
    stream.open = Box::new(move |start, share| {
        let fails = move |step: u64| {
            if step != 3 {
                return false;
            }
            if share.0 == waits {
                // The thread is left behind.
                std::thread::sleep(Duration::from_mins(1));
            }
            true
        };
        let batches = STREAM.share(start, share).zip(start..);
        Ok(Box::new(batches.map(move |(batch, step)| if fails(step) { Err(SourceError::from("gone")) } else { batch })))
    });
    stream
}

#[test]
fn failure_ends_a_rank_that_waits_for_its_data() {
    fail_next_to_a_rank_that_waits(1, || stream_that_stops(1));
}

#[test]
fn failure_ends_the_first_rank_while_it_waits_for_its_data() {
    fail_next_to_a_rank_that_waits(0, || stream_that_stops(0));
}

#[test]
fn rank_stopped_while_storage_is_away_stops_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let away = || {
        let mut stream = STREAM.stream();
        stream.open = Box::new(|start, share| {
            let stopped = move |step: u64| share.0 == 1 && step == 3;
            let abandoned = || std::io::Error::new(std::io::ErrorKind::Interrupted, Abandoned);
            let error = move || FileError::at("s3://bucket/shard", "fetch")(abandoned());
            let batches = STREAM.share(start, share).zip(start..);
            Ok(Box::new(batches.map(move |(batch, step)| if stopped(step) { Err(error().into()) } else { batch })))
        });
        stream
    };
    let errors: Vec<TrainingError> =
        run(&config(), away, dir.path(), 2, 6, false).into_iter().map(Result::unwrap_err).collect();
    assert!(errors.iter().all(TrainingError::is_stop), "{errors:?}");
    let cause = match &errors[0] {
        TrainingError::Rank { failure, .. } => (failure.rank, &failure.cause),
        error => panic!("{error}"),
    };
    assert!(matches!(cause, (1, Cause::Stopped(_))), "{cause:?}");
    // The steps done are saved.
    let saved = checkpoint::latest(&dir.path().join("checkpoints")).unwrap().unwrap();
    assert!(saved.ends_with("step-00000003"), "{}", saved.display());
}

#[test]
fn rank_with_only_corrupt_cases_takes_part() {
    let dir = tempfile::tempdir().unwrap();
    // The second rank's share of step 1 is lost, and both of step 2.
    let damaged = || {
        let mut stream = STREAM.stream();
        stream.open = Box::new(|start, share| {
            let lost = move |step: u64| step == 2 || (share.0 == 1 && step == 1);
            let empty = |step| SyntheticStream { crops: 0, ..STREAM }.batch(step);
            let batches = STREAM.share(start, share).zip(start..);
            Ok(Box::new(batches.map(move |(batch, step)| if lost(step) { Ok(empty(step)) } else { batch })))
        });
        stream
    };
    let losses = losses(run(&config(), damaged, dir.path(), 2, 5, false));
    assert_eq!(losses.len(), 4);
    assert!(losses.iter().all(|loss| loss.is_finite()));
}

#[test]
fn rank_with_another_setting_is_named_before_the_first_step() {
    let check = |change: fn(&mut PretrainConfig, &mut TrainOptions), expected: &str| {
        let dir = tempfile::tempdir().unwrap();
        let runs = each_rank(3, |group| {
            let (mut config, mut options) = (config(), options(dir.path(), 3, false));
            if group.rank() == 2 {
                change(&mut config, &mut options);
            }
            let options = TrainOptions { group: Some(group), ..options };
            let six = SyntheticStream { crops: 6, ..STREAM }.stream();
            pretrain(&config, six, &Compute::cpu(), &options, &mut |_| ())
        });
        let errors: Vec<TrainingError> = runs.into_iter().map(Result::unwrap_err).collect();
        // A rank may hear of the disagreement from one that has ended on it already.
        assert!(errors.iter().any(|error| matches!(error, TrainingError::Disagreement { rank: 2, .. })), "{errors:?}");
        for text in errors.iter().map(ToString::to_string) {
            assert!(text.contains("rank 2 (") && text.contains(expected), "{text}");
        }
        assert!(!dir.path().join("checkpoints").exists());
    };
    check(|config, _| config.optim.lr = 0.5, "config differs in optim.lr: 0.5, rank 0 has 0.001");
    check(|_, options| options.max_steps = Some(2), "last step differs (--max-steps): 2, rank 0 has 3");
}

#[test]
fn rank_without_the_checkpoint_is_named() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&dir, &other] {
        // Another loss in the state of the second one.
        let seed = if folder.path() == dir.path() { 3 } else { 4 };
        let stream = SyntheticStream { seed, ..STREAM }.stream();
        let stream = Stream { digest: "the same".into(), ..stream };
        pretrain(&config(), stream, &Compute::cpu(), &options(folder.path(), 1, false), &mut |_| ()).unwrap();
    }
    let runs = each_rank(2, |group| {
        let folder = if group.rank() == 0 { &dir } else { &other };
        let options = TrainOptions { group: Some(group), ..options(folder.path(), 2, true) };
        let stream = Stream { digest: "the same".into(), ..STREAM.stream() };
        pretrain(&config(), stream, &Compute::cpu(), &options, &mut |_| ())
    });
    for run in runs {
        let error = run.unwrap_err().to_string();
        assert!(error.contains("its checkpoint differs from rank 0's"), "{error}");
    }
}

#[test]
fn stop_at_any_rank_ends_all_after_the_same_step() {
    let dir = tempfile::tempdir().unwrap();
    let stop = Stop::default();
    let runs = each_rank(2, |group| {
        let own = if group.rank() == 1 { stop.clone() } else { Stop::default() };
        let options = TrainOptions { group: Some(group), stop: own, ..options(dir.path(), 40, false) };
        let mut watch = |event: &Event<'_>| {
            if matches!(event, Event::Step(record) if record.step == 2) {
                stop.request();
            }
        };
        pretrain(&config(), stream(), &Compute::cpu(), &options, &mut watch)
    });
    let summaries: Vec<Summary> = runs.into_iter().map(Result::unwrap).collect();
    // The request is seen by the exchange of step 3, or of step 4 if rank 1 had sent its facts already.
    assert!((3..=4).contains(&summaries[0].step), "{}", summaries[0].step);
    for summary in &summaries {
        assert_eq!((summary.outcome, summary.step), (Outcome::Interrupted, summaries[0].step));
    }
    let saved = checkpoint::latest(&dir.path().join("checkpoints")).unwrap().unwrap();
    assert!(saved.ends_with(format!("step-{:08}", summaries[0].step)), "{}", saved.display());
}

#[test]
fn run_that_cannot_begin_ends_the_others_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    losses(run(&config(), stream, dir.path(), 1, 1, false));
    let runs = run(&config(), stream, dir.path(), 2, 2, false);
    let errors: Vec<String> = runs.into_iter().map(|run| run.unwrap_err().to_string()).collect();
    assert!(errors[0].contains("already holds a run"), "{errors:?}");
    assert!(errors[1].starts_with("rank 0 (") && errors[1].contains("already holds a run"), "{errors:?}");
}

/// Stand-in for a sum over two ranks with equal tensors, which doubles them.
struct Doubled {
    is_on_host: bool,
}

impl AllReduce for Doubled {
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, ReduceError> {
        // A device takes buckets as one tensor.
        assert!(self.is_on_host || tensors.len() == 1, "{} tensors", tensors.len());
        Ok(tensors.into_iter().map(|tensor| tensor * 2.0).collect())
    }

    fn is_on_host(&self) -> bool {
        self.is_on_host
    }
}

#[test]
fn buckets_cross_to_a_device_as_one_tensor_and_come_back_in_parts() {
    each_rank(2, |group| {
        for is_on_host in [false, true] {
            let sums = Sums::start(&group, Box::new(Doubled { is_on_host })).unwrap();
            let buckets = [vec![vec![1.0_f32, -0.0, 3.0], vec![0.25], vec![7.0, 1e-30]], vec![vec![5.0]]];
            for bucket in &buckets {
                let tensor = |values: &Vec<f32>| {
                    Tensor::<1>::from_data(TensorData::new(values.clone(), [values.len()]), &Device::flex())
                };
                sums.requests().add(bucket.iter().map(tensor).collect());
            }
            for bucket in &buckets {
                let tensors = sums.wait().unwrap();
                assert_eq!(tensors.len(), bucket.len());
                for (tensor, values) in tensors.into_iter().zip(bucket) {
                    let sum = tensor.into_data().try_to_vec::<f32>().unwrap();
                    let bits = |values: Vec<f32>| -> Vec<u32> { values.into_iter().map(f32::to_bits).collect() };
                    assert_eq!(bits(sum), bits(values.iter().map(|value| 2.0 * value).collect()));
                }
            }
        }
        group.finish().unwrap();
    });
}
