//! Conversion of one CT of 512 x 512 x 200 voxels of 0.8 x 0.8 x 2 mm, 16-bit `.nii.gz`, on one core.
//!
//! `cargo bench -p benches --bench convert`. Voxels are generated with CT-like noise, or those of the largest case of
//! the cache that `HIEND_BENCH_CACHE` names, mirror-tiled. `read` is the lower bound: inflating the file and nothing
//! else; `whole` ends with the named shard on disk.

#![allow(clippy::print_stderr, reason = "a tool for developers")]

use std::path::Path;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hiend_loader::convert::{Conversion, ConvertOptions};
use hiend_loader::dataset::find;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::volume::{VolumeInfo, read_volume, write_like};

use benches::volume::{Voxels, mirror_tile};

const SHAPE: [usize; 3] = [512, 512, 200];
const SPACING: [f64; 3] = [0.8, 0.8, 2.0];

/// Writes a dataset in nnU-Net layout with one scan; returns the scan's path.
fn dataset(dir: &Path) -> std::path::PathBuf {
    let voxels = match std::env::var_os("HIEND_BENCH_CACHE") {
        Some(cache) => Voxels::of_cache(Path::new(&cache)).expect("HIEND_BENCH_CACHE is a cache"),
        None => Voxels::generated(),
    };
    eprintln!("voxels: {}", voxels.origin);
    write_dataset(dir, &PhantomConfig { cases: 1, seed: 1, spacing_mm: [8.0, 8.0] })
        .expect("the folder can be written");
    let path = dir.join("imagesTr/phantom_000_0000.nii.gz");
    let [x, y, z] = SPACING;
    let affine = [[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let info = VolumeInfo::new(SHAPE, affine).expect("a grid");
    #[expect(clippy::cast_possible_truncation, reason = "HU of a window")]
    let hu = |&value: &u16| (f64::from(value) + voxels.offset) as i16;
    let tiled: Vec<i16> = mirror_tile(&voxels.values, voxels.shape, SHAPE).iter().map(hu).collect();
    std::fs::remove_dir_all(dir.join("labelsTr")).expect("just written");
    std::fs::create_dir(dir.join("labelsTr")).expect("just removed");
    write_like(&path, &info, &tiled).expect("the folder can be written");
    path
}

fn converting(criterion: &mut Criterion) {
    let data = tempfile::tempdir().expect("a temporary folder");
    let scan = dataset(data.path());
    let mut group = criterion.benchmark_group("convert");
    group.sample_size(10);
    group.bench_function("read", |bencher| bencher.iter(|| read_volume(&scan).expect("just written").info.shape));
    let datasets = find(data.path()).expect("a dataset");
    let options = ConvertOptions { jobs: 1, ..ConvertOptions::default() };
    group.bench_function("whole", |bencher| {
        let folder = || tempfile::tempdir().expect("a temporary folder");
        bencher.iter_batched(
            folder,
            |out| {
                let cache = out.path().join("cache");
                let conversion = Conversion::new(data.path(), &datasets, &cache).options(options.clone());
                conversion.run().expect("the folder can be written");
                out
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(suite, converting);
criterion_main!(suite);
