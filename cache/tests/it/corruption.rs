//! Corruption campaign, short form: every flipped bit and every truncation of a whole small shard is found and named,
//! and no wrong voxel is read.

use std::path::Path;

use hiend_cache::{CodecPreset, Error, Manifest};

use crate::cases::{DATASET, SHARD, faults, volumes, write_cache};

/// Cases of the shard; small, because every bit of it is damaged in turn.
const CASES: [&str; 2] = ["noise", "flat"];
/// Two chunks along x and z, cut off at the upper borders.
const SHAPE: [usize; 3] = [3, 2, 10];
const CHUNK: [usize; 3] = [2, 2, 8];
/// Parts of the shard: header, data and index of each case, directory, footer.
const NUM_PARTS: usize = 2 * CASES.len() + 3;

/// Offsets of the parts of a shard, read from the file itself: header, data and index of each case, directory, footer.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let u64_at = |at: usize| usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
    let footer = bytes.len() - 32;
    let directory = u64_at(footer);
    let json: serde_json::Value = serde_json::from_slice(&bytes[directory..footer]).unwrap();
    let mut at = vec![0, 32];
    for case in json["cases"].as_array().unwrap() {
        let field = |name: &str| usize::try_from(case["span"][name].as_u64().unwrap()).unwrap();
        let index = field("offset") + field("data_len");
        at.extend([index, index + field("index_len")]);
    }
    assert_eq!(at.last(), Some(&directory));
    at.extend([footer, bytes.len()]);
    at
}

/// Checks one damaged state of the shard: verification names the file and, for damage within a case, that case and no
/// other; what can still be read is what was written.
fn check(dir: &Path, intact: &Volumes, damaged_case: Option<&str>, what: &str) {
    let faults = faults(dir);
    assert!(!faults.is_empty(), "{what}: not found by verification");
    assert!(faults.iter().all(|fault| fault.path == dir.join(SHARD)), "{what}: {faults:?}");
    if let Some(case) = damaged_case {
        let key = format!("{DATASET}/{case}");
        assert!(faults.iter().all(|fault| fault.case.as_ref() == Some(&key)), "{what}: {faults:?}");
    }
    let mut refused = 0;
    match volumes(dir) {
        Ok(found) => {
            for (key, volume) in found {
                match volume {
                    Ok(volume) => assert_eq!(Some(&volume), intact.get(&key), "{what}: wrong voxels of {key}"),
                    Err(Error::CorruptChunk { path, case, .. }) => {
                        assert_eq!((path, &case), (dir.join(SHARD), &key), "{what}");
                        refused += 1;
                    }
                    Err(Error::BadShard { path, .. }) => {
                        assert_eq!(path, dir.join(SHARD), "{what}");
                        refused += 1;
                    }
                    Err(err) => panic!("{what}: {err}"),
                }
            }
        }
        Err(Error::BadShard { path, .. }) => {
            assert_eq!(path, dir.join(SHARD), "{what}");
            refused += 1;
        }
        Err(err) => panic!("{what}: {err}"),
    }
    assert!(refused > 0, "{what}: read without an error");
}

type Volumes = std::collections::BTreeMap<String, hiend_cache::StoredVolume>;

fn intact(dir: &Path) -> Volumes {
    assert_eq!(faults(dir), []);
    volumes(dir).unwrap().into_iter().map(|(key, volume)| (key, volume.unwrap())).collect()
}

/// Flips every bit of the given parts: 0 is the header, then data and index of each case, directory, footer.
fn check_every_flipped_bit(preset: CodecPreset, parts: std::ops::Range<usize>) {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &CASES, SHAPE, CHUNK, preset);
    let intact = intact(dir.path());
    let path = dir.path().join(SHARD);
    let whole = std::fs::read(&path).unwrap();
    let boundaries = boundaries(&whole);
    assert_eq!(boundaries.len(), NUM_PARTS + 1);
    for at in boundaries[parts.start]..boundaries[parts.end] {
        let part = boundaries.partition_point(|&boundary| boundary <= at) - 1;
        let case = (1..NUM_PARTS - 2).contains(&part).then(|| CASES[(part - 1) / 2]);
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            check(dir.path(), &intact, case, &format!("{preset:?}: bit {bit} of byte {at}, part {part}"));
        }
    }
}

#[test]
fn every_flipped_bit_of_header_and_cases_is_found() {
    check_every_flipped_bit(CodecPreset::Fast, 0..NUM_PARTS - 2);
}

#[test]
fn every_flipped_bit_of_directory_and_footer_is_found() {
    check_every_flipped_bit(CodecPreset::Fast, NUM_PARTS - 2..NUM_PARTS);
}

#[test]
fn every_flipped_bit_of_a_case_in_planes_is_found() {
    check_every_flipped_bit(CodecPreset::Dense, 1..3);
}

#[test]
fn every_flipped_bit_of_a_case_in_lz4_is_found() {
    check_every_flipped_bit(CodecPreset::Lz4, 1..3);
}

#[test]
fn every_truncation_and_an_extra_byte_are_found() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &CASES, SHAPE, CHUNK, CodecPreset::Fast);
    let intact = intact(dir.path());
    let path = dir.path().join(SHARD);
    let whole = std::fs::read(&path).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        check(dir.path(), &intact, None, &format!("cut to {len} bytes"));
    }
    std::fs::write(&path, [whole.as_slice(), &[0]].concat()).unwrap();
    check(dir.path(), &intact, None, "an extra byte");
}

#[test]
fn every_zeroed_sector_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &CASES, SHAPE, CHUNK, CodecPreset::Fast);
    let intact = intact(dir.path());
    let path = dir.path().join(SHARD);
    let whole = std::fs::read(&path).unwrap();
    for start in (0..whole.len()).step_by(64) {
        let mut bytes = whole.clone();
        bytes[start..(start + 64).min(whole.len())].fill(0);
        assert_ne!(bytes, whole);
        std::fs::write(&path, &bytes).unwrap();
        check(dir.path(), &intact, None, &format!("zeros from byte {start}"));
    }
}

#[test]
fn every_flipped_bit_and_truncation_of_the_manifest_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &CASES, SHAPE, CHUNK, CodecPreset::Fast);
    let path = dir.path().join("manifest.json");
    let whole = std::fs::read(&path).unwrap();
    let check = |bytes: &[u8], what: String| {
        std::fs::write(&path, bytes).unwrap();
        let faults = faults(dir.path());
        assert!(faults.iter().any(|fault| fault.path == path), "{what}: {faults:?}");
        assert!(matches!(volumes(dir.path()), Err(Error::BadManifest { path: named, .. }) if named == path), "{what}");
    };
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            check(&bytes, format!("bit {bit} of byte {at}"));
        }
        check(&whole[..at], format!("cut to {at} bytes"));
    }
}

#[test]
fn listed_shard_and_manifest_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &CASES, SHAPE, CHUNK, CodecPreset::Fast);
    let mut manifest = Manifest::read(dir.path()).unwrap();
    manifest.shards.push("g0009-w000-0000.shard".into());
    manifest.shards.push("../elsewhere".into());
    manifest.write(dir.path()).unwrap();
    let texts: Vec<String> = faults(dir.path()).iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts.iter().any(|text| text.ends_with("g0009-w000-0000.shard: listed in manifest.json but missing")));
    assert!(texts.iter().any(|text| text.contains("manifest.json") && text.contains("not a shard name")), "{texts:?}");
    assert!(matches!(volumes(dir.path()), Err(Error::MissingShard { .. })));

    std::fs::remove_file(dir.path().join("manifest.json")).unwrap();
    assert!(faults(dir.path())[0].to_string().ends_with("manifest.json: missing"));
    assert!(matches!(volumes(dir.path()), Err(Error::NoCache { .. })));
}
