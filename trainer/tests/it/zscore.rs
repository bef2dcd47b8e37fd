//! Runs on a cache of z-scores: their records, and their refusals.

use std::fs;
use std::process::Command;

use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;

use crate::folder::Folder;

/// Settings with which the weights of pre-training fit the UNETR of the folder's `finetune.toml`.
const SIZES: &str = "--set model.patch_size=16 --set stream.crop_size=[32,32,32]";

#[test]
fn runs_on_z_scores_record_them_and_refuse_hu() {
    let folder = Folder::new();
    let normalize = Normalize::Zscore;
    let preprocess = PreprocessConfig {
        spacing: Some([5.0; 3]),
        window: normalize.default_window(),
        normalize,
        ..PreprocessConfig::default()
    };
    let raw = folder.path("raw");
    let datasets = dataset::find(&raw).unwrap();
    Conversion::new(&raw, &datasets, &folder.path("z")).config(preprocess).run().unwrap();
    let case = datasets[0].cases[0].case_id.clone();
    let scan = datasets[0].cases[0].image.display().to_string();

    let pretrain = |cache: &str, run: &str, more: &str| {
        format!("pretrain --shards {cache} --config pretrain.toml --run-dir {run} --display lines {SIZES} {more}")
    };
    folder.succeed(&pretrain("z", "on-z", "--max-steps 1"));
    folder.succeed(&pretrain("cache", "on-hu", "--max-steps 1"));
    let config = |run: &str| fs::read_to_string(folder.path(&format!("{run}/config.toml"))).unwrap();
    assert!(config("on-z").contains("normalize = \"zscore\"") && config("on-z").contains("spacing = [5.0, 5.0, 5.0]"));
    assert!(config("on-hu").contains("[preprocess]") && !config("on-hu").contains("normalize"));
    folder.succeed(&pretrain("z", "on-z", "--max-steps 2 --resume"));
    folder.refuse(&pretrain("cache", "on-z", "--max-steps 3 --resume"), &["preprocess"]);
    folder.refuse(&pretrain("z", "other", "--set stream.window=[0,9]"), &["holds z-scores", "leave stream.window out"]);
    folder.refuse(
        &pretrain(
            "cache",
            "other",
            "--set preprocess.window=[-20,40] --set preprocess.store=window --set preprocess.normalize=zscore",
        ),
        &["the cache was made with", "the configuration's preprocess says", "zscore"],
    );

    let preset = "pretrain --shards cache --preset mr-vit-b-p16 --run-dir other --display lines --max-steps 1";
    folder.refuse(preset, &["--preset mr-vit-b-p16: made for z-scores, and the cache holds HU"]);
    assert!(!folder.path("other").exists());

    // Scans are prepared as the run says, without a flag.
    let reconstruct = |run: &str, more: &str| format!("reconstruct --model {run} --out pictures --crop-only {more}");
    let loss = |text: String| text.lines().find(|line| line.contains(": loss ")).map(str::to_owned).unwrap();
    // Loss and picture, which is replaced by the next.
    let drawn = |more: &str| {
        let loss = loss(folder.succeed(&reconstruct("on-z", &format!("{scan} {more}"))));
        let pictures = fs::read_dir(folder.path("pictures")).unwrap().map(|entry| entry.unwrap().path());
        let pictures: Vec<Vec<u8>> = pictures.map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(pictures.len(), 1);
        (loss, pictures)
    };
    let by_run = drawn("");
    assert!(by_run == drawn("--normalize zscore --spacing 5"));
    assert!(by_run.1 != drawn("--spacing native").1);
    folder.succeed(&reconstruct("on-z", &format!("--shards z --case {case}")));
    folder.refuse(
        &reconstruct("on-z", &format!("--shards cache --case {case}")),
        &["cache: holds HU, but the model expects z-scores"],
    );
    folder.refuse(
        &reconstruct("on-hu", &format!("--shards z --case {case}")),
        &["z: holds z-scores, but the model expects HU"],
    );
    for (run, flag, expected) in [
        ("on-hu", "--normalize zscore", "--normalize zscore: the model was trained on HU; leave it out"),
        ("on-z", "--window -100,100", "--window is for HU, and the model takes z-scores"),
    ] {
        let output = folder.command(&reconstruct(run, &format!("{scan} {flag}"))).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    for (flag, expected) in [
        ("--spacing 6", "warning: --spacing: the model was trained on scans of 5 mm"),
        ("--window 0,100", "warning: --window: the model was trained on the window -175 to 250 HU"),
    ] {
        let output = folder.command(&reconstruct("on-hu", &format!("{scan} {flag}"))).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && stderr.contains(expected), "{stderr}");
    }
    exports_state_the_normalisation(&folder);

    // Weights of the other kind may be a start, but not in silence.
    let finetune = |cache: &str, init: &str, run: &str| {
        let command = format!(
            "finetune --no-validation --shards {cache} --init {init} --config finetune.toml --run-dir {run} --max-steps 1 \
             --display lines"
        );
        let output = folder.command(&command).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        stderr
    };
    let warned = finetune("z", "on-hu", "tuned");
    assert!(warned.contains("were trained on HU, and the cache holds z-scores"), "{warned}");
    let silent = finetune("z", "on-z", "tuned-again");
    assert!(!silent.contains("were trained on"), "{silent}");
    assert!(config("tuned").contains("normalize = \"zscore\""));
}

/// Exports the run `on-z`; its recorded settings need not be given.
fn exports_state_the_normalisation(folder: &Folder) {
    let export = |args: &str| {
        let args = format!("export --model on-z {args}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        let output = command.args(args.split(' ')).current_dir(folder.path("")).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code(), text)
    };
    for (args, code, expected) in [
        ("--format nnssl --out encoder.pth", 0, "normalised to z-scores, kept from -20 to 40"),
        ("--format nnssl --spacing 5 --normalize zscore --out same.pth", 0, "kept from -20 to 40"),
        ("--format nnssl --spacing 3 --out other.pth", 2, "--spacing: the model's run records 5 mm; leave it out"),
        ("--format nnssl --window=-9,9 --out other.pth", 2, "--window: the model's run records its range"),
        ("--format nnssl --normalize hu --out other.pth", 2, "trained on z-scores; leave it out"),
        ("--out weights.safetensors", 0, "trained on z-scores, which the file does not record"),
    ] {
        let (found, text) = export(args);
        assert_eq!(found, Some(code), "{args}: {text}");
        assert!(text.contains(expected), "{args}: {text}");
    }
    let bytes = |name: &str| fs::read(folder.path(name)).unwrap();
    assert!(bytes("encoder.pth") == bytes("same.pth"));
    assert!(!folder.path("other.pth").exists());
}
