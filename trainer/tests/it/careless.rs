//! Tests of users' mistakes: each ends in one clear line with advice, before any time is spent, and harms no run.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::split::{ListSplit, Split};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::FinetuneConfig;

use crate::folder::Folder;

#[test]
fn unlabelled_cases_are_left_out_of_fine_tuning_unless_they_are_named() {
    let folder = Folder::new();
    let scans = PhantomConfig { cases: 2, seed: 9, spacing_mm: [5.0, 6.0] };
    write_dataset(&folder.path("more/Dataset002_Q"), &scans).unwrap();
    fs::remove_dir_all(folder.path("more/Dataset002_Q/labelsTr")).unwrap();
    let raw = folder.path("more");
    let datasets = dataset::find(&raw).unwrap();
    for cache in ["cache", "unlabelled"] {
        let preprocess = PreprocessConfig { spacing: Some([5.0; 3]), ..PreprocessConfig::default() };
        Conversion::new(&raw, &datasets, &folder.path(cache)).config(preprocess).run().unwrap();
    }
    let finetune = "finetune --init none --config finetune.toml --run-dir run";
    // The memory is too small, which is the next thing to check.
    let accepted = |flags: &str| {
        let error = folder.refuse(&format!("{finetune} --shards cache --memory 1MiB {flags}"), &["--memory"]);
        assert!(!error.contains("labels"), "{flags}: {error}");
    };
    for flags in ["--fold 0/2", "--fold 1/2", "--shots 1", "--no-validation"] {
        accepted(flags);
        let output = folder.run(&format!("{finetune} --shards cache --memory 1MiB {flags}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let told = "warning: stream.labels: 2 of 4 cases have labels; the others are left out";
        assert_eq!(stderr.lines().filter(|line| *line == told).count(), 1, "{flags}: {stderr}");
    }
    let error = folder.refuse(
        &format!("{finetune} --shards unlabelled"),
        &["none of 2 cases has labels; convert a dataset with labelsTr"],
    );
    assert!(!error.contains("--fold"), "{error}");
    let hint = "cases to train on (use --fold 0/2, --shots 1 or --no-validation): ";
    folder.refuse(&format!("{finetune} --shards cache --shots 2"), &[hint, "shots = 2 of 2 labelled cases"]);
    // Named cases.
    fs::write(folder.path("list.txt"), "Dataset001_P/phantom_000\nDataset002_Q/phantom_000\n").unwrap();
    folder.refuse(
        &format!("{finetune} --shards cache --set stream.split={{list=\"list.txt\"}}"),
        &["list.txt: case Dataset002_Q/phantom_000 has no labels; remove its name"],
    );
    // A file of a single fold.
    let one = r#"[{"train": ["Dataset001_P/phantom_000"], "val": ["Dataset001_P/phantom_001"]}]"#;
    fs::write(folder.path("one.json"), one).unwrap();
    for fold in ["0", "0/1"] {
        accepted(&format!("--splits one.json --fold {fold}"));
        let output = folder.run(&format!("{finetune} --shards cache --fold {fold}"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&format!("--fold {fold}: expected K/N")) && stderr.contains("--splits"), "{stderr}");
    }
    assert!(!folder.path("run").exists());
}

#[test]
fn settings_that_do_not_suit_the_cache_are_refused_before_a_folder_is_made() {
    let folder = Folder::new();
    let pretrain = "pretrain --shards cache --config pretrain.toml --run-dir run";
    let finetune = "finetune --init none --shards cache --config finetune.toml --run-dir run";
    let with = |base: &str, setting: &str| format!("{base} {setting}");
    folder.refuse(&with(pretrain, "--set stream.window=[-1000,1000]"), &["window", "cache"]);
    folder.refuse(&with(pretrain, "--set stream.include=[\"Dataset009_WORD\"]"), &["Dataset009_WORD"]);
    // Names to exclude may be absent, and are reported.
    for base in [pretrain, finetune] {
        let output = folder.run(&with(base, "--memory 1MiB --set stream.exclude=[\"Dataset001_Q\"]"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let told = "warning: stream.exclude: no dataset matches \"Dataset001_Q\", which excludes nothing; did you mean \
                    \"Dataset001_P\"?";
        assert!(stderr.lines().any(|line| line == told), "{base}: {stderr}");
    }
    folder.refuse(&with(pretrain, "--set stream.split={list=\"none.txt\"}"), &["none.txt"]);
    folder.refuse(&with(pretrain, "--set stream.labels=yes"), &["--set stream.labels=yes", "expected a boolean"]);
    folder.refuse(&with(pretrain, "--memory 1MiB"), &["--memory"]);
    let hint = "cases to train on (use --fold 0/2, --shots 1 or --no-validation): ";
    folder.refuse(&with(finetune, "--fold 0/50"), &[hint, "50 folds of 2 cases"]);
    folder.refuse(&with(finetune, "--shots 2"), &[hint, "shots = 2 of 2 cases"]);
    // Of other errors, the split is not the cause.
    let error = folder.refuse(
        &with(finetune, "--set stream.include=[\"Dataset001_Q\"]"),
        &["no dataset matches", "did you mean \"Dataset001_P\"?"],
    );
    assert!(!error.contains("--fold"), "{error}");
    folder.refuse(&with(finetune, "--shots 0"), &["shots"]);
    let error =
        folder.refuse(&with(finetune, "--no-validation --set stream.exclude=[\"P\"]"), &["none of its 2 cases"]);
    assert!(!error.contains("--fold"), "{error}");
    let text = fs::read_to_string(folder.path("finetune.toml")).unwrap();
    let mut listed: FinetuneConfig = FinetuneConfig::parse(&text, "finetune.toml").unwrap();
    listed.stream.split = Split::List(ListSplit { list: "cases.txt".into() });
    fs::write(folder.path("listed.toml"), listed.to_toml()).unwrap();
    let args = "finetune --init none --shards cache --config listed.toml --run-dir run";
    folder.refuse(&with(args, "--no-validation"), &["--no-validation", "stream.split names cases"]);
    // The list with the reason, and no hint at other splits, which are not the cause.
    let error = folder.refuse(args, &["cases to train on: ", "cases.txt: cannot read the list of cases: No such file"]);
    assert!(!error.contains("--fold"), "{error}");
    let other = "--no-validation --set classes=[\"background\",\"liver\"]";
    folder.refuse(&with(finetune, other), &["class"]);
    let alike = "the classes 1 `liver` and 5 `Liver` have the same name, apart from case, spaces and underscores";
    let same = "the classes 1 `liver` and 5 `liver` have the same name;";
    for (last, expected) in [("Liver", alike), ("liver", same), ("", "class 5 has an empty name")] {
        let classes = format!("[\"background\",\"liver\",\"c\",\"d\",\"e\",\"{last}\"]");
        folder
            .refuse(&with(finetune, &format!("--no-validation --set classes={classes}")), &[expected, "dataset.json"]);
    }
    let preprocess = PreprocessConfig::default();
    let text = fs::read_to_string(folder.path("finetune.toml")).unwrap();
    let spacing = format!("{text}\n[preprocess]\n{}", toml_of(&preprocess));
    fs::write(folder.path("spacing.toml"), spacing).unwrap();
    let args = "finetune --init none --no-validation --shards cache --config spacing.toml --run-dir run";
    folder.refuse(args, &["spacing", "cache"]);
    assert!(!folder.path("run").exists());
}

fn toml_of(preprocess: &PreprocessConfig) -> String {
    let json = serde_json::to_value(preprocess).unwrap();
    let fields = json.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
    fields.map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn wrong_paths_and_files_are_named() {
    let folder = Folder::new();
    let base = "pretrain --config pretrain.toml --run-dir run";
    folder.refuse(&format!("{base} --shards raw"), &["raw"]);
    folder.refuse(&format!("{base} --shards none"), &["none"]);
    let expected = "error: pretrain.toml: not a folder; expected the folder of a cache";
    folder.refuse(&format!("{base} --shards pretrain.toml"), &[expected]);
    folder.refuse("pretrain --shards cache --config cache --run-dir run", &["cache"]);
    fs::write(folder.path("binary.toml"), [0xff, 0xfe, 0x00]).unwrap();
    folder.refuse("pretrain --shards cache --config binary.toml", &["binary.toml"]);
    fs::write(folder.path("empty.toml"), "").unwrap();
    folder.refuse("pretrain --shards cache --config empty.toml", &["empty.toml", "missing field"]);
    fs::write(folder.path("broken.toml"), "[model\n").unwrap();
    folder.refuse("pretrain --shards cache --config broken.toml", &["broken.toml"]);
    // Each kind's configuration given to the other.
    let told = ["finetune.toml: unknown key", "; this is a configuration of `hiend-train finetune`"];
    folder.refuse("pretrain --shards cache --config finetune.toml", &told);
    let told = ["pretrain.toml: unknown key", "; this is a configuration of `hiend-train pretrain`"];
    folder.refuse("finetune --init none --shards cache --config pretrain.toml", &told);
    fs::write(folder.path("file"), "").unwrap();
    for (run, at_fault) in [("file", "file"), ("file/run", "file/run: file")] {
        let expected = format!("error: {at_fault} is not a folder; choose another path for the results");
        folder.refuse(&format!("pretrain --shards cache --config pretrain.toml --run-dir {run}"), &[&expected]);
        folder.refuse(
            &format!("finetune --init none --shards cache --config finetune.toml --run-dir {run}"),
            &[&expected],
        );
    }
}

#[test]
fn weights_are_downloaded_after_everything_else_was_checked() {
    let folder = Folder::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/model.pth", listener.local_addr().unwrap());
    let finetune =
        |url: &str, more: &str| format!("finetune --init {url} --no-validation --config finetune.toml {more}");
    folder.succeed("pretrain --shards cache --config pretrain.toml --run-dir done --max-steps 1");
    fs::write(folder.path("file"), "").unwrap();
    let mistakes = [
        ("--shards none", "none"),
        ("--shards cache --set optim.lr=fast", "optim.lr"),
        ("--shards cache --memory 1MiB", "--memory"),
        ("--shards cache --run-dir file", "file is not a folder"),
        ("--shards cache --run-dir done", "already holds a run"),
    ];
    for (mistake, expected) in mistakes {
        folder.refuse(&finetune(&url, mistake), &[expected]);
    }
    for (url, expected) in [("ftp://host/model.pth", "hf:// only"), ("http://host/model.zip", "ends in .pth")] {
        folder.refuse(&finetune(url, "--shards cache --run-dir new"), &[url, expected]);
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nothing was requested");
    listener.set_nonblocking(false).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().is_empty()));
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    });
    folder.refuse(&finetune(&url, "--shards cache --run-dir new"), &[&url, "the server answered 404"]);
    server.join().unwrap();
    assert!(!folder.path("new").exists());
}

#[test]
fn runs_are_not_mixed() {
    let folder = Folder::new();
    let base = "pretrain --shards cache --config pretrain.toml --run-dir run --max-steps 1";
    folder.succeed(&format!("{base} --resume auto"));
    folder.refuse(base, &["run already holds a run", "--resume", "--run-dir"]);
    folder.refuse(&format!("{base} --resume --seed 9"), &["cannot resume: train.seed is 9 now, but was 0"]);
    folder.refuse(&format!("{base} --resume-from 7"), &["no checkpoint of step 7; there is that of step 1"]);
    folder
        .refuse("finetune --shards cache --run-dir run --resume", &["pre-training checkpoint; expected a fine-tuning"]);
    folder.refuse("finetune --shards cache --run-dir new --resume auto", &["new holds no run yet", "--init"]);
    // Between the files of the data.
    for (data, holds) in [
        ("cache", "cache holds a manifest.json, as a cache does"),
        ("raw/Dataset001_P", "raw/Dataset001_P holds a dataset"),
        ("raw", "raw holds the folder Dataset001_P"),
    ] {
        let args = format!("pretrain --shards cache --config pretrain.toml --max-steps 1 --run-dir {data}");
        folder.refuse(&args, &[holds, "--run-dir"]);
        assert!(!folder.path(data).join("lock").exists());
    }
    // Weights of another size.
    let finetune = "finetune --shards cache --config finetune.toml --no-validation --run-dir fine --init run";
    folder.refuse(finetune, &["run"]);
    assert!(!folder.path("fine").exists() && !folder.path("new").exists());
    let resumed = folder.succeed("pretrain --shards cache --run-dir run --max-steps 2 --resume auto --access pread");
    assert!(resumed.contains("resumed after step 1"), "{resumed}");
    folder.refuse(&format!("{base} --resume"), &["the run is at step 2 already, beyond --max-steps 1"]);
    let verify =
        Command::new(env!("CARGO_BIN_EXE_hiend-train")).args(["verify"]).arg(folder.path("run")).output().unwrap();
    let checked = String::from_utf8(verify.stdout).unwrap();
    assert!(checked.contains("step-00000002: whole"), "{checked}");
    // In the folder of another step.
    let (right, wrong) = (folder.path("run/checkpoints/step-00000002"), folder.path("run/checkpoints/step-00000099"));
    fs::rename(&right, &wrong).unwrap();
    folder.refuse(&format!("{base} --resume"), &["step-00000099: holds the checkpoint of step 2; rename the folder"]);
    fs::rename(&wrong, &right).unwrap();
    let repeated = folder.succeed("pretrain --shards cache --run-dir run --max-steps 2 --resume-from 1");
    let kept = "the checkpoint of step 2, which the run repeats, is kept as run/checkpoints/set-aside-step-00000002";
    assert!(repeated.lines().any(|line| line == kept), "{repeated}");
}

#[test]
fn lost_and_earlier_lines_of_a_journal_are_told() {
    let folder = Folder::new();
    let base = "pretrain --shards cache --config pretrain.toml --run-dir run";
    folder.succeed(&format!("{base} --max-steps 3"));
    let journal = folder.path("run/journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.split_inclusive('\n').take(2).collect::<String>()).unwrap();
    let verify =
        Command::new(env!("CARGO_BIN_EXE_hiend-train")).arg("verify").arg(folder.path("run")).output().unwrap();
    let checked = String::from_utf8(verify.stdout).unwrap();
    assert!(checked.contains("journal.jsonl: entries: 2; no line of the steps 2 to 3 ("), "{checked}");
    // Reported, but not a fault: nothing could repair it.
    assert!(verify.status.success(), "{checked}");
    let warned = folder.succeed(&format!("{base} --max-steps 4 --resume"));
    assert!(warned.contains("run/journal.jsonl: no line of the steps 2 to 3 ("), "{warned}");
    // A run that begins overwrites no journal.
    let before = fs::read(&journal).unwrap();
    fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    for number in 1..=2 {
        let begun = folder.succeed(&format!("{base} --max-steps 1"));
        assert!(begun.contains(&format!("is kept as run/journal-{number}.jsonl")), "{begun}");
        fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    }
    assert_eq!(fs::read(folder.path("run/journal-1.jsonl")).unwrap(), before);
}

#[test]
fn first_weights_are_read_again_until_there_is_a_checkpoint() {
    let folder = Folder::new();
    folder.succeed("pretrain --shards cache --config pretrain.toml --run-dir run --max-steps 1");
    let base = "finetune --shards cache --config finetune.toml --set model.patch_size=8 --no-validation --max-steps 1";
    let losses = |run: &str| {
        let journal = fs::read_to_string(folder.path(run).join("journal.jsonl")).unwrap();
        let entries = journal.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        entries.filter(|entry| entry["event"] == "step").map(|entry| entry["loss"].clone()).collect::<Vec<_>>()
    };
    folder.succeed(&format!("{base} --run-dir random --init none"));
    folder.succeed(&format!("{base} --run-dir fine --init run"));
    assert_ne!(losses("fine"), losses("random"));
    // Left like this by a kill before the first checkpoint.
    fs::remove_dir_all(folder.path("fine/checkpoints")).unwrap();
    folder.refuse(&format!("{base} --run-dir fine --resume"), &["fine has no checkpoint yet", "--init"]);
    folder.succeed(&format!("{base} --run-dir fine --init run --resume"));
    let found = losses("fine");
    assert_eq!((found.len(), &found[0]), (2, &found[1]));
    // Other ones than before are reported, and refused in place of random ones.
    folder.succeed(&format!("{base} --run-dir other --init run"));
    fs::remove_dir_all(folder.path("other/checkpoints")).unwrap();
    let output = folder.run(&format!("{base} --run-dir other --init none --resume"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let told = "warning: the run in other began with the weights of run/checkpoints/step-00000001, has no checkpoint yet, and \
                begins again with random ones";
    assert!(output.status.success() && stderr.lines().any(|line| line == told), "{stderr}");
    fs::remove_dir_all(folder.path("other/checkpoints")).unwrap();
    let refused = ["--init run", "other began with random weights", "with --init none"];
    folder.refuse(&format!("{base} --run-dir other --init run --resume"), &refused);
    // The checkpoint replaces them.
    let longer = base.replace("--max-steps 1", "--max-steps 2");
    folder.succeed(&format!("{longer} --run-dir fine --resume"));
    // A preset is compared with the run, except for the encoder, whose sizes are those of --init.
    let preset = "finetune --shards cache --preset tiny --no-validation --run-dir fine --max-steps 3 --resume";
    folder.refuse(preset, &["cannot resume: model.feature_size is 8 now, but was 2"]);
    let settings = "--set model.feature_size=2 --set stream.crop_size=[16,16,16] --set stream.crops_per_visit=1";
    folder.succeed(&format!("{preset} {settings}"));
}

#[test]
fn pre_training_continues_with_the_weights_of_another_run() {
    let folder = Folder::new();
    let base = "pretrain --shards cache --config pretrain.toml --max-steps 1";
    folder.succeed(&format!("{base} --run-dir run"));
    let told = folder.succeed(&format!("{base} --run-dir grown --init run"));
    assert!(told.contains("weights of run") && told.contains(" 0 skipped"), "{told}");
    assert!(fs::read_to_string(folder.path("grown/init.txt")).unwrap().contains("tensors taken"));
    folder
        .refuse(&format!("{base} --run-dir other --init run --set model.num_heads=4"), &["model.num_heads is 2 there"]);
    folder.refuse(&format!("{base} --run-dir other --init none.pth"), &["none.pth: no such file"]);
    assert!(!folder.path("other").exists());
    // Left like this by a kill before the first checkpoint: random weights would be another run.
    fs::remove_dir_all(folder.path("grown/checkpoints")).unwrap();
    folder.refuse(&format!("{base} --run-dir grown --resume"), &["grown has no checkpoint yet", "--init"]);
    // The user may choose random ones, which the run keeps from then on.
    folder.succeed(&format!("{base} --run-dir grown --init none --resume"));
    assert!(!folder.path("grown/init.txt").exists());
    fs::remove_dir_all(folder.path("grown/checkpoints")).unwrap();
    let refused = ["--init run", "grown began with random weights", "with --init none"];
    folder.refuse(&format!("{base} --run-dir grown --init run --resume"), &refused);
    let told = folder.succeed(&format!("{base} --run-dir grown --resume"));
    let repeated = "warning: grown/journal.jsonl has steps up to 1, and there is no checkpoint";
    assert!(told.lines().any(|line| line.starts_with(repeated)), "{told}");
    // A run continues from its checkpoint, whatever --init names.
    let output = folder.run(&format!("{base} --run-dir run --init none.pth --resume"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("--init none.pth is not read"), "{stderr}");
}

#[test]
fn lists_of_cases_are_found_from_any_folder_and_named_when_they_changed() {
    let folder = Folder::new();
    let images = fs::read_dir(folder.path("raw/Dataset001_P/imagesTr")).unwrap();
    let names = images.map(|image| image.unwrap().file_name().into_string().unwrap());
    let cases: Vec<String> = names.map(|name| name.replace("_0000.nii.gz", "")).collect();
    fs::write(folder.path("train.txt"), cases.join("\n")).unwrap();
    let base = "pretrain --shards ../cache --config ../pretrain.toml --set stream.visits_per_batch=1 --run-dir ../run";
    let here = format!("{base} --set stream.split={{list=\"train.txt\"}}").replace("../", "");
    folder.succeed(&format!("{here} --max-steps 1"));
    fs::create_dir(folder.path("elsewhere")).unwrap();
    let own = folder.path("train.txt").canonicalize().unwrap();
    let there = format!("{base} --set stream.split={{list=\"{}\"}} --resume --max-steps 2", own.display());
    let output = folder.command(&there).current_dir(folder.path("elsewhere")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(folder.path("train.txt"), &cases[0]).unwrap();
    folder.refuse(
        &format!("{here} --resume --max-steps 3"),
        &["list or splits file that stream.split names was edited", "--init RUN"],
    );
    folder.refuse(
        &format!("{here} --resume --max-steps 3").replace("{list=\"train.txt\"}", "all"),
        &["stream.split is \"all\" now", "{ list = "],
    );
}

#[test]
#[cfg(unix)]
fn a_checkpoint_that_does_not_fit_on_the_disk_names_the_last_one() {
    let folder = Folder::new();
    let base = "pretrain --shards cache --config pretrain.toml --run-dir run --device cpu";
    folder.succeed(&format!("{base} --max-steps 1").replace(" --device cpu", ""));
    // 32 KiB for each file: less than the weights need, more than the journal does.
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_hiend-train")])
        .args(format!("{base} --resume --max-steps 2").split_whitespace())
        .current_dir(folder.path(""))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let expected = "error: cannot save the run; last good checkpoint: run/checkpoints/step-00000001; the same command with --resume";
    assert!(stderr.lines().last().is_some_and(|line| line.starts_with(expected)), "{stderr}");
    folder.succeed(&format!("{base} --resume --max-steps 2").replace(" --device cpu", ""));
}

/// Without the handler of the memory map, the run ends with SIGBUS, without a word and without a checkpoint.
#[test]
fn shard_cut_short_under_a_run_is_named_and_the_steps_done_are_saved() {
    let folder = Folder::new();
    let shard = hiend_cache::list_shards(folder.path("cache")).unwrap().remove(0);
    assert!(fs::metadata(&shard).unwrap().len() > 40_000, "more than a page of any system is lost");
    let args = "pretrain --shards cache --config pretrain.toml --run-dir run --log-every 1 --display lines";
    let mut run = folder.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("step ")));
    fs::File::options().write(true).open(&shard).unwrap().set_len(0).unwrap();
    lines.map(Result::unwrap).for_each(drop);
    let output = run.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let name = shard.file_name().unwrap().to_str().unwrap();
    assert!(errors.len() == 1 && errors[0].contains(name) && !stderr.contains("panicked"), "{stderr}");
    assert_eq!(fs::read_dir(folder.path("run/checkpoints")).unwrap().count(), 1, "{stderr}");
}

/// No user may create anything in sysfs, root included.
#[cfg(target_os = "linux")]
#[test]
fn run_folder_that_cannot_be_made_is_named() {
    if std::path::Path::new("/sys/kernel").exists() {
        let args = "pretrain --shards cache --config pretrain.toml --run-dir /sys/hiend-run";
        Folder::new().refuse(args, &["/sys/hiend-run", "os error"]);
    } else {
        println!("nothing was tested: sysfs is not mounted");
    }
}

#[test]
fn smoke_test_tries_everything_and_keeps_nothing() {
    let folder = Folder::new();
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let pretrain = "pretrain --config pretrain.toml";
    let finetune = "finetune --config finetune.toml --init none --fold 0/2";
    for (command, validation) in [(pretrain, None), (finetune, Some("validation after step 2: mean Dice "))] {
        let output = folder.succeed(&format!("{command} --shards cache --run-dir run --smoke"));
        for part in ["checkpoint ", "picture ", "done: 2 steps", "smoke test passed"].into_iter().chain(validation) {
            assert!(output.lines().any(|line| line.starts_with(part)), "{command}: no {part:?} in {output}");
        }
    }
    assert_eq!(names(), before);
}

#[test]
fn signal_of_a_batch_system_saves_and_has_its_own_exit_code() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let folder = Folder::new();
    for (signal, run) in [(Signal::SIGUSR1, "first"), (Signal::SIGTERM, "second")] {
        let args = format!("pretrain --shards cache --config pretrain.toml --run-dir {run} --log-every 1 --device cpu");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        command.args(args.split_whitespace()).current_dir(folder.path("")).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("step ")));
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(75), "{rest:?}");
        assert!(rest.iter().any(|line| line.starts_with("checkpoint ")), "{rest:?}");
        folder.refuse(&format!("pretrain --shards cache --run-dir {run}"), &["already holds a run"]);
    }
}
