//! Results of an arm: its learning curve over all seeds.

use serde::Serialize;

use super::phantom::CLASSES;
use super::runs::{Arm, FinetuneResult};

/// Mean and sample standard deviation over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    /// Mean over the seeds.
    pub mean: f64,
    /// Sample standard deviation; 0 for a single value.
    pub deviation: f64,
}

impl Spread {
    /// Spread of some values.
    pub(super) fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        Self { mean, deviation }
    }
}

/// Foreground Dice of an arm after a number of steps.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Point {
    /// Number of optimizer steps done.
    pub step: u64,
    /// Mean and spread over seeds.
    pub dice: Spread,
    /// Values by seed.
    pub by_seed: Vec<f64>,
}

/// Results of an arm.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ArmResult {
    /// Name of the arm.
    pub arm: &'static str,
    /// Mean Dice after each number of steps.
    pub curve: Vec<Point>,
    /// Dice of each class after the last step, background first; absent for a class that no test case has.
    pub by_class: Vec<Option<Spread>>,
}

impl ArmResult {
    /// Summarises the runs of an arm; there is at least one, and all have the same validated steps.
    pub(super) fn of(arm: Arm, results: &[FinetuneResult]) -> Self {
        let runs: Vec<_> = results.iter().filter(|result| result.arm == arm).collect();
        let steps = runs[0].validations.iter().map(|record| record.step);
        let curve = steps.enumerate().map(|(idx, step)| {
            let by_seed: Vec<f64> = runs.iter().map(|run| run.validations[idx].mean_fg_dice).collect();
            Point { step, dice: Spread::of(&by_seed), by_seed }
        });
        let last = |class: usize| -> Option<Vec<f64>> {
            runs.iter().map(|run| run.validations.last()?.dice_per_class.get(class).copied().flatten()).collect()
        };
        Self {
            arm: arm.title(),
            curve: curve.collect(),
            by_class: (0..CLASSES.len()).map(|class| last(class).map(|values| Spread::of(&values))).collect(),
        }
    }
}
