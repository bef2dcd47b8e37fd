//! `gpu-bench`: what a device makes of our models. One JSON line a case, and nothing else on standard output.
//!
//! | case | what it measures |
//! |---|---|
//! | `step` | updates on one batch that stays on the device: the device alone |
//! | `overlap` | the same updates on batches that the loader makes meanwhile: what feeding costs |
//! | `finetune` | updates of UNETR on one resident batch, Dice and cross-entropy included |
//! | `predict` | a sliding window over a volume, host to host |
//! | `numerics` | the losses of a small model's updates against those of the CPU in f32 |
//! | `kernels` | where an update's time goes, kernel by kernel, as the device measures it |
//! | `products` | the rate of every product and attention of the models, each by itself |
//! | `shapes` | every product, convolution and attention of the models once, against the CPU in f32 |
//!
//! Timings are medians of single updates, each with the device waited for, after a few that are not counted: kernels
//! are compiled and tuned in those. Figures from devices are in `benches/GPU.md`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sizes of models and batches"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use hiend_cache::{Cache, CodecPreset as Codec};
use hiend_loader::pipeline;
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::FinetunePreset;
use hiend_trainer::config::pretrain::{PretrainConfig, PretrainPreset};
use hiend_trainer::device::{Compute, DeviceChoice, keep_kernels_in, settle_default};
use hiend_trainer::feed::{DeviceBatch, Feed, FeedConfig, Masked};
use hiend_trainer::inference::predict_windows;
use hiend_trainer::inference::sliding_window::{InputVolume, SlidingWindow};
use hiend_trainer::model::hi_end_mae::HiEndMae;
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::model::precision::Precision;
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::replica::Replica;
use hiend_trainer::training::{Stream, Task as _};
use serde_json::{Value, json};

use crate::{flops, shapes};

/// Measures training and inference on a device.
#[derive(Debug, Parser)]
#[command(name = "gpu-bench")]
pub struct Cli {
    /// Where to compute: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// What to measure
    #[arg(long, value_delimiter = ',', value_enum, default_value = "step,finetune,predict,numerics,shapes")]
    cases: Vec<Case>,
    /// Model
    #[arg(long, default_value = "vit-l-p12")]
    preset: PretrainPreset,
    /// Crops of a batch
    #[arg(long, default_value_t = 192)]
    batch: usize,
    /// Crops on the device at a time [default: the whole batch]
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Crops of a batch of fine-tuning, and windows at a time
    #[arg(long, default_value_t = 4)]
    finetune_batch: usize,
    /// Type of the matrix products
    #[arg(long, value_parser = precision, default_value = "bf16")]
    precision: Precision,
    /// Keep only the inputs of transformer blocks and compute them again on the way back
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Updates that count
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Updates before those
    #[arg(long, default_value_t = 5)]
    warmup: usize,
    /// Updates of the case `numerics`
    #[arg(long, default_value_t = 200)]
    numerics_steps: u64,
    /// Cache that the case `overlap` streams from [default: a generated volume]
    #[arg(long)]
    shards: Option<PathBuf>,
    /// Threads of the loader [default: one a core]
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Memory of the loader's buffers
    #[arg(long, default_value = "8GiB")]
    memory: ByteSize,
    /// Folder where compiled and tuned kernels are kept
    #[arg(long)]
    cache_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    Step,
    Overlap,
    Finetune,
    Predict,
    Numerics,
    Kernels,
    Products,
    Shapes,
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "f32" => Ok(Precision::F32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("expected f32 or bf16".into()),
    }
}

/// Measures what was asked for.
///
/// # Errors
/// If a device, a cache or a case fails; the cases before it have printed their lines.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    if let Some(dir) = &cli.cache_dir {
        keep_kernels_in(dir);
    }
    let compute = Compute::open(cli.device)?;
    settle_default(&compute)?;
    for &case in &cli.cases {
        let started = Instant::now();
        let lines = match case {
            Case::Step => vec![step(cli, &compute)?],
            Case::Overlap => vec![overlap(cli, &compute)?],
            Case::Finetune => vec![finetune(cli, &compute)?],
            Case::Predict => vec![predict(cli, &compute)?],
            Case::Numerics => vec![numerics(cli, &compute)?],
            Case::Kernels => kernels(cli, &compute)?,
            Case::Products => {
                shapes::time(&cli.preset.config().model, &compute, cli.precision, cli.batch, &mut |line| {
                    show(case, &compute, started, line);
                })?;
                vec![]
            }
            Case::Shapes => {
                shapes::compare(&cli.preset.config().model, &compute, cli.precision, &mut |line| {
                    show(case, &compute, started, line);
                })?;
                vec![]
            }
        };
        for line in lines {
            show(case, &compute, started, line);
        }
    }
    Ok(())
}

fn show(case: Case, compute: &Compute, started: Instant, mut line: Value) {
    line["case"] = json!(case.to_possible_value().map(|value| value.get_name().to_owned()));
    line["device"] = json!(compute.to_string());
    line["case_secs"] = json!(rounded(started.elapsed().as_secs_f64()));
    println!("{line}");
}

fn config(cli: &Cli) -> PretrainConfig {
    let mut config = cli.preset.config();
    config.train.precision = cli.precision;
    config.train.micro_batch = cli.micro_batch;
    config.stream.crops_per_visit = if cli.batch.is_multiple_of(8) { 8 } else { 1 };
    config.stream.visits_per_batch = cli.batch / config.stream.crops_per_visit;
    config
}

fn feed(config: &PretrainConfig, stream: &Stream, compute: &Compute) -> anyhow::Result<Feed<Masked>> {
    let source = (stream.open)(0, (0, 1)).map_err(|error| anyhow::anyhow!(error))?;
    let task = Pretraining { config };
    let crop_size = config.stream.crop_size;
    let feed = FeedConfig { start_step: 0, crop_size, micro_batch: config.train.micro_batch };
    Ok(Feed::start(source, task.targets(), compute.raw().clone(), feed)?)
}

fn batch_of(feed: &mut Feed<Masked>) -> anyhow::Result<DeviceBatch<Masked>> {
    feed.next_batch()?.context("a batch without crops")
}

/// One update, with the device waited for; its loss.
fn update(
    replica: &mut Replica<HiEndMae>,
    config: &PretrainConfig,
    batch: &DeviceBatch<Masked>,
) -> anyhow::Result<f32> {
    let update = replica.update(&Pretraining { config }, Some(batch), config.optim.lr, None)?;
    let loss = update.context("a batch without crops")?.loss;
    let loss = loss.try_into_data().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let loss = loss.try_to_vec::<f32>().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    loss.first().copied().filter(|loss| loss.is_finite()).context("the loss is no number")
}

/// First weights, and a batch that stays on the device.
fn resident(
    cli: &Cli,
    config: &PretrainConfig,
    compute: &Compute,
) -> anyhow::Result<(Replica<HiEndMae>, DeviceBatch<Masked>)> {
    let stream = SyntheticStream { seed: 0, crop_size: config.stream.crop_size, crops: cli.batch, steps_per_epoch: 1 };
    let batch = batch_of(&mut feed(config, &stream.stream(), compute)?)?;
    let (replica, _) = Replica::on(&Pretraining { config }, compute, cli.gradient_checkpointing, None)?;
    Ok((replica, batch))
}

fn step(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    let config = config(cli);
    let (mut replica, batch) = resident(cli, &config, compute)?;
    let mut losses = Vec::new();
    let mut secs = Vec::new();
    for number in 0..cli.warmup + cli.steps {
        let started = Instant::now();
        losses.push(update(&mut replica, &config, &batch)?);
        compute.raw().sync().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        if number >= cli.warmup {
            secs.push(started.elapsed().as_secs_f64());
        }
    }
    let mut line = timing(cli, &config, &mut secs);
    line["loss"] = json!([losses.first(), losses.last()]);
    if let Some(usage) = compute.raw().memory_pool_usage() {
        line["pool"] = json!(format!("{usage:?}"));
    }
    Ok(line)
}

#[cfg(not(feature = "cube"))]
fn kernels(_: &Cli, _: &Compute) -> anyhow::Result<Vec<Value>> {
    bail!("kernels are timed on GPUs; build with --features cuda or vulkan");
}

/// Updates on a resident batch, one line a kernel, then one for all; milliseconds and launches are those of an update.
#[cfg(feature = "cube")]
fn kernels(cli: &Cli, compute: &Compute) -> anyhow::Result<Vec<Value>> {
    use crate::kernel_times::DeviceTimes;

    if compute.is_cpu() {
        bail!("kernels are timed on GPUs, not on {compute}");
    }
    let config = config(cli);
    let (mut replica, batch) = resident(cli, &config, compute)?;
    for _ in 0..cli.warmup {
        update(&mut replica, &config, &batch)?;
    }
    let updates = cli.steps.clamp(1, 3);
    let times = DeviceTimes::of(|| (0..updates).try_for_each(|_| update(&mut replica, &config, &batch).map(drop)))?;
    let each = |secs: f64| rounded(secs * 1e3 / updates as f64);
    let busy_secs: f64 = times.kernels.iter().map(|kernel| kernel.secs).sum();
    let mut lines: Vec<Value> = times
        .kernels
        .iter()
        .map(|kernel| {
            json!({
                "kernel": kernel.kernel,
                "launches": rounded(kernel.launches as f64 / updates as f64),
                "ms": each(kernel.secs),
                "share": rounded(kernel.secs / busy_secs),
            })
        })
        .collect();
    lines.push(json!({
        "kernel": "all",
        "preset": cli.preset.name(),
        "precision": config.train.precision,
        "batch": cli.batch,
        "launches": rounded(times.kernels.iter().map(|kernel| kernel.launches).sum::<usize>() as f64 / updates as f64),
        "unmeasured": times.unmeasured,
        "ms": each(busy_secs),
        "span_ms": each(times.span_secs),
        "idle_ms": each(times.idle_secs),
        "clock": if times.on_device { "device" } else { "host" },
    }));
    Ok(lines)
}

fn timing(cli: &Cli, config: &PretrainConfig, secs: &mut [f64]) -> Value {
    let median = median(secs);
    let crops = cli.batch as f64 / median;
    let flop = 3.0 * flops::forward(&config.model, config.stream.crop_size);
    json!({
        "preset": cli.preset.name(),
        "precision": config.train.precision,
        "batch": cli.batch,
        "micro_batch": cli.micro_batch,
        "gradient_checkpointing": cli.gradient_checkpointing,
        "ms": rounded(median * 1e3),
        "crops_per_s": rounded(crops),
        "tflops": rounded(crops * flop / 1e12),
    })
}

fn overlap(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    let config = config(cli);
    let generated = tempfile::tempdir()?;
    let cache = if let Some(shards) = &cli.shards {
        Cache::open(shards)?
    } else {
        crate::volume::Voxels::generated().write_cache(generated.path(), [32; 3], Codec::Fast)?;
        Cache::open(generated.path())?
    };
    let options = pipeline::LoaderOptions {
        threads: cli.threads,
        memory_bytes: cli.memory.as_u64(),
        form: config.train.voxel_form(&config.stream.augment, compute.is_cpu()),
        ..pipeline::LoaderOptions::default()
    };
    let stream = Stream::open(Arc::new(cache), &config.stream, 0, &options)?;
    let (mut replica, _) = Replica::on(&Pretraining { config: &config }, compute, cli.gradient_checkpointing, None)?;
    let opened = Instant::now();
    let mut feed = feed(&config, &stream, compute)?;
    let (mut secs, mut waits, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    let mut first_batch_secs = 0.0;
    let mut last = None;
    for number in 0..cli.warmup + cli.steps {
        let started = Instant::now();
        let batch = batch_of(&mut feed)?;
        let wait = started.elapsed().as_secs_f64();
        if number == 0 {
            first_batch_secs = opened.elapsed().as_secs_f64();
        }
        update(&mut replica, &config, &batch)?;
        if number >= cli.warmup {
            secs.push(started.elapsed().as_secs_f64());
            waits.push(wait);
        }
        last = Some(batch);
    }
    drop(feed);
    // The same device, weights and voxels, with nothing to be fed.
    let batch = last.context("no update was asked for")?;
    for _ in 0..cli.steps {
        let started = Instant::now();
        update(&mut replica, &config, &batch)?;
        resident.push(started.elapsed().as_secs_f64());
    }
    let share = waits.iter().sum::<f64>() / secs.iter().sum::<f64>();
    let mut line = timing(cli, &config, &mut secs);
    line["resident_ms"] = json!(rounded(median(&mut resident) * 1e3));
    line["wait_share"] = json!(share);
    line["first_batch_secs"] = json!(rounded(first_batch_secs));
    line["threads"] = json!(if cli.threads == 0 { pipeline::num_cores() } else { cli.threads });
    line["data"] = json!(cli.shards.as_ref().map_or("generated noise".into(), |path| path.display().to_string()));
    Ok(line)
}

fn finetune(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    use burn::module::Module as _;
    use burn::optim::GradientsParams;
    use burn::tensor::{Int, Tensor};
    use hiend_trainer::loss::dice_ce::dice_ce;

    let mut config = FinetunePreset::Recipe.config();
    config.model = config.model.with_encoder_of(&cli.preset.config().model).context("three taps")?;
    config.classes = (0..14).map(|class| class.to_string()).collect();
    config.validate("recipe")?;
    let unetr = config.unetr();
    let device = compute.autodiff();
    let mut weights = WeightInit::new(0, &device).with_precision(cli.precision);
    let mut model = unetr.init(&mut weights);
    let mut optimizer = config.optim.init(&model);
    let [x, y, z] = unetr.crop_size;
    let shape = [cli.finetune_batch, 1, x, y, z];
    let voxels = shape.iter().product::<usize>();
    let host = |at: usize| (at as f32 * 0.37).sin();
    let data = burn::tensor::TensorData::new((0..voxels).map(host).collect::<Vec<f32>>(), shape);
    let images = Tensor::<5>::from_data(data, compute.raw());
    let classes = unetr.num_classes;
    let labels =
        burn::tensor::TensorData::new((0..voxels).map(|at| (at / 50 % classes) as u8).collect::<Vec<_>>(), shape);
    let labels = Tensor::<5, Int>::from_data(labels, compute.raw());
    let mut secs = Vec::new();
    for number in 0..cli.warmup + cli.steps {
        let started = Instant::now();
        let loss = dice_ce(model.forward(images.clone()), labels.clone()).total();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(config.optim.lr, model, grads);
        let loss = loss.inner().try_into_data().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let loss = loss.try_to_vec::<f32>().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        if !loss[0].is_finite() {
            bail!("the loss is no number");
        }
        compute.raw().sync().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        if number >= cli.warmup {
            secs.push(started.elapsed().as_secs_f64());
        }
    }
    let median = median(&mut secs);
    Ok(json!({
        "encoder": cli.preset.name(),
        "precision": cli.precision,
        "crop_size": unetr.crop_size,
        "feature_size": unetr.feature_size,
        "classes": classes,
        "params": model.num_params(),
        "batch": cli.finetune_batch,
        "ms": rounded(median * 1e3),
        "crops_per_s": rounded(cli.finetune_batch as f64 / median),
    }))
}

fn predict(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    let mut config = FinetunePreset::Recipe.config();
    config.model = config.model.with_encoder_of(&cli.preset.config().model).context("three taps")?;
    config.classes = (0..14).map(|class| class.to_string()).collect();
    config.validate("recipe")?;
    let unetr = config.unetr();
    let mut weights = WeightInit::new(0, compute.raw()).with_precision(cli.precision);
    let model = unetr.init(&mut weights);
    let dims = if compute.is_cpu() { unetr.crop_size } else { [240, 240, 240] };
    let image: Vec<f32> = (0..dims.iter().product::<usize>()).map(|at| (at as f32 * 0.01).sin()).collect();
    let volume = InputVolume::new(&image, 1, dims)?;
    let windows = SlidingWindow::new(unetr.crop_size, 0.5, cli.finetune_batch)?;
    let run = || -> anyhow::Result<f64> {
        let started = Instant::now();
        let predict = |crops: &[f32], n: usize| predict_windows(&model, compute.raw(), unetr.crop_size, crops, n);
        windows.argmax(volume, predict)?;
        Ok(started.elapsed().as_secs_f64())
    };
    let first = run()?;
    let again = run()?;
    Ok(json!({
        "encoder": cli.preset.name(),
        "precision": cli.precision,
        "volume": dims,
        "windows": windows.num_windows(dims),
        "sw_batch_size": cli.finetune_batch,
        "first_secs": rounded(first),
        "secs": rounded(again),
    }))
}

/// The model of the case `numerics`: the preset's depth and taps, small enough for two hundred updates on the CPU.
fn small(cli: &Cli, precision: Precision) -> PretrainConfig {
    let mut config = cli.preset.config();
    config.model.patch_size = 8;
    config.model.embed_dim = 96;
    config.model.num_heads = 4;
    config.model.decoder_embed_dim = 48;
    config.model.decoder_num_heads = 4;
    config.stream.crop_size = [32; 3];
    config.train.precision = precision;
    config.optim.lr = 1e-3;
    config
}

fn numerics(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    let stream = SyntheticStream { seed: 1, crop_size: [32; 3], crops: 8, steps_per_epoch: 50 };
    let losses = |compute: &Compute, precision: Precision| -> anyhow::Result<Vec<f64>> {
        let config = small(cli, precision);
        let (mut replica, _) = Replica::on(&Pretraining { config: &config }, compute, false, None)?;
        let mut feed = feed(&config, &stream.stream(), compute)?;
        let mut one = |_| {
            let batch = batch_of(&mut feed)?;
            Ok(f64::from(update(&mut replica, &config, &batch)?))
        };
        (0..cli.numerics_steps).map(&mut one).collect()
    };
    let reference = losses(&Compute::cpu(), Precision::F32)?;
    let ours = losses(compute, cli.precision)?;
    let errors: Vec<f64> = ours.iter().zip(&reference).map(|(a, b)| (a - b).abs() / b).collect();
    let largest = errors.iter().copied().fold(0.0, f64::max);
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    let band = match cli.precision {
        Precision::F32 => 0.002,
        Precision::Bf16 => 0.005,
    };
    Ok(json!({
        "precision": cli.precision,
        "steps": cli.numerics_steps,
        "loss_cpu_f32": [reference.first(), reference.last()],
        "loss": [ours.first(), ours.last()],
        "largest_relative_error": largest,
        "mean_relative_error": mean,
        "band": band,
        "within_band": largest <= band,
    }))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Four digits behind the point are more than a timing has.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
