//! Output of the commands that read a cache, and output that cannot be written.

use std::fs::File;
use std::process::Stdio;

use super::damage::damage;
use super::{Place, SPACING, check, command, nifti, ran_of, voxels};

#[test]
fn replay_makes_the_batch_of_the_stream_again() {
    let place = Place::with_phantoms(3);
    place.convert(&[], 0);
    let cache = place.text("cache");
    let options = ["--crop-size=24", "--visits-per-batch=2", "--crops-per-visit=3", "--labels", "--seed=9"];
    let streamed = check(&[&["stream", &cache, "--batches=3"][..], &options].concat(), 0).out;
    let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let wanted = json(streamed.lines().nth(2).unwrap());
    let png = place.text("crops.png");
    let ran = check(&[&["replay", &cache, "--step=2", "--json", "--png", &png][..], &options].concat(), 0);
    let lines: Vec<serde_json::Value> = ran.out.lines().map(json).collect();
    assert_eq!((&lines[0]["step"], &lines[0]["digest"]), (&wanted["step"], &wanted["digest"]));
    assert_eq!(lines.len(), 7);
    assert!(lines[1]["augmentation"].is_array() && lines[1]["origin"].as_array().unwrap().len() == 3);
    assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG"));
    let ran = check(&[&["replay", &cache, "--step=2"][..], &options].concat(), 0);
    assert!(ran.out.contains(wanted["digest"].as_str().unwrap()), "{}", ran.out);
}

#[test]
fn a_line_of_a_stream_has_the_case_of_each_visit() {
    let place = Place::with_phantoms(1);
    place.convert(&[], 0);
    let options = ["--batches=2", "--crop-size=24", "--visits-per-batch=3", "--crops-per-visit=2"];
    let ran = check(&[&["stream", &place.text("cache")][..], &options].concat(), 0);
    for line in ran.out.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["cases"], serde_json::json!(vec!["Dataset001_Phantom/phantom_000"; 3]));
        assert_eq!(line["crops"], 6);
    }
    // Nothing trains on these batches.
    assert!(ran.err.contains(" crops/s with ") && !ran.err.contains("would feed"), "{}", ran.err);
}

#[test]
fn a_name_to_exclude_that_matches_nothing_is_reported() {
    let place = Place::with_phantoms(2);
    place.convert(&[], 0);
    let cache = place.text("cache");
    let options = ["stream", &cache, "--batches=1", "--crop-size=24", "--visits-per-batch=1"];
    assert!(!check(&options, 0).err.contains("exclude"));
    let ran = check(&[&options[..], &["--exclude", "Fantom", "--exclude", "WORD"]].concat(), 0);
    for expected in [
        "warning: exclude: no dataset matches \"Fantom\", which excludes nothing; did you mean \"Dataset001_Phantom\"?",
        "warning: exclude: no dataset matches \"WORD\", which excludes nothing",
    ] {
        assert!(ran.err.lines().any(|line| line == expected), "{expected}: {}", ran.err);
    }
}

#[test]
fn unknown_names_of_a_conversion_are_corrected() {
    let place = Place::with_phantoms(2);
    let error = |flags: &[&str]| place.convert(flags, 2).err;
    let unknown = error(&["--exclude", "Fantom"]);
    assert!(unknown.contains("--exclude Fantom: no dataset and no case of this name in "), "{unknown}");
    assert!(unknown.contains("; did you mean Dataset001_Phantom?"), "{unknown}");
    let unknown = error(&["--reconvert", "phantm_001"]);
    assert!(unknown.contains("; did you mean Dataset001_Phantom/phantom_001?"), "{unknown}");
    assert!(!error(&["--exclude", "WORD"]).contains("did you mean"));
}

#[test]
fn inspect_shows_the_content_and_corrects_names() {
    let place = Place::with_phantoms(2);
    place.convert(&[], 0);
    let cache = place.text("cache");
    let ran = check(&["inspect", &cache], 0);
    for part in ["2 cases (2 with labels)", "-175 to 250 HU", "1 liver", "Dataset001_Phantom/phantom_001"] {
        assert!(ran.out.contains(part), "{part} in {}", ran.out);
    }
    let png = place.text("case.png");
    let ran = check(&["inspect", &cache, "phantom_001", "--png", &png], 0);
    assert!(ran.out.contains("left_kidney") && ran.out.contains("foreground box"), "{}", ran.out);
    assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG"));
    // A path that is not a picture's is refused, so that a typing error cannot replace a scan or a shard.
    let manifest = place.text("cache/manifest.json");
    let before = std::fs::read(&manifest).unwrap();
    let ran = check(&["inspect", &cache, "phantom_001", "--png", &manifest], 2);
    assert!(ran.err.contains("expected a name that ends in .png"), "{}", ran.err);
    check(&["replay", &cache, "--step=0", "--crop-size=24", "--png", &manifest], 2);
    assert_eq!(std::fs::read(&manifest).unwrap(), before);
    let ran = check(&["inspect", &cache, "fantom_001"], 1);
    assert!(ran.err.contains("did you mean Dataset001_Phantom/phantom_001?"), "{}", ran.err);
    // The name of the case counts for more than the likeness of the whole: phantom_000 is the more similar word.
    let ran = check(&["inspect", &cache, "phantom_000/Phantom_001"], 1);
    assert!(ran.err.contains("did you mean Dataset001_Phantom/phantom_001?"), "{}", ran.err);
    // A closed pipe is not an error.
    let mut unread = command(&["inspect", &cache]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    let ran = ran_of(unread.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

/// Sheared voxels, as of a gantry tilt, remain with `--spacing native`: sides of 10 mm, and 0.8 ml.
#[test]
fn volumes_of_classes_are_those_of_sheared_voxels() {
    let place = Place { dir: tempfile::tempdir().unwrap() };
    let sheared = |labels: i16| {
        let mut bytes = nifti(&[8, 8, 8], 10.0, 512);
        for (at, value) in [(304, 6.0f32), (320, 8.0)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[352..552].as_chunks_mut::<2>().0.fill(labels.to_le_bytes());
        bytes
    };
    for (folder, name, labels) in [("imagesTr", "a_0000.nii", 0), ("labelsTr", "a.nii", 1)] {
        let folder = place.path("sheared/Dataset002_A").join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), sheared(labels)).unwrap();
    }
    let out = place.text("out");
    check(&[&place.text("sheared"), "--out", &out, "--spacing=native"], 0);
    let ran = check(&["inspect", &out, "a"], 0);
    let row = ran.out.lines().find(|line| line.contains("label 1")).unwrap();
    assert!(row.contains(" 100 ") && row.contains(" 80.0 "), "{row}");
}

#[test]
fn inspect_writes_a_report_of_the_whole_cache() {
    let place = Place::with_phantoms(3);
    place.convert(&[], 0);
    let (cache, folder) = (place.text("cache"), place.text("report"));
    let ran = check(&["inspect", &cache, "--report", &folder], 0);
    assert!(ran.err.contains("report/index.html"), "{}", ran.err);
    let html = std::fs::read_to_string(place.path("report/index.html")).unwrap();
    for part in
        ["3 cases (3 with labels)", "Dataset001_Phantom/phantom_002", "liver (3)", "All cases with labels in colour"]
    {
        assert!(html.contains(part), "{part}");
    }
    // Four histograms of cases, that of the values, and box plots of shares and of class volumes.
    assert_eq!((html.matches("<svg").count(), html.matches("data:image/png").count()), (7, 3));
    assert!(!html.contains("<script") && !html.contains("href="), "a page that needs nothing else");
    // A path that is not a folder is refused.
    let manifest = place.text("cache/manifest.json");
    let ran = check(&["inspect", &cache, "--report", &manifest], 1);
    assert!(ran.err.contains("manifest.json"), "{}", ran.err);
}

#[test]
fn files_are_listed_where_nothing_can_be_converted() {
    let place = Place { dir: tempfile::tempdir().unwrap() };
    let [data, out] = ["data", "cache"].map(|name| place.text(name));
    std::fs::create_dir(&data).unwrap();
    for name in ["a_seg.nii", "b_seg.nii", "c.txt"] {
        std::fs::write(place.path("data").join(name), b"x").unwrap();
    }
    for flags in [&[][..], &["--dry-run"]] {
        let args = [&[data.as_str(), "--out", &out, "--list-skipped"], flags].concat();
        let ran = check(&args, 1);
        for part in ["a_seg.nii: label map", "b_seg.nii: label map", "c.txt: not a volume"] {
            assert_eq!(ran.out.matches(part).count(), 1, "{part}\n{}", ran.out);
        }
        assert!(ran.err.contains("no volumes to convert here"), "{}", ran.err);
    }
}

#[test]
fn control_characters_in_names_are_escaped() {
    let place = Place::with_phantoms(1);
    let name = "red\u{1b}[31m\rbell\u{7}_0000.nii.gz";
    std::fs::write(place.image(0).with_file_name(name), b"not a scan").unwrap();
    let converted = place.convert(&[], 3);
    let missing = check(&["inspect", "gone\u{1b}]0;title\u{7}"], 1);
    for text in [&converted.out, &missing.err] {
        assert!(text.contains("\\u{1b}"), "{text:?}");
    }
    for text in [&converted.out, &converted.err, &missing.err] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

/// Opens the device that fails every write with "no space left".
#[cfg(target_os = "linux")]
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_an_error() {
    let place = Place::with_phantoms(1);
    place.convert(&[], 0);
    let cache = place.text("cache");
    for args in [
        &["stream", &cache, "--crop-size=16", "--visits-per-batch=1", "--batches=2"][..],
        &["replay", &cache, "--step=0", "--crop-size=16", "--visits-per-batch=1"],
        &["inspect", &cache],
        &["verify", &cache],
        &["plan", &place.text("data"), SPACING, "--probe=0"],
        &[&place.text("data"), "--out", &cache, SPACING],
        &["--help"],
        &["--version"],
    ] {
        let ran = ran_of(command(args).stdout(full()).output().unwrap());
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("error: cannot write to standard output: "), "{args:?}: {}", ran.err);
    }
    assert_eq!(voxels(&place.path("cache")).len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_or_closed_standard_error_changes_no_exit_code() {
    let place = Place::with_phantoms(2);
    std::fs::write(place.image(1), b"not a scan").unwrap();
    let (data, out) = (place.text("data"), place.text("cache"));
    for (args, code) in [
        (&[data.as_str(), "--out", &out, SPACING][..], 3),
        (&["verify", "gone"], 1),
        (&["verfy"], 2),
        (&["--bogus"], 2),
        (&["inspect", &out], 0),
    ] {
        let ran = ran_of(command(args).env("HIEND_LOG", "trace").stderr(full()).output().unwrap());
        assert_eq!(ran.code, code, "{args:?}");
        let mut unread = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(unread.stderr.take());
        assert_eq!(ran_of(unread.wait_with_output().unwrap()).code, code, "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_stream_whose_reader_left_ends_early() {
    let place = Place::with_phantoms(1);
    place.convert(&[], 0);
    let cache = place.text("cache");
    let mut unread = command(&["stream", &cache, "--crop-size=16", "--visits-per-batch=1", "--batches=1000000000"]);
    let mut unread = unread.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    assert_eq!(ran_of(unread.wait_with_output().unwrap()).code, 0);
}

#[test]
fn results_are_printed_as_json_by_request() {
    let place = Place::with_phantoms(2);
    std::fs::write(place.image(1).with_file_name("x_0000.mgz"), b"MGH").unwrap();
    let json = |args: &[&str], code| serde_json::from_str::<serde_json::Value>(&check(args, code).out).unwrap();
    let (data, cache) = (place.text("data"), place.text("cache"));
    let plan = json(&["plan", &data, SPACING, "--probe=0", "--json"], 3);
    assert_eq!((&plan["datasets"][0]["cases"], &plan["probed"]), (&2.into(), &1.into()));
    assert!(plan["unused"][0]["reason"].as_str().unwrap().contains("MGH"), "{plan}");
    place.convert(&[], 3);
    let content = json(&["inspect", &cache, "--json"], 0);
    assert_eq!(content["cases"].as_array().unwrap().len(), 2);
    assert_eq!(content["datasets"]["Dataset001_Phantom"]["labels"]["1"], "liver");
    assert_eq!(json(&["verify", &cache, "--json"], 0)["faults"], serde_json::json!([]));
    damage(&place, 40);
    let damaged = json(&["verify", &cache, "--json"], 1);
    assert_eq!((&damaged["cases"], &damaged["faults"][0]["array"]), (&2.into(), &"image".into()));
}
