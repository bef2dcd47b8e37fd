//! Pruning: wanted cases are kept bit for bit, and a crash at any point loses none.

use std::collections::BTreeMap;
use std::path::Path;

use hiend_cache::prune::{Pruned, RunLock, prune};
use hiend_cache::verify::{survey, verify_case};
use hiend_cache::{Cache, Case, CodecPreset, Manifest, NewCase, ShardWriter, VolumeReader, encode};

const SHAPE: [usize; 3] = [10, 9, 8];

fn write_shard(dir: &Path, generation: u64, cases: &[(&str, u16)]) {
    let mut writer = ShardWriter::create(dir, generation, 0).unwrap();
    for &(name, value) in cases {
        let num_voxels = SHAPE.iter().product();
        let image: Vec<u16> = (0..num_voxels).map(|i| value + u16::try_from(i * i % 50).unwrap()).collect();
        let label: Vec<u8> = image.iter().map(|v| u8::from(v % 3 == 0)).collect();
        let case = NewCase {
            image_bits: 9,
            foreground_above: value + 20,
            label: Some(&label),
            parameters: "test".into(),
            ..NewCase::new("D", name, SHAPE, &image)
        };
        writer.push(encode(&case, [4; 3], CodecPreset::Fast).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

/// Writes three shards: one with superseded and unwanted records, one with no live wanted record, one whose records are
/// all wanted.
fn write_cache(dir: &Path) {
    write_shard(dir, 1, &[("a", 0), ("b", 10), ("gone", 20)]);
    write_shard(dir, 1, &[("gone2", 30), ("c", 40)]);
    write_shard(dir, 2, &[("b", 100), ("c", 110)]);
    Manifest::update(dir, |_| {}).unwrap();
}

fn wanted(case: &Case) -> bool {
    !case.key().contains("gone")
}

/// Images of the wanted cases by key.
fn voxels(dir: &Path) -> BTreeMap<String, Vec<u16>> {
    let cache = Cache::open(dir).unwrap();
    let mut reader = VolumeReader::new();
    let cases = cache.cases().iter().filter(|case| wanted(case));
    cases.map(|case| (case.key().to_owned(), case.read_whole(&mut reader).unwrap().image)).collect()
}

fn run(dir: &Path) -> Pruned {
    prune(&RunLock::shared(dir).unwrap(), 1 << 30, wanted).unwrap().unwrap()
}

fn copy(from: &Path, to: &Path, only: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if only(&entry.file_name().to_string_lossy()) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn assert_whole(dir: &Path) {
    let survey = survey(dir).unwrap();
    let mut reader = VolumeReader::new();
    let cases = survey.shards.iter().flat_map(|shard| (0..shard.cases().len()).map(move |idx| (shard, idx)));
    let faults: Vec<_> = cases.flat_map(|(shard, idx)| verify_case(shard, idx, &mut reader)).collect();
    assert_eq!((survey.faults, faults), (vec![], vec![]));
}

#[test]
fn wanted_cases_are_kept_and_the_rest_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    let before = voxels(dir.path());
    assert!(Cache::open(dir.path()).unwrap().superseded_bytes() > 0);
    let pruned = run(dir.path());
    assert_eq!(pruned.cases, ["D/gone", "D/gone2"]);
    assert_eq!((pruned.records, pruned.shards_removed, pruned.shards_rewritten), (2, 1, 1));
    assert!(pruned.bytes_freed > 0);
    assert_eq!(voxels(dir.path()), before);
    assert_whole(dir.path());
    let cache = Cache::open(dir.path()).unwrap();
    assert_eq!((cache.cases().len(), cache.shards().len(), cache.superseded_bytes()), (3, 2, 0));
    assert_eq!(run(dir.path()), Pruned::default(), "nothing is left to do");
}

#[test]
fn crash_at_any_point_loses_nothing() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_cache(old.path());
    let expected = voxels(old.path());
    copy(old.path(), new.path(), |_| true);
    run(new.path());
    let names: Vec<String> =
        Manifest::read(old.path()).unwrap().shards.into_iter().filter(|name| !new.path().join(name).exists()).collect();
    assert_eq!(names.len(), 2);
    let is_shard = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "shard");
    // Before the manifest, after it, and after each removal.
    for point in 0..=1 + names.len() {
        let dir = tempfile::tempdir().unwrap();
        copy(old.path(), dir.path(), |_| true);
        copy(new.path(), dir.path(), |name| is_shard(name) || point > 0);
        for name in names.iter().take(point.saturating_sub(1)) {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert_eq!(voxels(dir.path()), expected, "point {point}");
        assert_whole(dir.path());
        run(dir.path());
        assert_eq!(voxels(dir.path()), expected, "point {point}, pruned again");
        assert_eq!(Cache::open(dir.path()).unwrap().cases().len(), 3);
    }
}

#[test]
fn nothing_is_pruned_while_another_run_adds_shards() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path());
    let other = RunLock::shared(dir.path()).unwrap();
    assert_eq!(prune(&RunLock::shared(dir.path()).unwrap(), 1 << 30, wanted).unwrap(), None);
    drop(other);
    assert_eq!(run(dir.path()).cases.len(), 2);
}
