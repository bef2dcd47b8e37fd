//! Conversions: cases converted, division among runs, and the state after a kill or an interruption.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use hiend_cache::{Cache, Manifest};

use super::{Place, SPACING, check, command, nifti, ran_of, set_age, voxels};

#[test]
fn bad_files_are_skipped_with_one_line_each() {
    let place = Place::with_phantoms(3);
    let images = place.path("data/Dataset001_Phantom/imagesTr");
    let whole = std::fs::read(place.image(0)).unwrap();
    let good = nifti(&[8, 8, 8], 6.0, 512);
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0xFF;
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("cut_0000.nii.gz", whole[..whole.len() / 2].to_vec()),
        ("cut_head_0000.nii.gz", whole[..20].to_vec()),
        ("damaged_0000.nii.gz", damaged),
        ("empty_0000.nii.gz", Vec::new()),
        ("empty_plain_0000.nii", Vec::new()),
        ("text_0000.nii", b"this is not a scan".to_vec()),
        ("text_0000_0000.nii.gz", b"this is not a scan".to_vec()),
        ("long_text_0000.nii", vec![b'x'; 4000]),
        ("zero_spacing_0000.nii", nifti(&[8, 8, 8], 0.0, 512)),
        ("nan_spacing_0000.nii", nifti(&[8, 8, 8], f32::NAN, 512)),
        ("inf_spacing_0000.nii", nifti(&[8, 8, 8], f32::INFINITY, 512)),
        ("tiny_spacing_0000.nii", nifti(&[8, 8, 8], 1e-30, 512)),
        ("huge_spacing_0000.nii", nifti(&[8, 8, 8], 1e30, 512)),
        ("four_d_0000.nii", nifti(&[8, 8, 8, 2], 6.0, 1024)),
        ("too_short_0000.nii", nifti(&[8, 8, 9], 6.0, 512)),
        ("promises_0000.nii", nifti(&[32767, 32767, 32767], 6.0, 512)),
        ("negative_0000.nii", nifti(&[8, -8, 8], 6.0, 512)),
        ("no_voxels_0000.nii", nifti(&[8, 0, 8], 6.0, 0)),
        ("only_air_0000.nii", {
            let mut air = good.clone();
            air[352..].as_chunks_mut::<2>().0.fill((-1000i16).to_le_bytes());
            air
        }),
    ];
    for (name, bytes) in &bad {
        std::fs::write(images.join(name), bytes).unwrap();
    }
    // A label of another shape than its image, and an image in place of a label map.
    std::fs::copy(place.label(1), place.label(2)).unwrap();
    std::fs::write(place.label(1), &whole).unwrap();
    std::fs::create_dir(images.join("folder_0000.nii.gz")).unwrap();

    let ran = place.convert(&["--jobs", "2"], 3);
    let skipped: Vec<&str> = ran.out.lines().skip_while(|line| *line != "Skipped:").collect();
    for (name, _) in &bad {
        let lines: Vec<&&str> = skipped.iter().filter(|line| line.contains(&format!("/{name})"))).collect();
        assert_eq!(lines.len(), 1, "{name}: {lines:?}\n{}", ran.out);
    }
    for case in [1, 2] {
        let label = place.label(case).display().to_string();
        assert!(skipped.iter().any(|line| line.contains(&label)), "{label}\n{}", ran.out);
    }
    let cases: Vec<String> = voxels(&place.path("cache")).into_keys().collect();
    assert_eq!(cases, ["Dataset001_Phantom/phantom_000"]);
    place.verify(0);

    std::fs::remove_file(place.image(0)).unwrap();
    let (data, out) = (place.text("data"), place.text("other"));
    let ran = check(&[&data, "--out", &out, SPACING], 1);
    assert!(ran.err.contains("none of"), "{}", ran.err);
}

#[test]
fn a_cache_does_not_lie_between_the_files_of_the_data() {
    let place = Place::with_phantoms(1);
    let data = place.text("data");
    for out in ["data", "data/Dataset001_Phantom", "data/Dataset001_Phantom/imagesTr"] {
        for more in [&[][..], &["--dry-run"]] {
            let ran = check(&[&[data.as_str(), "--out", &place.text(out), SPACING], more].concat(), 1);
            assert!(ran.err.contains("a part of the data; choose another folder with --out"), "{out}: {}", ran.err);
        }
    }
    assert!(!place.path("data/manifest.json").exists() && !place.path("data/.lock").exists());
    // Within the data, but on its own: its files are not counted as those of the data.
    for num_converted in [1, 0] {
        let ran = check(&[&data, "--out", &place.text("data/cache"), SPACING], 0);
        assert!(ran.err.contains("data/cache: the cache lies within the data; choose"), "{}", ran.err);
        assert!(ran.out.contains(&format!("converted   {num_converted} case")), "{}", ran.out);
        assert!(ran.out.contains("other files   none"), "{}", ran.out);
    }
    assert!(!place.convert(&[], 0).err.contains("within the data"));
}

#[test]
fn remarks_on_a_case_are_printed_once_where_both_outputs_are_one() {
    let place = Place::with_phantoms(2);
    std::fs::write(place.image(1), b"no scan").unwrap();
    let (data, out) = (place.text("data"), place.text("cache"));
    let args = [data.as_str(), "--out", &out, SPACING];
    // An image that is reported as suspicious: one value only.
    std::fs::write(place.image(0).with_file_name("flat_0000.nii"), nifti(&[8, 8, 8], 6.0, 512)).unwrap();
    let log = File::create(place.path("log")).unwrap();
    let status = command(&args).stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
    assert_eq!(status.code(), Some(3));
    let log = std::fs::read_to_string(place.path("log")).unwrap();
    for name in ["phantom_001_0000.nii.gz)", "Dataset001_Phantom/flat: every voxel is 0"] {
        assert_eq!(log.matches(name).count(), 1, "{name}\n{log}");
    }
    // Apart, standard error has them at once and standard output in the end.
    let ran = check(&[&data, "--out", &place.text("other"), SPACING], 3);
    assert!(
        ran.out.contains("phantom_001_0000.nii.gz)") && ran.err.contains("phantom_001_0000.nii.gz)"),
        "{}",
        ran.err
    );
}

#[test]
fn a_plan_writes_nothing() {
    let place = Place::with_phantoms(2);
    let data = place.text("data");
    let ran = check(&["plan", &data, SPACING, "--probe", "0.5"], 0);
    assert!(ran.out.contains("Dataset001_Phantom") && ran.out.contains("B/voxel"), "{}", ran.out);
    let ran = place.convert(&["--dry-run"], 0);
    assert!(ran.out.contains("would convert 2 cases"), "{}", ran.out);
    assert!(!place.path("cache").exists());
    std::fs::write(place.image(0), b"no scan").unwrap();
    let ran = check(&["plan", &data, SPACING], 3);
    assert!(ran.out.contains("phantom_000_0000.nii.gz"), "{}", ran.out);
}

#[test]
fn a_dry_run_tells_new_changed_and_unchanged_cases_and_writes_nothing() {
    let place = Place::with_phantoms(4);
    let names = |place: &Place| -> Vec<_> {
        let mut names: Vec<_> =
            std::fs::read_dir(place.path("cache")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (image, label) = (place.path("image"), place.path("label"));
    std::fs::rename(place.image(3), &image).unwrap();
    std::fs::rename(place.label(3), &label).unwrap();
    place.convert(&[], 0);
    let (before, files) = (voxels(&place.path("cache")), names(&place));
    let ran = place.convert(&["--dry-run"], 0);
    assert!(ran.out.contains("would convert 0 cases") && ran.out.contains("3 unchanged"), "{}", ran.out);
    std::fs::rename(image, place.image(3)).unwrap();
    std::fs::rename(label, place.label(3)).unwrap();
    std::fs::copy(place.image(0), place.image(1)).unwrap();
    std::fs::copy(place.label(0), place.label(1)).unwrap();
    std::fs::remove_file(place.image(2)).unwrap();
    std::fs::remove_file(place.label(2)).unwrap();
    let ran = place.convert(&["--dry-run"], 0);
    assert!(
        ran.out.contains("would convert 2 cases") && ran.out.contains("1 new, 1 changed; 1 unchanged"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("1 case of the cache not in this data; --prune removes it"), "{}", ran.out);
    let ran = place.convert(&["--dry-run", "--prune"], 0);
    assert!(ran.out.contains("would remove 1 case"), "{}", ran.out);
    let ran = place.convert(&["--dry-run", "--window", "-100,200", "--prune"], 1);
    assert!(ran.err.contains("(window -175,250 HU to -100,200 HU): 2; --change-parameters"), "{}", ran.err);
    let ran = place.convert(&["--dry-run", "--window", "-100,200", "--prune", "--change-parameters"], 0);
    assert!(ran.out.contains("1 new, 2 changed; 0 unchanged"), "{}", ran.out);
    // Cases outside the data would keep the other window, which the conversion refuses.
    let ran = place.convert(&["--dry-run", "--window", "-100,200"], 1);
    assert!(ran.err.contains("other parameters"), "{}", ran.err);
    assert_eq!((voxels(&place.path("cache")), names(&place)), (before, files));
}

#[test]
fn files_that_changed_right_before_their_conversion_are_read_once_more() {
    let place = Place::with_phantoms(2);
    // A time in the future proves as little as one of this moment, however long the test takes.
    let file = File::options().append(true).open(place.image(0)).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_hours(1)).unwrap();
    place.convert(&[], 0);
    let ran = place.convert(&["--dry-run"], 0);
    let told = "would convert 0 cases into ";
    let state = ": 0 new, 0 changed; 1 unchanged, 1 of unknown state (";
    assert!(ran.out.contains(told) && ran.out.contains(state), "{}", ran.out);
    // As after a wait.
    set_age(&place.image(0), 3600);
    let ran = place.convert(&[], 0);
    assert!(ran.out.contains("unchanged   2 cases") && !ran.out.contains("read   0 B"), "{}", ran.out);
    let ran = place.convert(&[], 0);
    assert!(ran.out.contains("unchanged   2 cases") && ran.out.contains("read   0 B"), "{}", ran.out);
    let ran = place.convert(&["--dry-run"], 0);
    assert!(ran.out.contains("0 changed; 2 unchanged") && !ran.out.contains("unknown"), "{}", ran.out);
}

#[test]
fn cases_with_other_parameters_than_the_manifest_states_are_refused() {
    let place = Place::with_phantoms(2);
    place.convert(&[], 0);
    let (cache, before) = (place.text("cache"), voxels(&place.path("cache")));
    let stream = ["stream", &cache, "--crop-size", "8", "--visits-per-batch", "1", "--batches", "1"];
    check(&stream, 0);
    // As a conversion with other parameters leaves a cache that is killed before it writes the manifest.
    let window = serde_json::json!([-100.0, 200.0]);
    Manifest::update(place.path("cache"), |manifest| manifest.preprocess["window"] = window.clone()).unwrap();
    let ran = check(&stream, 1);
    assert!(ran.err.contains("window or range of stored values than manifest.json says"), "{}", ran.err);
    let ran = check(&["verify", &cache], 1);
    assert!(ran.out.contains("manifest.json: states another spacing, window or range"), "{}", ran.out);
    place.convert(&[], 0);
    check(&stream, 0);
    place.verify(0);

    std::fs::remove_file(place.path("cache/manifest.json")).unwrap();
    let ran = place.convert(&["--dry-run"], 0);
    assert!(ran.out.contains("0 new, 0 changed; 2 unchanged"), "{}", ran.out);
    let ran = place.convert(&["--window", "-100,200"], 1);
    assert!(ran.err.contains("other parameters"), "{}", ran.err);
    assert!(!place.path("cache/manifest.json").exists());
    place.convert(&[], 0);
    check(&stream, 0);
    assert_eq!(voxels(&place.path("cache")), before);
}

#[test]
fn only_changed_cases_are_converted_again() {
    let place = Place::with_phantoms(3);
    place.convert(&[], 0);
    let before = voxels(&place.path("cache"));
    let manifest = std::fs::read(place.path("cache/manifest.json")).unwrap();

    // Same size, same time, other bytes: only --checksum reads the file.
    let whole = std::fs::read(place.image(0)).unwrap();
    let time = std::fs::metadata(place.image(0)).unwrap().modified().unwrap();
    std::fs::write(place.image(0), vec![0; whole.len()]).unwrap();
    File::options().append(true).open(place.image(0)).unwrap().set_modified(time).unwrap();
    let ran = place.convert(&[], 0);
    assert!(ran.out.contains("unchanged   3"), "{}", ran.out);
    assert_eq!(std::fs::read(place.path("cache/manifest.json")).unwrap(), manifest);
    let ran = place.convert(&["--checksum"], 3);
    assert!(ran.out.contains("unchanged   2"), "{}", ran.out);
    assert_eq!(voxels(&place.path("cache")), before, "the record of a case that cannot be read any more stays");

    // Another time, same bytes: the hash is compared.
    std::fs::write(place.image(0), &whole).unwrap();
    assert!(place.convert(&[], 0).out.contains("unchanged   3"));

    // The files of another case under this name.
    std::fs::copy(place.image(1), place.image(0)).unwrap();
    std::fs::copy(place.label(1), place.label(0)).unwrap();
    let ran = place.convert(&[], 0);
    let converted = "converted   1 case (1 with labels; 1 replaces an earlier version)";
    assert!(ran.out.contains(converted) && ran.out.contains("; --compact frees this space"), "{}", ran.out);
    let same = "1 case of this data has the image of another one, such as Dataset001_Phantom/phantom_001 that of \
        Dataset001_Phantom/phantom_000;";
    assert!(ran.out.contains(same), "{}", ran.out);
    let after = voxels(&place.path("cache"));
    assert_eq!(after["Dataset001_Phantom/phantom_000"], before["Dataset001_Phantom/phantom_001"]);
    assert_eq!(after["Dataset001_Phantom/phantom_002"], before["Dataset001_Phantom/phantom_002"]);

    // The record of a case that is gone stays until --prune.
    std::fs::remove_file(place.image(2)).unwrap();
    std::fs::remove_file(place.label(2)).unwrap();
    let ran = place.convert(&[], 0);
    assert!(ran.out.contains("1 case of the cache not in this data"), "{}", ran.out);
    assert_eq!(voxels(&place.path("cache")), after);
    let ran = place.convert(&["--compact"], 0);
    assert!(ran.out.contains("0 cases, 1 superseded record;") && !ran.out.contains("Superseded"), "{}", ran.out);
    assert_eq!(voxels(&place.path("cache")), after);
    let ran = place.convert(&["--prune"], 0);
    assert!(ran.out.contains("pruned") && !ran.out.contains("Superseded"), "{}", ran.out);
    let mut expected = after;
    expected.remove("Dataset001_Phantom/phantom_002");
    assert_eq!(voxels(&place.path("cache")), expected);
    place.verify(0);
}

#[test]
fn three_concurrent_workers_equal_one_run() {
    let place = Place::with_phantoms(12);
    place.convert(&[], 0);
    let (data, shared) = (place.text("data"), place.text("shared"));
    let workers: Vec<_> = (0..3)
        .map(|worker| {
            let share = format!("{worker}/3");
            let args = [data.as_str(), "--out", &shared, SPACING, "--jobs", "1", "--worker", &share];
            let piped = |command: &mut Command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            piped(&mut command(&args))
        })
        .collect();
    for worker in workers {
        let ran = ran_of(worker.wait_with_output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    assert_eq!(voxels(&place.path("shared")), voxels(&place.path("cache")));
    let (one, three) = (Cache::open(place.path("cache")).unwrap(), Cache::open(place.path("shared")).unwrap());
    assert_eq!(one.digest(), three.digest());
    assert_eq!(three.superseded_bytes(), 0, "no case was converted twice");
    let listed = Manifest::read(place.path("shared")).unwrap().shards;
    assert_eq!(listed.len(), three.shards().len(), "every shard is in the manifest");
    // One shard of each worker. A worker that began when another was done has its own generation, which sorts last.
    let of_worker = |worker: u32| listed.iter().filter(|shard| shard.contains(&format!("-w{worker:03}-"))).count();
    assert_eq!([0, 1, 2].map(of_worker), [1; 3], "{listed:?}");
    // Workers of another division find nothing left to convert.
    let ran = check(&[&data, "--out", &shared, SPACING, "--worker", "1/2"], 0);
    assert!(ran.out.contains("converted   0 cases"), "{}", ran.out);
}

#[test]
fn two_concurrent_runs_leave_a_sound_cache() {
    let place = Place::with_phantoms(6);
    let (data, out) = (place.text("data"), place.text("cache"));
    let args = [data.as_str(), "--out", &out, SPACING, "--jobs", "1", "--shard-size", "30kB"];
    let other = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    check(&args, 0);
    assert_eq!(ran_of(other.wait_with_output().unwrap()).code, 0);
    place.verify(0);
    assert_eq!(voxels(&place.path("cache")).len(), 6);
    place.convert(&["--prune"], 0);
    place.verify(0);
    assert_eq!(voxels(&place.path("cache")).len(), 6);
    assert_eq!(Cache::open(place.path("cache")).unwrap().superseded_bytes(), 0);
}

fn unfinished(cache: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(cache) else { return 0 };
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".shard-")).count()
}

#[test]
fn a_run_after_a_kill_converts_only_what_is_missing() {
    let place = Place::with_phantoms(24);
    let (data, out) = (place.text("data"), place.text("cache"));
    let args = [data.as_str(), "--out", &out, "--spacing=2", "--jobs", "1", "--shard-size", "1MB"];
    let mut run = command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let has_shard = || hiend_cache::list_shards(place.path("cache")).is_ok_and(|shards| !shards.is_empty());
    while !(has_shard() && unfinished(&place.path("cache")) > 0) && run.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    // Finished shards count, the unfinished one does not.
    let verified = place.verify(0);
    let kept = voxels(&place.path("cache"));
    // All of them, if the run was done before this thread saw it at work.
    assert!(!kept.is_empty(), "{}", verified.out);
    let ran = check(&args, 0);
    assert!(ran.out.contains(&format!("unchanged   {} ", kept.len())), "{} kept\n{}", kept.len(), ran.out);
    assert_eq!(unfinished(&place.path("cache")), 0);
    place.verify(0);
    let all = voxels(&place.path("cache"));
    assert_eq!(all.len(), 24);
    assert!(kept.iter().all(|(key, volume)| all[key] == *volume));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_keeps_finished_cases() {
    // On a machine that is busy with something else, a run may be done before the signal comes.
    for _ in 0..5 {
        let place = Place::with_phantoms(24);
        let (data, out) = (place.text("data"), place.text("cache"));
        let args = [data.as_str(), "--out", &out, "--spacing=2", "--jobs", "1"];
        let mut run = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while unfinished(&place.path("cache")) == 0 && run.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if run.try_wait().unwrap().is_some() {
            continue;
        }
        assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
        let ran = ran_of(run.wait_with_output().unwrap());
        if ran.code == 0 {
            continue;
        }
        assert_eq!(ran.code, 130, "{}\n{}", ran.out, ran.err);
        assert!(ran.out.contains("Interrupted"), "{}", ran.out);
        assert_eq!(unfinished(&place.path("cache")), 0);
        place.verify(0);
        assert!((1..24).contains(&voxels(&place.path("cache")).len()));
        return;
    }
    panic!("five runs were not interrupted by the signal");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_no_partial_shard() {
    let place = Place::with_phantoms(4);
    // A limit on file size makes a write fail in the middle of a shard, like a full disk.
    let script = r#"trap '' XFSZ; ulimit -f 24; exec "$0" "$@""#;
    let (data, out) = (place.text("data"), place.text("cache"));
    let mut limited = Command::new("bash");
    limited.args(["-c", script, env!("CARGO_BIN_EXE_hiend-shard"), &data, "--out", &out, SPACING]);
    let ran = ran_of(limited.output().unwrap());
    assert_eq!(ran.code, 1, "{}\n{}", ran.out, ran.err);
    assert!(ran.err.contains("error: ") && ran.err.contains(&out) && ran.err.contains("write"), "{}", ran.err);
    assert_eq!(unfinished(&place.path("cache")), 0);
    assert_eq!(hiend_cache::list_shards(place.path("cache")).unwrap(), Vec::<PathBuf>::new());
    place.convert(&[], 0);
    place.verify(0);
    assert_eq!(voxels(&place.path("cache")).len(), 4);
}

/// A case whose label map was replaced by that of another shape.
#[test]
fn earlier_versions_of_skipped_cases_are_reported() {
    let place = Place::with_phantoms(3);
    place.convert(&[], 0);
    std::fs::copy(place.label(1), place.label(2)).unwrap();
    let ran = place.convert(&[], 3);
    let stale = "The cache keeps an earlier version of 1 skipped case, such as Dataset001_Phantom/phantom_002, and programs use \
                 it; --exclude NAME --prune removes it.";
    assert!(ran.out.contains(stale) && ran.out.contains("Next: "), "{}", ran.out);
    // Programs refuse a cache of different parameters.
    let window = "--window=-100,200";
    let ran = place.convert(&[window, "--change-parameters"], 3);
    let outdated = "The cache keeps 1 skipped case with other parameters, such as Dataset001_Phantom/phantom_002, and programs \
                    refuse it;";
    assert!(ran.out.contains(outdated) && !ran.out.contains("Next: "), "{}", ran.out);
    let ran = place.convert(&[window, "--exclude=phantom_002", "--prune"], 0);
    assert!(!ran.out.contains("The cache keeps") && ran.out.contains("Next: "), "{}", ran.out);
    place.verify(0);
}

#[test]
fn other_parameters_are_not_applied_unasked() {
    let place = Place::with_phantoms(2);
    place.convert(&[], 0);
    let before = voxels(&place.path("cache"));
    for flags in [&["--window=-100,200"][..], &["--codec=dense"], &["--store=full"]] {
        let ran = place.convert(flags, 1);
        assert!(ran.err.contains("made with other parameters") && ran.err.contains(": 2; --change"), "{}", ran.err);
    }
    assert_eq!(voxels(&place.path("cache")), before);
    let ran = place.convert(&["--window=-100,200", "--change-parameters"], 0);
    assert!(ran.out.contains("converted   2 cases"), "{}", ran.out);
    assert_ne!(voxels(&place.path("cache")), before);
    // Once done, the flag is not needed any more.
    assert!(place.convert(&["--window=-100,200"], 0).out.contains("unchanged   2 cases"));
}

#[test]
fn findings_are_reported_before_during_and_after_a_conversion() {
    let place = Place::with_phantoms(1);
    // A body of 0 to 1040 without a negative value: an offset of 1000.
    let mut bytes = nifti(&[16, 16, 16], 6.0, 4096);
    for (at, value) in bytes[352..].as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let inside = (at % 16).abs_diff(8) < 5 && (at / 16 % 16).abs_diff(8) < 5;
        let noise = i16::try_from(at * 7919 % 41).unwrap();
        *value = (if inside { 1020 + noise } else { noise }).to_le_bytes();
    }
    // A qform elsewhere than the sform.
    bytes[252..254].copy_from_slice(&1i16.to_le_bytes());
    bytes[268..272].copy_from_slice(&500f32.to_le_bytes());
    let odd = place.path("data/Dataset001_Phantom/imagesTr/odd_0000.nii");
    std::fs::write(&odd, bytes).unwrap();
    set_age(&odd, 3600);
    let header = "Dataset001_Phantom/odd: sform and qform disagree";
    let values = "Dataset001_Phantom/odd: values 0 to 1060";
    let ran = place.convert(&["--dry-run"], 0);
    assert!(ran.out.contains("Would convert, but check these:") && ran.out.contains(header), "{}", ran.out);
    let ran = place.convert(&[], 0);
    assert!(ran.out.contains(header) && ran.out.contains(values), "{}", ran.out);
    for flags in [&[][..], &["--on-suspect=fail"]] {
        let ran = place.convert(flags, 0);
        assert!(ran.out.contains("In the cache unchanged, but check these:"), "{}", ran.out);
        assert!(ran.out.contains(header) && ran.out.contains(values), "{}", ran.out);
        assert_eq!(ran.out.contains("--on-suspect does not apply"), !flags.is_empty(), "{}", ran.out);
    }
    let ran = check(&["inspect", &place.text("cache")], 0);
    assert!(ran.out.contains("suspicious   1 case ") && ran.out.contains(values), "{}", ran.out);
}

#[test]
fn label_values_that_dataset_json_does_not_name_are_listed() {
    let place = Place::with_phantoms(1);
    let description = place.path("data/Dataset001_Phantom/dataset.json");
    let text = std::fs::read_to_string(&description).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["labels"].as_object_mut().unwrap().remove("spine").unwrap();
    std::fs::write(&description, json.to_string()).unwrap();
    let ran = place.convert(&[], 0);
    let listed = "Label values that dataset.json does not name:\n  Dataset001_Phantom: label value 5 in 1 of 1 labelled case, such \
                  as Dataset001_Phantom/phantom_000, has no name in dataset.json;";
    assert!(ran.out.contains(listed), "{}", ran.out);
}

#[cfg(target_os = "linux")]
#[test]
fn a_case_beyond_the_memory_of_the_system_is_skipped() {
    let place = Place::with_phantoms(1);
    let path = place.path("data/Dataset001_Phantom/imagesTr/big_0000.nii");
    std::fs::write(&path, nifti(&[500, 500, 400], 1.0, 0)).unwrap();
    // 200 MB of voxels that take no place on disk; converting them takes twice as much memory.
    File::options().write(true).open(&path).unwrap().set_len(352 + 200_000_000).unwrap();
    let script = r#"ulimit -v 300000; exec "$0" "$@""#;
    let (data, out) = (place.text("data"), place.text("cache"));
    let mut limited = Command::new("bash");
    limited.args(["-c", script, env!("CARGO_BIN_EXE_hiend-shard"), &data, "--out", &out, SPACING, "--jobs=1"]);
    let ran = ran_of(limited.env_remove("HIEND_LOG").output().unwrap());
    assert_eq!(ran.code, 3, "{}\n{}", ran.out, ran.err);
    assert!(ran.out.contains("big: needs ") && ran.out.contains("which the system does not grant"), "{}", ran.out);
    assert_eq!(voxels(&place.path("cache")).len(), 1);
}
