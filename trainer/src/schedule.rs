//! Learning rates as pure functions of the step: linear warm-up, then a cosine to zero.
//!
//! Burn's own cosine scheduler keeps state and rises again after its last iteration. A function of the step does
//! neither, and resuming needs nothing saved.

use serde::{Deserialize, Serialize};

/// Unit of the lengths in a [`ScheduleConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Number of batches that visit every case once: one pass over the cases if `visits_per_batch` divides their
    /// number; otherwise the last batch begins the next pass.
    Epoch,
    /// One optimizer step.
    Step,
}

/// Interval at which the learning rate changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// Every step, as in pre-training.
    #[default]
    Step,
    /// Every epoch, as in fine-tuning.
    Epoch,
}

/// Lengths of a training and of its warm-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Unit of both lengths.
    pub unit: Unit,
    /// Length of the whole training.
    pub total: u64,
    /// Length of the linear warm-up, which starts at zero.
    pub warmup: u64,
    /// Interval at which the learning rate changes.
    #[serde(default)]
    pub rate_changes: Every,
}

impl ScheduleConfig {
    /// Returns a configuration in which every key is present.
    pub(crate) fn with_every_key() -> Self {
        Self { unit: Unit::Epoch, total: 1000, warmup: 10, rate_changes: Every::Step }
    }

    /// Number of steps of the whole training.
    #[must_use]
    pub fn total_steps(&self, steps_per_epoch: u64) -> u64 {
        self.steps(self.total, steps_per_epoch)
    }

    /// Number of steps in a length given in this schedule's unit.
    #[must_use]
    pub fn steps(&self, length: u64, steps_per_epoch: u64) -> u64 {
        match self.unit {
            Unit::Epoch => length.saturating_mul(steps_per_epoch),
            Unit::Step => length,
        }
    }

    /// Learning rate of step `step`, counted from 0.
    #[must_use]
    pub fn lr(&self, peak: f64, step: u64, steps_per_epoch: u64) -> f64 {
        if (self.unit, self.rate_changes) == (Unit::Epoch, Every::Epoch) {
            return warmup_cosine_per_epoch(peak, step / steps_per_epoch.max(1), self.warmup, self.total);
        }
        let position = match self.unit {
            Unit::Epoch => step as f64 / steps_per_epoch.max(1) as f64,
            Unit::Step => step as f64,
        };
        warmup_cosine(peak, position, self.warmup as f64, self.total as f64)
    }

    /// Returns the first setting that is out of range, with the reason; `None` if all are valid.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if self.total == 0 {
            return Some(("total", "must be at least 1".into()));
        }
        if (self.unit, self.rate_changes) == (Unit::Step, Every::Epoch) {
            return Some(("rate_changes", "every epoch needs unit = \"epoch\"".into()));
        }
        (self.warmup >= self.total)
            .then(|| ("warmup", format!("{} must be less than the total {}", self.warmup, self.total)))
    }
}

/// Learning rate of pre-training: linear from 0 to `peak` at `warmup`, then half a cosine down to 0 at `total`, and 0
/// afterwards.
///
/// `position` may be a fraction: the recipe counts in epochs and changes the rate with every step.
#[must_use]
pub fn warmup_cosine(peak: f64, position: f64, warmup: f64, total: f64) -> f64 {
    if position < warmup { peak * position / warmup } else { cosine(peak, position, warmup, total) }
}

/// Learning rate of fine-tuning, constant within an epoch; the last epoch of the warm-up already has the peak.
#[must_use]
pub fn warmup_cosine_per_epoch(peak: f64, epoch: u64, warmup: u64, total: u64) -> f64 {
    if epoch < warmup {
        let last = (warmup - 1) as f64;
        // A warm-up of one epoch has the rate zero, as in the reference.
        return if last > 0.0 { peak * epoch as f64 / last } else { 0.0 };
    }
    cosine(peak, epoch as f64, warmup as f64, total as f64)
}

fn cosine(peak: f64, position: f64, warmup: f64, total: f64) -> f64 {
    let done = ((position - warmup) / (total - warmup)).min(1.0);
    peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_stays_at_zero_after_the_end() {
        let config = ScheduleConfig { unit: Unit::Step, total: 100, warmup: 10, rate_changes: Every::Step };
        assert_eq!(config.fault(), None);
        assert!(config.lr(1.0, 0, 7).abs() < 1e-15);
        assert!((config.lr(1.0, 5, 7) - 0.5).abs() < 1e-15);
        assert!((config.lr(1.0, 10, 7) - 1.0).abs() < 1e-15);
        assert!(config.lr(1.0, 100, 7).abs() < 1e-15);
        assert!(config.lr(1.0, 150, 7).abs() < 1e-15);
    }

    #[test]
    fn rates_change_within_an_epoch() {
        let config = ScheduleConfig { unit: Unit::Epoch, total: 4, warmup: 2, rate_changes: Every::Step };
        assert_eq!(config.total_steps(8), 32);
        assert!((config.lr(1.0, 8, 8) - 0.5).abs() < 1e-15);
        assert!((config.lr(1.0, 24, 8) - 0.5).abs() < 1e-15);
    }

    #[test]
    fn rates_by_epoch_are_those_of_the_reference() {
        let config = ScheduleConfig { unit: Unit::Epoch, total: 10, warmup: 3, rate_changes: Every::Epoch };
        for step in 0..80 {
            let expected = warmup_cosine_per_epoch(1.0, step / 8, 3, 10);
            assert_eq!(config.lr(1.0, step, 8).to_bits(), expected.to_bits(), "step {step}");
        }
        let by_step = ScheduleConfig { unit: Unit::Step, ..config };
        assert_eq!(by_step.fault().unwrap().0, "rate_changes");
    }

    proptest::proptest! {
        #[test]
        fn the_rate_rises_to_its_peak_and_falls_to_zero(warmup in 0u64..50, rest in 1u64..50, per_epoch in 1u64..9) {
            let config = ScheduleConfig { unit: Unit::Epoch, total: warmup + rest, warmup, rate_changes: Every::Step };
            let rates: Vec<f64> =
                (0..=config.total_steps(per_epoch)).map(|step| config.lr(1.0, step, per_epoch)).collect();
            let top = (warmup * per_epoch) as usize;
            proptest::prop_assert!(rates[..=top].is_sorted());
            proptest::prop_assert!(rates[top..].is_sorted_by(|a, b| a >= b));
            proptest::prop_assert!((rates[top] - 1.0).abs() < 1e-12);
            proptest::prop_assert!(rates[rates.len() - 1].abs() < 1e-12);
        }
    }
}
