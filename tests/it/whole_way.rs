//! Test that converts, streams and trains on phantoms as a user would, at a small scale.

use std::path::Path;
use std::sync::Arc;

use hiend_cache::{Cache, VolumeReader};
use hiend_loader::convert::{Conversion, ConvertOptions, Event, Summary};
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::device::{Compute, DeviceChoice};
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::training::{self, Stream};

fn phantoms(dir: &Path, cases: usize) {
    let config = PhantomConfig { cases, seed: 3, spacing_mm: [3.0, 5.0] };
    write_dataset(&dir.join("raw/Dataset007_Phantoms"), &config).unwrap();
}

fn shard(dir: &Path) -> Summary {
    let options = ConvertOptions { jobs: 2, shard_bytes: 1 << 20, ..ConvertOptions::default() };
    let datasets = dataset::find(&dir.join("raw")).unwrap();
    let refuse_skipped = |event: Event<'_>| {
        if let Event::Skipped(skipped) = event {
            panic!("{skipped}");
        }
    };
    let (raw, cache) = (dir.join("raw"), dir.join("cache"));
    Conversion::new(&raw, &datasets, &cache).options(options).observe(refuse_skipped).run().unwrap()
}

fn smoke() -> PretrainConfig {
    PretrainConfig::parse(include_str!("../../configs/smoke.toml"), "configs/smoke.toml").unwrap()
}

#[test]
fn second_conversion_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path(), 2);
    let first = shard(dir.path());
    assert_eq!((first.converted, first.unchanged, first.with_label), (2, 0, 2));
    let before = Cache::open(dir.path().join("cache")).unwrap();
    let second = shard(dir.path());
    assert_eq!((second.converted, second.unchanged, second.shards), (0, 2, 0));
    assert_eq!(Cache::open(dir.path().join("cache")).unwrap().digest(), before.digest());

    // A changed file is converted again, and its new record replaces the old one.
    let config = PhantomConfig { cases: 1, seed: 4, spacing_mm: [3.0, 5.0] };
    let (dataset, other) = (dir.path().join("raw/Dataset007_Phantoms"), dir.path().join("other"));
    write_dataset(&other, &config).unwrap();
    for file in ["imagesTr/phantom_000_0000.nii.gz", "labelsTr/phantom_000.nii.gz"] {
        std::fs::copy(other.join(file), dataset.join(file)).unwrap();
    }
    let third = shard(dir.path());
    assert_eq!((third.converted, third.unchanged), (1, 1));
    let after = Cache::open(dir.path().join("cache")).unwrap();
    assert_eq!(after.cases().len(), 2);
    assert_ne!(after.digest(), before.digest());
    for case in after.cases() {
        let volume = case.read_whole(&mut VolumeReader::new()).unwrap();
        assert_eq!(volume.image.len(), volume.shape.iter().product::<usize>());
    }
}

#[test]
fn batches_depend_only_on_their_step() {
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path(), 3);
    shard(dir.path());
    let cache = Arc::new(Cache::open(dir.path().join("cache")).unwrap());
    let config = StreamConfig {
        crop_size: [48; 3],
        crops_per_visit: 2,
        visits_per_batch: 2,
        labels: true,
        ..StreamConfig::default()
    };
    let open = |threads: usize, rank: (usize, usize)| {
        let options = LoaderOptions { threads, rank, ..LoaderOptions::default() };
        Loader::open(Arc::clone(&cache), config.clone(), 11, &options).unwrap()
    };
    let digests = |loader: &Loader, start: u64, count: usize| -> Vec<String> {
        loader.stream(start).take(count).map(|batch| batch.unwrap().digest()).collect()
    };
    let all = digests(&open(1, (0, 1)), 0, 6);
    assert_eq!(digests(&open(2, (0, 1)), 0, 6), all);
    assert_eq!(digests(&open(5, (0, 1)), 0, 6), all);
    assert_eq!(digests(&open(2, (0, 1)), 4, 2), all[4..]);

    // Two ranks receive the two halves of the same batch.
    let whole = open(2, (0, 1)).stream(3).next().unwrap().unwrap();
    let halves = [0, 1].map(|rank| open(2, (rank, 2)).stream(3).next().unwrap().unwrap());
    let joined: Vec<f32> = halves.iter().flat_map(|half| half.to_floats().into_owned()).collect();
    assert_eq!(joined, whole.to_floats().into_owned());
    let crops: Vec<_> = halves.iter().flat_map(|half| half.crops.clone()).collect();
    assert_eq!(crops, whole.crops);
}

#[test]
fn training_on_a_cache_resumes_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path(), 2);
    shard(dir.path());
    let cache = Arc::new(Cache::open(dir.path().join("cache")).unwrap());
    let compute = Compute::open(DeviceChoice::Cpu).unwrap();
    let config = smoke();
    let run = |name: &str, max_steps: u64, resume: bool| {
        let stream =
            Stream::open(Arc::clone(&cache), &config.stream, config.train.seed, &LoaderOptions::default()).unwrap();
        let mut options = training::TrainOptions::new(dir.path().join(name));
        options.max_steps = Some(max_steps);
        options.resume = resume.into();
        let summary = pretrain(&config, stream, &compute, &options, &mut |_| {}).unwrap();
        assert!(summary.picture.is_some_and(|picture| picture.exists()));
        summary.losses
    };
    let straight = run("straight", 5, false);
    let mut parts = run("parts", 2, false);
    parts.extend(run("parts", 5, true));
    assert_eq!(straight, parts);
    assert!(straight.iter().all(|loss| loss.is_finite()));
}
