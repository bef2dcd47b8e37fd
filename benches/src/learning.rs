//! `learning`: measures the benefit of pre-training by fine-tuning from pre-trained weights and from scratch.
//!
//! 1. Phantoms ([`phantom`]) become two caches: 64 cases without labels and 18 with labels.
//! 2. A masked autoencoder is pre-trained on the cases without labels.
//! 3. For each of five seeds, a network is fine-tuned on two labelled cases of its own, once from the pre-trained and once
//!    from random weights; everything else is equal. Eight test cases are never trained on.
//! 4. A linear probe ([`probe`]) reads the class of a patch from frozen features.
//! 5. `runs.csv`, `summary.json`, `summary.md` and `learning.png` are written.
//!
//! Repeated with the same `--out`, finished runs are kept and a killed run continues from its newest checkpoint. The figures
//! are those after the last step of each run; no checkpoint is chosen by its score.

#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "counts of voxels, steps and cases")]

mod arm_result;
mod chart;
mod data;
mod phantom;
mod probe;
mod progress;
mod report;
mod runs;
mod settings;

use std::path::PathBuf;

use clap::Parser;
use hiend_trainer::device::{Compute, DeviceChoice, remember_panics, settle_default};

use data::Caches;
use progress::Progress;
use report::Report;
use runs::Arm;

/// Compare fine-tuning from pre-trained weights with fine-tuning from scratch on phantoms
#[derive(Debug, Parser)]
#[command(name = "learning")]
pub struct Cli {
    /// Folder for phantoms, runs and results, about 300 MB; finished runs in it are kept
    #[arg(long, value_name = "DIR", default_value = "learning")]
    out: PathBuf,
    /// Number of fine-tuning runs per arm, 1 to 5
    #[arg(long, default_value_t = settings::SEEDS, value_parser = clap::value_parser!(u64).range(1..=settings::SEEDS))]
    seeds: u64,
    /// Optimizer steps of each fine-tuning run, with eight validations
    #[arg(long, default_value_t = settings::STEPS, value_parser = clap::value_parser!(u64).range(settings::LEAST_STEPS..))]
    steps: u64,
    /// Device: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

/// Runs the experiment.
///
/// # Errors
/// If a file cannot be written, a run in the folder was made with other settings, or training fails.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    // Before a device is opened: panics of its threads are no bugs, and do not end the program.
    remember_panics();
    let compute = Compute::open(cli.device)?;
    settle_default(&compute)?;
    let caches = Caches::make(&cli.out)?;
    let folder = cli.out.join("runs");

    let mut progress = Progress::new(runs::work(&folder, cli.seeds, cli.steps)?);
    let pretrained = runs::pretrain(&folder, &caches, &compute, &mut progress)?;
    let mut results = Vec::new();
    for seed in 0..cli.seeds {
        for arm in [Arm::Pretrained, Arm::Scratch] {
            let config = settings::finetuning(seed, cli.steps)?;
            results.push(runs::finetune(arm, config, &folder, &caches, &pretrained, &compute, &mut progress)?);
        }
    }
    println!("linear probe of the encoder");
    let probes = probe::run(&caches, &pretrained)?;
    let report = Report::new(&results, probes, runs::losses(&pretrained)?);
    report.write(&cli.out, &results)?;
    println!("\n{}", report.markdown());
    Ok(())
}
