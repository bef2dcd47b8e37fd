//! Tests of the binary: exit codes, and error messages on one line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};

/// Journal line of an optimizer step.
const STEP: &str = r#"{"event":"step","step":1,"epoch":0.1,"loss":1.0,"lr":1e-4,"crops":1,"crops_per_sec":1.0,"step_ms":1.0,
"wait_ms":0.0,"upload_ms":0.0,"compute_ms":1.0,"decode_ms":0.0,"augment_ms":0.0}"#;

fn hiend_train(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hiend-train")).args(args).output().unwrap()
}

fn check(args: &[&str], code: i32, in_stderr: &str) {
    let output = hiend_train(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(in_stderr), "{args:?}: {stderr}");
    if code == 1 {
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn usage_errors_exit_with_2() {
    check(&[], 2, "--shards");
    check(&["--shards", "cache", "--device", "gpu"], 2, "expected auto, cpu, cuda:N or vulkan:N");
    check(&["--shards", "cache", "--preset", "huge"], 2, "vit-l-p12");
    check(&["--shards", "cache", "--preset", "tiny", "--config", "x.toml"], 2, "cannot be used with");
    check(&["--shards", "cache", "--memory", "lots"], 2, "expected a size");
    check(&["--shards", "cache", "--display", "window"], 2, "auto, dashboard, lines");
    check(&["curves"], 2, "<RUN>");
    check(&["--shards", "cache", "--lr", "1e-3"], 2, "tip: use '--set optim.lr=1e-4'");
    check(&["finetune", "--shards", "cache", "--steps", "9"], 2, "tip: use '--max-steps'");
    check(&["--shards", "cache", "other"], 2, "tip: '--shards' takes one value");
    check(&["evaluate", "--gt", "labels"], 2, "tip: use '--labels'");
    check(&["--shards", "cache", "--devices", "cpu,gpu"], 2, "expected auto, cpu, cuda:N or vulkan:N");
    check(&["--shards", "cache", "--devices", "cpu,cpu", "--device", "cpu"], 2, "cannot be used with");
    check(&["--shards", "cache", "--devices", "cpu,cuda:0"], 1, "--devices cpu,cuda:0: expected several CUDA devices");
}

/// Runs with standard output and standard error on a full device.
fn on_full_device(args: &[&str]) -> Option<i32> {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
    command.args(args).stdout(full()).stderr(full()).status().unwrap().code()
}

#[test]
fn full_or_closed_output_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().to_string_lossy().into_owned();
    assert_eq!(on_full_device(&["curves", &run]), Some(1));
    assert_eq!(on_full_device(&["--shards", &run, "--device", "cpu"]), Some(1));
    std::fs::write(dir.path().join("journal.jsonl"), STEP.replace('\n', "") + "\n").unwrap();
    // The picture was drawn, but its name could not be printed.
    assert_eq!(on_full_device(&["curves", &run]), Some(1));
    assert!(dir.path().join("curves.png").exists());
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
    command.args(["config"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut unread = command.spawn().unwrap();
    drop(unread.stdout.take());
    assert_eq!(unread.wait_with_output().unwrap().stderr, b"");
}

#[test]
fn mistyped_command_is_corrected() {
    check(&["finetun", "--shards", "c"], 2, "finetune");
    check(&["verfy", "run"], 2, "verify");
}

#[test]
fn presets_are_listed_and_printed() {
    let names = String::from_utf8(hiend_train(&["config"]).stdout).unwrap();
    assert!(names.contains("pretrain/vit-l-p12\n") && names.contains("finetune/btcv-one-shot\n"), "{names}");
    for name in names.lines() {
        let text = String::from_utf8(hiend_train(&["config", name]).stdout).unwrap();
        assert!(text.contains("[optim]"), "{name}: {text}");
    }
    let help = String::from_utf8(hiend_train(&["config", "--help"]).stdout).unwrap();
    assert!(help.contains("pretrain/tiny"), "{help}");
    check(&["config", "vit-l"], 1, "did you mean `pretrain/vit-l-p1");
    check(
        &["config", "tiny"],
        1,
        "`tiny` names several presets; give the full name of one: pretrain/tiny or finetune/tiny",
    );
}

#[test]
fn settings_are_checked_before_the_cache_is_opened() {
    let set = |setting| ["--shards", "no-such-cache", "--preset", "tiny", "--device", "cpu", "--set", setting];
    check(&set("train.lr=1e-4"), 1, "--set train.lr=1e-4: unknown key `train.lr`; did you mean `optim.lr`?");
    check(&set("optim.lr"), 2, "expected KEY=VALUE");
    check(&set("optim.lr=2e-4"), 1, "no-such-cache");
}

/// Rank 0 of two, as torchrun would start it, without a token.
fn rank_without_a_token() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
    command.args(["--shards", "none", "--run-dir", "none", "--device", "cpu"]).env_remove("HIEND_TOKEN");
    command.envs([("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")]);
    command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")]);
    command
}

#[test]
fn a_rank_without_a_token_says_so_before_it_waits() {
    let stderr = String::from_utf8(rank_without_a_token().output().unwrap().stderr).unwrap();
    assert!(stderr.contains("error: HIEND_TOKEN is not set") && !stderr.contains("waits for"), "{stderr}");
}

#[test]
fn a_variable_that_is_not_utf8_is_named_and_not_taken_for_an_unset_one() {
    for name in ["HIEND_TOKEN", "MASTER_ADDR"] {
        let mut command = rank_without_a_token();
        command.env(name, OsStr::from_bytes(b"a secret of sixteen characters \xff"));
        let stderr = String::from_utf8(command.output().unwrap().stderr).unwrap();
        let expected = format!("error: the environment variable {name} holds bytes that are not UTF-8");
        assert!(stderr.contains(&expected) && !stderr.contains("a secret"), "{stderr}");
    }
}

#[test]
fn verify_reports_damage_with_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().to_string_lossy().into_owned();
    check(&["verify", &run], 1, "no run to resume");
    check(&["verify", &format!("{run}/none")], 1, "none: no such folder");
    let cache = tempfile::tempdir().unwrap();
    std::fs::write(cache.path().join("manifest.json"), "{}").unwrap();
    let cache = cache.path().to_string_lossy();
    check(&["verify", &cache], 1, &format!("`hiend-shard verify {cache}` checks a cache"));
    std::fs::write(dir.path().join("file"), "").unwrap();
    check(&["verify", &format!("{run}/file")], 1, "file: not a folder");
    let checkpoint = dir.path().join("checkpoints/step-00000001");
    std::fs::create_dir_all(&checkpoint).unwrap();
    std::fs::write(checkpoint.join("state.json"), "{}").unwrap();
    let output = hiend_train(&["verify", &run]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout.contains("step-00000001: DAMAGED ("), "{stdout}");
    assert!(stdout.contains("journal.jsonl: MISSING (the checkpoints do not need it"), "{stdout}");
}

#[test]
fn completions_and_manual_pages_are_written() {
    for shell in ["bash", "zsh", "fish"] {
        let output = hiend_train(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("gradient-checkpointing"), "{shell}");
        assert!(!script.contains("Write the manual pages") && !script.contains("__man"), "{shell}");
        // The name that the script sets is the name that it compares.
        let (sets, compares) = ("cmd=\"hiend__train__subcmd__finetune\"", " hiend__train__subcmd__finetune)");
        assert!(shell != "bash" || (script.contains(sets) && script.contains(compares)));
    }
    let dir = tempfile::tempdir().unwrap();
    check(&["man", &dir.path().join("man1").to_string_lossy()], 0, "");
    let page = std::fs::read_to_string(dir.path().join("man1/hiend-train-predict.1")).unwrap();
    assert!(page.contains("skip\\-existing"), "{page}");
    check(&["completions", "csh"], 2, "bash");
}

#[test]
fn help_exits_with_0() {
    let output = hiend_train(&["--help"]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("--shards"));
}

#[test]
fn failures_exit_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let no_cache = path("no-such-cache");
    check(&["--shards", &no_cache, "--preset", "tiny", "--device", "cpu"], 1, "no-such-cache");
    let no_config = path("none.toml");
    check(
        &["--shards", &no_cache, "--config", &no_config, "--device", "cpu"],
        1,
        "none.toml: cannot read: No such file",
    );
    check(&["--shards", &no_cache, "--resume", "--run-dir", &path("none"), "--device", "cpu"], 1, "no run to resume");
    let bad = path("bad.toml");
    std::fs::write(&bad, "[modle]\n").unwrap();
    check(&["--shards", &no_cache, "--config", &bad, "--device", "cpu"], 1, "did you mean `model`?");
}

#[test]
fn curves_are_drawn_from_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().to_string_lossy().into_owned();
    check(&["curves", &run], 1, "journal.jsonl: cannot read the journal: No such file");
    let journal = dir.path().join("journal.jsonl");
    std::fs::write(&journal, "{\"event\":\"started\",\"step\":0,\"device\":\"CPU\"}\n").unwrap();
    check(&["curves", &run], 1, "no optimizer step in the journal yet");
    std::fs::write(&journal, STEP.replace('\n', "") + "\n{\"event\":\"st").unwrap();
    let out = dir.path().join("other.png").to_string_lossy().into_owned();
    check(&["curves", &run, "--out", &out], 0, "");
    assert!(std::fs::read(&out).unwrap().starts_with(b"\x89PNG"));
    check(&["curves", &run, "--out", &journal.to_string_lossy()], 2, "expected a name that ends in .png");
    std::fs::write(&journal, "half\nof\nsomething\n").unwrap();
    check(&["curves", &run], 1, "journal.jsonl, line 1: not an entry of hiend-train");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn missing_cuda_is_one_clear_line() {
    check(&["--shards", "cache", "--device", "cuda:0"], 1, "this build has no CUDA: cargo install --locked");
}
