//! Tests with scans and weights of other runs: a run records what it was trained on, and commands report differences.

use std::fs;
use std::path::PathBuf;

use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::preprocess::PreprocessConfig;

use crate::folder::Folder;

/// Creates a [`Folder`] with a second cache, `coarse`, with another spacing and a narrower window, and pre-training
/// runs on both caches.
fn folder() -> (Folder, String, PathBuf) {
    let folder = Folder::new();
    let raw = folder.path("raw");
    let datasets = dataset::find(&raw).unwrap();
    let coarse = PreprocessConfig { spacing: Some([6.0; 3]), window: [-100.0, 100.0], ..PreprocessConfig::default() };
    Conversion::new(&raw, &datasets, &folder.path("coarse")).config(coarse).run().unwrap();
    for cache in ["cache", "coarse"] {
        folder.succeed(&format!(
            "pretrain --shards {cache} --config pretrain.toml --run-dir on-{cache} --display lines --max-steps 1"
        ));
    }
    let case = &datasets[0].cases[0];
    (folder, case.case_id.clone(), case.image.clone())
}

/// Standard output and standard error of a command that must succeed.
fn output(folder: &Folder, args: &str) -> [String; 2] {
    let output = folder.command(args).output().unwrap();
    let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{args}: {}", texts[1]);
    texts
}

#[test]
fn scans_are_drawn_and_exported_with_the_spacing_and_window_of_the_run() {
    let (folder, case, scan) = folder();
    let scan = scan.display();
    let reconstruct = |run: &str, more: &str| {
        output(&folder, &format!("reconstruct --model {run} --out pictures --crop-only {more}"))
    };
    let loss = |more: &str| {
        let [text, _] = reconstruct("on-coarse", &format!("{scan} {more}"));
        text.lines().find(|line| line.contains(": loss ")).map(str::to_owned).unwrap()
    };
    let by_run = loss("");
    assert_eq!(by_run, loss("--spacing 6 --window -100,100"));
    assert_ne!(by_run, loss("--spacing 5"));
    assert_ne!(by_run, loss("--window -175,250"));

    let [_, same] = reconstruct("on-coarse", &format!("--shards coarse --case {case}"));
    assert!(!same.contains("was trained on"), "{same}");
    let spacing =
        |ours, theirs| format!("the model was trained on scans of {ours} mm, and the cache holds scans of {theirs} mm");
    // The wider window of the cache holds that of the run.
    let [_, other] = reconstruct("on-coarse", &format!("--shards cache --case {case}"));
    assert!(other.contains(&spacing(6, 5)) && !other.contains("trained on the window"), "{other}");
    let [_, other] = reconstruct("on-cache", &format!("--shards coarse --case {case}"));
    assert!(other.contains(&spacing(5, 6)), "{other}");
    let window = "the model was trained on the window -175 to 250 HU, and the cache is read with -100 to 100 HU";
    assert!(other.contains(window), "{other}");

    let export = |more: &str| {
        let command = format!("export --model on-coarse --format nnssl --overwrite --out encoder.pth {more}");
        let output = export_command(&folder, &command);
        let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{}", texts[1]);
        let bytes = fs::read(folder.path("encoder.pth")).unwrap();
        (texts, bytes)
    };
    let ([printed, told], by_run) = export("");
    assert!(printed.contains("for scans of -100 to 100 HU"), "{printed}");
    assert!(!told.contains("--spacing"), "{told}");
    assert!(by_run == export("--spacing 6 --window=-100,100").1);
    // A plan that contradicts the run would prepare nnU-Net's scans unlike those of pre-training.
    for (option, refusal) in [
        ("--spacing 1.5", "--spacing: the model's run records 6 mm; leave it out"),
        ("--window=-175,250", "--window: the model's run records its range, -100 to 100; leave it out"),
    ] {
        let command = format!("export --model on-coarse --format nnssl --out other.pth {option}");
        let output = export_command(&folder, &command);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(refusal), "{option}: {stderr}");
    }
    assert!(!folder.path("other.pth").exists());
}

/// Runs `export`, which has no flag `--device`.
fn export_command(folder: &Folder, args: &str) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hiend-train"));
    command.args(args.split_whitespace()).current_dir(folder.path("")).output().unwrap()
}

#[test]
fn first_weights_of_other_scans_are_reported_and_of_another_encoder_refused() {
    let (folder, ..) = folder();
    let finetune = |init: &str, more: &str| {
        format!(
            "finetune --no-validation --shards cache --init {init} --config finetune.toml --set model.patch_size=8 \
             --max-steps 1 --display lines {more}"
        )
    };
    let [_, told] = output(&folder, &finetune("on-coarse", "--run-dir tuned"));
    let spacing = "were trained on scans of 6 mm, and the cache holds scans of 5 mm";
    let window = "were trained on the window -100 to 100 HU, and the cache is read with -175 to 250 HU";
    assert!(told.contains(spacing) && told.contains(window), "{told}");
    let [_, told] = output(&folder, &finetune("on-cache", "--run-dir silent"));
    assert!(!told.contains("were trained on") && !told.contains("crop centres"), "{told}");
    let narrow = "--run-dir narrow --set stream.window=[-50,50] --set stream.sample_by=intensity";
    let [_, told] = output(&folder, &finetune("on-cache", narrow));
    assert!(told.contains("the window -175 to 250 HU, and the cache is read with -50 to 50 HU"), "{told}");
    assert!(told.contains("above the -175 HU of the cache, not above the -50 HU of stream.window"), "{told}");

    let taps = finetune("tuned", "--run-dir none --set model.taps=[1,2,4]");
    folder.refuse(&taps, &["its model has taps = [", "], but model.taps = [1, 2, 4]; set model.taps to ["]);
    // A UNETR as well as a pre-training model.
    for init in ["on-cache", "tuned"] {
        let heads = finetune(init, "--run-dir none --set model.num_heads=4");
        folder.refuse(&heads, &["its model has num_heads = 2, but model.num_heads = 4"]);
        let depth = finetune(init, "--run-dir none --set model.depth=11");
        folder.refuse(&depth, &["its model has depth = 12, but model.depth = 11"]);
    }
    assert!(!folder.path("none").exists());
}
