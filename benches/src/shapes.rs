//! Every kind of product that the models take, in their own sizes, once on a device and once on the CPU in f32.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sizes of models and batches"
)]

use burn::tensor::module::conv3d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use hiend_trainer::device::Compute;
use hiend_trainer::model::hi_end_mae::HiEndMaeConfig;
use hiend_trainer::model::precision::Precision;
use hiend_trainer::ops::softmax::softmax;
use serde_json::{Value, json};

/// Crops of the products of tokens; sums are as long as in training, there are only fewer of them.
const CROPS: usize = 2;
/// Largest relative error (‖ours − reference‖ / ‖reference‖) that rounding the factors explains.
const BANDS: [(Precision, f64); 2] = [(Precision::F32, 1e-3), (Precision::Bf16, 1e-2)];

/// Shows one line a shape as soon as it is known: the errors of the value, and of the gradient of each factor.
///
/// # Errors
/// If the device fails.
pub fn compare(
    model: &HiEndMaeConfig,
    compute: &Compute,
    precision: Precision,
    show: &mut dyn FnMut(Value),
) -> anyhow::Result<()> {
    let (wide, narrow, hidden) = (model.embed_dim, model.decoder_embed_dim, model.mlp_ratio);
    let patch = model.patch_size.pow(3);
    let all = (96 / model.patch_size).pow(3) + 1;
    let visible = (all - 1) / 4 + 1;
    let mut products = vec![(visible, patch, wide), (visible, wide, narrow), (all, narrow, patch)];
    for (tokens, dim) in [(visible, wide), (all, narrow)] {
        products.extend([(tokens, dim, 3 * dim), (tokens, dim, dim)]);
        products.extend([(tokens, dim, hidden * dim), (tokens, hidden * dim, dim)]);
    }
    products.push((visible, narrow, 2 * narrow));
    for (tokens, from, to) in products {
        let factors = [wave([CROPS, tokens, from], 0.37), wave([1, from, to], 0.11)];
        let errors = errors(
            compute,
            &factors,
            |[x, w], p| {
                let (x, w) = (p.narrow(x), p.narrow(w));
                p.widen(x.matmul(w))
            },
            precision,
        )?;
        show(line("linear", &json!([tokens, from, to]), &errors, precision));
    }
    for (queries, keys, dim, heads) in [
        (visible, visible, wide, model.num_heads),
        (all, all, narrow, model.decoder_num_heads),
        (all, visible, narrow, model.decoder_num_heads),
    ] {
        let width = dim / heads;
        let factors = [
            wave([CROPS * heads, queries, width], 0.37),
            wave([CROPS * heads, keys, width], 0.23),
            wave([CROPS * heads, keys, width], 0.71),
        ];
        let errors = errors(
            compute,
            &factors,
            |[q, k, v], p| {
                let [q, k, v] = [q, k, v].map(|x| p.narrow(x));
                let weights = softmax(q.matmul(k.swap_dims(1, 2)), 1.0 / (width as f64).sqrt());
                p.widen(weights.matmul(v))
            },
            precision,
        )?;
        show(line("attention", &json!([queries, keys, width]), &errors, precision));
    }
    // UNETR's convolutions of 3 voxels, feature size 32, each at its resolution; the finest on a part of the crop.
    for (channels, out, side) in
        [(1, 32, 48), (32, 32, 48), (64, 32, 48), (64, 64, 48), (128, 64, 48), (256, 128, 24), (512, 256, 16)]
    {
        let factors = [wave([channels, side, side * side], 0.37), wave([out, channels, 27], 0.19)];
        let errors = errors(
            compute,
            &factors,
            |[x, w], p| {
                let x = p.narrow(x.reshape([1, channels, side, side, side]));
                let w = p.narrow(w.reshape([out, channels, 3, 3, 3]));
                let y = p.widen(conv3d(x, w, None, ConvOptions::new([1; 3], [1; 3], [1; 3], 1)));
                y.reshape([out, side, side * side])
            },
            precision,
        )?;
        show(line("conv3d", &json!([channels, out, side]), &errors, precision));
    }
    Ok(())
}

fn line(kind: &str, shape: &Value, errors: &[f64], precision: Precision) -> Value {
    let band = BANDS.into_iter().find(|(kind, _)| *kind == precision).map_or(0.0, |(_, band)| band);
    let within = errors.iter().all(|error| *error <= band);
    json!({ "kind": kind, "shape": shape, "precision": precision, "errors": errors, "band": band, "within_band": within })
}

/// Numbers of both signs whose products neither cancel nor grow.
fn wave(shape: [usize; 3], frequency: f32) -> TensorData {
    let value = |at: usize| ((at as f32 * frequency).sin() * 43_758.547).fract();
    TensorData::new((0..shape.iter().product()).map(value).collect::<Vec<f32>>(), shape)
}

/// Relative errors of the value, then of each factor's gradient.
fn errors<const N: usize>(
    compute: &Compute,
    factors: &[TensorData; N],
    product: impl Fn([Tensor<3>; N], Precision) -> Tensor<3>,
    precision: Precision,
) -> anyhow::Result<Vec<f64>> {
    let run = |device: Device, precision: Precision| -> anyhow::Result<Vec<Vec<f32>>> {
        let factors = factors.each_ref().map(|data| Tensor::<3>::from_data(data.clone(), &device).require_grad());
        let y = product(factors.clone(), precision);
        let weights = Tensor::from_data(wave(y.dims(), 0.53), &device);
        let grads = (y.clone() * weights).sum().backward();
        let mut tensors = vec![y.inner()];
        tensors.extend(factors.iter().filter_map(|factor| factor.grad(&grads)));
        let host = |tensor: Tensor<3>| -> anyhow::Result<Vec<f32>> {
            let data = tensor.try_into_data().map_err(|error| anyhow::anyhow!("{error:?}"))?;
            data.try_to_vec().map_err(|error| anyhow::anyhow!("{error:?}"))
        };
        tensors.into_iter().map(host).collect()
    };
    let ours = run(compute.autodiff(), precision)?;
    let reference = run(Compute::cpu().autodiff(), Precision::F32)?;
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    Ok(ours
        .iter()
        .zip(&reference)
        .map(|(ours, reference)| {
            let differences = ours.iter().zip(reference).map(|(a, b)| f64::from(a - b));
            norm(&mut { differences }) / norm(&mut reference.iter().map(|&v| f64::from(v)))
        })
        .collect())
}
