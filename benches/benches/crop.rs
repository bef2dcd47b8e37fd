//! Time of one visit on one thread: eight crops of 96³ voxels from shard to augmented floats.
//!
//! `cargo bench -p benches --bench crop`. Voxels are generated with CT-like noise; throughput counts crops.
//! `floor/copy` copies the same number of floats.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hiend_cache::{Cache, CodecPreset};
use hiend_loader::preprocess::normalize::Units;
use hiend_loader::sampler::SampleBy;
use hiend_loader::transform::Chain;
use hiend_loader::visit::{Floats, VisitPlan, VisitSlot, Visitor};

use benches::contender::{CROP_LEN, CROP_SIZE};
use benches::volume::Voxels;

const NUM_CROPS: usize = 8;

fn crop(criterion: &mut Criterion) {
    let voxels = Voxels::generated();
    let mut group = criterion.benchmark_group("visit");
    group.throughput(Throughput::Elements(NUM_CROPS as u64)).sample_size(20);
    let mut images = vec![1f32; NUM_CROPS * CROP_LEN];
    let volume = voxels.to_f32();
    group.bench_function("floor/copy", |bencher| {
        bencher.iter(|| images.copy_from_slice(&volume[..NUM_CROPS * CROP_LEN]));
    });
    for (name, preset, augment) in [
        ("recipe, fast", CodecPreset::Fast, Chain::recipe()),
        ("recipe, dense", CodecPreset::Dense, Chain::recipe()),
        ("recipe, lz4", CodecPreset::Lz4, Chain::recipe()),
        ("plain, fast", CodecPreset::Fast, Chain::plain()),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        voxels.write_cache(dir.path(), [32; 3], preset).expect("the folder can be written");
        let cache = Cache::open(dir.path()).expect("just written");
        let plan = VisitPlan {
            crop_size: CROP_SIZE,
            num_crops: NUM_CROPS,
            foreground_rate: 0.75,
            sample_by: SampleBy::Intensity,
            augment,
            units: Units::Window([-175.0, 250.0]),
            seed: 1,
        };
        let (mut visitor, mut epoch) = (Visitor::default(), 0);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                epoch += 1;
                let mut slot = VisitSlot::<Floats> { images: &mut images, labels: None };
                visitor.visit((&cache.cases()[0], None), epoch, &plan, &mut slot).expect("just written");
            });
        });
    }
    group.finish();
}

criterion_group!(suite, crop);
criterion_main!(suite);
