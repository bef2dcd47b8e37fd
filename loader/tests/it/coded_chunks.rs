//! Tests that crops decoded from batches of coded chunks equal those of the other forms, bit for bit.

use std::path::Path;
use std::sync::Arc;

use hiend_cache::{Access, Cache, CodecPreset, Manifest, NewCase, ShardWriter, encode};
use hiend_loader::batch::{Batch, ChunkSource, CropRecord, Images, VoxelForm};
use hiend_loader::pipeline::{Error, Loader, LoaderOptions, OnCorrupt, StreamConfig};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::transform::Chain;
use proptest::prelude::*;

/// Content of a test volume.
#[derive(Clone, Copy, Debug)]
enum Voxels {
    /// Unrelated values below `2^bits`.
    Noise,
    /// Air around a block of noise, so that some chunks are constant.
    Block,
    /// A pattern that zstd compresses to less than half.
    Pattern,
}

fn image(voxels: Voxels, shape: [usize; 3], bits: u8) -> Vec<u16> {
    let [nx, ny, nz] = shape;
    let noise = |at: usize| u16::try_from(at * 40_503 % (1 << bits)).unwrap();
    let value = |at: usize| {
        let [x, y, z] = [at / (ny * nz), at / nz % ny, at % nz];
        match voxels {
            Voxels::Noise => noise(at),
            Voxels::Block => u16::from(x < nx / 2 && y < ny / 2 && z < nz / 2) * noise(at).max(1),
            Voxels::Pattern => u16::from((x + y + z) % 2 == 0) * 301,
        }
    };
    (0..nx * ny * nz).map(value).collect()
}

fn write_cache(
    dir: &Path,
    chunk: [usize; 3],
    bits: u8,
    preset: CodecPreset,
    cases: &[(Voxels, [usize; 3])],
) -> Arc<Cache> {
    let mut writer = ShardWriter::create(dir, 1, 0).unwrap();
    for (number, &(voxels, shape)) in cases.iter().enumerate() {
        let image = image(voxels, shape, bits);
        // Neighbouring voxels differ, so that a label in the wrong place is seen.
        let label: Vec<u8> = (0..image.len()).map(|at| u8::try_from(at * 31 % 14).unwrap()).collect();
        let case = NewCase {
            label: Some(&label),
            image_bits: bits,
            image_offset: if bits == 9 { -175.0 } else { -32_768.0 },
            foreground_above: 0,
            ..NewCase::new("D", &format!("case{number}"), shape, &image)
        };
        writer.push(encode(&case, chunk, preset).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    Manifest { preprocess, ..Manifest::default() }.write(dir).unwrap();
    // Positioned reads, because a test may change a shard that is open.
    Arc::new(Cache::open_with(dir, Access::Pread).unwrap())
}

fn config(crop_size: [usize; 3], augment: Chain) -> StreamConfig {
    StreamConfig { crop_size, crops_per_visit: 3, visits_per_batch: 4, augment, ..StreamConfig::default() }
}

fn open(cache: &Arc<Cache>, config: &StreamConfig, form: VoxelForm, threads: usize) -> Result<Loader, Error> {
    let options = LoaderOptions { threads, memory_bytes: 256 << 20, form, ..LoaderOptions::default() };
    Loader::open(Arc::clone(cache), config.clone(), 5, &options)
}

/// Digests and records of some batches.
fn taken(loader: &Loader, batches: usize) -> Vec<(String, Vec<CropRecord>)> {
    let facts = |batch: Batch| (batch.digest(), batch.crops.clone());
    loader.stream(0).take(batches).map(|batch| facts(batch.unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_finish_as_the_floats(
        chunk in prop::array::uniform3(2usize..20),
        shapes in prop::collection::vec(prop::array::uniform3(3usize..44), 3),
        (side, depth) in (1usize..24, 1usize..24),
        bits in prop::sample::select(vec![9u8, 16]),
        augment in prop::sample::select(vec![Chain::plain(), Chain::recipe(), Chain::nnunet()]),
        labels in prop::bool::ANY,
    ) {
        // Transforms that need neighbours are for crops that have some.
        let least = if augment.is_linear() { 1 } else { 6 };
        let (side, depth) = (side.max(least), depth.max(least));
        let dir = tempfile::tempdir().unwrap();
        let cases: Vec<_> = [Voxels::Noise, Voxels::Block, Voxels::Pattern].into_iter().zip(shapes).collect();
        let cache = write_cache(dir.path(), chunk, bits, CodecPreset::Fast, &cases);
        let config = StreamConfig { labels, ..config([side, side, depth], augment) };
        let floats = open(&cache, &config, VoxelForm::Floats, 1).unwrap();
        let chunks = open(&cache, &config, VoxelForm::Chunks, 2).unwrap();
        let mut coded = chunks.stream(0);
        for floats in floats.stream(0).take(3) {
            let (floats, coded) = (floats.unwrap(), coded.next().unwrap().unwrap());
            prop_assert!(matches!(&coded.images, Images::Chunks(_, crops) if crops.len() == coded.crops.len()));
            prop_assert_eq!(floats.to_labels(), coded.to_labels());
            prop_assert_eq!((floats.digest(), &floats.crops), (coded.digest(), &coded.crops));
        }
    }
}

/// A batch holds each chunk of a visit once, and takes exactly the planned memory.
#[test]
fn crops_of_a_visit_share_its_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [(Voxels::Block, [40, 40, 40]), (Voxels::Noise, [30, 44, 21])];
    let cache = write_cache(dir.path(), [8; 3], 9, CodecPreset::Fast, &cases);
    let config = config([24; 3], Chain::recipe());
    let loader = open(&cache, &config, VoxelForm::Chunks, 2).unwrap();
    let plan = loader.memory();
    assert_eq!(plan.batch_bytes, plan.batch_voxels as u64 * 4);
    assert_eq!(loader.batch_len(0), (plan.batch_voxels, 0));
    for batch in loader.stream(0).take(4) {
        let batch = batch.unwrap();
        let Images::Chunks(words, crops) = &batch.images else { panic!("made as chunks") };
        assert_eq!(words.len(), plan.batch_voxels);
        for (number, visit) in crops.chunks_exact(3).enumerate() {
            assert!(visit.iter().all(|crop| crop.words == visit[0].words));
            assert_eq!(visit[0].words.start, number * plan.batch_voxels / 4);
            let mut records: Vec<u32> = Vec::new();
            for crop in visit {
                assert_eq!(crop.chunks.len(), crop.grid.chunks_meeting(&crop.region().unwrap()).count());
                let sources = crop.chunks.iter();
                records.extend(sources.filter_map(|source| match source {
                    ChunkSource::Record(word) => Some(*word),
                    ChunkSource::Constant(value) => {
                        assert_eq!(*value, 0);
                        None
                    }
                }));
            }
            let uses = records.len();
            records.sort_unstable();
            records.dedup();
            assert!(records.len() < uses, "no chunk is shared");
        }
    }
    let progress = loader.progress();
    assert!(progress.chunks > 0 && progress.chunk_hits > 0 && progress.coded_bytes > 0);
    assert!(progress.peak_memory_bytes <= 256 << 20);
}

#[test]
fn streams_that_coded_chunks_cannot_serve_are_refused_with_their_key() {
    let refused = |cache: &Arc<Cache>, config: &StreamConfig| {
        open(cache, config, VoxelForm::Chunks, 1).err().unwrap().to_string()
    };
    let huge = StreamConfig { visits_per_batch: 1 << 13, crops_per_visit: 8, ..config([1024; 3], Chain::plain()) };
    let large = tempfile::tempdir().unwrap();
    let large = write_cache(large.path(), [4, 4, 2], 16, CodecPreset::Fast, &[(Voxels::Block, [100; 3])]);
    let many = refused(&large, &huge);
    assert!(many.starts_with("stream.visits_per_batch: 8192 on this rank; "), "{many}");
    for preset in [CodecPreset::Dense, CodecPreset::Lz4] {
        let dir = tempfile::tempdir().unwrap();
        let cache = write_cache(dir.path(), [8; 3], 9, preset, &[(Voxels::Noise, [20; 3])]);
        let codec = refused(&cache, &config([8; 3], Chain::recipe()));
        assert!(codec.contains("case D/case0 is stored with a codec other than \"fast\""), "{codec}");
    }
}

#[test]
fn corrupt_chunk_is_an_error_or_its_visit_is_skipped() {
    // A chunk of a crop, and one of a box whose size differs from visit to visit.
    for augment in [Chain::recipe(), Chain::nnunet()] {
        check_a_corrupt_chunk(augment);
    }
}

fn check_a_corrupt_chunk(augment: Chain) {
    use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
    let dir = tempfile::tempdir().unwrap();
    let cases = [(Voxels::Noise, [20; 3]), (Voxels::Noise, [21; 3]), (Voxels::Noise, [22; 3])];
    let cache = write_cache(dir.path(), [8; 3], 9, CodecPreset::Fast, &cases);
    let config = StreamConfig { labels: true, ..config([16; 3], augment) };
    let clean = taken(&open(&cache, &config, VoxelForm::Chunks, 1).unwrap(), 6);
    let case = &cache.cases()[1];
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(case.shard().path()).unwrap();
    let span = &case.record().span;
    // Every byte of the case's chunks, so that no visit of it is sound.
    let mut bytes = vec![0; usize::try_from(span.data_len).unwrap()];
    file.seek(SeekFrom::Start(span.offset)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    for byte in &mut bytes {
        *byte ^= 1;
    }
    file.seek(SeekFrom::Start(span.offset)).unwrap();
    file.write_all(&bytes).unwrap();

    let failing = open(&cache, &config, VoxelForm::Chunks, 2).unwrap();
    let error = failing.stream(0).find_map(Result::err).unwrap().to_string();
    assert!(error.contains("D/case1") && error.contains(" chunk "), "{error}");
    let skip = StreamConfig { on_corrupt: OnCorrupt::Skip, ..config };
    let [floats, chunks] =
        [VoxelForm::Floats, VoxelForm::Chunks].map(|form| taken(&open(&cache, &skip, form, 2).unwrap(), 6));
    assert_eq!(chunks, floats);
    for ((_, crops), (_, clean)) in chunks.iter().zip(&clean) {
        assert!(crops.iter().eq(clean.iter().filter(|crop| crop.case != "D/case1")));
    }
}
