//! The program `hiend-shard`: exit codes, messages, and the state of the disk after failures.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use hiend_cache::{Cache, Manifest, VolumeReader};
use hiend_loader::phantom::{PhantomConfig, write_dataset};

/// Flag for coarse voxels, so that a case has a few thousand of them and is converted in milliseconds.
const SPACING: &str = "--spacing=6";

/// Result of a finished process.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-shard"));
    command.args(args).env_remove("HIEND_LOG").stdin(Stdio::null());
    command
}

fn ran_of(Output { status, stdout, stderr }: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) };
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

fn run(args: &[&str]) -> Ran {
    ran_of(command(args).output().unwrap())
}

/// Runs the program and asserts its exit code.
fn check(args: &[&str], code: i32) -> Ran {
    let ran = run(args);
    assert_eq!(ran.code, code, "{args:?}\n{}\n{}", ran.out, ran.err);
    ran
}

/// A temporary folder with a dataset.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// Creates a dataset of phantoms whose files were modified an hour ago.
    fn with_phantoms(cases: usize) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let config = PhantomConfig { cases, seed: 3, spacing_mm: [7.0, 10.0] };
        write_dataset(&place.path("data/Dataset001_Phantom"), &config).unwrap();
        for case in 0..cases {
            for file in [place.image(case), place.label(case)] {
                set_age(&file, 3600);
            }
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn image(&self, case: usize) -> PathBuf {
        self.path(&format!("data/Dataset001_Phantom/imagesTr/phantom_{case:03}_0000.nii.gz"))
    }

    fn label(&self, case: usize) -> PathBuf {
        self.path(&format!("data/Dataset001_Phantom/labelsTr/phantom_{case:03}.nii.gz"))
    }

    fn convert(&self, more: &[&str], code: i32) -> Ran {
        let (data, out) = (self.text("data"), self.text("cache"));
        check(&[&[data.as_str(), "--out", &out, SPACING], more].concat(), code)
    }

    fn verify(&self, code: i32) -> Ran {
        check(&["verify", &self.text("cache")], code)
    }
}

fn set_age(path: &Path, secs: u64) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(secs)).unwrap();
}

fn voxels(cache: &Path) -> BTreeMap<String, (Vec<u16>, Option<Vec<u8>>)> {
    let cache = Cache::open(cache).unwrap();
    let mut reader = VolumeReader::new();
    let read = |case: &hiend_cache::Case| {
        let volume = case.read_whole(&mut reader).unwrap();
        (case.key().to_owned(), (volume.image, volume.label))
    };
    cache.cases().iter().map(read).collect()
}

/// An uncompressed NIfTI-1 file of 16-bit voxels.
fn nifti(dim: &[i16], side: f32, num_voxels: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; 352];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &348i32.to_le_bytes());
    put(40, &i16::try_from(dim.len()).unwrap().to_le_bytes());
    for (axis, length) in dim.iter().enumerate() {
        put(42 + 2 * axis, &length.to_le_bytes());
    }
    put(70, &4i16.to_le_bytes());
    put(72, &16i16.to_le_bytes());
    for axis in 0..4 {
        put(76 + 4 * axis, &if axis == 0 { 1.0 } else { side }.to_le_bytes());
    }
    put(108, &352f32.to_le_bytes());
    put(254, &1i16.to_le_bytes());
    for axis in 0..3 {
        put(280 + 20 * axis, &side.to_le_bytes());
    }
    put(344, b"n+1\0");
    bytes.resize(352 + 2 * num_voxels, 0);
    bytes
}

#[test]
fn wrong_usage_exits_with_2_and_a_message() {
    let place = Place::with_phantoms(1);
    let data = place.text("data");
    for args in [
        &[][..],
        &["--bogus"],
        &[&data, "--window", "5"],
        &[&data, "--window", "100,-100"],
        &[&data, "--spacing", "0"],
        &[&data, "--spacing", "nan"],
        &[&data, "--spacing", "1,2"],
        &[&data, "--jobs", "0"],
        &[&data, "--memory", "lots"],
        &[&data, "--memory", "1KiB"],
        &[&data, "--exclude", "Dataset001_Fantom"],
        &[&data, "--reconvert", "phantom_999"],
        &[&data, "--worker", "3/3"],
        &["verify", &data, "--threads", "0"],
        &["stream", &data, "--weights", "1,2"],
        &[&data, "--worker", "0/2", "--prune"],
        &["verify"],
        &["inspect", &data, "--png", "x.png"],
        &["replay", &data],
    ] {
        let ran = check(args, 2);
        assert!(ran.err.contains("error") || ran.err.contains("Usage"), "{args:?}: {}", ran.err);
    }
    assert_eq!(check(&["--version"], 0).err, "");
}

#[test]
fn failures_exit_with_1_and_name_the_folder() {
    let place = Place::with_phantoms(1);
    let data = place.text("data");
    std::fs::create_dir(place.path("empty")).unwrap();
    std::fs::write(place.path("file"), b"").unwrap();
    let (empty, file, gone) = (place.text("empty"), place.text("file"), place.text("gone"));
    let below = place.text("file/cache");
    for (args, named) in [
        (&[empty.as_str()][..], &empty),
        (&[&gone], &gone),
        (&[&file], &file),
        (&[&data, "--out", &below], &below),
        (&[&data, "--out", &file], &file),
        (&[&data, "--exclude", "*"], &data),
        (&["verify", &empty], &empty),
        (&["verify", &gone], &gone),
        (&["inspect", &empty], &empty),
        (&["stream", &gone], &gone),
    ] {
        let ran = check(args, 1);
        assert!(ran.err.contains("error: ") && ran.err.contains(named.as_str()), "{args:?}: {}", ran.err);
        assert!(ran.err.matches("os error").count() < 2, "the reason is repeated: {}", ran.err);
    }
}

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
        ("text_0000.nii", b"this is no scan".to_vec()),
        ("text_0000_0000.nii.gz", b"this is no scan".to_vec()),
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
    assert!(ran.out.contains("1 case of the cache not in this data; --prune removes them"), "{}", ran.out);
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
    assert!(ran.out.contains("converted   1 case ") && ran.out.contains("Superseded"), "{}", ran.out);
    let after = voxels(&place.path("cache"));
    assert_eq!(after["Dataset001_Phantom/phantom_000"], before["Dataset001_Phantom/phantom_001"]);
    assert_eq!(after["Dataset001_Phantom/phantom_002"], before["Dataset001_Phantom/phantom_002"]);

    // The record of a case that is gone stays until --prune.
    std::fs::remove_file(place.image(2)).unwrap();
    std::fs::remove_file(place.label(2)).unwrap();
    let ran = place.convert(&[], 0);
    assert!(ran.out.contains("1 case of the cache not in this data"), "{}", ran.out);
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

/// Flips a bit of the byte at `at` in the only shard; returns the shard's path.
fn damage(place: &Place, at: u64) -> PathBuf {
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
    place.convert(&["--prune"], 0);
    assert!(!place.verify(0).out.contains("superseded"));
    assert_eq!(voxels(&place.path("cache")), before);
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
    // Its case is in the data.
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
fn findings_are_told_before_during_and_after_a_conversion() {
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
    assert_eq!(voxels(&place.path("cache")), before);
    place.verify(0);
}

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
    // A closed pipe is not an error.
    let mut unread = command(&["inspect", &cache]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    let ran = ran_of(unread.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn inspect_writes_a_report_of_the_whole_cache() {
    let place = Place::with_phantoms(3);
    place.convert(&[], 0);
    let (cache, folder) = (place.text("cache"), place.text("report"));
    let ran = check(&["inspect", &cache, "--report", &folder], 0);
    assert!(ran.err.contains("report/index.html"), "{}", ran.err);
    let html = std::fs::read_to_string(place.path("report/index.html")).unwrap();
    for part in ["3 cases (3 with labels)", "Dataset001_Phantom/phantom_002", "liver (3)", "All cases in the window"] {
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
fn a_misspelt_subcommand_is_corrected() {
    for (word, subcommand) in [("verfy", "verify"), ("inpsect", "inspect"), ("streams", "stream")] {
        let ran = check(&[word, "cache"], 2);
        assert!(ran.err.contains("unrecognized subcommand") && ran.err.contains(subcommand), "{}", ran.err);
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

#[test]
fn an_invalid_log_filter_is_wrong_usage() {
    let mut command = command(&["verify", "gone"]);
    let ran = ran_of(command.env("HIEND_LOG", "hiend_loader=loud").output().unwrap());
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.starts_with("error: HIEND_LOG=hiend_loader=loud: "), "{}", ran.err);
}

/// The device that fails every write with "no space left".
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

#[cfg(target_os = "linux")]
#[test]
fn too_few_threads_or_too_little_memory_is_one_line() {
    let place = Place::with_phantoms(1);
    place.convert(&[], 0);
    let cache = place.text("cache");
    // Stacks of 512 threads are far above the limit; limits of processes do not bind root. Stacks of 32 MiB and a single
    // arena make a stack the request that fails, and leave room for the message.
    let script = r#"ulimit -v 150000; exec "$0" "$@""#;
    for args in [
        &["stream", &cache, "--crop-size=16", "--visits-per-batch=1", "--threads=512"][..],
        &["verify", &cache, "--threads=512"],
    ] {
        let mut limited = Command::new("bash");
        limited.args(["-c", script, env!("CARGO_BIN_EXE_hiend-shard")]).args(args).env_remove("HIEND_LOG");
        limited.env("RUST_MIN_STACK", (32 << 20).to_string()).env("MALLOC_ARENA_MAX", "1");
        let ran = ran_of(limited.output().unwrap());
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.err);
        assert_eq!(ran.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", ran.err);
        assert!(ran.err.matches("os error").count() < 2, "the reason is repeated: {}", ran.err);
    }
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

#[test]
fn completions_and_manual_pages_of_both_programs_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1").to_string_lossy().into_owned();
    assert!(check(&["completions", "bash"], 0).out.contains("--reconvert"));
    check(&["man", &pages], 0);
    // hiend-serve has no commands, so both are flags, which need no other one.
    let serve = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_hiend-serve")).args(args).output().unwrap();
    let completions = serve(&["--completions", "zsh"]);
    assert!(completions.status.success() && String::from_utf8_lossy(&completions.stdout).contains("--token-file"));
    assert!(serve(&["--man", &pages]).status.success());
    for page in ["hiend-shard.1", "hiend-shard-verify.1", "hiend-serve.1"] {
        assert!(Path::new(&pages).join(page).exists(), "{page}");
    }
    assert_eq!(serve(&["--completions", "zsh", "--listen", "unix:/x"]).status.code(), Some(2));
}
