//! Format and reading: the bytes of version 1 are frozen, and any box of a volume is what was stored.

use std::path::Path;

use hiend_cache::{
    Access, Box3, Cache, CaseError, CodecPreset, Error, Geometry, Manifest, NewCase, ShardWriter, SourceFiles,
    VolumeReader, encode,
};
use proptest::prelude::*;

use crate::cases::{DATASET, NAMES, SHARD, faults, write_cache};

/// Shards and a manifest in `tests/data`, written by version 0.1.0 before the manifest had a checksum: two phantoms
/// with labels, converted with each `--codec`. Both are readable, and encoding their volumes again gives the same
/// bytes.
#[test]
fn shard_of_an_earlier_version_is_read_and_written_again_byte_by_byte() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for (name, preset) in [("fast", CodecPreset::Fast), ("dense", CodecPreset::Dense), ("lz4", CodecPreset::Lz4)] {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bytes = std::fs::read(data.join(name).with_extension("shard")).unwrap();
        std::fs::write(old.path().join(SHARD), &bytes).unwrap();
        std::fs::copy(data.join("manifest.json"), old.path().join("manifest.json")).unwrap();
        assert_eq!(faults(old.path()), []);
        let cache = Cache::open(old.path()).unwrap();
        let shard = &cache.shards()[0];
        assert_eq!(cache.cases().len(), 2);
        let mut writer = ShardWriter::create(new.path(), shard.generation(), 0).unwrap();
        for record in shard.cases() {
            let volume = cache.case(&record.key()).unwrap().read_whole(&mut VolumeReader::new()).unwrap();
            let case = NewCase {
                image_bits: record.image.codec.bits(),
                image_offset: record.image.offset,
                image_scale: record.image.scale,
                foreground_above: record.foreground_above,
                label: volume.label.as_deref(),
                geometry: record.geometry.clone(),
                source: record.source.clone(),
                parameters: record.parameters.clone(),
                ..NewCase::new(&record.dataset, &record.case_id, record.shape, &volume.image)
            };
            writer.push(encode(&case, shard.chunk(), preset).unwrap()).unwrap();
        }
        let path = writer.finish().unwrap().unwrap();
        assert!(std::fs::read(path).unwrap() == bytes, "{name}: other bytes");
    }
}

#[test]
fn defaults_of_a_new_case_are_as_documented() {
    let image = [7u16, 0, u16::MAX, 3];
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 3, 1).unwrap();
    writer.push(encode(&NewCase::new("D", "a", [1, 1, 4], &image), [8; 3], CodecPreset::Fast).unwrap()).unwrap();
    writer.finish().unwrap();
    Manifest::update(dir.path(), |_| {}).unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let case = cache.case("D/a").unwrap();
    let record = case.record();
    assert_eq!((record.image.codec.bits(), record.image.offset, record.image.scale), (16, 0.0, 1.0));
    assert_eq!((record.foreground_above, &record.parameters, record.label), (0, &String::new(), None));
    assert_eq!((&record.geometry, &record.source), (&Geometry::identity([1, 1, 4]), &SourceFiles::default()));
    let mut reader = VolumeReader::new();
    assert_eq!(case.read_whole(&mut reader).unwrap().image, image);
    let index = reader.index(case).unwrap();
    assert_eq!((index.occupancy.foreground.total(), index.occupancy.background.total()), (3, 1));
    assert!(cache.case("D/b").is_none());
}

#[test]
fn box_outside_the_volume_and_missing_labels_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &NAMES, [5, 4, 10], [4, 4, 8], CodecPreset::Fast);
    let cache = Cache::open(dir.path()).unwrap();
    let case = cache.case(&format!("{DATASET}/plain")).unwrap();
    let mut reader = VolumeReader::new();
    for (start, end) in [([0; 3], [5, 4, 11]), ([6, 0, 0], [7, 1, 1]), ([2, 2, 2], [2, 3, 3]), ([3; 3], [2; 3])] {
        let error = case.read_box(&Box3 { start, end }, &mut reader).unwrap_err();
        assert!(matches!(&error, Error::BadCase { reason: CaseError::Region { .. }, .. }), "{error}");
    }
    let huge = Box3 { start: [0; 3], end: [usize::MAX; 3] };
    assert!(case.read_box(&huge, &mut reader).is_err());
    let index = reader.index(case).unwrap();
    let error = reader.label_box(case, &index, &Box3::whole([1; 3]), &mut [0]).unwrap_err();
    assert!(matches!(error, Error::BadCase { reason: CaseError::NoLabels, .. }), "{error}");
    assert!(reader.label_chunk(case, &index, 0, &mut Vec::new()).is_err());
}

#[test]
fn contradictory_cases_are_rejected() {
    let image = [7u16, 0, 600, 3];
    let new = || NewCase::new("D", "a", [1, 1, 4], &image);
    let check = |case: NewCase<'_>, chunk, expected: &str| {
        let error = encode(&case, chunk, CodecPreset::Fast).unwrap_err().to_string();
        assert!(error.starts_with("case D/a: ") && error.contains(expected), "{error}");
    };
    check(NewCase { shape: [1, 1, 5], ..new() }, [8; 3], "4 image and 5 label voxels");
    check(NewCase { label: Some(&[0; 3]), ..new() }, [8; 3], "4 image and 3 label voxels");
    check(NewCase { shape: [0; 3], ..new() }, [8; 3], "length of zero");
    check(new(), [0; 3], "chunk shape");
    check(NewCase { image_bits: 9, ..new() }, [8; 3], "image value 600 exceeds 9 bits");
    check(NewCase { image_bits: 0, ..new() }, [8; 3], "0 bits");
    check(NewCase { image_bits: 17, ..new() }, [8; 3], "17 bits");
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
    writer.push(encode(&new(), [8; 3], CodecPreset::Fast).unwrap()).unwrap();
    let error = writer.push(encode(&new(), [4; 3], CodecPreset::Fast).unwrap()).unwrap_err();
    assert!(error.to_string().contains("differs from the shard's"), "{error}");
}

proptest! {
    #[test]
    fn any_box_reads_as_the_part_of_the_whole(
        shape in [1usize..14, 1..14, 1..24], chunk in [1usize..7, 1..7, 1..12],
        corners in prop::array::uniform6(0usize..1000), seed: u16, dense: bool,
    ) {
        let num_voxels = shape.iter().product::<usize>();
        let image: Vec<u16> = (0..num_voxels).map(|i| u16::try_from(i).unwrap().wrapping_mul(seed | 1) % 426).collect();
        let label: Vec<u8> = image.iter().map(|&value| u8::try_from(value % 5).unwrap()).collect();
        let case = NewCase { image_bits: 9, label: Some(&label), ..NewCase::new("D", "a", shape, &image) };
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
        let preset = if dense { CodecPreset::Dense } else { CodecPreset::Fast };
        writer.push(encode(&case, chunk, preset).unwrap()).unwrap();
        writer.finish().unwrap();
        Manifest::update(dir.path(), |_| {}).unwrap();

        let start: [usize; 3] = std::array::from_fn(|axis| corners[axis] % shape[axis]);
        let end: [usize; 3] = std::array::from_fn(|axis| start[axis] + 1 + corners[3 + axis] % (shape[axis] - start[axis]));
        let region = Box3 { start, end };
        let mut expected = (Vec::new(), Vec::new());
        for x in start[0]..end[0] {
            for y in start[1]..end[1] {
                let row = (x * shape[1] + y) * shape[2];
                expected.0.extend_from_slice(&image[row + start[2]..row + end[2]]);
                expected.1.extend_from_slice(&label[row + start[2]..row + end[2]]);
            }
        }
        for access in [Access::Mmap, Access::Pread] {
            let cache = Cache::open_with(dir.path(), access).unwrap();
            let stored = cache.cases()[0].read_box(&region, &mut VolumeReader::new()).unwrap();
            prop_assert_eq!(stored.shape, region.shape());
            prop_assert_eq!(&stored.image, &expected.0);
            prop_assert_eq!(stored.label.as_ref(), Some(&expected.1));
        }
    }
}
