//! Matrix products, attentions and convolutions of the models, at their own sizes: compared with the CPU in f32, or
//! timed with as many rows as in a batch.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sizes of models and batches"
)]

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use hiend_trainer::device::Compute;
use hiend_trainer::model::hi_end_mae::HiEndMaeConfig;
use hiend_trainer::model::precision::Precision;
use hiend_trainer::ops::attention::{Computation, Method, attend_cross, reads_tokens};
use hiend_trainer::ops::conv::{conv, conv_in_factors, up_conv};
use hiend_trainer::ops::instance_norm::{Branch, NormLeaky};
use hiend_trainer::ops::product::{input_gradient, linear, weight_gradient, weight_gradient_with_bias};
use serde_json::{Value, json};

/// Number of crops in a compared product. Each sum is as long as in training, but there are fewer sums.
const CROPS: usize = 2;
/// Largest relative error, ‖ours − reference‖ / ‖reference‖, that the rounding of the factors explains.
const BANDS: [(Precision, f64); 3] = [(Precision::F32, 1e-3), (Precision::Tf32, 1e-3), (Precision::Bf16, 1e-2)];

/// Shows one line per linear map and attention of `model`: the relative errors of the value and of each factor's gradient.
///
/// # Errors
/// If the device fails.
pub fn compare(
    model: &HiEndMaeConfig,
    compute: &Compute,
    (precision, computation): (Precision, Computation),
    show: &mut dyn FnMut(Value),
) -> anyhow::Result<()> {
    for (tokens, from, to) in compared_maps(model, computation) {
        let factors = [wave([CROPS, tokens, from], 0.37), wave([1, from, to], 0.11)];
        let errors = errors(
            compute,
            &factors,
            |[x, w], p| {
                let [_, rows, columns] = w.dims();
                p.widen(p.affine(x, w.reshape([rows, columns]), None))
            },
            precision,
        )?;
        show(line("linear", &json!([tokens, from, to]), &errors, precision));
    }
    for (queries, keys, dim, heads) in attentions(model) {
        let width = dim / heads;
        let factors = [wave([CROPS, queries, dim], 0.37), wave([CROPS, keys, 2 * dim], 0.23)];
        let errors = errors(
            compute,
            &factors,
            |[q, kv], p| {
                let method = Method { factors: p.factors(), computation };
                let biases = biases_of(&q, heads, method);
                p.widen(attend_cross(p.narrow(q), p.narrow(kv), biases, heads, method))
            },
            precision,
        )?;
        let mut line = line("attention", &json!([queries, keys, width]), &errors, precision);
        line["attention"] = json!(computation);
        show(line);
    }
    Ok(())
}

/// Convolutions of 3x3x3 voxels in UNETR with 32 features: channels before and after, side of the volume, and side of
/// the part that is compared with the CPU.
const CONVOLUTIONS: [(usize, usize, usize, usize); 8] = [
    (1, 32, 96, 48),
    (32, 32, 96, 48),
    (64, 32, 96, 48),
    (64, 64, 48, 48),
    (128, 64, 48, 48),
    (128, 128, 24, 24),
    (256, 128, 24, 24),
    (512, 256, 12, 12),
];

/// Shows one line per convolution of UNETR, per transposed one and per instance norm: the relative errors of the value and
/// of each factor's gradient.
///
/// # Errors
/// If the device fails.
pub fn compare_convolutions(
    compute: &Compute,
    precision: Precision,
    show: &mut dyn FnMut(Value),
) -> anyhow::Result<()> {
    for (channels, out, _, side) in CONVOLUTIONS {
        let factors = [wave([channels, side, side * side], 0.37), wave([out, channels, 27], 0.19)];
        let errors = errors(
            compute,
            &factors,
            |[x, w], p| {
                let x = x.reshape([1, channels, side, side, side]);
                let y = conv(x, w.reshape([out, channels, 3, 3, 3]), None, p.factors());
                y.reshape([out, side, side * side])
            },
            precision,
        )?;
        show(line("conv3d", &json!([channels, out, side]), &errors, precision));
    }
    for (channels, out, side) in [(768, 256, 6), (256, 128, 12), (64, 64, 24)] {
        let factors = [wave([channels, side, side * side], 0.37), wave([channels, out, 8], 0.19)];
        let errors = errors(
            compute,
            &factors,
            |[x, w], p| {
                let x = x.reshape([1, channels, side, side, side]);
                let y = p.widen(up_conv(x, w.reshape([channels, out, 2, 2, 2]), p.factors()));
                y.reshape([out, 2 * side, 4 * side * side])
            },
            precision,
        )?;
        show(line("up-conv3d", &json!([channels, out, side]), &errors, precision));
    }
    for (channels, side) in [(32, 48), (256, 12)] {
        let factors = [wave([channels, side, side * side], 0.37), wave([channels, side, side * side], 0.23)];
        let errors = errors(
            compute,
            &factors,
            |[x, branch], p| {
                let [x, branch] = [x, branch].map(|x| p.narrow(x.reshape([1, channels, side, side, side])));
                let norm = NormLeaky { epsilon: 1e-5, slope: 0.01 };
                norm.forward(x, Branch::Normed(branch)).reshape([channels, side, side * side])
            },
            precision,
        )?;
        show(line("instance-norm", &json!([channels, side]), &errors, precision));
    }
    Ok(())
}

/// Shows one line per convolution of UNETR on `crops` crops, whose volumes have sides of `most_side` voxels at most: the time
/// of the convolution, and of it with both gradients.
///
/// # Errors
/// If the device fails.
pub fn time_convolutions(
    compute: &Compute,
    precision: Precision,
    (crops, most_side): (usize, usize),
    show: &mut dyn FnMut(Value),
) -> anyhow::Result<()> {
    let mut shown = |kind: &str, shape: Value, flop: f64, secs: f64| {
        show(json!({
            "kind": kind, "shape": shape, "precision": precision, "crops": crops,
            "ms": (secs * 1e7).round() / 1e4, "tflops": (flop / secs / 1e8).round() / 1e4,
        }));
    };
    let device = compute.autodiff();
    for (channels, out, side, _) in CONVOLUTIONS {
        let side = side.min(most_side);
        let random = |shape| Tensor::<5>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        // The axes have the channels first, the memory has them last, as in the model. `x` is a leaf, because each
        // backward pass uses up the graph by which a tensor was computed.
        let x = precision.narrow(random([crops, side, side, side, channels])).permute([0, 4, 1, 2, 3]).require_grad();
        let w = random([out, channels, 3, 3, 3]).require_grad();
        let flop = 54.0 * (crops * side.pow(3)) as f64 * (channels * out) as f64;
        let forward = || conv_in_factors(x.clone().inner(), w.clone().inner(), precision.factors());
        let all = || {
            let grads = conv_in_factors(x.clone(), w.clone(), precision.factors()).sum().backward();
            w.grad(&grads).unwrap_or_else(|| w.clone().inner())
        };
        let shape = json!([channels, out, side]);
        shown("conv3d", shape.clone(), flop, timed(compute.raw(), forward)?);
        shown("conv3d-all", shape, 3.0 * flop, timed(compute.raw(), all)?);
    }
    Ok(())
}

/// Linear maps of `model` to measure with this computation of attention; none with cuDNN, because they are the same as
/// with products.
fn compared_maps(model: &HiEndMaeConfig, computation: Computation) -> Vec<(usize, usize, usize)> {
    match computation {
        Computation::Products => linear_maps(model),
        Computation::Cudnn => vec![],
    }
}

/// Linear maps of `model`: tokens of a crop, values of a token before and after.
fn linear_maps(model: &HiEndMaeConfig) -> Vec<(usize, usize, usize)> {
    let (wide, narrow, hidden) = (model.embed_dim, model.decoder_embed_dim, model.mlp_ratio);
    let (visible, all) = tokens(model);
    let patch = model.patch_size.pow(3);
    let mut maps = vec![(visible, patch, wide), (visible, wide, narrow), (all, narrow, patch)];
    for (tokens, dim) in [(visible, wide), (all, narrow)] {
        maps.extend([(tokens, dim, 3 * dim), (tokens, dim, dim)]);
        maps.extend([(tokens, dim, hidden * dim), (tokens, hidden * dim, dim)]);
    }
    maps.push((visible, narrow, 2 * narrow));
    maps
}

/// Attentions of `model`: queries and keys of a crop, width of a token, number of heads.
fn attentions(model: &HiEndMaeConfig) -> [(usize, usize, usize, usize); 3] {
    let (visible, all) = tokens(model);
    [
        (visible, visible, model.embed_dim, model.num_heads),
        (all, all, model.decoder_embed_dim, model.decoder_num_heads),
        (all, visible, model.decoder_embed_dim, model.decoder_num_heads),
    ]
}

/// Tokens of a crop in the encoder and in the decoder, class token included.
fn tokens(model: &HiEndMaeConfig) -> (usize, usize) {
    let all = (96 / model.patch_size).pow(3);
    (((all as f64) * (1.0 - model.mask_ratio)) as usize + 1, all + 1)
}

/// Shows one line per linear map and gradient of it, and one per attention with its gradients: the time for
/// `crops` crops.
///
/// # Errors
/// If the device fails.
pub fn time(
    model: &HiEndMaeConfig,
    compute: &Compute,
    (precision, computation): (Precision, Computation),
    crops: usize,
    show: &mut dyn FnMut(Value),
) -> anyhow::Result<()> {
    let device = compute.raw();
    let mut shown = |kind: &str, shape: Value, flop: f64, secs: f64| {
        show(json!({
            "kind": kind, "shape": shape, "precision": precision, "crops": crops,
            "ms": (secs * 1e7).round() / 1e4, "tflops": (flop / secs / 1e8).round() / 1e4,
        }));
    };
    let random = |shape| precision.narrow(Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device));
    for (tokens, from, to) in compared_maps(model, computation) {
        let rows = crops * tokens;
        let (x, w, dy) = (random([rows, from]), random([from, to]), random([rows, to]));
        let flop = 2.0 * (rows * from * to) as f64;
        let (shape, factors) = (json!([rows, from, to]), precision.factors());
        shown("linear", shape.clone(), flop, timed(device, || linear(x.clone(), w.clone(), factors))?);
        shown("linear-dx", shape.clone(), flop, timed(device, || input_gradient(w.clone(), dy.clone(), factors))?);
        let plain = timed(device, || weight_gradient(x.clone(), dy.clone(), factors))?;
        shown("linear-dw", shape.clone(), flop, plain);
        // The library's kernels that sum up the gradient of a bias may be slower than its others by more than a pass takes.
        let with_bias = timed(device, || weight_gradient_with_bias(x.clone(), dy.clone(), factors))?;
        shown("linear-dw-bias", shape, flop, with_bias);
    }
    let device = compute.autodiff();
    for (queries, keys, dim, heads) in attentions(model) {
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad();
        let (q, kv) = (random([crops, queries, dim]), random([crops, keys, 2 * dim]));
        let method = Method { factors: precision.factors(), computation };
        let biases = biases_of(&q, heads, method);
        let run = || {
            let (q, kv) = (precision.narrow(q.clone()), precision.narrow(kv.clone()));
            let grads = attend_cross(q.clone(), kv, biases.clone(), heads, method).sum().backward();
            q.grad(&grads).unwrap_or_else(|| q.inner())
        };
        // Two products forward, four back.
        let flop = 12.0 * (crops * queries * keys * dim) as f64;
        shown("attention", json!([crops, queries, keys, dim / heads]), flop, timed(compute.raw(), run)?);
    }
    Ok(())
}

/// Zero biases of queries `[N, L, dim]`, and of keys and values; `None` if the model's products add the biases.
fn biases_of(q: &Tensor<3>, heads: usize, method: Method) -> Option<[Tensor<1>; 2]> {
    let [_, _, dim] = q.dims();
    (!reads_tokens(q, dim / heads, method)).then(|| [dim, 2 * dim].map(|width| Tensor::zeros([width], &q.device())))
}

/// Mean seconds per run, over several runs without waiting between them.
fn timed<const D: usize>(device: &Device, run: impl Fn() -> Tensor<D>) -> anyhow::Result<f64> {
    const RUNS: u32 = 10;
    let sync = || device.sync().map_err(|error| anyhow::anyhow!("{error:?}"));
    // These runs compile and tune the kernels.
    let tuned = [run(), run()];
    sync()?;
    drop(tuned);
    let started = Instant::now();
    for _ in 0..RUNS {
        drop(run());
    }
    sync()?;
    Ok(started.elapsed().as_secs_f64() / f64::from(RUNS))
}

fn line(kind: &str, shape: &Value, errors: &[f64], precision: Precision) -> Value {
    let band = BANDS.into_iter().find(|(kind, _)| *kind == precision).map_or(0.0, |(_, band)| band);
    let within = errors.iter().all(|error| *error <= band);
    json!({ "kind": kind, "shape": shape, "precision": precision, "errors": errors, "band": band, "within_band": within })
}

/// Values of both signs whose sums of products neither cancel nor grow.
fn wave(shape: [usize; 3], frequency: f32) -> TensorData {
    let value = |at: usize| ((at as f32 * frequency).sin() * 43_758.547).fract();
    TensorData::new((0..shape.iter().product()).map(value).collect::<Vec<f32>>(), shape)
}

/// Relative errors of `product`: first of its value, then of the gradient of each factor.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn convolutions_are_timed_several_times_with_their_gradients() {
        let mut kinds = Vec::new();
        let mut show = |line: Value| kinds.push(line["kind"].clone());
        time_convolutions(&Compute::cpu(), Precision::F32, (1, 4), &mut show).unwrap();
        assert_eq!(kinds, ["conv3d", "conv3d-all"].repeat(CONVOLUTIONS.len()));
    }
}
