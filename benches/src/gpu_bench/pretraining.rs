//! Steps of pre-training on one resident batch, whole and split into kernels.

use std::time::Instant;

use anyhow::{Context as _, bail};
use hiend_loader::batch::{Batch, CropRecord, Images, PooledBuffer};
use hiend_trainer::config::MicroBatch;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::device::Compute;
use hiend_trainer::feed::{BatchSource, DeviceBatch, Feed, FeedConfig, Masked};
use hiend_trainer::model::hi_end_mae::HiEndMae;
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::replica::Replica;
use hiend_trainer::training::{Stream, Task as _};
use serde_json::{Value, json};

use super::cli::Cli;
use crate::figures::{median, rounded};
use crate::flops;

/// Configuration of the preset with the batch and precision from the command line.
pub(super) fn config(cli: &Cli) -> PretrainConfig {
    let mut config = cli.preset.config();
    config.train.precision = cli.precision;
    config.train.attention = cli.attention;
    config.train.micro_batch = cli.micro_batch.map(MicroBatch::Crops);
    config.stream.crops_per_visit = if cli.batch.is_multiple_of(8) { 8 } else { 1 };
    config.stream.visits_per_batch = cli.batch / config.stream.crops_per_visit;
    config
}

/// Starts a feed of `stream` from its first step.
pub(super) fn feed(config: &PretrainConfig, stream: &Stream, compute: &Compute) -> anyhow::Result<Feed<Masked>> {
    let source = (stream.open)(0, (0, 1)).map_err(|error| anyhow::anyhow!(error))?;
    feed_of(config, source, compute)
}

fn feed_of(config: &PretrainConfig, source: BatchSource, compute: &Compute) -> anyhow::Result<Feed<Masked>> {
    let task = Pretraining::new(config);
    let crop_size = config.stream.crop_size;
    let feed = FeedConfig { start_step: 0, crop_size, micro_batch: config.train.crops_at_a_time() };
    Ok(Feed::start(source, task.targets(), compute.raw().clone(), feed)?)
}

/// Takes the next batch from `feed`.
pub(super) fn batch_of(feed: &mut Feed<Masked>) -> anyhow::Result<DeviceBatch<Masked>> {
    feed.next_batch()?.context("a batch without crops")
}

/// Takes one step and returns its loss, which waits for the device.
pub(super) fn loss_of_step(
    replica: &mut Replica<HiEndMae>,
    config: &PretrainConfig,
    batch: &DeviceBatch<Masked>,
) -> anyhow::Result<f32> {
    let result = replica.step(&Pretraining::new(config), Some(batch), config.optim.lr, None)?;
    let loss = result.context("a batch without crops")?.loss;
    let loss = loss.try_into_data().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let loss = loss.try_to_vec::<f32>().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    loss.first().copied().filter(|loss| loss.is_finite()).context("the loss is not finite")
}

/// Number of different crops in the resident batch, which repeats them: each is three sines per voxel, computed by one
/// thread while the device waits.
const DIFFERENT_CROPS: usize = 8;

/// Repeats the crops of `batch` until there are `num_crops`. Each copy gets its own number, and thus its own mask.
fn repeated(batch: Batch, num_crops: usize) -> Batch {
    let Images::Floats(few) = &batch.images else { unreachable!("synthetic crops are floats") };
    let [_, channels, x, y, z] = batch.shape;
    let mut images = few.repeat(num_crops.div_ceil(batch.crops.len().max(1)));
    images.truncate(num_crops * channels * x * y * z);
    let crops = batch.crops.iter().cycle().take(num_crops).cloned().zip(0..);
    let crops = crops.map(|(record, crop)| CropRecord { crop, ..record }).collect();
    Batch {
        shape: [num_crops, channels, x, y, z],
        images: Images::Floats(PooledBuffer::unpooled(images)),
        crops,
        ..batch
    }
}

/// A replica, and a batch that stays on the device.
struct Resident {
    replica: Replica<HiEndMae>,
    batch: DeviceBatch<Masked>,
    /// Time to make the batch and to queue its copy, in seconds.
    data_secs: f64,
    /// Time to draw the weights and to queue their copies, in seconds.
    init_secs: f64,
}

/// Creates a replica and a batch.
fn resident(cli: &Cli, config: &PretrainConfig, compute: &Compute) -> anyhow::Result<Resident> {
    let started = Instant::now();
    let (crop_size, crops) = (config.stream.crop_size, cli.batch.min(DIFFERENT_CROPS));
    let few = SyntheticStream { seed: 0, crop_size, crops, steps_per_epoch: 1 }.batch(0);
    // One batch, after which the feed's thread ends.
    let source = std::iter::once(Ok(repeated(few, cli.batch)));
    let batch = batch_of(&mut feed_of(config, Box::new(source), compute)?)?;
    let data_secs = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let (replica, _) = Replica::on(&Pretraining::new(config), compute, cli.gradient_checkpointing, None)?;
    Ok(Resident { replica, batch, data_secs, init_secs: started.elapsed().as_secs_f64() })
}

/// Measures steps on one batch that stays on the device; the first one also since the program `began`, with its parts.
pub(super) fn step(cli: &Cli, compute: &Compute, began: Instant) -> anyhow::Result<Value> {
    let open_secs = began.elapsed().as_secs_f64();
    let config = config(cli);
    let Resident { mut replica, batch, data_secs, init_secs } = resident(cli, &config, compute)?;
    let mut losses = Vec::new();
    let mut secs = Vec::new();
    let mut first_step_secs = None;
    for number in 0..cli.warmup + cli.steps {
        let started = Instant::now();
        losses.push(loss_of_step(&mut replica, &config, &batch)?);
        compute.raw().sync().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        first_step_secs.get_or_insert_with(|| began.elapsed().as_secs_f64());
        if number >= cli.warmup {
            secs.push(started.elapsed().as_secs_f64());
        }
    }
    let mut line = timing(cli, &config, &secs);
    line["first_step_secs"] = json!(first_step_secs.map(rounded));
    for (part, secs) in [("open_secs", open_secs), ("data_secs", data_secs), ("init_secs", init_secs)] {
        line[part] = json!(rounded(secs));
    }
    line["loss"] = json!([losses.first(), losses.last()]);
    if let Some(usage) = compute.raw().memory_pool_usage() {
        line["pool"] = json!(format!("{usage:?}"));
    }
    Ok(line)
}

#[cfg(not(feature = "cube"))]
pub(super) fn kernels(_: &Cli, _: &Compute, _: &mut dyn FnMut(Value)) -> anyhow::Result<()> {
    bail!("the case kernels needs a GPU; build with --features cuda or vulkan");
}

/// Shows one line per kernel and vendor operation, then one for all, whose `ms` and `idle_ms` sum to `span_ms`;
/// milliseconds and launches are those of one step on a resident batch.
#[cfg(feature = "cube")]
pub(super) fn kernels(cli: &Cli, compute: &Compute, show: &mut dyn FnMut(Value)) -> anyhow::Result<()> {
    use crate::kernel_times::DeviceTimes;

    if compute.is_cpu() {
        bail!("the case kernels needs a GPU, not {compute}");
    }
    let config = config(cli);
    let Resident { mut replica, batch, .. } = resident(cli, &config, compute)?;
    for _ in 0..cli.warmup {
        loss_of_step(&mut replica, &config, &batch)?;
    }
    let num_steps = cli.steps.clamp(1, 3);
    let times =
        DeviceTimes::of(|| (0..num_steps).try_for_each(|_| loss_of_step(&mut replica, &config, &batch).map(drop)))?;
    let each = |secs: f64| rounded(secs * 1e3 / num_steps as f64);
    let busy_secs: f64 = times.kernels.iter().map(|kernel| kernel.secs).sum();
    for kernel in &times.kernels {
        show(json!({
            "kernel": kernel.kernel,
            "vendor": kernel.vendor,
            "launches": rounded(kernel.launches as f64 / num_steps as f64),
            "ms": each(kernel.secs),
            "share": rounded(kernel.secs / busy_secs),
        }));
    }
    show(json!({
        "kernel": "all",
        "preset": cli.preset.name(),
        "precision": config.train.precision,
        "attention": config.train.attention,
        "batch": cli.batch,
        "launches": rounded(times.kernels.iter().map(|kernel| kernel.launches).sum::<usize>() as f64 / num_steps as f64),
        "unmeasured": times.unmeasured,
        "ms": each(busy_secs),
        "vendor_ms": each(times.kernels.iter().filter(|kernel| kernel.vendor).map(|kernel| kernel.secs).sum()),
        "span_ms": each(times.span_secs),
        "idle_ms": each(times.idle_secs),
        "clock": if times.on_device { "device" } else { "host" },
    }));
    Ok(())
}

/// Result line of a case whose steps took `secs` each.
pub(super) fn timing(cli: &Cli, config: &PretrainConfig, secs: &[f64]) -> Value {
    let median = median(secs);
    let crops = cli.batch as f64 / median;
    let flop = 3.0 * flops::forward(&config.model, config.stream.crop_size);
    json!({
        "preset": cli.preset.name(),
        "precision": config.train.precision,
        "attention": config.train.attention,
        "batch": cli.batch,
        "micro_batch": cli.micro_batch,
        "gradient_checkpointing": cli.gradient_checkpointing,
        "ms": rounded(median * 1e3),
        "crops_per_s": rounded(crops),
        "tflops": rounded(crops * flop / 1e12),
    })
}
