//! Training runs of the experiment: started, continued, or kept if already finished.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::ensure;
use hiend_cache::{Cache, lookup};
use hiend_loader::LoaderOptions;
use hiend_trainer::checkpoint;
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::FinetuneConfig;
use hiend_trainer::device::Compute;
use hiend_trainer::finetune::Finetuning;
use hiend_trainer::initial_weights::Init;
use hiend_trainer::journal::{self, Entry, ValidationRecord};
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::training::{
    CHECKPOINTS, CONFIG, Event, JOURNAL, Resume, Stream, Task, TrainOptions, saved_config, train,
};

use super::data::Caches;
use super::progress::Progress;
use super::settings;

/// Number of steps between checkpoints, from which a killed run continues.
const CHECKPOINT_EVERY: u64 = 100;
/// Cost of a fine-tuning step, validations included, in pre-training steps (measured on a CPU); used to estimate the
/// remaining time.
const FINETUNING_UNITS: f64 = 3.0;
/// Number of steps at either end of pre-training over which losses are averaged.
const LOSS_STEPS: usize = 100;

/// Initial weights of a fine-tuning run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arm {
    /// The pre-trained encoder, and a random decoder.
    Pretrained,
    /// Random weights.
    Scratch,
}

impl Arm {
    /// Both arms.
    pub(super) const ALL: [Self; 2] = [Self::Pretrained, Self::Scratch];

    /// Name in files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pretrained => "pretrained",
            Self::Scratch => "scratch",
        }
    }

    /// Name in tables and charts.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Pretrained => "from pre-training",
            Self::Scratch => "from scratch",
        }
    }
}

/// Result of a fine-tuning run.
pub(super) struct FinetuneResult {
    /// Initial weights of the run.
    pub arm: Arm,
    /// Seed of decoder, crops and augmentation; also selects the training cases.
    pub seed: u64,
    /// Validations on the test cases, by steps.
    pub validations: Vec<ValidationRecord>,
}

/// Mean losses of pre-training.
#[derive(Clone, Copy, Debug)]
pub(super) struct Losses {
    /// Mean of the first steps.
    pub first: f64,
    /// Mean of the last steps.
    pub last: f64,
}

/// Remaining work in pre-training steps, with `steps` in each fine-tuning run.
///
/// # Errors
/// If the folder of a run cannot be read.
pub(super) fn work(folder: &Path, seeds: u64, steps: u64) -> anyhow::Result<f64> {
    let left = |name: &str, total: u64| -> anyhow::Result<f64> {
        let steps = checkpoint::all(&folder.join(name).join(CHECKPOINTS))?;
        Ok(total.saturating_sub(steps.last().map_or(0, |(step, _)| *step)) as f64)
    };
    let mut units = left(PRETRAINING, settings::pretraining()?.schedule.total)?;
    for seed in 0..seeds {
        for arm in Arm::ALL {
            units += FINETUNING_UNITS * left(&finetuning_name(arm, seed), steps)?;
        }
    }
    Ok(units)
}

/// Name of the pre-training run.
const PRETRAINING: &str = "pretrain";

fn finetuning_name(arm: Arm, seed: u64) -> String {
    format!("{}-{seed}", arm.name())
}

/// Pre-trains; returns the folder of the run.
///
/// # Errors
/// If training fails, or the run was made with other settings.
pub(super) fn pretrain(
    folder: &Path,
    caches: &Caches,
    compute: &Compute,
    progress: &mut Progress,
) -> anyhow::Result<PathBuf> {
    let run_dir = folder.join(PRETRAINING);
    let config = settings::pretraining()?;
    complete(&Pretraining::new(&config), &caches.unlabelled, &run_dir, 1.0, compute, progress)?;
    Ok(run_dir)
}

/// Fine-tunes from the initial weights of an arm.
///
/// # Errors
/// If training fails, or the run was made with other settings.
pub(super) fn finetune(
    arm: Arm,
    config: FinetuneConfig,
    folder: &Path,
    caches: &Caches,
    pretrained: &Path,
    compute: &Compute,
    progress: &mut Progress,
) -> anyhow::Result<FinetuneResult> {
    let init = match arm {
        Arm::Pretrained => Init::read(pretrained)?,
        Arm::Scratch => Init::Random,
    };
    let seed = config.train.seed;
    let run_dir = folder.join(finetuning_name(arm, seed));
    let task = Finetuning::new(config, &caches.labelled, init)?;
    complete(&task, &caches.labelled, &run_dir, FINETUNING_UNITS, compute, progress)?;
    // A run that was killed repeats the steps since its checkpoint; the later record counts.
    let mut validations = BTreeMap::new();
    for entry in journal::read(&run_dir.join(JOURNAL))? {
        if let Entry::Validation(record) = entry? {
            validations.insert(record.step, record);
        }
    }
    Ok(FinetuneResult { arm, seed, validations: validations.into_values().collect() })
}

/// Mean losses at the beginning and the end of a pre-training run.
///
/// # Errors
/// If its journal cannot be read or has no step.
pub(super) fn losses(pretrained: &Path) -> anyhow::Result<Losses> {
    let path = pretrained.join(JOURNAL);
    let mut by_step = BTreeMap::new();
    for entry in journal::read(&path)? {
        if let Entry::Step(record) = entry? {
            by_step.insert(record.step, record.loss);
        }
    }
    let losses: Vec<f64> = by_step.into_values().collect();
    ensure!(!losses.is_empty(), "{}: no step", path.display());
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let ends = LOSS_STEPS.min(losses.len());
    Ok(Losses { first: mean(&losses[..ends]), last: mean(&losses[losses.len() - ends..]) })
}

/// Trains `task` in `run_dir` to its end, from the newest checkpoint if there is one. `units` is the work per step.
fn complete<T: Task>(
    task: &T,
    cache: &Arc<Cache>,
    run_dir: &Path,
    units: f64,
    compute: &Compute,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let config = task.config();
    let name = run_dir.file_name().unwrap_or_default().to_string_lossy();
    let num_steps = config.schedule().total;
    let steps = checkpoint::all(&run_dir.join(CHECKPOINTS))?;
    if steps.last().is_some_and(|(step, _)| *step >= num_steps) {
        let saved: T::Config = saved_config(run_dir, T::KIND, Resume::Newest)?;
        ensure!(saved == *config, "{}: this run has other settings; choose another --out", run_dir.display());
        println!("{name}: finished before");
        return Ok(());
    }
    println!("{name}: {num_steps} steps");
    let loader = LoaderOptions {
        form: config.train().voxel_form(&config.stream().augment, compute.is_cpu()),
        ..LoaderOptions::default()
    };
    let stream = Stream::open(Arc::clone(cache), config.stream(), config.train().seed, &loader)?;
    let options = TrainOptions {
        resume: Resume::from(!steps.is_empty() || lookup::exists(&run_dir.join(CONFIG))?),
        checkpoint_every: CHECKPOINT_EVERY,
        keep: 1,
        ..TrainOptions::new(run_dir)
    };
    train(task, stream, compute, &options, &mut |event| match event {
        Event::Step(record) => progress.step(units, &name, record.step, num_steps, record.loss),
        Event::Validation(record) => {
            println!("  {name}: foreground Dice {:.3} after {} steps", record.mean_fg_dice, record.step);
        }
        Event::Warning(warning) => println!("  {name}: warning: {warning}"),
        _ => (),
    })?;
    Ok(())
}
