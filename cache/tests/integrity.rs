//! Damage is found, and found out about in words: every flipped bit, every cut, without a panic.

use std::path::Path;

use hiend_cache::verify::{Fault, survey, verify_case};
use hiend_cache::{CodecPreset, Geometry, Manifest, NewCase, ShardWriter, SourceFiles, VolumeReader, encode};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

const SHAPE: [usize; 3] = [14, 9, 11];

/// A shard of three cases: noise with labels, a case without labels, a case with constant chunks.
fn write_cache(dir: &Path) {
    let num_voxels = SHAPE.iter().product::<usize>();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut writer = ShardWriter::create(dir, 1, 0).unwrap();
    for name in ["noise", "plain", "flat"] {
        let image: Vec<u16> = (0..num_voxels)
            .map(|i| match name {
                "flat" => {
                    if i < num_voxels / 2 {
                        0
                    } else {
                        300
                    }
                }
                _ => rng.random_range(0..426u16),
            })
            .collect();
        let label: Vec<u8> = (0..num_voxels).map(|i| u8::from(i % 7 == 0) * u8::from(i > 400) * 3).collect();
        let case = NewCase {
            dataset: "Dataset001_Test".into(),
            case_id: name.into(),
            shape: SHAPE,
            image: &image,
            image_bits: 9,
            image_offset: -175.0,
            image_step: 1.0,
            foreground_above: 0,
            label: (name != "plain").then_some(&label),
            geometry: Geometry::identity(SHAPE),
            source: SourceFiles::default(),
            parameters: "test".into(),
        };
        writer.push(encode(&case, [8; 3], CodecPreset::Fast).unwrap()).unwrap();
    }
    let path = writer.finish().unwrap().unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    Manifest { shards: vec![name], ..Manifest::default() }.write(dir).unwrap();
}

fn faults(dir: &Path) -> Vec<Fault> {
    let survey = survey(dir).unwrap();
    let mut reader = VolumeReader::new();
    let mut faults = survey.faults;
    for shard in &survey.shards {
        faults.extend((0..shard.cases().len()).flat_map(|idx| verify_case(shard, idx, &mut reader)));
    }
    faults
}

/// Where the parts of the file begin, read from the file itself.
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

#[test]
fn a_whole_cache_has_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    assert_eq!(faults(dir.path()), []);
}

#[test]
fn each_of_a_thousand_flipped_bits_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    let path = dir.path().join("g0001-w000-0000.shard");
    let whole = std::fs::read(&path).unwrap();
    let boundaries = boundaries(&whole);
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let mut found_in = vec![0usize; boundaries.len() - 1];
    for number in 0..1000 {
        // Every region gets its share, however short it is.
        let region = number % found_in.len();
        let at = rng.random_range(boundaries[region]..boundaries[region + 1]);
        let bit = rng.random_range(0..8);
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        let faults = faults(dir.path());
        assert!(!faults.is_empty(), "bit {bit} of byte {at} (region {region}) went unseen");
        let text = faults[0].to_string();
        assert!(text.contains("g0001-w000-0000.shard"), "{text}");
        // Damage inside a case is said to be in that case and in no other.
        let case = (1..7).contains(&region).then(|| ["noise", "plain", "flat"][(region - 1) / 2]);
        if let Some(case) = case {
            assert!(faults.iter().all(|fault| fault.case == Some(format!("Dataset001_Test/{case}"))), "{faults:?}");
        }
        found_in[region] += 1;
    }
    assert!(found_in.iter().all(|&found| found > 100), "{found_in:?}");
}

#[test]
fn a_cut_anywhere_is_found() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    let path = dir.path().join("g0001-w000-0000.shard");
    let whole = std::fs::read(&path).unwrap();
    for at in boundaries(&whole) {
        for len in [at.saturating_sub(1), at, at + 1] {
            if len >= whole.len() {
                continue;
            }
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(!faults(dir.path()).is_empty(), "cut to {len} bytes");
            assert!(hiend_cache::Cache::open(dir.path()).is_err(), "cut to {len} bytes");
        }
    }
    let longer = [whole.as_slice(), &[0]].concat();
    std::fs::write(&path, longer).unwrap();
    assert!(!faults(dir.path()).is_empty(), "a byte too many");
}

#[test]
fn what_the_manifest_lists_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    let mut manifest = Manifest::read(dir.path()).unwrap();
    manifest.shards.push("g0009-w000-0000.shard".into());
    manifest.write(dir.path()).unwrap();
    let found = faults(dir.path());
    assert!(
        matches!(found.as_slice(), [fault] if fault.to_string().contains("g0009-w000-0000.shard: listed")),
        "{found:?}"
    );

    std::fs::write(dir.path().join("manifest.json"), b"{").unwrap();
    assert!(faults(dir.path())[0].to_string().contains("manifest.json"));
    std::fs::remove_file(dir.path().join("manifest.json")).unwrap();
    assert!(faults(dir.path())[0].to_string().contains("manifest.json: missing"));
}
