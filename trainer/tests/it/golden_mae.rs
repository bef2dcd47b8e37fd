//! Tests of Hi-End-MAE against the reference: states, patches, loss, every gradient, and losses over steps.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use hiend_trainer::model::hi_end_mae::{HiEndMae, HiEndMaeConfig};
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::model::masking::{Mask, MaskIndices};
use hiend_trainer::model::patch_embed::patchify;
use hiend_trainer::optim::{AdamWSettings, Decay};

use crate::golden::{Case, Comparisons, cases, gradients_by_path, relative_error};

/// Tolerance for encoder states, patches and loss.
const FORWARD_TOLERANCE: f64 = 1e-5;
/// Tolerance for gradients and loss curves.
const TRAIN_TOLERANCE: f64 = 1e-4;

/// Name in the reference of the parameter at a path of the model.
fn reference_name(path: &str) -> String {
    let name = path.replace(".gamma", ".weight").replace(".beta", ".bias");
    name.replace("encoder.pos_embed.table", "encoder_pos_embed").replace("decoder_pos_embed.table", "decoder_pos_embed")
}

/// Returns true if a parameter is transposed: linear weights are `[out, in, …]` in the reference and `[in, out]` in the
/// model.
fn is_transposed(path: &str, rank: usize) -> bool {
    rank == 2 && path.ends_with(".weight")
}

struct Loader<'a> {
    case: &'a Case,
    path: Vec<String>,
    seen: usize,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let golden = self.case.tensor(&format!("param/{}", reference_name(&path)));
        self.seen += 1;
        param.map(|old| {
            let (device, trained) = (old.device(), old.is_require_grad());
            let data = TensorData::new(golden.f32(), [golden.values.len()]);
            let flat = Tensor::<1>::from_data(data, &device);
            let new = if is_transposed(&path, D) {
                let [d_input, d_output] = [old.dims()[0], old.dims()[1]];
                flat.reshape([d_output, d_input]).transpose().reshape(old.dims())
            } else {
                flat.reshape(old.dims())
            };
            new.detach().set_require_grad(trained)
        })
    }
}

/// Sizes of a case's model and of its crops.
pub(crate) fn config_of(case: &Case) -> (HiEndMaeConfig, [usize; 3]) {
    let config = HiEndMaeConfig {
        patch_size: case.int("patch_size"),
        embed_dim: case.int("encoder_dim"),
        depth: case.int("encoder_depth"),
        num_heads: case.int("encoder_heads"),
        taps: vec![3, 6, 9],
        decoder_embed_dim: case.int("decoder_dim"),
        decoder_self_depth: case.int("decoder_self_depth"),
        decoder_num_heads: case.int("decoder_heads"),
        mlp_ratio: 4,
        mask_ratio: case.settings["mask_ratio"].as_f64().unwrap(),
    };
    let crop_size = [case.int("img_size"); 3];
    config.validate(crop_size).unwrap();
    (config, crop_size)
}

pub(crate) fn model_of(case: &Case, device: &Device) -> HiEndMae {
    let (config, crop_size) = config_of(case);
    let mut loader = Loader { case, path: vec![], seen: 0 };
    let model = config.init(crop_size, &mut WeightInit::new(0, device)).map(&mut loader);
    let expected = case.tensors.keys().filter(|name| name.starts_with("param/")).count();
    assert_eq!(loader.seen, expected, "{}: parameters", case.name);
    model
}

pub(crate) fn inputs_of(case: &Case, device: &Device) -> (Tensor<5>, MaskIndices) {
    let images = Tensor::from_data(case.tensor("input/image").data(), device);
    let noise = case.tensor("input/noise");
    let mask = Mask::from_noise(&noise.f32(), noise.shape[1], case.settings["mask_ratio"].as_f64().unwrap());
    (images, mask.upload(device))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn golden_mae_forward() {
    let device = Device::flex();
    let mut comparisons = Comparisons::default();
    for case in cases("mae_") {
        let model = model_of(&case, &device);
        let (images, mask) = inputs_of(&case, &device);
        let patches = patchify(images.clone(), case.int("patch_size"));
        let encoded = model.encode(patches, &mask);
        let mut check = |what: &str, actual: Vec<f32>| {
            comparisons.check(&case, what, relative_error(&actual, case.tensor(what)), FORWARD_TOLERANCE);
        };
        for (tap, name) in encoded.taps.into_iter().zip(["h3", "h6", "h9"]) {
            check(&format!("expect/encoder_{name}"), values(tap));
        }
        check("expect/encoder_norm", values(encoded.norm));
        check("expect/loss", values(model.forward(images.clone(), &mask)));
        let reconstruction = model.reconstruct(images, &mask);
        check("expect/target_patches", values(reconstruction.target));
        check("expect/recon_patches", values(reconstruction.pred));
    }
    comparisons.finish();
}

#[test]
fn golden_mae_gradients() {
    let device = Device::flex().autodiff();
    let mut comparisons = Comparisons::default();
    for case in cases("mae_") {
        let model = model_of(&case, &device);
        let (images, mask) = inputs_of(&case, &Device::flex());
        let grads = GradientsParams::from_grads(model.forward(images, &mask).backward(), &model);
        let errors: Vec<(String, f64)> = gradients_by_path(&model, &grads)
            .into_iter()
            .map(|(path, grad)| {
                let name = reference_name(&path);
                let error = relative_error(&grad, case.tensor(&format!("grad/{name}")));
                (name, error)
            })
            .collect();
        assert_eq!(errors.len(), case.tensors.keys().filter(|name| name.starts_with("grad/")).count());
        comparisons.check_worst(&case, "gradients", &errors, TRAIN_TOLERANCE);
    }
    comparisons.finish();
}

#[test]
fn golden_mae_adamw() {
    let device = Device::flex().autodiff();
    let mut comparisons = Comparisons::default();
    for case in cases("mae_") {
        for (decay, expect) in
            [(Decay::All, "expect/losses_adamw_released"), (Decay::Matrices, "expect/losses_adamw_nodecay1d")]
        {
            let settings = &case.settings["adamw"];
            let number = |key: &str| settings[key].as_f64().unwrap();
            let adamw = AdamWSettings {
                lr: number("lr"),
                betas: [number("beta1"), number("beta2")],
                epsilon: number("eps"),
                weight_decay: number("weight_decay"),
                decay,
                clip_norm: None,
            };
            let (images, mask) = inputs_of(&case, &Device::flex());
            let mut model = model_of(&case, &device);
            let mut optimizer: ModuleOptimizer = adamw.init(&model);
            let mut losses = vec![];
            for _ in 0..settings["steps"].as_u64().unwrap() {
                let loss = model.forward(images.clone(), &mask);
                losses.extend(values(loss.clone()));
                let grads = GradientsParams::from_grads(loss.backward(), &model);
                model = optimizer.step(adamw.lr, model, grads);
            }
            // Each loss relative to itself, since the first ones are larger.
            let expected = case.tensor(expect);
            assert_eq!(losses.len(), expected.values.len());
            let error = losses.iter().zip(&expected.values).map(|(&a, e)| (f64::from(a) - e).abs() / e.abs());
            comparisons.check(&case, expect, error.fold(0.0, f64::max), TRAIN_TOLERANCE);
        }
    }
    comparisons.finish();
}

#[test]
fn golden_mae_no_decay_group() {
    for case in cases("mae_") {
        let model = model_of(&case, &Device::flex().autodiff());
        let mut ours: Vec<String> =
            hiend_trainer::optim::decayed_matrices(&model).iter().map(|path| reference_name(path)).collect();
        ours.sort();
        let mut expected: Vec<String> =
            serde_json::from_value(case.settings["decay_params"].clone()).expect("decay_params lists names");
        expected.sort();
        assert_eq!(ours, expected, "{}", case.name);
        println!("golden {}: the {} decayed parameters are the reference's", case.name, ours.len());
    }
}
