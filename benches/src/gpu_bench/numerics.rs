//! Losses of a small model's steps on the device, compared with those of the CPU in f32.

use anyhow::{Context as _, bail};
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::device::Compute;
use hiend_trainer::model::precision::Precision;
use hiend_trainer::ops::attention::Computation;
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::replica::Replica;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cli::Cli;
use super::pretraining::{batch_of, feed, loss_of_step};

/// Largest relative difference of a loss that the precision of the products explains: after 50 steps in bf16 an H100
/// differed by 2.3e-4, after 200 the differences have grown.
const BANDS: [(Precision, f64); 3] = [(Precision::F32, 0.002), (Precision::Tf32, 0.002), (Precision::Bf16, 0.005)];

/// Losses of the CPU in f32.
#[derive(Debug, Serialize, Deserialize)]
struct Reference {
    preset: String,
    losses: Vec<f64>,
}

impl Reference {
    fn compute(cli: &Cli) -> anyhow::Result<Self> {
        Ok(Self {
            preset: cli.preset.name().to_owned(),
            losses: losses(cli, &Compute::cpu(), (Precision::F32, Computation::Products), cli.numerics_steps)?,
        })
    }

    /// Reads the reference from the file of `--reference`, or computes it.
    fn of(cli: &Cli) -> anyhow::Result<Self> {
        let Some(path) = &cli.reference else { return Self::compute(cli) };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let reference: Self = serde_json::from_str(text.trim())
            .with_context(|| format!("{}: expected the line of the case reference", path.display()))?;
        if reference.preset != cli.preset.name() || (reference.losses.len() as u64) < cli.numerics_steps {
            let (path, found, steps) = (path.display(), &reference.preset, reference.losses.len());
            bail!(
                "{path}: holds {steps} steps of {found}, needed are {} of {}; make it again with --cases reference",
                cli.numerics_steps,
                cli.preset.name()
            );
        }
        Ok(reference)
    }
}

/// Configuration of the compared model: depth and taps of the preset, but small enough for two hundred steps on a CPU.
fn small(cli: &Cli, precision: Precision, attention: Computation) -> PretrainConfig {
    let mut config = cli.preset.config();
    config.model.patch_size = 8;
    config.model.embed_dim = 96;
    config.model.num_heads = 4;
    config.model.decoder_embed_dim = 48;
    config.model.decoder_num_heads = 4;
    config.stream.crop_size = [32; 3];
    config.train.precision = precision;
    config.train.attention = attention;
    config.optim.lr = 1e-3;
    config
}

fn losses(
    cli: &Cli,
    compute: &Compute,
    (precision, attention): (Precision, Computation),
    steps: u64,
) -> anyhow::Result<Vec<f64>> {
    let stream = SyntheticStream { seed: 1, crop_size: [32; 3], crops: 8, steps_per_epoch: 50 };
    let config = small(cli, precision, attention);
    let (mut replica, _) = Replica::on(&Pretraining::new(&config), compute, false, None)?;
    let mut feed = feed(&config, &stream.stream(), compute)?;
    (0..steps)
        .map(|_| {
            let batch = batch_of(&mut feed)?;
            Ok(f64::from(loss_of_step(&mut replica, &config, &batch)?))
        })
        .collect()
}

/// Computes the losses on the CPU, as one line for `--reference`.
pub(super) fn reference(cli: &Cli) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(Reference::compute(cli)?)?)
}

/// Computes the largest and the mean relative difference of the device's losses.
pub(super) fn numerics(cli: &Cli, compute: &Compute) -> anyhow::Result<Value> {
    let reference = Reference::of(cli)?.losses;
    let ours = losses(cli, compute, (cli.precision, cli.attention), cli.numerics_steps)?;
    let errors: Vec<f64> = ours.iter().zip(&reference).map(|(a, b)| (a - b).abs() / b).collect();
    let largest = errors.iter().copied().fold(0.0, f64::max);
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    let (_, band) = BANDS.into_iter().find(|(of, _)| *of == cli.precision).context("no band for this precision")?;
    Ok(json!({
        "precision": cli.precision,
        "attention": cli.attention,
        "steps": cli.numerics_steps,
        "loss_cpu_f32": [reference.first(), reference.get(ours.len().saturating_sub(1))],
        "loss": [ours.first(), ours.last()],
        "largest_relative_error": largest,
        "mean_relative_error": mean,
        "band": band,
        "within_band": largest <= band,
    }))
}
