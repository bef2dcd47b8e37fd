//! Small caches for the tests, and functions that read all faults or all voxels of one.

use std::collections::BTreeMap;
use std::path::Path;

use hiend_cache::verify::{Fault, survey, verify_case};
use hiend_cache::{Cache, CodecPreset, Manifest, NewCase, ShardWriter, StoredVolume, VolumeReader, encode};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

pub(crate) const DATASET: &str = "Dataset001_Test";
/// Name of the shard that [`write_cache`] writes.
pub(crate) const SHARD: &str = "g0001-w000-0000.shard";
/// Cases: noise with labels, noise without labels, constant chunks with labels.
pub(crate) const NAMES: [&str; 3] = ["noise", "plain", "flat"];

/// Writes a manifest and one shard with the named cases, each of shape `shape`.
pub(crate) fn write_cache(dir: &Path, names: &[&str], shape: [usize; 3], chunk: [usize; 3], preset: CodecPreset) {
    let num_voxels = shape.iter().product::<usize>();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut writer = ShardWriter::create(dir, 1, 0).unwrap();
    for &name in names {
        let flat = |i| if i < num_voxels / 2 { 0 } else { 300 };
        let image: Vec<u16> =
            (0..num_voxels).map(|i| if name == "flat" { flat(i) } else { rng.random_range(0..426u16) }).collect();
        let label: Vec<u8> = (0..num_voxels).map(|i| u8::from(i % 7 == 0) * u8::from(i > num_voxels / 3) * 3).collect();
        let case = NewCase {
            image_bits: 9,
            image_offset: -175.0,
            label: (name != "plain").then_some(&label),
            parameters: "test".into(),
            ..NewCase::new(DATASET, name, shape, &image)
        };
        writer.push(encode(&case, chunk, preset).unwrap()).unwrap();
    }
    assert_eq!(writer.finish().unwrap().unwrap(), dir.join(SHARD));
    Manifest::update(dir, |_| {}).unwrap();
}

/// Faults that verification finds in the whole cache.
pub(crate) fn faults(dir: &Path) -> Vec<Fault> {
    let survey = survey(dir).unwrap();
    let mut reader = VolumeReader::new();
    let mut faults = survey.faults;
    for shard in &survey.shards {
        faults.extend((0..shard.cases().len()).flat_map(|idx| verify_case(shard, idx, &mut reader)));
    }
    faults
}

/// Volumes of all cases by key, as a training run would read them.
pub(crate) fn volumes(dir: &Path) -> hiend_cache::Result<BTreeMap<String, hiend_cache::Result<StoredVolume>>> {
    let cache = Cache::open(dir)?;
    let mut reader = VolumeReader::new();
    Ok(cache.cases().iter().map(|case| (case.key().to_owned(), case.read_whole(&mut reader))).collect())
}
