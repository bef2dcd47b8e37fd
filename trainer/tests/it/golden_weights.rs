//! The released checkpoint layout through a model and an exported file, bit for bit.

use burn::tensor::Device;
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::weights::{StateDict, export_hi_end_mae, import_hi_end_mae, safetensors};

use crate::golden::cases;
use crate::golden_mae::config_of;

#[test]
fn golden_weights_round_trip() {
    for case in cases("mae_") {
        let checkpoint = case.folder.join(format!("{}.pth", case.name));
        if !checkpoint.exists() {
            println!("golden {}: no .pth to read", case.name);
            continue;
        }
        let state = StateDict::read(&checkpoint).unwrap();
        let (config, crop_size) = config_of(&case);
        let model = config.init(crop_size, &mut WeightInit::new(0, &Device::flex()));
        let (model, report) = import_hi_end_mae(model, &state).unwrap();
        assert!(report.left_out.is_empty() && report.missing.is_empty(), "{}: {report}", case.name);

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
    }
}
