//! `gpu-bench`: correctness and speed of the models on a device. Prints one JSON line per result, each as soon as it is
//! known, and nothing else on standard output. The first line, `machine`, names the GPUs, the driver, and each library with
//! path and version; it is printed with the first result, so that no time before that is spent on it. Warnings, such as those
//! of a library that is not used, go to standard error, and are in every later line as `fallbacks`.
//!
//! | case | measures |
//! |---|---|
//! | `tests` | the kernels' tests on the device |
//! | `step` | steps on one batch that stays on the device: the device alone |
//! | `overlap` | the same steps on batches from the loader: the cost of feeding |
//! | `chunks` | the same with chunks decoded on the device |
//! | `service` | the same with batches from a loader server, through shared memory |
//! | `loader` | the loader alone: crops/s for 1, 2, 4, 8 and 16 threads, as far as there are cores |
//! | `finetune` | steps of UNETR on one resident batch, Dice and cross-entropy included |
//! | `finetune-overlap` | steps of fine-tuning on batches from the loader: the cost of feeding |
//! | `predict` | a sliding window over a volume, from host memory to host memory |
//! | `numerics` | losses of a small model's steps, compared with those of the CPU in f32 |
//! | `reference` | the losses of the CPU that `numerics --reference` compares with |
//! | `kernels` | the time of a step, kernel by kernel, by the clock of the device |
//! | `products` | the rate of each matrix product and attention of the models |
//! | `shapes` | each matrix product and attention of the models, compared with the CPU in f32 |
//! | `convolutions` | each convolution and instance norm of UNETR, compared with the CPU in f32 |
//! | `convolution-times` | the rate of each convolution of UNETR, alone and with its gradients |
//!
//! Timings come after runs that do not count, in which kernels are compiled and tuned. Those of `step` and `finetune` are
//! medians of single steps, each followed by waiting for the device; those of `overlap`, `chunks`, `service` and
//! `finetune-overlap` medians of three means over blocks of `--steps` steps; those of `products` and `convolution-times` means of ten runs without
//! waiting between them; `predict` times a single run. The first step of `step` is also timed from the start of the program
//! (`first_step_secs`), with everything that is compiled or loaded before it; parts of it are `open_secs` (the device is
//! opened and multiplies two small matrices), `data_secs` (a batch is made, by one thread) and `init_secs` (weights are drawn
//! and sent to the device). Figures are in `benches/GPU.md`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sizes of models and batches"
)]

mod attention_plans;
mod cli;
mod device_tests;
mod loader;
mod numerics;
mod pretraining;
mod products;
mod refusals;
mod streaming;
mod unetr;

use std::time::Instant;

use clap::ValueEnum as _;
use hiend_loader::program::note;
use hiend_trainer::config::DecodeOn;
use hiend_trainer::device::{Compute, DeviceChoice, keep_kernels, remember_panics, settle_default, take_panic};
use hiend_trainer::doctor::Machine;
use hiend_trainer::ops::attention::Computation;
use hiend_trainer::ops::conv::leave_to_burn;
use hiend_trainer::ops::product::separate_bias_gradients;
use hiend_trainer::vendor::algorithms::Algorithms;
use hiend_trainer::vendor::cudnn;
use hiend_trainer::vendor::cudnn::record::Engines;
use serde_json::{Value, json};

pub use cli::Cli;

use crate::figures::rounded;
use crate::shapes;
use cli::Case;

/// Measures the cases of `cli`.
///
/// # Errors
/// If a device, a cache or a case fails, cuDNN refuses an attention that it was asked for, or cuBLASLt computes no products on
/// a CUDA device. The lines of the cases before it are printed.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut machine = MachineLine { device: cli.device, is_printed: false };
    let measured = run_cases(cli, began, &mut machine);
    // After a failure as well, because the line shows which library is missing.
    machine.print_once();
    measured
}

/// The line that describes the machine.
struct MachineLine {
    device: DeviceChoice,
    is_printed: bool,
}

impl MachineLine {
    /// Prints the line unless it is printed. This loads libraries that a case may not need, which takes up to seconds.
    fn print_once(&mut self) {
        if std::mem::replace(&mut self.is_printed, true) {
            return;
        }
        let mut line = Machine::of_process().to_json();
        line["case"] = json!("machine");
        line["device"] = json!(self.device.to_string());
        println!("{line}");
    }
}

fn run_cases(cli: &Cli, began: Instant, machine: &mut MachineLine) -> anyhow::Result<()> {
    // Before a device is opened: panics of its threads are no bugs, and do not end the program.
    remember_panics();
    if let Some(dir) = &cli.cache_dir {
        keep_kernels(Some(dir));
    }
    let compute = Compute::open(cli.device)?;
    settle_default(&compute)?;
    if cli.attention == Computation::Cudnn {
        // Without cuDNN, attention would be measured as plain matrix products.
        cudnn::library().map_err(|reason| anyhow::anyhow!("--attention cudnn: {reason}"))?;
    }
    leave_to_burn(cli.burn_convolutions);
    separate_bias_gradients(cli.separate_bias_gradients);
    for &case in &cli.cases {
        if !matches!(case, Case::Tests | Case::Loader | Case::Reference) {
            products::check(&compute)?;
        }
        let started = Instant::now();
        let mut show = |mut line: Value| {
            line["case"] = json!(case.to_possible_value().map(|value| value.get_name().to_owned()));
            line["device"] = json!(compute.to_string());
            // Counts since the start of the process; zero means that the library computed nothing.
            line["products_recorded"] = json!(Algorithms::of_process().len());
            line["cudnn_plans"] = json!(Engines::of_process().len());
            if cli.attention == Computation::Cudnn {
                line["attention_plans"] = json!(attention_plans::counts());
            }
            let warned = refusals::warned();
            if !warned.is_empty() {
                line["fallbacks"] = json!(warned);
            }
            line["case_secs"] = json!(rounded(started.elapsed().as_secs_f64()));
            machine.print_once();
            println!("{line}");
        };
        let measured = measure(case, cli, &compute, began, &mut show);
        tell_panic();
        measured?;
        if cli.attention == Computation::Cudnn {
            attention_plans::check(case)?;
        }
    }
    Ok(())
}

/// Measures one case and passes its lines to `show`. The program began at `began`.
fn measure(
    case: Case,
    cli: &Cli,
    compute: &Compute,
    began: Instant,
    show: &mut dyn FnMut(Value),
) -> anyhow::Result<()> {
    let model = cli.preset.config().model;
    match case {
        Case::Tests => device_tests::run(compute, &cli.tests, show)?,
        Case::Step => show(pretraining::step(cli, compute, began)?),
        Case::Overlap => show(streaming::overlap(cli, compute, DecodeOn::Cpu)?),
        Case::Chunks => show(streaming::overlap(cli, compute, DecodeOn::Device)?),
        Case::Service => show(streaming::service(cli, compute)?),
        Case::Loader => loader::rates(cli, show)?,
        Case::FinetuneOverlap => show(streaming::finetune(cli, compute)?),
        Case::Finetune => unetr::finetune(cli, compute, show)?,
        Case::Predict => show(unetr::predict(cli, compute)?),
        Case::Numerics => show(numerics::numerics(cli, compute)?),
        Case::Reference => show(numerics::reference(cli)?),
        Case::Kernels => pretraining::kernels(cli, compute, show)?,
        Case::Products => shapes::time(&model, compute, (cli.precision, cli.attention), cli.batch, show)?,
        Case::Shapes => shapes::compare(&model, compute, (cli.precision, cli.attention), show)?,
        Case::Convolutions => shapes::compare_convolutions(compute, cli.precision, show)?,
        Case::ConvolutionTimes => {
            let sizes = (cli.finetune_batch, cli.convolution_side);
            shapes::time_convolutions(compute, cli.precision, sizes, show)?;
        }
    }
    Ok(())
}

/// Warns of a panic of the device's threads since the previous call.
fn tell_panic() {
    if let Some(panic) = take_panic() {
        note(format_args!("warning: a thread of the device panicked: {panic}"));
    }
}
