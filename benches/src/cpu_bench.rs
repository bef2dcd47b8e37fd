//! `cpu-bench`: the models on a CPU, each case next to `PyTorch` on the same cores.
//!
//! | case | measures |
//! |---|---|
//! | `convolutions` | each 3×3×3 convolution of `tiny`'s UNETR and its gradients, with the processor's peak rate as the floor |
//! | `finetune` | a step of `tiny`'s UNETR with one crop of 96³ |
//! | `predict` | a prediction of one window of 96³ |
//! | `pretrain` | a step of `tiny` with four crops of 96³ |
//!
//! Times are the least of some rounds, half of them before and half after `PyTorch`'s, which a Python of the caller's choice
//! runs (`--python`, `benches/peers`). Without it the columns of `PyTorch` are left out. On a machine that
//! others use as well, CPU times and `--threads 1` are the ones to compare: a waiting thread counts as busy.

#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "sizes and times of a benchmark")]

mod convolutions;
mod peer;
mod pretraining;
mod unetr;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::clock::{Elapsed, Stopwatch};
use peer::Peer;

/// Measure training and inference on a CPU, next to PyTorch
#[derive(Debug, Parser)]
#[command(name = "cpu-bench")]
pub struct Cli {
    /// Cases to measure, in this order
    #[arg(long, value_delimiter = ',', value_enum, default_value = "convolutions,finetune,predict,pretrain")]
    cases: Vec<Case>,
    /// Number of threads for both sides
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Number of rounds, of which the fastest counts
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Python with PyTorch to compare with
    #[arg(long)]
    python: Option<PathBuf>,
    /// Time to report for the convolutions
    #[arg(long, value_enum, default_value = "wall")]
    clock: Clock,
    /// Compare UNETR with MONAI's class of that name instead of an equal network
    #[arg(long)]
    monai: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    Convolutions,
    Finetune,
    Predict,
    Pretrain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Clock {
    Wall,
    Cpu,
}

impl Clock {
    fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall-clock",
            Self::Cpu => "CPU",
        }
    }

    fn of(self, elapsed: Elapsed) -> f64 {
        self.of_pair([elapsed.wall_secs, elapsed.cpu_secs])
    }

    fn of_pair(self, [wall, cpu]: [f64; 2]) -> f64 {
        match self {
            Self::Wall => wall,
            Self::Cpu => cpu,
        }
    }
}

/// Measures the cases of `cli`.
///
/// # Errors
/// If a case or `PyTorch` fails. The lines of the cases before it are printed.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(cli.threads).build_global()?;
    let peer =
        cli.python.as_ref().map(|python| Peer { python: python.clone(), threads: cli.threads, rounds: cli.rounds });
    for case in &cli.cases {
        match case {
            Case::Convolutions => convolutions::run(cli, peer.as_ref())?,
            Case::Finetune => unetr::finetune(cli, peer.as_ref())?,
            Case::Predict => unetr::predict(cli, peer.as_ref())?,
            Case::Pretrain => pretraining::run(cli, peer.as_ref())?,
        }
    }
    Ok(())
}

/// Minimum wall-clock time and minimum CPU time over several calls.
fn least(rounds: usize, mut function: impl FnMut()) -> Elapsed {
    let round = |_| {
        let watch = Stopwatch::of_process();
        function();
        watch.elapsed()
    };
    (0..rounds.max(1)).map(round).reduce(lesser).unwrap_or_default()
}

/// Minimum of two wall-clock times, and of two CPU times.
fn lesser(a: Elapsed, b: Elapsed) -> Elapsed {
    Elapsed { wall_secs: a.wall_secs.min(b.wall_secs), cpu_secs: a.cpu_secs.min(b.cpu_secs) }
}
