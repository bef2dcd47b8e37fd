//! Tests of `hiend-train predict` on files.

mod disk;
mod inputs;
mod places;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hiend_loader::geometry::largest_shift_mm;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::volume::{read_info, read_labels, read_volume, write_like};
use hiend_trainer::checkpoint::{Best, Checkpoints, Kind, State};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::{FinetuneConfig, FinetunePreset};
use hiend_trainer::model::init::WeightInit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{dicom, nifti};

/// Configuration of a network small enough for a test.
fn config() -> FinetuneConfig {
    let mut config = FinetunePreset::Tiny.config();
    config.classes = ["background", "body"].map(str::to_owned).to_vec();
    config.model.patch_size = 8;
    config.model.embed_dim = 12;
    config.model.num_heads = 2;
    config.model.depth = 4;
    config.model.taps = [1, 2, 3];
    config.model.feature_size = 2;
    config.stream.crop_size = [16; 3];
    config.preprocess = Some(PreprocessConfig { spacing: Some([6.0; 3]), ..PreprocessConfig::default() });
    config.validate("test").unwrap();
    config
}

/// Folder with a fine-tuning run at its initial weights, and a folder `scans`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.add_run("run", 0, &config());
        fs::create_dir(folder.at("scans")).unwrap();
        folder
    }

    /// Writes a run with the initial weights for a seed.
    fn add_run(&self, name: &str, seed: u64, config: &FinetuneConfig) {
        let model = config.unetr().init(&mut WeightInit::new(seed, &burn::tensor::Device::flex().autodiff()));
        let optimizer = config.optim.init(&model);
        let state = State::new(Kind::Finetune, 1, None, config, "digest");
        Checkpoints::open(&self.at(name), 1).unwrap().save(&state, &model, None, &optimizer).unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, input: &str, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        command.args(["predict", "--device", "cpu", "--model"]).arg(self.at("run")).arg(self.at(input));
        command.arg("--out").arg(self.at(out)).args(more);
        command
    }

    fn predict(&self, input: &str, out: &str, more: &[&str]) -> Output {
        self.command(input, out, more).output().unwrap()
    }

    /// Checks that a prediction ends with `code` and `expected` on standard error.
    fn check(&self, input: &str, out: &str, more: &[&str], code: i32, expected: &str) {
        let output = self.predict(input, out, more);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

const SHAPE: [u16; 3] = [24, 20, 12];

/// Writes a ball of 40 HU in air, with voxels of 3, 3 and 6 mm and the given shears in mm.
fn write_scan(path: &Path, shear: [f32; 3]) {
    let affine = [[3.0, shear[0], 0.0, -30.0], [0.0, 3.0, shear[1], 10.0], [shear[2], 0.0, 6.0, 40.0]];
    nifti::write(path, SHAPE, affine, &ball());
}

fn ball() -> Vec<i16> {
    let mut voxels = Vec::new();
    for z in 0..12_i32 {
        for y in 0..20_i32 {
            for x in 0..24_i32 {
                let inside = (x - 12).pow(2) + (y - 10).pow(2) + 4 * (z - 6).pow(2) < 64;
                voxels.push(if inside { 40 } else { -1000 });
            }
        }
    }
    voxels
}

#[test]
fn label_maps_have_the_format_and_the_grid_of_their_scan() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a_0000.nii"), [0.5, 0.0, 0.0]);
    let info = read_info(&folder.at("scans/a_0000.nii")).unwrap();
    for name in ["b_0000.nrrd", "c.mha"] {
        write_like(&folder.at(&format!("scans/{name}")), &info, &ball()).unwrap();
    }
    dicom::write_series(&folder.at("d"), SHAPE, &ball());
    let input = folder.at("d").display().to_string();
    folder.check("scans", "out", &["--probabilities", &input], 0, "");
    let affine = |path: &str| read_info(&folder.at(path)).unwrap().affine;
    for (scan, result) in
        [("scans/a_0000.nii", "a.nii.gz"), ("scans/b_0000.nrrd", "b.nrrd"), ("scans/c.mha", "c.mha"), ("d", "d.nii.gz")]
    {
        let label = read_labels(&folder.at(&format!("out/{result}"))).unwrap();
        assert_eq!(label.info.shape, SHAPE.map(usize::from), "{result}");
        assert!(largest_shift_mm(&label.info.affine, &affine(scan), label.info.shape) < 1e-3, "{result}");
        let (case, ending) = result.split_once('.').unwrap();
        let body = read_volume(&folder.at(&format!("out/probabilities/{case}/01_body.{ending}"))).unwrap();
        assert!(largest_shift_mm(&body.info.affine, &affine(scan), label.info.shape) < 1e-3, "{result}");
    }
    assert_eq!(format!("{:?}", affine("d")[0]), "[-3.0, 0.0, 0.0, 0.0]");
    // The same voxels at the same places have the same labels, whatever their file.
    let read = |name: &str| read_labels(&folder.at(&format!("out/{name}"))).unwrap().voxels;
    assert!(read("a.nii.gz") == read("b.nrrd") && read("a.nii.gz") == read("c.mha"));
    // Each of them is found as finished; a file of the series names it too.
    let file = folder.at("d/IM3").display().to_string();
    folder.check("scans", "out", &["--skip-existing", &file], 0, "");
    let output = folder.predict("scans", "out", &["--skip-existing", &file]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("4 scans finished before"));
}

#[test]
fn tilted_and_skewed_scans_are_predicted_on_their_own_grids() {
    let folder = Folder::new();
    // A gantry tilt of 20 degrees, and an affine off orthogonal by a thousandth.
    for (name, shear) in [("tilt", [0.0, -6.0 * 20_f32.to_radians().tan(), 0.0]), ("skew", [0.003, 0.0, -0.003])] {
        write_scan(&folder.at(&format!("scans/{name}_0000.nii")), shear);
    }
    // Files that macOS leaves in archives are ignored.
    fs::write(folder.at("scans/._tilt_0000.nii"), b"\0\x05\x16\x07").unwrap();
    folder.check("scans", "out", &["--probabilities"], 0, "");
    let mut names: Vec<String> = fs::read_dir(folder.at("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["probabilities", "skew.nii.gz", "tilt.nii.gz"]);
    for name in ["tilt", "skew"] {
        let scan = read_volume(&folder.at(&format!("scans/{name}_0000.nii"))).unwrap().info;
        let label = read_labels(&folder.at(&format!("out/{name}.nii.gz"))).unwrap();
        assert_eq!((label.info.shape, label.info.affine), (scan.shape, scan.affine), "{name}");
        // The label is the more probable class of two; outside of the body nothing is predicted but background.
        let body = read_volume(&folder.at(&format!("out/probabilities/{name}/01_body.nii.gz"))).unwrap();
        let mut probability = vec![0.0; scan.shape.iter().product()];
        body.read_f32(0, &mut probability);
        assert!(
            label
                .voxels
                .iter()
                .zip(&probability)
                .all(|(&label, &p)| (label == 1) == (p > 0.5) || (p - 0.5).abs() < 1e-4)
        );
        let (predicted, outside): (Vec<f32>, Vec<f32>) = probability.iter().partition(|&&p| p > 0.0);
        assert!(predicted.len() > 1000 && outside.len() > 1000, "{} {}", predicted.len(), outside.len());
    }
}

/// Writes a ball of value `tissue` in `air`, with noise of amplitude `noise` and voxels of 6 mm.
fn write_values(path: &Path, [air, tissue, noise]: [i16; 3]) {
    let voxels: Vec<i16> = (0..16_i32.pow(3))
        .map(|at| {
            let inside = [at % 16, at / 16 % 16, at / 256].iter().map(|v| (v - 8).pow(2)).sum::<i32>() < 40;
            let noise = if noise > 0 { i16::try_from(at * 7919 % i32::from(noise)).unwrap() } else { 0 };
            noise + if inside { tissue } else { air }
        })
        .collect();
    let affine = [[6.0, 0.0, 0.0, 0.0], [0.0, 6.0, 0.0, 0.0], [0.0, 0.0, 6.0, 0.0]];
    nifti::write(path, [16; 3], affine, &voxels);
}

#[test]
fn scans_are_judged_as_hiend_shard_judges_them() {
    let folder = Folder::new();
    write_values(&folder.at("scans/ct_0000.nii"), [-1000, 20, 41]);
    write_values(&folder.at("scans/offset_0000.nii"), [0, 1020, 41]);
    write_values(&folder.at("scans/labels_0000.nii"), [0, 3, 0]);
    let names = |out: &str| {
        let mut names: Vec<String> = fs::read_dir(folder.at(out))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    folder.check("scans", "out", &[], 3, "offset: check: values 0 to 1060, ");
    let stdout = String::from_utf8(folder.predict("scans", "told", &[]).stdout).unwrap();
    assert!(
        stdout.contains("2 of 3 scans predicted into ") && stdout.contains("; 1 scan to check, reported above\n"),
        "{stdout}"
    );
    assert_eq!(names("out"), ["ct.nii.gz", "offset.nii.gz"]);
    folder.check(
        "scans",
        "out",
        &["--overwrite"],
        3,
        "labels_0000.nii: a label map by its values (2 whole numbers up to 3)",
    );
    folder.check("scans", "strict", &["--on-suspect", "skip"], 3, "offset_0000.nii: values 0 to 1060, ");
    assert_eq!(names("strict"), ["ct.nii.gz"]);
    folder.check("scans/offset_0000.nii", "none", &["--on-suspect", "fail"], 1, "error: stopped after 0 of 1 scan: ");
}

#[test]
fn oddities_of_headers_are_reported() {
    let folder = Folder::new();
    let path = folder.at("scans/a_0000.nii");
    write_scan(&path, [0.0; 3]);
    // A qform at another place than the sform.
    let mut bytes = fs::read(&path).unwrap();
    bytes[252..254].copy_from_slice(&1_i16.to_le_bytes());
    bytes[268..272].copy_from_slice(&500_f32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    folder.check("scans", "out", &[], 0, "a: check: sform and qform disagree by");
}

#[test]
fn a_best_checkpoint_that_is_gone_is_reported_once() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a_0000.nii"), [0.0; 3]);
    folder.check("scans", "out", &[], 0, "");
    let config = config();
    let model = config.unetr().init(&mut WeightInit::new(0, &burn::tensor::Device::flex().autodiff()));
    let best = Some(Best { step: 9, mean_dice: 0.5 });
    let state = State { best, ..State::new(Kind::Finetune, 12, None, &config, "digest") };
    let checkpoints = Checkpoints::open(&folder.at("run"), 1).unwrap();
    checkpoints.save(&state, &model, None, &config.optim.init(&model)).unwrap();
    let stderr = String::from_utf8(folder.predict("scans", "again", &[]).stderr).unwrap();
    assert_eq!(stderr.matches("the best checkpoint, that of step 9, is gone; the newest one, ").count(), 1, "{stderr}");
    // As every other warning of the program.
    let line = stderr.lines().find(|line| line.starts_with("warning: ") && line.contains("is gone"));
    assert!(line.is_some_and(|line| line.contains("step-00000012")), "{stderr}");
}

#[test]
fn ranks_share_the_scans() {
    let folder = Folder::new();
    for scan in ["a", "b", "c"] {
        write_scan(&folder.at(&format!("scans/{scan}.nii.gz")), [0.0; 3]);
    }
    let predicted = |rank: &str, out: &str| {
        let world = [("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank), ("MASTER_ADDR", "localhost")];
        let output = folder.command("scans", out, &[]).envs(world).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut names: Vec<String> = fs::read_dir(folder.at(out))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".nii.gz"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(predicted("0", "first"), ["a.nii.gz", "c.nii.gz"]);
    assert_eq!(predicted("1", "second"), ["b.nii.gz"]);
}

#[test]
fn signals_of_batch_systems_stop_a_prediction() {
    let folder = Folder::new();
    for scan in 0..60 {
        write_scan(&folder.at(&format!("scans/s{scan}.nii")), [0.0; 3]);
    }
    for signal in [Signal::SIGTERM, Signal::SIGUSR1] {
        let mut command = folder.command("scans", signal.as_str(), &["--mirror"]);
        let mut run = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
        stdout.find(|line| line.starts_with("1/60 ")).unwrap();
        kill(Pid::from_raw(run.id().try_into().unwrap()), signal).unwrap();
        assert!(stdout.count() < 59, "{signal}");
        assert_eq!(run.wait().unwrap().code(), Some(75), "{signal}");
    }
}

#[test]
fn several_models_are_averaged() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a.nii"), [0.0; 3]);
    let config = config();
    folder.add_run("other", 1, &config);
    let model = |name: &str| folder.at(name).to_string_lossy().into_owned();
    // The first model is the one of `Folder::command`.
    folder.check("scans", "one", &["--probabilities"], 0, "");
    folder.check("scans", "both", &["--probabilities", "--model", &model("other")], 0, "");
    let body = |out: &str| {
        let volume = read_volume(&folder.at(&format!("{out}/probabilities/a/01_body.nii.gz"))).unwrap();
        let mut values = vec![0.0; volume.info.shape.iter().product()];
        volume.read_f32(0, &mut values);
        values
    };
    let mut alone = folder.command("scans", "two", &["--probabilities"]);
    // The other model alone, in a folder that has it under the name of the first.
    fs::rename(folder.at("run"), folder.at("first")).unwrap();
    fs::rename(folder.at("other"), folder.at("run")).unwrap();
    assert!(alone.output().unwrap().status.success());
    // The whole scan fits one window of 16 voxels along no axis, so windows overlap: their means of logarithms differ
    // from the logarithm of means by less than the models differ from each other.
    let (one, two, both) = (body("one"), body("two"), body("both"));
    let largest = |difference: &dyn Fn(usize) -> f32| (0..one.len()).map(|i| difference(i).abs()).fold(0.0, f32::max);
    let apart = largest(&|i| one[i] - two[i]);
    let off = largest(&|i| both[i] - f32::midpoint(one[i], two[i]));
    assert!(apart > 0.001 && off < 0.5 * apart, "models {apart} apart, mean {off} off");

    folder.check("scans", "twice", &["--model", &model("run")], 1, "given twice; its probabilities would count double");
    let mut coarse = config.clone();
    coarse.preprocess.as_mut().unwrap().spacing = Some([2.0; 3]);
    folder.add_run("unlike", 1, &FinetuneConfig { classes: vec!["background".into(), "bone".into()], ..config });
    folder.check(
        "scans",
        "unlike",
        &["--model", &model("unlike")],
        1,
        "the two differ in classes; the models of an ensemble",
    );
    folder.add_run("coarse", 1, &coarse);
    folder.check("scans", "unlike", &["--model", &model("coarse")], 1, "the two differ in preprocess (spacing ");
}

#[test]
fn small_parts_are_cleared_by_request() {
    let folder = Folder::new();
    write_scan(&folder.at("scans/a.nii"), [0.0; 3]);
    folder.check("scans", "all", &[], 0, "");
    for (out, classes) in [("clean", "body"), ("cleaned", "all"), ("by-number", "1")] {
        folder.check("scans", out, &["--keep-largest", classes], 0, "");
    }
    let read = |out: &str| read_labels(&folder.at(&format!("{out}/a.nii.gz"))).unwrap().voxels;
    let (all, clean) = (read("all"), read("clean"));
    assert!(all.iter().zip(&clean).all(|(all, clean)| all == clean || *clean == 0));
    assert!(clean == read("cleaned") && clean == read("by-number"));
    for classes in ["bady", "all,bady"] {
        let expected = "no class `bady`; did you mean `body`? (the classes are 0 background, 1 body)";
        folder.check("scans", "none", &["--keep-largest", classes], 2, expected);
    }
    folder.check("scans", "none", &["--keep-largest", "background"], 2, "the background is not cleaned");
    folder.check("scans", "none", &["--keep-largest", "body,1"], 2, "--keep-largest 1: the class is named twice");
    for (classes, expected) in [
        ("all,body", "`all` includes every class; leave out the others"),
        ("all,all", "`all` is named twice; name it once"),
    ] {
        folder.check("scans", "none", &["--keep-largest", classes], 2, expected);
    }
}

#[test]
fn a_model_of_z_scores_takes_scans_in_any_unit() {
    let folder = Folder::new();
    let normalize = Normalize::Zscore;
    let mut config = config();
    config.preprocess = Some(PreprocessConfig {
        spacing: None,
        window: normalize.default_window(),
        normalize,
        ..PreprocessConfig::default()
    });
    folder.add_run("z", 0, &config);
    let shape = [20_u16, 24, 17];
    let affine = [[-1.5, 0.0, 0.0, 9.0], [0.0, 1.5, 0.0, -4.0], [0.0, 0.0, 3.0, 2.0]];
    // No voxel is 0, so that the box of nonzero voxels is the whole scan in either unit.
    let values: Vec<i16> = (0..20 * 24 * 17_i32)
        .map(|at| i16::try_from(100 + at * 7919 % 331 + if at / 20 % 24 > 9 { 700 } else { 0 }).unwrap())
        .collect();
    nifti::write(&folder.at("scans/a_0000.nii"), shape, affine, &values);
    let other: Vec<i16> = values.iter().map(|value| 4 * value - 1501).collect();
    nifti::write(&folder.at("scans/b_0000.nii"), shape, affine, &other);
    let probabilities = |run: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        command.args(["predict", "--device", "cpu", "--probabilities", "--model"]).arg(folder.at(run));
        let output =
            command.arg(folder.at("scans")).arg("--out").arg(folder.at(&format!("out-{run}"))).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        let read = |name: &str| {
            let dir = folder.at(&format!("out-{run}"));
            let label = read_labels(&dir.join(format!("{name}.nii.gz"))).unwrap();
            assert_eq!(label.info.shape, shape.map(usize::from));
            let body = read_volume(&dir.join(format!("probabilities/{name}/01_body.nii.gz"))).unwrap();
            let mut values = vec![0.0; 20 * 24 * 17];
            body.read_f32(0, &mut values);
            values
        };
        (["a", "b"].map(read), stderr)
    };
    let ([a, b], stderr) = probabilities("z");
    assert!(a == b && a.iter().any(|&p| p > 0.0), "z-scores do not depend on the unit");
    assert!(!stderr.contains("HU"), "{stderr}");
    let ([a, b], _) = probabilities("run");
    assert!(a != b, "the test would notice a window");
}
