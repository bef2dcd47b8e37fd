//! Damaged and lost shards are found, named and repaired.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hiend_cache::Manifest;

use super::{Place, SPACING, check, command, ran_of, voxels};

/// Flips a bit of the byte at `at` in the only shard; returns the shard's path.
pub(super) fn damage(place: &Place, at: u64) -> PathBuf {
    let shard = hiend_cache::list_shards(place.path("cache")).unwrap().remove(0);
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    shard
}

#[test]
fn stream_and_verify_name_a_corrupt_chunk() {
    let place = Place::with_phantoms(1);
    place.convert(&[], 0);
    let shard = damage(&place, 40).display().to_string();
    let ran = place.verify(1);
    let line = ran.out.lines().next().unwrap();
    assert!(line.starts_with(&format!("{shard}: case Dataset001_Phantom/phantom_000, image chunk ")), "{line}");
    let out = place.text("cache");
    let ran = check(&["stream", &out, "--crop-size", "64", "--visits-per-batch", "1"], 1);
    for part in [&shard, "case Dataset001_Phantom/phantom_000", "image chunk ", "hiend-shard verify"] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
}

/// Without the handler of the memory map, the program ends with SIGBUS and without a word.
#[cfg(unix)]
#[test]
fn a_stream_ends_with_one_line_when_a_shard_is_cut_short() {
    let place = Place::with_phantoms(3);
    place.convert(&[], 0);
    let shard = hiend_cache::list_shards(place.path("cache")).unwrap().remove(0);
    let whole = std::fs::read(&shard).unwrap();
    // More than a page of any system is lost.
    assert!(whole.len() > 40_000, "{} bytes", whole.len());
    for access in ["mmap", "pread"] {
        std::fs::write(&shard, &whole).unwrap();
        let cache = place.text("cache");
        let endless = ["stream", &cache, "--crop-size=16", "--visits-per-batch=1", "--batches=1000000000"];
        let mut child = command(&[&endless[..], &["--access", access]].concat());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.next().expect("a batch").unwrap();
        File::options().write(true).open(&shard).unwrap().set_len(0).unwrap();
        lines.map(Result::unwrap).for_each(drop);
        let ran = ran_of(child.wait_with_output().unwrap());
        assert_eq!(ran.code, 1, "{access}: {}", ran.err);
        let errors: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(
            errors.len() == 1 && errors[0].contains(": cannot read: truncated while it was "),
            "{access}: {}",
            ran.err
        );
        assert!(errors[0].contains(&*shard.to_string_lossy()), "{access}: {}", ran.err);
    }
}

#[test]
fn a_fifo_in_place_of_a_manifest_or_a_shard_is_reported_and_not_waited_for() {
    let place = Place::with_phantoms(1);
    place.convert(&[], 0);
    let (data, cache) = (place.text("data"), place.text("cache"));
    let shard = hiend_cache::list_shards(place.path("cache")).unwrap().remove(0);
    let commands = [
        vec!["verify", &cache],
        vec!["inspect", &cache],
        vec!["stream", &cache, "--crop-size=16"],
        vec!["stream", &cache, "--crop-size=16", "--access=pread"],
        vec![data.as_str(), "--out", &cache, SPACING],
    ];
    for file in [place.path("cache/manifest.json"), shard] {
        let kept = place.path("kept");
        std::fs::rename(&file, &kept).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        for args in &commands {
            // A program that waits for a writer ends with code 124.
            let program = ["60", env!("CARGO_BIN_EXE_hiend-shard")];
            let ran = ran_of(Command::new("timeout").args(program).args(args).output().unwrap());
            assert_eq!(ran.code, 1, "{args:?}\n{}\n{}", ran.out, ran.err);
            let reason = "a FIFO, socket or device in place of a regular file; move it away";
            let named = |line: &str| line.contains(&*file.to_string_lossy()) && line.contains(reason);
            assert!(ran.out.lines().chain(ran.err.lines()).any(named), "{args:?}\n{}\n{}", ran.out, ran.err);
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::rename(kept, &file).unwrap();
    }
    place.verify(0);
}

#[test]
fn a_damaged_case_is_mended_by_the_command_that_verify_names() {
    let place = Place::with_phantoms(2);
    place.convert(&[], 0);
    let before = voxels(&place.path("cache"));
    damage(&place, 40);
    let ran = place.verify(1);
    // Threads decide which case comes first in the shard.
    let (_, case) = ran.out.lines().last().unwrap().split_once(" --reconvert '").unwrap();
    let case = case.strip_suffix('\'').unwrap();
    assert!(before.contains_key(case), "{case}");
    // Without the flag the files are those of the record, so nothing would change.
    assert!(place.convert(&[], 0).out.contains("unchanged   2"));
    place.verify(1);
    let ran = place.convert(&["--reconvert", case, "--dry-run"], 0);
    assert!(ran.out.contains("0 new, 1 changed; 1 unchanged"), "{}", ran.out);
    let ran = place.convert(&["--reconvert", case], 0);
    assert!(ran.out.contains("converted   1 case ") && ran.out.contains("unchanged   1 case"), "{}", ran.out);
    assert_eq!(voxels(&place.path("cache")), before);
    // The damage is in a superseded record.
    let ran = place.verify(0);
    assert!(ran.out.contains("1 fault in superseded records") && ran.out.contains("no fault"), "{}", ran.out);
    assert!(ran.out.contains("2 shards, 2 cases, 1 superseded record, "), "{}", ran.out);
    place.convert(&["--prune"], 0);
    assert!(!place.verify(0).out.contains("superseded"));
    assert_eq!(voxels(&place.path("cache")), before);
}

#[test]
fn verify_names_the_repair_of_each_kind_of_file() {
    let place = Place::with_phantoms(2);
    place.convert(&["--shard-size", "1kB"], 0);
    let manifest = place.path("cache/manifest.json");
    std::fs::write(&manifest, b"{").unwrap();
    let ran = place.verify(1);
    assert!(ran.out.contains("To repair manifest.json: ") && !ran.out.contains("shards: "), "{}", ran.out);
    // As the message says.
    std::fs::remove_file(&manifest).unwrap();
    assert!(place.convert(&[], 0).out.contains("unchanged   2 cases"));
    let shards = hiend_cache::list_shards(place.path("cache")).unwrap();
    std::fs::write(&shards[0], b"damaged").unwrap();
    let ran = place.verify(1);
    assert!(ran.out.contains("To repair these shards: ") && !ran.out.contains("repair manifest"), "{}", ran.out);
    std::fs::remove_file(&shards[0]).unwrap();
    place.convert(&[], 0);
    place.verify(0);
}

#[test]
fn what_cannot_be_read_is_not_called_damaged() {
    let place = Place::with_phantoms(2);
    place.convert(&["--shard-size", "1kB"], 0);
    let shards = hiend_cache::list_shards(place.path("cache")).unwrap();
    let (unread, kept) = (&shards[0], place.path("kept"));
    std::fs::rename(unread, &kept).unwrap();
    // A link to itself cannot be opened, not even by root.
    std::os::unix::fs::symlink(unread, unread).unwrap();
    let ran = place.verify(1);
    assert!(ran.out.contains(&format!("{}: cannot ", unread.display())), "{}", ran.out);
    assert!(
        ran.out.contains("no fault in what could be read") && ran.out.contains("1 file could not be read"),
        "{}",
        ran.out
    );
    assert!(!ran.out.contains("delete") && !ran.out.contains("--reconvert"), "{}", ran.out);
    let out = check(&["verify", &place.text("cache"), "--json"], 1).out;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["faults"][0]["unread"], true);
    // Neither a conversion nor its estimate takes the cases for lost.
    for flags in [&["--dry-run"][..], &[]] {
        let ran = place.convert(flags, 1);
        assert!(ran.err.contains(&unread.display().to_string()), "{flags:?}: {}", ran.err);
    }
    std::fs::rename(&kept, unread).unwrap();
    place.verify(0);
}

#[test]
fn lost_cases_outside_of_the_data_end_the_run_unless_given_up() {
    let place = Place::with_phantoms(3);
    place.convert(&["--shard-size", "1kB"], 0);
    let shards = hiend_cache::list_shards(place.path("cache")).unwrap();
    for file in [place.image(0), place.label(0), place.image(2), place.label(2)] {
        std::fs::remove_file(file).unwrap();
    }
    // Shards are in the order in which cases were done, which threads decide.
    let holds = |shard: &Path| {
        let shard = hiend_cache::Shard::open(shard, hiend_cache::Access::Pread).unwrap();
        shard.cases()[0].case_id.clone()
    };
    let shard_of = |case: &str| shards.iter().find(|shard| holds(shard) == case).unwrap().clone();
    let (first, second, third) = (shard_of("phantom_000"), shard_of("phantom_001"), shard_of("phantom_002"));
    let before = voxels(&place.path("cache"));
    std::fs::remove_file(&second).unwrap();
    // The data still hold the case of the removed shard.
    place.convert(&[], 0);
    assert_eq!(voxels(&place.path("cache")), before);

    let len = std::fs::metadata(&first).unwrap().len();
    File::options().write(true).open(&first).unwrap().set_len(len - 5).unwrap();
    std::fs::remove_file(&third).unwrap();
    for flags in [&[][..], &["--dry-run"], &["--prune"]] {
        let ran = place.convert(flags, 1);
        let told = "lost or damaged, with cases that are not in this data: 2, such as Dataset001_Phantom/phantom_000;";
        assert!(ran.err.contains(told) && ran.err.contains("--forget-lost"), "{}", ran.err);
        assert!(first.exists(), "nothing is changed");
    }
    place.convert(&["--forget-lost"], 0);
    assert_eq!(voxels(&place.path("cache")).into_keys().collect::<Vec<_>>(), ["Dataset001_Phantom/phantom_001"]);
    place.convert(&[], 0);
    place.verify(0);
}

#[test]
fn a_lost_shard_of_an_earlier_version_may_have_held_anything() {
    let place = Place::with_phantoms(2);
    place.convert(&["--shard-size", "1kB"], 0);
    let cache = place.path("cache");
    let mut manifest = Manifest::read(&cache).unwrap();
    assert_eq!(manifest.cases.values().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    manifest.cases.clear();
    manifest.write(&cache).unwrap();
    std::fs::remove_file(&hiend_cache::list_shards(&cache).unwrap()[0]).unwrap();
    let ran = place.convert(&[], 1);
    assert!(ran.err.contains("does not name its cases"), "{}", ran.err);
    place.convert(&["--forget-lost"], 0);
    assert_eq!(voxels(&cache).len(), 2);
}

#[test]
fn cases_of_lost_and_damaged_shards_are_converted_again() {
    let place = Place::with_phantoms(3);
    place.convert(&["--shard-size", "1kB"], 0);
    let before = voxels(&place.path("cache"));
    let shards = hiend_cache::list_shards(place.path("cache")).unwrap();
    assert_eq!(shards.len(), 3);
    std::fs::remove_file(&shards[0]).unwrap();
    let len = std::fs::metadata(&shards[1]).unwrap().len();
    File::options().write(true).open(&shards[1]).unwrap().set_len(len - 5).unwrap();
    assert_eq!(place.verify(1).out.lines().count(), 4, "two faults, a summary, and the way to repair them");
    let ran = check(&["stream", &place.text("cache")], 1);
    assert!(ran.err.contains("run hiend-shard again"), "{}", ran.err);
    let ran = check(&["inspect", &place.text("data")], 1);
    assert!(ran.err.contains("make one with `hiend-shard DATA --out "), "{}", ran.err);
    let ran = place.convert(&[], 0);
    assert!(ran.out.contains("converted   2 cases") && ran.err.contains("converting its cases again"), "{}", ran.err);
    let told =
        [".shard: listed but missing; converting", ".shard: not a whole shard (", "; kept as ", ".damaged; converting"];
    assert!(told.iter().all(|part| ran.err.contains(part)) && !ran.err.contains("kept_as"), "{}", ran.err);
    assert_eq!(voxels(&place.path("cache")), before);
    place.verify(0);
}

#[test]
fn a_run_that_leaves_lost_cases_to_others_does_not_call_the_cache_usable() {
    let place = Place::with_phantoms(3);
    place.convert(&["--shard-size", "1kB"], 0);
    let before = voxels(&place.path("cache"));
    std::fs::remove_file(&hiend_cache::list_shards(place.path("cache")).unwrap()[0]).unwrap();
    // A share without cases.
    let ran = place.convert(&["--worker", "999/1000"], 0);
    let told = "The cache still lacks 1 case of lost shards, such as Dataset001_Phantom/phantom_00";
    assert!(ran.out.contains(told) && ran.out.contains("; run the other shares (--worker).\n"), "{}", ran.out);
    assert!(!ran.out.contains("Next: hiend-train"), "{}", ran.out);
    place.verify(1);
    let ran = place.convert(&[], 0);
    assert!(ran.out.contains("Next: hiend-train") && !ran.out.contains("still lacks"), "{}", ran.out);
    assert_eq!(voxels(&place.path("cache")), before);
}
