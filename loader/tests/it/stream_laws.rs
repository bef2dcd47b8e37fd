//! Guarantees of the stream, tested on small caches of known voxels: the inputs that determine it, and the
//! distributions of its crops.

#![allow(clippy::cast_precision_loss, reason = "counts of a test are small")]

mod centres;
mod corruption;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use hiend_cache::{Access, Cache, CodecPreset, Geometry, Manifest, NewCase, ShardWriter, SourceFiles, encode};
use hiend_loader::batch::{Batch, Images, PooledBuffer, VoxelForm};
use hiend_loader::pipeline::{Error, Loader, LoaderOptions, StreamConfig, digest_of};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::sampler::SampleBy;
use hiend_loader::split::{FoldRule, FoldSplit, Part, Split};
use hiend_loader::transform::Chain;
use proptest::prelude::*;

/// Largest background value, as in a cache of the recipe's window.
const FOREGROUND_ABOVE: u16 = 0;
/// Chunk shape, smaller than the volumes and not a divisor of their shape.
const CHUNK: [usize; 3] = [4; 3];

/// Volume of air with a ball of tissue in one corner, and labels 1 and 3 in the ball.
struct TestCase {
    name: String,
    shape: [usize; 3],
    image: Vec<u16>,
    label: Vec<u8>,
}

impl TestCase {
    fn new(number: usize, shape: [usize; 3]) -> Self {
        let [nx, ny, nz] = shape;
        let mut image = Vec::new();
        let mut label = Vec::new();
        for at in 0..nx * ny * nz {
            let [x, y, z] = [at / (ny * nz), at / nz % ny, at % nz];
            let inside = x * x + y * y + z * z < nx * ny;
            // Every value occurs once or twice, so that crops can be distinguished.
            image.push(if inside { u16::try_from(1 + (at * 7 + number * 13) % 425).unwrap() } else { 0 });
            label.push(if !inside {
                0
            } else if x < 2 {
                3
            } else {
                u8::from(y > 0)
            });
        }
        Self { name: format!("case{number:02}"), shape, image, label }
    }

    /// Kind of a voxel: 0 for background, 1 or the label for foreground.
    fn kind(&self, at: usize, sample_by: SampleBy) -> u32 {
        if sample_by == SampleBy::Intensity {
            u32::from(self.image[at] > FOREGROUND_ABOVE)
        } else {
            self.label[at].into()
        }
    }
}

fn write_cache(dir: &Path, dataset: &str, cases: &[TestCase]) -> Arc<Cache> {
    let mut writer = ShardWriter::create(dir, 1, 0).unwrap();
    for case in cases {
        let new = NewCase {
            dataset: dataset.into(),
            case_id: case.name.clone(),
            shape: case.shape,
            image: &case.image,
            image_bits: 9,
            image_offset: -175.0,
            image_scale: 1.0,
            foreground_above: FOREGROUND_ABOVE,
            label: Some(&case.label),
            geometry: Geometry::identity(case.shape),
            source: SourceFiles::default(),
            parameters: "test".into(),
        };
        writer.push(encode(&new, CHUNK, CodecPreset::Fast).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    Manifest { preprocess, ..Manifest::default() }.write(dir).unwrap();
    // Positioned reads, because a test may change a shard that is open.
    Arc::new(Cache::open_with(dir, Access::Pread).unwrap())
}

fn some_cases(n: usize) -> Vec<TestCase> {
    (0..n).map(|number| TestCase::new(number, [9 + number % 3, 7 + number % 2, 11])).collect()
}

fn config(sample_by: SampleBy, augment: Chain) -> StreamConfig {
    StreamConfig {
        crop_size: [6, 6, 5],
        crops_per_visit: 3,
        visits_per_batch: 4,
        sample_by,
        labels: true,
        augment,
        ..StreamConfig::default()
    }
}

fn options(threads: usize, rank: (usize, usize)) -> LoaderOptions {
    LoaderOptions { threads, memory_bytes: 64 << 20, rank, ..LoaderOptions::default() }
}

fn batches(cache: &Arc<Cache>, config: &StreamConfig, options: &LoaderOptions, start: u64, n: usize) -> Vec<Batch> {
    let loader = Loader::open(Arc::clone(cache), config.clone(), 5, options).unwrap();
    loader.stream(start).take(n).map(own).collect()
}

/// Copies a batch, so that its buffers return to the stream.
fn own(batch: Result<Batch, Error>) -> Batch {
    let batch = batch.unwrap();
    Batch {
        images: match &batch.images {
            Images::Floats(values) => Images::Floats(PooledBuffer::unpooled(values.to_vec())),
            Images::Quantized(values, dequantize) => {
                Images::Quantized(PooledBuffer::unpooled(values.to_vec()), dequantize.clone())
            }
            Images::Boxes(values, crops) => Images::Boxes(PooledBuffer::unpooled(values.to_vec()), crops.clone()),
            Images::Chunks(words, crops) => Images::Chunks(PooledBuffer::unpooled(words.to_vec()), crops.clone()),
        },
        labels: batch.labels.as_ref().map(|labels| PooledBuffer::unpooled(labels.to_vec())),
        ..batch
    }
}

fn bits(images: &[f32]) -> Vec<u32> {
    images.iter().map(|value| value.to_bits()).collect()
}

fn digests(batches: &[Batch]) -> Vec<String> {
    batches.iter().map(Batch::digest).collect()
}

fn all_modes() -> impl Iterator<Item = StreamConfig> {
    let chains = [Chain::recipe(), Chain::nnunet(), Chain::plain()];
    [SampleBy::Intensity, SampleBy::Label, SampleBy::Class]
        .into_iter()
        .flat_map(move |sample_by| chains.into_iter().map(move |chain| config(sample_by, chain)))
}

#[test]
fn number_of_threads_changes_no_batch() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), "D", &some_cases(5));
    for config in all_modes() {
        let one = batches(&cache, &config, &options(1, (0, 1)), 0, 4);
        for threads in [2, 7] {
            let many = batches(&cache, &config, &options(threads, (0, 1)), 0, 4);
            assert_eq!(digests(&one), digests(&many), "{threads} threads, {config:?}");
            assert!(one.iter().zip(&many).all(|(a, b)| a.crops == b.crops));
        }
    }
}

#[test]
fn batches_of_all_ranks_make_up_the_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), "D", &some_cases(5));
    for config in all_modes() {
        let whole = batches(&cache, &config, &options(2, (0, 1)), 0, 3);
        for ranks in [2, 4] {
            let shares: Vec<Vec<Batch>> =
                (0..ranks).map(|rank| batches(&cache, &config, &options(2, (rank, ranks)), 0, 3)).collect();
            for (step, whole) in whole.iter().enumerate() {
                let parts = || shares.iter().map(|share| &share[step]);
                assert_eq!(
                    parts().flat_map(|batch| bits(&batch.to_floats())).collect::<Vec<_>>(),
                    bits(&whole.to_floats())
                );
                let labels = |batch: &Batch| batch.labels.as_deref().unwrap().to_vec();
                assert_eq!(parts().flat_map(labels).collect::<Vec<_>>(), labels(whole));
                assert_eq!(parts().flat_map(|batch| batch.crops.clone()).collect::<Vec<_>>(), whole.crops);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn resumed_stream_continues_the_same_batches(start in 0u64..12, cases in 1usize..7, weights in [1u32..4, 1u32..4]) {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let caches = [
            (write_cache(first.path(), "D", &some_cases(cases)), weights[0]),
            (write_cache(second.path(), "E", &some_cases(3)), weights[1]),
        ];
        let config = config(SampleBy::Intensity, Chain::recipe());
        let open = |threads| Loader::open_mix(caches.to_vec(), config.clone(), 5, &options(threads, (0, 1))).unwrap();
        let whole: Vec<Batch> = open(2).stream(0).take(14).map(own).collect();
        let late: Vec<Batch> = open(1).stream(start).take(2).map(own).collect();
        prop_assert_eq!(digests(&late), digests(&whole)[usize::try_from(start).unwrap()..][..2].to_vec());
        prop_assert_eq!(late[0].step, start);
    }
}

#[test]
fn every_case_comes_once_per_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), "D", &some_cases(7));
    let config = config(SampleBy::Intensity, Chain::recipe());
    // 7 batches of 4 visits are 4 epochs of 7 cases.
    let mut seen: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for batch in batches(&cache, &config, &options(2, (0, 1)), 0, 7) {
        for crop in batch.crops.iter().step_by(3) {
            seen.entry(crop.epoch).or_default().push(crop.case.clone());
        }
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    for cases in seen.values() {
        assert_eq!(cases.len(), 7);
        assert_eq!(cases.iter().collect::<BTreeSet<_>>().len(), 7);
    }
}

#[test]
fn small_volumes_are_padded_with_the_lower_end_of_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let case = TestCase { image: vec![425; 60], label: vec![2; 60], ..TestCase::new(0, [3, 4, 5]) };
    let cache = write_cache(dir.path(), "D", std::slice::from_ref(&case));
    let padded = |augment: Chain| {
        let config = StreamConfig { crop_size: [8; 3], ..config(SampleBy::Intensity, augment) };
        batches(&cache, &config, &options(2, (0, 1)), 0, 12)
    };
    for batch in padded(Chain::plain()) {
        for (crop, labels) in batch.to_floats().chunks_exact(512).zip(batch.labels.as_ref().unwrap().chunks_exact(512))
        {
            // The volume is in the middle: 2 voxels before it along x and y, 1 along z.
            for (at, (&value, &label)) in crop.iter().zip(labels).enumerate() {
                let [x, y, z] = [at / 64, at / 8 % 8, at % 8];
                let inside = (2..5).contains(&x) && (2..6).contains(&y) && (1..6).contains(&z);
                let (expected, expected_label) = if inside { (1.0, 2) } else { (0.0, 0) };
                assert_eq!(label, expected_label, "{x} {y} {z}");
                // The padding is exact; a voxel is rounded.
                assert!((value - expected).abs() <= if inside { 1e-6 } else { 0.0 }, "{x} {y} {z}: {value}");
            }
        }
    }
    // Padding is 0 before intensity augmentation: shifted like every voxel, and unchanged by scaling.
    let mut shifted = 0;
    for batch in padded(Chain::recipe()) {
        for (crop, record) in batch.to_floats().chunks_exact(512).zip(&batch.crops) {
            let floors: BTreeSet<u32> = crop.iter().map(|value| value.to_bits()).collect();
            assert_eq!(floors.len(), 2, "{record:?}");
            let floor = crop.iter().copied().fold(f32::INFINITY, f32::min);
            let shift = record.augmentation.iter().find(|phrase| phrase.contains("shift"));
            assert_eq!(floor == 0.0, shift.is_none(), "{record:?}");
            shifted += usize::from(shift.is_some());
        }
    }
    assert!(shifted > 0);
}

#[test]
fn mixed_caches_keep_their_own_epochs() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = write_cache(first.path(), "A", &some_cases(3));
    let b = write_cache(second.path(), "B", &some_cases(5));
    let config = config(SampleBy::Intensity, Chain::plain());
    let loader = Loader::open_mix(vec![(Arc::clone(&a), 3), (b, 1)], config.clone(), 5, &options(2, (0, 1))).unwrap();
    assert_eq!((loader.num_cases(), loader.steps_per_epoch()), (8, 2));
    let crops: Vec<_> = loader.stream(0).take(20).flat_map(|batch| batch.unwrap().crops).step_by(3).collect();
    for (dataset, cases, visits) in [("A/", 3, 60), ("B/", 5, 20)] {
        let own: Vec<_> = crops.iter().filter(|crop| crop.case.starts_with(dataset)).collect();
        assert_eq!(own.len(), visits);
        for (number, epoch) in own.chunks(cases).enumerate() {
            assert!(epoch.iter().all(|crop| crop.epoch == number as u64), "{epoch:?}");
            assert_eq!(epoch.iter().map(|crop| &crop.case).collect::<BTreeSet<_>>().len(), cases);
        }
    }
    // The first cache is visited in the order that it has alone.
    let alone = batches(&a, &config, &options(2, (0, 1)), 0, 3);
    let alone: Vec<_> = alone.iter().flat_map(|batch| &batch.crops).step_by(3).collect();
    let mixed: Vec<_> = crops.iter().filter(|crop| crop.case.starts_with("A/")).collect();
    assert!(alone.iter().zip(mixed).all(|(a, b)| a == &b));
    assert_eq!(Loader::open(Arc::clone(&a), config, 5, &options(1, (0, 1))).unwrap().digest(), a.digest());
}

#[test]
fn split_streams_its_own_cases() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), "D", &some_cases(12));
    let stream = |split: Split| {
        let config = StreamConfig { split, ..config(SampleBy::Intensity, Chain::plain()) };
        let loader = Loader::open(Arc::clone(&cache), config, 5, &options(2, (0, 1))).unwrap();
        let batches: Vec<Batch> = loader.stream(0).take(12).map(own).collect();
        let seen: BTreeSet<String> = batches.iter().flat_map(|b| &b.crops).map(|crop| crop.case.clone()).collect();
        assert_eq!(seen.len(), loader.num_cases());
        seen
    };
    let fold = |part| Split::Fold(FoldSplit { fold: 0, of: 3, part, seed: 1, rule: FoldRule::Dealt });
    let (train, validation) = (stream(fold(Part::Train)), stream(fold(Part::Validation)));
    assert!(train.is_disjoint(&validation) && !validation.is_empty());
    assert_eq!(train.len() + validation.len(), 12);
    let refused = |config| Loader::open(Arc::clone(&cache), config, 5, &LoaderOptions::default()).err().unwrap();
    let error = refused(StreamConfig { exclude: vec!["D".into()], ..StreamConfig::default() }).to_string();
    assert!(error.contains("include, exclude and split leave none of its") && !error.contains("rule"), "{error}");
    // Nearly all of a thousand hashed folds are empty.
    let hashed = |fold| FoldSplit { fold, of: 1000, part: Part::Validation, seed: 1, rule: FoldRule::Hashed };
    let split = |fold| StreamConfig { split: Split::Fold(hashed(fold)), ..StreamConfig::default() };
    let empty = (0..20).find_map(|fold| digest_of(&cache, &split(fold)).err());
    assert!(
        empty.unwrap().to_string().contains("leave none of its 12 cases; a fold by rule = \"hashed\" may be empty")
    );
}

#[test]
fn quantized_crops_finish_as_the_floats() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), "D", &some_cases(5));
    for chain in [Chain::plain(), Chain::recipe()] {
        let config = config(SampleBy::Intensity, chain);
        let floats = batches(&cache, &config, &options(2, (0, 1)), 0, 4);
        let quantized = LoaderOptions { form: VoxelForm::Quantized, ..options(2, (0, 1)) };
        for (floats, quantized) in floats.iter().zip(batches(&cache, &config, &quantized, 0, 4)) {
            assert!(matches!(&quantized.images, Images::Quantized(_, all) if all.len() == quantized.crops.len()));
            assert_eq!(bits(&floats.to_floats()), bits(&quantized.to_floats()));
            assert_eq!((floats.digest(), &floats.crops), (quantized.digest(), &quantized.crops));
        }
    }
    let nnunet = config(SampleBy::Intensity, Chain::nnunet());
    let refused = Loader::open(cache, nnunet, 5, &LoaderOptions { form: VoxelForm::Quantized, ..options(2, (0, 1)) });
    assert!(refused.err().unwrap().to_string().starts_with("stream.augment: "));
}

#[test]
fn boxes_finish_as_the_floats() {
    let dir = tempfile::tempdir().unwrap();
    let cache = write_cache(dir.path(), "D", &some_cases(5));
    for config in all_modes() {
        let floats = batches(&cache, &config, &options(2, (0, 1)), 0, 4);
        let boxes = LoaderOptions { form: VoxelForm::Boxes, ..options(2, (0, 1)) };
        for (floats, boxes) in floats.iter().zip(batches(&cache, &config, &boxes, 0, 4)) {
            assert!(matches!(&boxes.images, Images::Boxes(_, crops) if crops.len() == boxes.crops.len()));
            assert_eq!(boxes.labels.as_ref().unwrap().len(), boxes.images.len());
            assert_eq!(bits(&floats.to_floats()), bits(&boxes.to_floats()));
            assert_eq!((floats.digest(), &floats.crops), (boxes.digest(), &boxes.crops));
        }
    }
}
