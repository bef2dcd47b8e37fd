//! The binary: exit codes, and errors of one line.

use std::process::{Command, Output, Stdio};

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
    check(&["--shards", "cache", "--devices", "cpu,gpu"], 2, "expected auto, cpu, cuda:N or vulkan:N");
    check(&["--shards", "cache", "--devices", "cpu,cpu", "--device", "cpu"], 2, "cannot be used with");
    check(&["--shards", "cache", "--devices", "cpu,cuda:0"], 1, "--devices cpu,cuda:0: several CUDA devices");
}

#[test]
fn output_that_nobody_reads_ends_the_program_without_a_word() {
    // Without --preset it says on standard output which one it takes, then misses the cache.
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
    command.args(["--shards", "no-such-cache", "--device", "cpu"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut unread = command.spawn().unwrap();
    drop(unread.stdout.take());
    let output = unread.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), b"".as_slice()));
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
    check(&["--shards", &no_cache, "--config", &path("none.toml"), "--device", "cpu"], 1, "none.toml");
    check(&["--shards", &no_cache, "--resume", "--run-dir", &path("none"), "--device", "cpu"], 1, "no run to go on");
    let bad = path("bad.toml");
    std::fs::write(&bad, "[modle]\n").unwrap();
    check(&["--shards", &no_cache, "--config", &bad, "--device", "cpu"], 1, "did you mean `model`?");
}

#[test]
fn curves_are_drawn_from_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().to_string_lossy().into_owned();
    check(&["curves", &run], 1, "journal.jsonl: No such file");
    let journal = dir.path().join("journal.jsonl");
    std::fs::write(&journal, "{\"event\":\"started\",\"step\":0,\"device\":\"CPU\"}\n").unwrap();
    check(&["curves", &run], 1, "no update in the journal yet");
    let step = r#"{"event":"step","step":1,"epoch":0.1,"loss":1.0,"lr":1e-4,"crops":1,"crops_per_sec":1.0,"step_ms":1.0,
        "wait_ms":0.0,"upload_ms":0.0,"compute_ms":1.0,"decode_ms":0.0,"augment_ms":0.0}"#;
    std::fs::write(&journal, step.replace('\n', "") + "\n{\"event\":\"st").unwrap();
    let out = dir.path().join("other.png").to_string_lossy().into_owned();
    check(&["curves", &run, "--out", &out], 0, "");
    assert!(std::fs::read(&out).unwrap().starts_with(b"\x89PNG"));
    std::fs::write(&journal, "half\nof\nsomething\n").unwrap();
    check(&["curves", &run], 1, "journal.jsonl, line 1: expected an entry");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn cuda_that_is_not_built_in_is_one_clear_line() {
    check(&["--shards", "cache", "--device", "cuda:0"], 1, "this build has no CUDA; rebuild with --features cuda");
}
