//! Time per batch of the loader as a training run uses it, on one thread and on two.
//!
//! `cargo bench -p benches --bench pipeline`. Voxels are generated with CT-like noise; throughput counts crops.
//! `floor/copy` copies the same number of floats.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hiend_cache::{Cache, CodecPreset};
use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};

use benches::contender::{CROP_LEN, CROP_SIZE};
use benches::volume::Voxels;

fn pipeline(criterion: &mut Criterion) {
    let voxels = Voxels::generated();
    let dir = tempfile::tempdir().expect("a temporary folder");
    voxels.write_cache(dir.path(), [32; 3], CodecPreset::Fast).expect("the folder can be written");
    let config = StreamConfig { crop_size: CROP_SIZE, visits_per_batch: 2, ..StreamConfig::default() };
    let num_crops = config.crops_per_batch();
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Elements(num_crops as u64)).sample_size(20);
    let from = vec![1f32; num_crops * CROP_LEN];
    let mut to = vec![2f32; num_crops * CROP_LEN];
    group.bench_function("floor/copy", |bencher| bencher.iter(|| to.copy_from_slice(&from)));
    for threads in [1, 2] {
        let cache = Arc::new(Cache::open(dir.path()).expect("just written"));
        let options = LoaderOptions { threads, ..LoaderOptions::default() };
        let loader = Loader::open(cache, config.clone(), 1, &options).expect("the cache suits the stream");
        let mut stream = loader.stream(0);
        group.bench_function(format!("{threads} threads"), |bencher| {
            bencher.iter(|| stream.next().expect("a stream has no end").expect("just written").step);
        });
    }
    group.finish();
}

criterion_group!(suite, pipeline);
criterion_main!(suite);
