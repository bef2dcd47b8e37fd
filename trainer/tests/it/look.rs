//! Tests of `reconstruct`, `attend`, `import` and `export` on the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::device::Compute;
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::testing::{SyntheticStream, small_pretraining};
use hiend_trainer::training::TrainOptions;
use hiend_trainer::weights::StateDict;

use crate::nifti;

fn hiend_train(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hiend-train")).args(args).output().unwrap()
}

fn succeed(args: &[&str]) -> String {
    let output = hiend_train(args);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{args:?}: {stderr}");
    stdout
}

fn fail(args: &[&str], code: i32, in_stderr: &str) {
    let output = hiend_train(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(in_stderr), "{args:?}: {stderr}");
    if code == 1 {
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

/// Configuration of a model small enough for a test.
fn config() -> PretrainConfig {
    let mut config = small_pretraining(8);
    config.model.mask_ratio = 0.5;
    config.stream.crop_size = [16, 16, 24];
    config
}

/// Folder with a run of one step, its configuration, a phantom, and a cache made from it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let config = config();
        let stream = SyntheticStream { seed: 1, crop_size: [16, 16, 24], crops: 2, steps_per_epoch: 2 };
        let options = TrainOptions { max_steps: Some(1), ..TrainOptions::new(folder.at("run")) };
        pretrain(&config, stream.stream(), &Compute::cpu(), &options, &mut |_| ()).unwrap();
        fs::write(folder.at("model.toml"), config.to_toml()).unwrap();
        let phantoms = PhantomConfig { cases: 1, spacing_mm: [5.0, 6.0], ..PhantomConfig::default() };
        write_dataset(&folder.at("raw/Dataset001_P"), &phantoms).unwrap();
        let raw = folder.at("raw");
        let preprocess = PreprocessConfig { spacing: Some([5.0; 3]), ..PreprocessConfig::default() };
        let datasets = dataset::find(&raw).unwrap();
        Conversion::new(&raw, &datasets, &folder.at("cache")).config(preprocess).run().unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_string_lossy().into_owned()
    }

    fn scan(&self) -> String {
        let mut images: Vec<PathBuf> =
            fs::read_dir(self.at("raw/Dataset001_P/imagesTr")).unwrap().map(|entry| entry.unwrap().path()).collect();
        images.sort();
        images[0].to_string_lossy().into_owned()
    }
}

/// Pixels of a PNG file.
fn read_png(path: &Path) -> Vec<u8> {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

#[test]
fn exported_weights_are_imported_bit_by_bit() {
    let folder = Folder::new();
    let (run, checkpoint) = (folder.text("run"), folder.text("run/checkpoints/step-00000001"));
    let [of_run, of_checkpoint, again, sizes] =
        ["run.safetensors", "checkpoint.safetensors", "again.safetensors", "model.toml"].map(|name| folder.text(name));
    fail(&["export", "--model", &run, "--out", "weights.pth"], 2, "ends in .safetensors, or --format nnssl");
    let printed = succeed(&["export", "--model", &run, "--out", &of_run]);
    assert!(printed.contains("run.safetensors: 248 tensors"), "{printed}");
    succeed(&["export", "--model", &checkpoint, "--out", &of_checkpoint]);
    let printed = succeed(&["import", &of_run, "--config", &sizes, "--out", &again]);
    for line in ["248 tensors taken", "0 skipped", "0 not in the file"] {
        assert!(printed.contains(line), "{printed}");
    }
    let read = |path: &str| StateDict::read(Path::new(path)).unwrap();
    assert!(read(&of_run) == read(&of_checkpoint) && read(&of_run) == read(&again));
    assert!(succeed(&["import", &of_run, "--config", &sizes]).contains("nothing was written"));
}

#[test]
fn pictures_are_drawn_from_files_and_caches_alike() {
    let folder = Folder::new();
    let [run, cache, files, cases] = ["run", "cache", "files", "cases"].map(|name| folder.text(name));
    let scan = folder.scan();
    let centre = "12,12,8";
    let with = |command: &'static str, more: &[&str]| -> String {
        let base = [command, "--model", &run, "--device", "cpu"];
        // The scans of a cache have its spacing.
        let spacing: &[&str] = if more.contains(&"--shards") { &[] } else { &["--spacing", "5"] };
        succeed(&[&base[..], spacing, more].concat())
    };
    let printed = with("reconstruct", &[&scan, "--centre", centre, "--out", &files]);
    assert!(printed.contains(": loss "), "{printed}");
    let case_id = Path::new(&scan).file_name().unwrap().to_string_lossy().replace("_0000.nii.gz", "");
    let name = format!("{case_id}_0000");
    for kind in ["crop", "scan"] {
        let first = read_png(&folder.at(&format!("files/{name}-{kind}.png")));
        // Black, hidden and the CT's greys.
        assert!(first.iter().collect::<std::collections::BTreeSet<_>>().len() > 50, "{kind}");
    }
    let args = ["--shards", &cache, "--case", &case_id, "--centre", centre, "--mask-ratio", "0.25", "--crop-only"];
    with("reconstruct", &[&args[..], &["--out", &cases]].concat());
    let drawn = |folder: &str| fs::read_dir(folder).unwrap().count();
    assert_eq!((drawn(&files), drawn(&cases)), (2, 1));

    with("attend", &[&scan, "--query", centre, "--out", &files]);
    with(
        "attend",
        &[&scan, "--query", centre, "--head", "1", "--layers", "0,11", "--mask-ratio", "0.5", "--out", &cases],
    );
    for kind in ["encoder", "decoder"] {
        let [mean, one] = ["files", "cases"].map(|dir| read_png(&folder.at(&format!("{dir}/{name}-{kind}.png"))));
        assert_ne!(mean, one, "{kind}");
    }
}

#[test]
fn scans_that_cannot_be_drawn_do_not_end_the_others() {
    let folder = Folder::new();
    let [run, out, scans] = ["run", "out", "scans"].map(|name| folder.text(name));
    fs::create_dir(&scans).unwrap();
    fs::copy(folder.scan(), folder.at("scans/a_0000.nii.gz")).unwrap();
    fs::write(folder.at("scans/b.nii"), b"no scan").unwrap();
    let affine = [[5.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0]];
    let air: Vec<i16> = (0..8 * 8 * 8).map(|at| -1000 - at % 7).collect();
    nifti::write(&folder.at("scans/c.nii"), [8; 3], affine, &air);
    let draw = |command: &str, input: &str, more: &[&str]| {
        let base = [command, "--model", &run, "--device", "cpu", "--spacing", "5", "--out", &out, input];
        let output = hiend_train(&[&base[..], more].concat());
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), stdout, stderr)
    };
    for (command, more) in [("reconstruct", &["--crop-only"][..]), ("attend", &["--query", "12,12,8"][..])] {
        let (code, stdout, stderr) = draw(command, &scans, more);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stdout.ends_with(&format!("1 of 3 scans drawn into {out}\n")), "{stdout}");
        for expected in ["b: skipped: ", "c: skipped: "] {
            assert_eq!(stderr.matches(expected).count(), 1, "{stderr}");
        }
        assert_eq!(stderr.matches("no voxel above -175 HU").count(), 1, "a reason is reported once: {stderr}");
        let (code, _, stderr) = draw(command, &folder.text("scans/b.nii"), more);
        assert_eq!(code, Some(1), "{stderr}");
    }
    assert!(folder.at("out/a_0000-crop.png").exists() && folder.at("out/a_0000-decoder.png").exists());
}

#[test]
fn invalid_input_is_refused_in_one_line() {
    let folder = Folder::new();
    let [run, out, none, sizes] = ["run", "out", "none", "model.toml"].map(|name| folder.text(name));
    let (scan, cache) = (folder.scan(), folder.text("cache"));
    let case_id = Path::new(&scan).file_name().unwrap().to_string_lossy().replace("_0000.nii.gz", "");
    let broken = folder.text("broken.nii.gz");
    fs::write(&broken, b"no scan").unwrap();
    let weights = folder.text("weights.pth");
    fs::write(&weights, b"no weights").unwrap();
    let exported = folder.text("export.safetensors");
    succeed(&["export", "--model", &run, "--out", &exported]);
    let look = |command: &'static str, model: &str, more: &[&str], code, expected: &str| {
        let base = [command, "--model", model, "--device", "cpu", "--out", &out];
        fail(&[&base[..], more].concat(), code, expected);
    };
    look("reconstruct", &none, &[&scan], 1, "none: no such file or folder");
    look("reconstruct", &cache, &[&scan], 1, "neither a run (checkpoints/) nor a checkpoint");
    look("reconstruct", &weights, &[&scan], 1, "weights.pth");
    look(
        "reconstruct",
        &exported,
        &[&scan],
        1,
        "its tensors fit no preset; give the model's sizes with --config FILE.toml",
    );
    look("reconstruct", &exported, &[&scan, "--preset", "tiny"], 1, "has shape");
    look("reconstruct", &run, &[&scan, "--config", &sizes], 1, "leave out --preset and --config");
    look("reconstruct", &run, &[&broken], 1, "broken.nii.gz");
    look("reconstruct", &run, &[&scan, "--mask-ratio", "0.99"], 2, "--mask-ratio 0.99 leaves 0 of 12 patches visible");
    look("reconstruct", &run, &[&scan, "--mask-ratio", "1"], 2, "expected a fraction above 0 and below 1");
    let thin = ["export", "--model", &run, "--format", "nnssl", "--spacing=0", "--out", "encoder.pth"];
    fail(&thin, 2, "spacing");
    look("reconstruct", &run, &[&scan, "--centre", "1,2"], 2, "expected a voxel of the file");
    look(
        "reconstruct",
        &run,
        &[&scan, "--centre", "9999,0,0"],
        1,
        "voxel 9999,0,0 lies outside the part of the scan that is used, its foreground from voxel",
    );
    let other = folder.text("other");
    fs::create_dir(&other).unwrap();
    let copy = Path::new(&other).join(Path::new(&scan).file_name().unwrap()).display().to_string();
    fs::copy(&scan, &copy).unwrap();
    look("reconstruct", &run, &[&scan, &copy], 1, "are both case");
    look("reconstruct", &run, &["--shards", &cache, "--case", "nobody"], 1, "no case nobody");
    look("reconstruct", &run, &["--shards", &cache], 2, "--case");
    // Flags about files, which would have no effect on cases of a cache.
    for (flag, value) in [("--spacing", "2"), ("--on-suspect", "fail")] {
        look("reconstruct", &run, &["--shards", &cache, "--case", &case_id, flag, value], 2, "cannot be used with");
    }
    let wide = ["--shards", &cache, "--case", &case_id, "--window", "-1000,1000"];
    look(
        "reconstruct",
        &run,
        &wide,
        1,
        "holds only -175 to 250 HU; window -1000,1000 needs a cache made with --store full",
    );
    look("reconstruct", &run, &[&scan, "--window", "250,-175"], 2, "the lower one first");
    look("reconstruct", &run, &[], 2, "INPUT");
    look("attend", &run, &[&scan], 2, "--query");
    look("attend", &run, &[&scan, "--query", "1,1,1mmm"], 2, "expected a voxel of the file");
    look("attend", &run, &[&scan, "--query=-9e3,0,0mm"], 1, "lies outside");
    for (flag, value, expected) in [
        ("--head", "2", "--head 2: the encoder has 2 heads, counted from 0"),
        ("--layers", "12", "--layers 12: the encoder has 12 blocks"),
        ("--layers", "x", "expected `all` or numbers"),
        ("--layers", "3,3", "each once"),
        ("--mask-ratio", "1", "0 to less than 1"),
        ("--mask-ratio", "0.99", "--mask-ratio 0.99 leaves 0 of 12 patches visible"),
    ] {
        look("attend", &run, &[&scan, "--query", "12,12,8", flag, value], 2, expected);
    }
    fail(&["import", &none], 1, "none: no such file or folder");
    fail(&["import", &run], 1, "runs and checkpoints need no import");
    fail(&["import", &broken], 1, "neither a .pth, .pt or .bin nor a .safetensors file");
    fail(&["import", "/dev/null"], 1, "/dev/null: not a regular file");
    fail(&["export", "--model", &run, "--out", "weights.bin"], 2, "expected a name that ends in .safetensors");
    let before = fs::read(&exported).unwrap();
    fail(&["export", "--model", &run, "--out", &exported], 1, "export.safetensors exists; --overwrite replaces it");
    assert_eq!(fs::read(&exported).unwrap(), before);
    succeed(&["export", "--model", &run, "--out", &exported, "--overwrite"]);
    fail(&["export", "--model", &run], 2, "--out");
    let nnssl = ["export", "--model", &run, "--format", "nnssl", "--out", "encoder.pth"];
    fail(&nnssl, 2, "--format nnssl needs --spacing MM");
    fail(&[&nnssl[..], &["--spacing", "1.5", "--normalize", "zscore"]].concat(), 2, "the model was trained on HU");
    let window = ["export", "--model", &run, "--out", &exported, "--overwrite", "--window=-1000,1000"];
    fail(&window, 2, "--normalize, --spacing and --window are for --format nnssl");
    fail(&["export", "--model", &exported, "--config", &sizes, "--out", &exported], 1, "would replace the weights");
    fail(&["import", &exported, "--config", &sizes, "--out", &exported], 1, "would replace the weights");
    for command in ["reconstruct", "attend"] {
        let query: &[&str] = if command == "attend" { &["--query", "12,12,8"] } else { &[] };
        let beside = [command, "--model", &run, "--device", "cpu", "--out", &broken, &scan];
        fail(&[&beside[..], query].concat(), 1, "broken.nii.gz is not a folder; choose another path");
    }
    let nowhere = folder.text("none/export.safetensors");
    fail(&["export", "--model", &run, "--out", &nowhere], 1, "none does not exist; create it");
    fail(&["import", &exported, "--config", &sizes, "--out", &nowhere], 1, "none does not exist; create it");
    let nowhere = folder.text("none/curves.png");
    fail(&["curves", &run, "--out", &nowhere], 1, "none does not exist; create it");
    assert!(!Path::new(&out).exists(), "nothing is made before something can be drawn");
}
