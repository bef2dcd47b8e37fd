//! Wrong usage and refusals: exit codes, one line of reason, and the help.

use std::path::Path;
use std::process::Command;

use super::{Place, SPACING, check, command, ran_of};

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
        &[&data, "--spacing", "-1"],
        &[&data, "--spacing", "-1,1,3"],
        &[&data, "--jobs", "-1"],
        &[&data, "--shard-size", "0"],
        &[&data, "--shard-size", "-1"],
        &["stream", &data, "--batches", "0"],
        &["stream", &data, "--memory", "0"],
        &["stream", &data, "--weights", "0"],
        &["stream", &data, "--crop-size", "-1"],
        &["stream", &data, "--disk-cache-size", "0"],
        &[&data, "--spacing", "1,2"],
        &[&data, "--jobs", "0"],
        &[&data, "--memory", "lots"],
        &[&data, "--memory", "1KiB"],
        &[&data, "--exclude", "Dataset001_Fantom"],
        &[&data, "--reconvert", "phantom_999"],
        &[&data, "--worker", "3/3"],
        &["verify", &data, "--threads", "0"],
        &["stream", &data, "--weights", "1,2"],
        &["stream", &data, &format!("{data}/../data")],
        &["stream", &data, "--sample-by", "class"],
        &["replay", &data, "--step", "0", "--sample-by", "label"],
        &[&data, "--worker", "0/2", "--prune"],
        &[&data, "--worker", "0/2", "--compact"],
        &[&data, "--dry-run", "--compact"],
        &[&data, "--prune=some"],
        &["verify"],
        &["inspect", &data, "--png", "x.png"],
        &["replay", &data],
    ] {
        let ran = check(args, 2);
        assert!(ran.err.contains("error") || ran.err.contains("Usage"), "{args:?}: {}", ran.err);
        // A number is the value of its option; only an unknown flag could be meant as a value.
        assert!(args == ["--bogus"] || !ran.err.contains("tip: to pass"), "{args:?}: {}", ran.err);
    }
    assert_eq!(check(&["--version"], 0).err, "");
    for (args, error) in [
        (["--spacing", "0"], "error: --spacing [0.0, 0.0, 0.0]: expected 0.05 to 50 mm"),
        (["--window", "100,-100"], "error: --window 100,-100: expected two whole HU values"),
    ] {
        let ran = check(&[&[data.as_str()][..], &args].concat(), 2);
        assert!(ran.err.starts_with(error), "{}", ran.err);
    }
}

#[test]
fn flags_about_object_storage_are_refused_for_a_cache_in_a_folder() {
    let place = Place::with_phantoms(1);
    let (data, cache) = (place.text("data"), place.text("cache"));
    let disk_cache = format!("--disk-cache={}", place.text("blocks"));
    for args in [
        &[data.as_str(), "--out", &cache, "--spacing=6", "--storage-retry=5"][..],
        &["verify", &cache, "--storage-retry=5"],
        &["inspect", &cache, "--storage-retry=5"],
        &["stream", &cache, "--crop-size=16", "--visits-per-batch=1", "--batches=1", &disk_cache],
    ] {
        let ran = check(args, 2);
        assert!(ran.err.contains("has no effect on caches in folders"), "{args:?}: {}", ran.err);
    }
    assert!(!place.path("blocks").exists() && !place.path("cache").exists());
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

/// No user may create anything in sysfs, root included.
#[cfg(target_os = "linux")]
#[test]
fn a_place_that_takes_no_file_is_named() {
    let out = "/sys/hiend-cache";
    if !std::path::Path::new("/sys/kernel").exists() {
        println!("nothing was tested: sysfs is not mounted");
        return;
    }
    let place = Place::with_phantoms(1);
    let data = place.text("data");
    let ran = check(&[data.as_str(), "--out", out, SPACING], 1);
    let errors: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(out) && errors[0].contains("os error"), "{}", ran.err);
}

#[test]
fn unusable_places_for_results_are_refused_before_any_work() {
    let place = Place::with_phantoms(1);
    place.convert(&[], 0);
    std::fs::write(place.path("file"), b"kept").unwrap();
    std::fs::create_dir(place.path("folder.png")).unwrap();
    let (cache, data, file) = (place.text("cache"), place.text("data"), place.text("file"));
    let (folder, orphan) = (place.text("folder.png"), place.text("none/a.png"));
    for (args, reason) in [
        (&["inspect", &cache, "--report", &file][..], "is not a folder"),
        (&["inspect", &cache, "phantom_000", "--png", &folder], "expected the name of a file"),
        (&["inspect", &cache, "phantom_000", "--png", &orphan], "does not exist"),
        (&["replay", &cache, "--step", "0", "--png", &folder], "expected the name of a file"),
        (&["replay", &cache, "--step", "0", "--png", &orphan], "does not exist"),
        (&["man", &file], "is not a folder"),
        (&[&data, "--out", &file], "is not a folder"),
        (&[&data, "--dry-run", "--out", &file], "is not a folder"),
    ] {
        let ran = check(args, 1);
        assert!(ran.out.is_empty(), "{args:?}: {}", ran.out);
        let lines: Vec<&str> = ran.err.lines().collect();
        assert!(matches!(lines.as_slice(), [line] if line.contains(reason)), "{args:?}: {}", ran.err);
    }
    assert_eq!(std::fs::read(place.path("file")).unwrap(), b"kept");
}

#[test]
fn a_misspelt_subcommand_is_corrected() {
    for (word, subcommand) in [("verfy", "verify"), ("inpsect", "inspect"), ("streams", "stream")] {
        let ran = check(&[word, "cache"], 2);
        assert!(ran.err.contains("unrecognized subcommand") && ran.err.contains(subcommand), "{}", ran.err);
    }
}

#[test]
fn calls_in_the_style_of_other_tools_get_the_right_one() {
    let place = Place::with_phantoms(1);
    let data = place.text("data");
    for (args, tip) in [
        (&[data.as_str(), "cache"][..], "tip: the output is named by '--out cache'"),
        (&[&data, "--window", "-175", "250"], "tip: '--window' takes one value"),
        (&["-i", &data, "-o", "cache"], "tip: DATA is given without an option"),
        (&[&data, "-o", "cache"], "tip: use '--out'"),
        (&["stream", "cache", "--steps", "3"], "tip: use '--batches'"),
    ] {
        let ran = check(args, 2);
        assert!(ran.err.contains(tip) && ran.err.matches("tip:").count() == 1, "{args:?}: {}", ran.err);
        assert!(ran.err.starts_with("error: unexpected argument '"), "{args:?}: {}", ran.err);
    }
    check(&["convert", &data, "--out", &place.text("cache"), SPACING], 0);
}

#[test]
fn a_folder_with_the_name_of_a_command_is_named_by_its_path() {
    let place = Place::with_phantoms(1);
    std::fs::rename(place.path("data"), place.path("convert")).unwrap();
    let run = |data: &str| {
        let mut command = command(&[data, "--out", "cache", SPACING]);
        ran_of(command.current_dir(place.path("")).output().unwrap())
    };
    let ran = run("convert");
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("tip: 'convert' is a command; the folder of this name is './convert'"), "{}", ran.err);
    let ran = run("./convert");
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn an_invalid_log_filter_is_wrong_usage() {
    let mut command = command(&["verify", "gone"]);
    let ran = ran_of(command.env("HIEND_LOG", "hiend_loader=loud").output().unwrap());
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.starts_with("error: HIEND_LOG=hiend_loader=loud: "), "{}", ran.err);
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

#[test]
fn completions_and_manual_pages_of_both_programs_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1").to_string_lossy().into_owned();
    let completions = check(&["completions", "bash"], 0).out;
    assert!(completions.contains("--reconvert") && !completions.contains("__man"), "{completions}");
    check(&["man", &pages], 0);
    // hiend-serve has no commands, so both are flags, which need no other one.
    let serve = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_hiend-serve")).args(args).output().unwrap();
    let completions = serve(&["--completions", "zsh"]);
    let text = String::from_utf8_lossy(&completions.stdout);
    assert!(completions.status.success() && text.contains("--token-file") && !text.contains("--man"), "{text}");
    assert!(serve(&["--man", &pages]).status.success());
    for page in ["hiend-shard.1", "hiend-shard-verify.1", "hiend-serve.1"] {
        assert!(Path::new(&pages).join(page).exists(), "{page}");
    }
    assert_eq!(serve(&["--completions", "zsh", "--listen", "unix:/x"]).status.code(), Some(2));
}
