//! A FIFO in place of a file of a run is reported at once: a program that opened it would wait for ever for a writer. A FIFO
//! that the command line names is read.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::folder::Folder;

/// Creates the command `hiend-train` in the folder; it is ended after two minutes, with exit code 124.
fn command(folder: &Folder, args: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_hiend-train")]).args(args.split_whitespace());
    command.current_dir(folder.path("")).env("XDG_CACHE_HOME", folder.path("downloads"));
    command
}

/// Runs a command with a FIFO in place of a file.
fn with_fifo(folder: &Folder, file: &Path, args: &str) -> Output {
    let kept = file.with_extension("kept");
    fs::rename(file, &kept).unwrap();
    assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
    let output = command(folder, args).output().unwrap();
    fs::remove_file(file).unwrap();
    fs::rename(kept, file).unwrap();
    output
}

#[test]
fn fifos_in_place_of_files_of_a_run_are_reported_and_not_waited_for() {
    let folder = Folder::new();
    folder.succeed("pretrain --shards cache --config pretrain.toml --run-dir run --max-steps 1");
    let reason = "a FIFO, socket or device in place of a regular file; move it away";
    let resume = "pretrain --shards cache --run-dir run --max-steps 2 --resume --device cpu";
    for (name, reason) in [
        ("config.toml", reason),
        ("cases.json", reason),
        ("journal.jsonl", reason),
        ("lock", reason),
        ("checkpoints/step-00000001/state.json", reason),
        // A FIFO has no length.
        ("checkpoints/step-00000001/model.bpk", "is damaged"),
        ("checkpoints/step-00000001/optimizer.bpk", "is damaged"),
    ] {
        let file = folder.path("run").join(name);
        let output = with_fifo(&folder, &file, resume);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(name) && errors[0].contains(reason), "{name}: {stderr}");
        if name != "lock" {
            let output = with_fifo(&folder, &file, "verify run");
            let stdout = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(1), "{name}: {stdout}");
            assert!(stdout.lines().any(|line| line.contains("DAMAGED") && line.contains(name)), "{name}: {stdout}");
        }
    }
    let output = with_fifo(&folder, &folder.path("cache/manifest.json"), resume);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("manifest.json: cannot read: ") && stderr.contains(reason), "{stderr}");
    // Nothing was harmed.
    folder.succeed("pretrain --shards cache --run-dir run --max-steps 2 --resume");
}

#[test]
fn a_configuration_is_read_from_a_pipe() {
    let folder = Folder::new();
    let args = "pretrain --shards cache --config /dev/stdin --run-dir run --max-steps 1 --device cpu";
    let mut command = command(&folder, args);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(folder.path("pretrain.toml")).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
