//! Fine-tuning and prediction of UNETR.

use std::time::Instant;

use anyhow::{Context as _, bail};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::{FinetuneConfig, FinetunePreset};
use hiend_trainer::device::Compute;
use hiend_trainer::inference::window_batch::WindowBatch;
use hiend_trainer::inference::{InferenceError, label_volume};
use hiend_trainer::label_space::LabelSpace;
use hiend_trainer::loss::class_map::ClassMap;
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::model::precision::Precision;
use hiend_trainer::model::unetr::UnetrConfig;
use hiend_trainer::sliding_window::{InputVolume, SlidingWindow};
use serde_json::{Value, json};

use super::cli::Cli;
use crate::figures::{median, rounded};

/// Maximum number of windows predicted at a time, as in `hiend-train predict`.
const MOST_WINDOWS: usize = 16;

/// Configuration of the recipe with 14 classes and the encoder of the preset from the command line.
pub(super) fn config(cli: &Cli) -> anyhow::Result<FinetuneConfig> {
    let mut config = FinetunePreset::Recipe.config();
    config.model =
        config.model.with_encoder_of(&cli.preset.config().model).context("UNETR needs an encoder with three taps")?;
    config.classes = (0..14).map(|class| class.to_string()).collect();
    config.validate("recipe")?;
    Ok(config)
}

/// Shows the time of UNETR's steps on one batch that stays on the device, then, on a separate line, the errors of a
/// small UNETR.
pub(super) fn finetune(cli: &Cli, compute: &Compute, show: &mut dyn FnMut(Value)) -> anyhow::Result<()> {
    use burn::module::Module as _;
    use burn::optim::GradientsParams;
    use burn::tensor::Tensor;
    use hiend_trainer::loss::dice_ce::dice_ce;

    let config = config(cli)?;
    let unetr = config.unetr();
    let device = compute.autodiff();
    let mut weights = WeightInit::new(0, &device).with_precision(cli.precision).with_attention(cli.attention);
    let mut model = unetr.init(&mut weights);
    let mut optimizer = config.optim.init(&model);
    let [x, y, z] = unetr.crop_size;
    let shape = [cli.finetune_batch, 1, x, y, z];
    let voxels = shape.iter().product::<usize>();
    let host = |at: usize| (at as f32 * 0.37).sin();
    let data = burn::tensor::TensorData::new((0..voxels).map(host).collect::<Vec<f32>>(), shape);
    let images = Tensor::<5>::from_data(data, compute.raw());
    let classes = unetr.num_classes;
    let labels: Vec<u8> = (0..voxels).map(|at| (at / 50 % classes) as u8).collect();
    let space = LabelSpace::new(classes);
    let labels = ClassMap::upload(&labels, cli.finetune_batch, unetr.crop_size, space, compute.raw())?;
    let mut secs = Vec::new();
    for number in 0..cli.warmup + cli.steps {
        let started = Instant::now();
        let loss = dice_ce(model.forward(images.clone()), &labels).total();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(config.optim.lr, model, grads);
        let loss = loss.inner().try_into_data().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let loss = loss.try_to_vec::<f32>().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        if !loss[0].is_finite() {
            bail!("the loss is not finite");
        }
        compute.raw().sync().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        if number >= cli.warmup {
            secs.push(started.elapsed().as_secs_f64());
        }
    }
    let median = median(&secs);
    show(json!({
        "encoder": cli.preset.name(),
        "precision": cli.precision,
        "attention": cli.attention,
        "crop_size": unetr.crop_size,
        "feature_size": unetr.feature_size,
        "classes": classes,
        "params": model.num_params(),
        "batch": cli.finetune_batch,
        "ms": rounded(median * 1e3),
        "crops_per_s": rounded(cli.finetune_batch as f64 / median),
    }));
    let [logits_error, gradient_error] = errors_of_small(&unetr, cli.precision, compute)?;
    show(json!({
        "encoder": cli.preset.name(),
        "precision": cli.precision,
        "logits_error": logits_error,
        "gradient_error": gradient_error,
    }));
    Ok(())
}

/// Relative errors ‖ours − reference‖ / ‖reference‖ of a small UNETR with the structure of `unetr`; the reference is
/// the CPU in f32. Returns the error of the logits, and of the gradient of the first convolution, which depends on all
/// later layers.
fn errors_of_small(unetr: &UnetrConfig, precision: Precision, compute: &Compute) -> anyhow::Result<[f64; 2]> {
    use burn::tensor::{Tensor, TensorData};

    const SIDE: usize = 48;
    let small = UnetrConfig { crop_size: [SIDE; 3], embed_dim: 96, num_heads: 4, feature_size: 8, ..unetr.clone() };
    let host = |tensor: Tensor<5>| -> anyhow::Result<Vec<f32>> {
        let data = tensor.try_into_data().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        data.try_to_vec().map_err(|error| anyhow::anyhow!("{error:?}"))
    };
    let run = |compute: &Compute, precision: Precision| -> anyhow::Result<[Vec<f32>; 2]> {
        let device = compute.autodiff();
        let model = small.init(&mut WeightInit::new(0, &device).with_precision(precision));
        let image: Vec<f32> = (0..SIDE.pow(3)).map(|at| (at as f32 * 0.37).sin()).collect();
        let image = Tensor::<5>::from_data(TensorData::new(image, [1, 1, SIDE, SIDE, SIDE]), compute.raw());
        let logits = model.forward(image);
        let dims = logits.dims();
        let slopes: Vec<f32> = (0..dims.iter().product::<usize>()).map(|at| (at as f32 * 0.11).sin()).collect();
        let slopes = Tensor::from_data(TensorData::new(slopes, dims), compute.raw());
        let grads = (logits.clone() * slopes).sum().backward();
        let gradient = model.encoder1.layer.conv1.weight.val().grad(&grads).context("a weight without a gradient")?;
        Ok([host(logits.inner())?, host(gradient)?])
    };
    let (ours, reference) = (run(compute, precision)?, run(&Compute::cpu(), Precision::F32)?);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    Ok(std::array::from_fn(|which| {
        let (ours, reference) = (&ours[which], &reference[which]);
        let differences = ours.iter().zip(reference).map(|(a, b)| f64::from(a - b));
        norm(&mut { differences }) / norm(&mut reference.iter().map(|&v| f64::from(v)))
    }))
}

/// Two predictions of one volume, the first of which compiles and tunes: the path of validation, which chooses the classes on
/// the device and reads one byte per voxel. `hiend-train predict` reads averaged logits instead.
pub(super) fn predict(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    let config = config(cli)?;
    let unetr = config.unetr();
    let mut weights = WeightInit::new(0, compute.raw()).with_precision(cli.precision).with_attention(cli.attention);
    let model = unetr.init(&mut weights);
    let dims = if compute.is_cpu() { unetr.crop_size } else { [240, 240, 240] };
    let image: Vec<f32> = (0..dims.iter().product::<usize>()).map(|at| (at as f32 * 0.01).sin()).collect();
    let volume = InputVolume::new(&image, 1, dims)?;
    let models = std::slice::from_ref(&model);
    let windows = SlidingWindow::new(unetr.crop_size, 0.5, 1)?;
    let windows = WindowBatch::new(MOST_WINDOWS).fit(models, compute, windows, dims)?;
    let run = || -> anyhow::Result<f64> {
        let started = Instant::now();
        let before = |_: usize| Ok::<_, InferenceError>(());
        std::hint::black_box(label_volume(models, compute.raw(), &windows, volume, before)?);
        Ok(started.elapsed().as_secs_f64())
    };
    let first = run()?;
    let again = run()?;
    Ok(json!({
        "encoder": cli.preset.name(),
        "precision": cli.precision,
        "attention": cli.attention,
        "volume": dims,
        "windows": windows.num_windows(dims),
        "sw_batch_size": windows.sw_batch_size(),
        "first_secs": rounded(first),
        "secs": rounded(again),
    }))
}
