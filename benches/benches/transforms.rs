//! Time of each augmentation transform and of the chains, on one core.
//!
//! `cargo bench -p benches --bench transforms`. Throughput counts the bytes of the resulting 96³ f32 crop; `floor/copy`
//! is a plain copy of it, the lower bound for a transform that writes a new crop. The image is noise over a ramp and the
//! labels are three slabs: values affect the time of a transform only through the processor's caches.
//!
//! `chain/*` applies the sampled parameters of many crops, so that its time is the mean over the probabilities.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "voxel counts of a crop and labels below three convert without loss"
)]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use hiend_loader::rng::DrawId;
use hiend_loader::transform::{
    BrightnessParams, Chain, ContrastParams, CropMut, CropRef, GammaParams, GaussianBlurParams, GaussianNoiseParams,
    LowResolutionParams, MirrorParams, Polarity, SampledParams, Scratch, SpatialParams,
};

const SHAPE: [usize; 3] = [96; 3];
const NUM_VOXELS: usize = 96 * 96 * 96;

fn image(shape: [usize; 3]) -> Vec<f32> {
    let num_voxels = shape.iter().product::<usize>();
    let mut voxels: Vec<f32> = (0..num_voxels).map(|i| i as f32 / num_voxels as f32).collect();
    GaussianNoiseParams { std: 0.05, seed: 1 }.apply(&mut voxels);
    voxels
}

fn labels(shape: [usize; 3]) -> Vec<u8> {
    let num_voxels = shape.iter().product::<usize>();
    (0..num_voxels).map(|i| (3 * i / num_voxels) as u8).collect()
}

fn in_place(group: &mut BenchmarkGroup<WallTime>, name: &str, mut apply: impl FnMut(&mut [f32], &mut Scratch)) {
    let mut crop = image(SHAPE);
    let fresh = crop.clone();
    let mut scratch = Scratch::new();
    let mut since_fresh = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            // Repeated contrast or gamma would drive the crop to values it never has in training; a copy every 64th time
            // keeps it close to the original and costs almost nothing.
            if since_fresh == 64 {
                crop.copy_from_slice(&fresh);
                since_fresh = 0;
            }
            since_fresh += 1;
            apply(&mut crop, &mut scratch);
        });
    });
}

fn transforms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transform");
    group.throughput(Throughput::Bytes(4 * NUM_VOXELS as u64));

    let from = image(SHAPE);
    let mut to = vec![0.0f32; NUM_VOXELS];
    group.bench_function("floor/copy", |bencher| bencher.iter(|| to.copy_from_slice(&from)));

    for (name, params) in [
        ("spatial/scale 0.7", SpatialParams { rotation_degrees: [0.0; 3], scale: 0.7 }),
        ("spatial/scale 1.4", SpatialParams { rotation_degrees: [0.0; 3], scale: 1.4 }),
        ("spatial/rotation 15", SpatialParams { rotation_degrees: [15.0, -15.0, 15.0], scale: 1.0 }),
        ("spatial/rotation 30 scale 1.4", SpatialParams { rotation_degrees: [30.0, 30.0, -30.0], scale: 1.4 }),
    ] {
        let source_shape = params.source_box(SHAPE);
        let source = image(source_shape);
        let mut scratch = Scratch::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| params.apply_image(&source, source_shape, &mut to, SHAPE, &mut scratch));
        });
    }
    let params = SpatialParams { rotation_degrees: [15.0, -15.0, 15.0], scale: 1.0 };
    let source_shape = params.source_box(SHAPE);
    let source = labels(source_shape);
    let mut carried = vec![0u8; NUM_VOXELS];
    group.bench_function("spatial/labels", |bencher| {
        bencher.iter(|| params.apply_labels(&source, source_shape, &mut carried, SHAPE));
    });

    in_place(&mut group, "gaussian_noise", |crop, _| GaussianNoiseParams { std: 1e-4, seed: 3 }.apply(crop));
    in_place(&mut group, "gaussian_blur/3 taps", |crop, scratch| {
        GaussianBlurParams { sigma: [0.55; 3] }.apply(crop, SHAPE, scratch);
    });
    in_place(&mut group, "gaussian_blur/7 taps", |crop, scratch| {
        GaussianBlurParams { sigma: [1.0; 3] }.apply(crop, SHAPE, scratch);
    });
    in_place(&mut group, "brightness", |crop, _| BrightnessParams { factor: 1.0001 }.apply(crop));
    in_place(&mut group, "contrast", |crop, _| ContrastParams { factor: 0.9999 }.apply(crop));
    in_place(&mut group, "low_resolution", |crop, scratch| {
        LowResolutionParams { scale: 0.75 }.apply(crop, SHAPE, scratch);
    });
    in_place(&mut group, "gamma", |crop, _| {
        GammaParams { exponent: 0.97, polarity: Polarity::Plain, retain_stats: true }.apply(crop);
    });
    in_place(&mut group, "mirror/x", |crop, _| MirrorParams { axes: [true, false, false] }.apply(crop, SHAPE));
    in_place(&mut group, "mirror/xyz", |crop, _| MirrorParams { axes: [true; 3] }.apply(crop, SHAPE));
    group.finish();
}

fn chains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chain");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(std::time::Duration::from_secs(15));
    // One allocation holds the largest source box; each crop uses the front of it.
    let sample_all = |chain: Chain| -> Vec<SampledParams> {
        (0..2048).map(|crop| chain.sample_params(&DrawId { seed: 1, epoch: 0, case: 0, crop })).collect()
    };
    for (name, chain, with_labels) in [
        ("recipe, plain form", Chain::recipe(), false),
        ("nnunet", Chain::nnunet(), false),
        ("nnunet with labels", Chain::nnunet(), true),
    ] {
        let all = sample_all(chain);
        let largest =
            all.iter().map(|d| d.source_box(SHAPE)).max_by_key(|s| s.iter().product::<usize>()).unwrap_or(SHAPE);
        let (source, source_labels) = (image(largest), labels(largest));
        let (mut to, mut carried) = (vec![0.0; NUM_VOXELS], vec![0; NUM_VOXELS]);
        let mut scratch = Scratch::new();
        let mut next = all.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let Some(params) = next.next() else { return };
                let shape = params.source_box(SHAPE);
                let num_voxels = shape.iter().product::<usize>();
                let source = CropRef {
                    image: &source[..num_voxels],
                    labels: with_labels.then_some(&source_labels[..num_voxels]),
                    shape,
                };
                let mut crop =
                    CropMut { image: &mut to, labels: with_labels.then_some(&mut carried[..]), shape: SHAPE };
                params.apply(source, &mut crop, &mut scratch);
            });
        });
    }
    group.finish();
}

criterion_group!(suite, transforms, chains);
criterion_main!(suite);
