//! Measures the cost of the data: alternates steps on arriving batches with steps on one resident batch.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use hiend_cache::{Cache, CodecPreset as Codec};
use hiend_loader::pipeline::LoaderOptions;
use hiend_loader::remote::{RemoteLoader, RemoteOptions};
use hiend_loader::service::{Service, ServiceConfig};
use hiend_loader::split::{All, Split};
use hiend_trainer::config::DecodeOn;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::device::Compute;
use hiend_trainer::finetune::Finetuning;
use hiend_trainer::initial_weights::Init;
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::training::headspace::{Headspace, HeadspaceOptions, Round, measure};
use hiend_trainer::training::{Stop, Stream, Task};
use serde_json::{Value, json};

use super::cli::Cli;
use super::pretraining::{batch_of, config, feed, timing};
use super::unetr;
use crate::figures::rounded;

/// Measures batches from the loader in this process, decoded by its threads or by the device.
pub(super) fn overlap(cli: &Cli, compute: &Compute, decode_on: DecodeOn) -> anyhow::Result<Value> {
    let mut config = config(cli);
    config.train.decode_on = decode_on;
    let generated = tempfile::tempdir()?;
    let options = LoaderOptions {
        threads: cli.threads,
        memory_bytes: cli.memory.as_u64(),
        form: config.train.voxel_form(&config.stream.augment, compute.is_cpu()),
        ..LoaderOptions::default()
    };
    let stream = Stream::open(open_cache(cli, generated.path())?, &config.stream, 0, &options)?;
    cost(cli, compute, &config, &stream)
}

/// Measures batches from a loader server through shared memory. The server runs in this process, which makes no
/// difference to the transfer.
pub(super) fn service(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    let config = config(cli);
    let folder = tempfile::tempdir()?;
    let memory_bytes = cli.memory.as_u64();
    let service = Service::start(ServiceConfig {
        caches: vec![(open_cache(cli, folder.path())?, 1)],
        listen: vec![format!("unix:{}", folder.path().join("socket").display()).parse()?],
        threads: cli.threads,
        memory_bytes: 2 * memory_bytes,
        client_memory_bytes: memory_bytes,
        ..ServiceConfig::default()
    })?;
    let options = RemoteOptions {
        form: config.train.voxel_form(&config.stream.augment, compute.is_cpu()),
        memory_bytes,
        ..RemoteOptions::default()
    };
    let loader = RemoteLoader::connect(service.urls(), config.stream.clone(), 0, options.clone())?;
    let stream = Stream::of_servers(loader, service.urls(), &config.stream, 0, &options);
    cost(cli, compute, &config, &stream)
}

/// Measures fine-tuning on batches with labels from the loader in this process, from a generated volume.
pub(super) fn finetune(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    let mut config = unetr::config(cli)?;
    config.train.precision = cli.precision;
    config.train.attention = cli.attention;
    config.validation = None;
    config.stream.split = Split::All(All::All);
    config.stream.crops_per_visit = if cli.finetune_batch.is_multiple_of(4) { 4 } else { 1 };
    config.stream.visits_per_batch = cli.finetune_batch / config.stream.crops_per_visit;
    let folder = tempfile::tempdir()?;
    let classes = u8::try_from(config.classes.len())?;
    crate::volume::Voxels::generated().write_labelled_cache(folder.path(), [32; 3], Codec::Fast, classes)?;
    let cache = Arc::new(Cache::open(folder.path())?);
    let task = Finetuning::new(config, &cache, Init::Random)?;
    let config = task.config();
    let options = LoaderOptions {
        threads: cli.threads,
        memory_bytes: cli.memory.as_u64(),
        form: config.train.voxel_form(&config.stream.augment, compute.is_cpu()),
        ..LoaderOptions::default()
    };
    let stream = Stream::open(cache, &config.stream, 0, &options)?;
    let headspace = headspace(cli, compute, &task, &stream)?;
    let streamed_secs = headspace.median().streamed_secs;
    let mut line = json!({
        "encoder": cli.preset.name(),
        "precision": cli.precision,
        "attention": cli.attention,
        "batch": cli.finetune_batch,
        "ms": rounded(streamed_secs * 1e3),
        "crops_per_s": rounded(cli.finetune_batch as f64 / streamed_secs),
        "data": "generated noise",
    });
    add_cost(&mut line, cli, &headspace);
    Ok(line)
}

/// Opens the cache of the command line, or writes one into `folder`.
pub(super) fn open_cache(cli: &Cli, folder: &Path) -> anyhow::Result<Arc<Cache>> {
    let cache = if let Some(shards) = &cli.shards {
        Cache::open(shards)?
    } else {
        crate::volume::Voxels::generated().write_cache(folder, [32; 3], Codec::Fast)?;
        Cache::open(folder)?
    };
    Ok(Arc::new(cache))
}

/// Result line of a case: a step on streamed batches, and the same on a resident batch.
fn cost(cli: &Cli, compute: &Compute, config: &PretrainConfig, stream: &Stream) -> anyhow::Result<Value> {
    let opened = Instant::now();
    batch_of(&mut feed(config, stream, compute)?)?;
    let first_batch_secs = opened.elapsed().as_secs_f64();
    let headspace = headspace(cli, compute, &Pretraining::new(config), stream)?;
    let mut line = timing(cli, config, &[headspace.median().streamed_secs]);
    add_cost(&mut line, cli, &headspace);
    line["first_batch_secs"] = json!(rounded(first_batch_secs));
    line["data"] = json!(cli.shards.as_ref().map_or("generated noise".into(), |path| path.display().to_string()));
    Ok(line)
}

/// Alternates steps of `task` on batches of `stream` with steps on one resident batch.
fn headspace<T: Task>(cli: &Cli, compute: &Compute, task: &T, stream: &Stream) -> anyhow::Result<Headspace> {
    let options = HeadspaceOptions {
        steps: cli.steps,
        gradient_checkpointing: cli.gradient_checkpointing,
        stop: Stop::default(),
    };
    measure(task, stream, compute, &options)?.context("no stop is requested")
}

/// Adds the cost of the data to a result line.
fn add_cost(line: &mut Value, cli: &Cli, headspace: &Headspace) {
    let Round { streamed_secs, wait_secs, resident_secs } = headspace.median();
    line["resident_ms"] = json!(rounded(resident_secs * 1e3));
    line["wait_share"] = json!(wait_secs / streamed_secs);
    line["data_cost"] = json!(headspace.cost());
    line["threads"] = json!(if cli.threads == 0 { hiend_loader::budget::cores() } else { cli.threads });
}
