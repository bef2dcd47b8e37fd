//! Tests that the released checkpoint layout survives a model and an exported file, bit for bit.

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::Device;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::pretrain::PretrainPreset;
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::model::unetr::UnetrConfig;
use hiend_trainer::weights::nnssl::{PretrainingData, write_nnssl};
use hiend_trainer::weights::{
    StateDict, export_hi_end_mae, export_unetr, import_hi_end_mae, import_unetr, safetensors,
};

use crate::golden::{Case, Comparisons, cases, relative_error};
use crate::golden_mae::{config_of, inputs_of};

/// Cases with a checkpoint in the released layout: `pth_*`, and some of `mae_*`.
fn cases_with_checkpoint() -> impl Iterator<Item = (Case, PathBuf)> {
    cases("pth_").into_iter().chain(cases("mae_")).filter_map(|case| {
        let checkpoint = case.folder.join(format!("{}.pth", case.name));
        checkpoint.exists().then_some((case, checkpoint))
    })
}

#[test]
fn golden_weights_round_trip() {
    for (case, checkpoint) in cases_with_checkpoint() {
        let state = StateDict::read(&checkpoint).unwrap();
        let (config, crop_size) = config_of(&case);
        let model = config.init(crop_size, &mut WeightInit::new(0, &Device::flex()));
        let (model, report) = import_hi_end_mae(model, &state).unwrap();
        assert!(report.skipped.is_empty() && report.missing.is_empty(), "{}: {report}", case.name);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("exported.safetensors");
        safetensors::write(&path, &export_hi_end_mae(&model).unwrap()).unwrap();
        let exported = StateDict::read(&path).unwrap();
        assert_eq!(exported, state, "{}: the checkpoint's names, shapes and bits", case.name);
        let params = case.tensors.iter().filter_map(|(name, golden)| Some((name.strip_prefix("param/")?, golden)));
        let mut num_params = 0;
        for (name, golden) in params {
            assert_eq!(exported.tensors[name].shape, golden.shape, "{name}");
            assert_eq!(exported.tensors[name].values, golden.f32(), "{name}");
            num_params += 1;
        }
        assert_eq!(num_params, exported.tensors.len());
        println!("golden {}: {num_params} tensors, .pth to model to .safetensors, bit-exact", case.name);

        // Every tensor is where the reference has it: the loss is the reference's.
        let (images, mask) = inputs_of(&case, &Device::flex());
        let loss: Vec<f32> = model.forward(images, &mask).into_data().try_to_vec().unwrap();
        let mut comparisons = Comparisons::default();
        let error = relative_error(&loss, case.tensor("expect/loss"));
        comparisons.check(&case, "loss of the imported weights", error, 1e-5);
        comparisons.finish();
    }
}

#[cfg(unix)]
#[test]
fn exported_weights_have_the_mode_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    safetensors::write(&folder.path().join("weights.safetensors"), &StateDict::default()).unwrap();
    std::fs::write(folder.path().join("other"), b"").unwrap();
    assert_eq!(mode("weights.safetensors"), mode("other"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn golden_weights_import_command() {
    for (case, checkpoint) in cases_with_checkpoint() {
        let (model, crop_size) = config_of(&case);
        let mut config = PretrainPreset::Tiny.config();
        (config.model, config.stream.crop_size) = (model, crop_size);
        let folder = tempfile::tempdir().unwrap();
        let (sizes, out) = (folder.path().join("sizes.toml"), folder.path().join("imported.safetensors"));
        std::fs::write(&sizes, config.to_toml()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        let output = command.arg("import").arg(&checkpoint).arg("--config").arg(sizes).arg("--out").arg(&out).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
        let imported = StateDict::read(&out).unwrap();
        assert_eq!(imported, StateDict::read(&checkpoint).unwrap(), "{}: names, shapes and bits", case.name);
        println!(
            "golden {}: {} tensors, .pth to .safetensors by command, bit-exact",
            case.name,
            imported.tensors.len()
        );
    }
}

/// Loads an export into a `PyTorch` model with the reference's structure, if `PyTorch` is available, as it must be in
/// CI; `HIEND_PYTHON` names the interpreter.
fn check_in_pytorch(kind: &str, case: &Case, state: &StateDict) {
    let python = std::env::var("HIEND_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_torch = Command::new(&python).args(["-c", "import torch"]).output().is_ok_and(|o| o.status.success());
    if !has_torch {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{python} has no PyTorch (set HIEND_PYTHON)");
        println!("golden {}: NOT loaded in PyTorch, which {python} does not have (set HIEND_PYTHON)", case.name);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("weights.safetensors");
    safetensors::write(&weights, state).unwrap();
    let file = |ending| case.folder.join(format!("{}.{ending}", case.name));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/pytorch/strict_load.py");
    let output = Command::new(&python)
        .arg(script)
        .arg(kind)
        .args([file("json"), weights, file("safetensors")])
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
}

#[test]
fn golden_weights_load_strictly_in_pytorch() {
    let device = Device::flex();
    for case in cases("mae_") {
        let model = crate::golden_mae::model_of(&case, &device);
        check_in_pytorch("mae", &case, &export_hi_end_mae(&model).unwrap());
    }
    for case in cases("unetr_") {
        let model = crate::golden_unetr::model_of(&case, &device);
        check_in_pytorch("unetr", &case, &export_unetr(&model).unwrap());
    }
}

#[test]
fn nnunet_network_has_the_encoder_of_an_export() {
    let python = std::env::var("HIEND_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !Command::new(&python).args(["-c", "import torch"]).output().is_ok_and(|output| output.status.success()) {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{python} has no PyTorch (set HIEND_PYTHON)");
        println!("nnU-Net network: NOT compared, {python} has no PyTorch (set HIEND_PYTHON)");
        return;
    }
    let device = Device::flex();
    let mut config = PretrainPreset::Tiny.config();
    config.stream.crop_size = [16; 3];
    config.model.patch_size = 8;
    config.model.embed_dim = 12;
    config.model.num_heads = 2;
    config.model.decoder_embed_dim = 12;
    config.model.decoder_num_heads = 2;
    let model = config.model.init(config.stream.crop_size, &mut WeightInit::new(3, &device));
    let state = export_hi_end_mae(&model).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // The same encoder in a fine-tuning network, by this project's own import.
    let unetr = UnetrConfig::for_encoder_of(&config.model, config.stream.crop_size, 3).unwrap();
    let unetr = UnetrConfig { feature_size: 2, ..unetr };
    let (unetr, _) = import_unetr(unetr.init(&mut WeightInit::new(4, &device)), &state).unwrap();
    safetensors::write(&at("unetr.safetensors"), &export_unetr(&unetr).unwrap()).unwrap();
    let settings = r#"{"hidden_size": 12, "feature_size": 2, "patch_size": 8, "img_size": 16, "heads": 2, "depth": 12, "classes": 3}"#;
    std::fs::write(at("settings.json"), settings).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/pytorch/nnunet_encoder.py");
    for normalize in [Normalize::Hu, Normalize::Zscore] {
        let data = PretrainingData { spacing: Some([1.5; 3]), normalize, window: normalize.default_window() };
        write_nnssl(&at("encoder.pth"), &state, &config, data).unwrap();
        let files = ["settings.json", "encoder.pth", "unetr.safetensors"].map(at);
        let output = Command::new(&python).arg("-B").arg(&script).args(files).output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
