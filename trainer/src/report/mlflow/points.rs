//! Records of the journal as MLflow's metrics, with the names that TensorBoard shows.

use std::collections::HashSet;

use serde::Serialize;

use super::params::key_of;
use crate::journal::{StepRecord, ValidationRecord};

/// Metric that every step has. It is sent last, so that its presence on the server proves that the whole step arrived.
pub(super) const STEP_MARK: &str = "train/loss";
/// Metric that every validation has, sent last.
pub(super) const VALIDATION_MARK: &str = "validation/num_cases";

/// Value of a metric at a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Metric {
    pub(super) key: String,
    /// Value of the metric; always finite.
    pub(super) value: f64,
    /// Time in milliseconds since 1970.
    pub(super) timestamp: i64,
    pub(super) step: u64,
}

/// Metrics of an optimizer step that ended at `at_ms`.
pub(super) fn of_step(record: &StepRecord, at_ms: i64) -> Vec<Metric> {
    let mut values = vec![
        ("train/epoch", record.epoch),
        ("train/lr", record.lr),
        ("throughput/crops_per_sec", record.crops_per_sec),
        ("time_ms/wait", record.wait_ms),
        ("time_ms/compute", record.compute_ms),
        ("time_ms/upload", record.upload_ms),
    ];
    values.extend(record.grad_norm.map(|norm| ("train/grad_norm", norm)));
    values.push((STEP_MARK, record.loss));
    let values = values.into_iter().map(|(key, value)| (key.to_owned(), value));
    metrics(values, record.step, at_ms)
}

/// Metrics of a validation that ended at `at_ms`, excluding classes that occur in no case. `class_keys` are returned by
/// [`class_keys`].
pub(super) fn of_validation(record: &ValidationRecord, class_keys: &[String], at_ms: i64) -> Vec<Metric> {
    let fixed = [("validation/mean_dice", record.mean_dice), ("validation/mean_fg_dice", record.mean_fg_dice)];
    let by_class = record.dice_per_class.iter().enumerate().filter_map(|(class, dice)| {
        let key = class_keys.get(class).cloned().unwrap_or_else(|| format!("dice/class {class}"));
        Some((key, (*dice)?))
    });
    let mark = (VALIDATION_MARK.to_owned(), record.num_cases as f64);
    let values = fixed.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(by_class).chain([mark]);
    metrics(values, record.step, at_ms)
}

/// Converts values to metrics, leaving out values that are not finite, which JSON cannot represent.
fn metrics(values: impl Iterator<Item = (String, f64)>, step: u64, timestamp: i64) -> Vec<Metric> {
    let finite = values.filter(|(_, value)| value.is_finite());
    finite.map(|(key, value)| Metric { key, value, timestamp, step }).collect()
}

/// Keys of the classes' Dice, background first: their names with the characters that MLflow allows. If two classes
/// would have the same key, the number of the class is added.
pub(super) fn class_keys(names: &[String]) -> Vec<String> {
    let mut taken = HashSet::new();
    let key = |(class, name): (usize, &String)| {
        let name = key_of(&name.replace('/', "_"));
        let name = name.trim();
        // A key must be a normalised path.
        let is_name = name.chars().any(char::is_alphanumeric);
        let key = if is_name { format!("dice/{name}") } else { format!("dice/class {class}") };
        let key = if taken.contains(&key) { format!("{key} {class}") } else { key };
        taken.insert(key.clone());
        key
    };
    names.iter().enumerate().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::{step_record, validation_record};

    fn keys(metrics: &[Metric]) -> Vec<&str> {
        metrics.iter().map(|metric| metric.key.as_str()).collect()
    }

    #[test]
    fn marker_of_a_record_is_its_last_metric() {
        let step = of_step(&step_record(3, 0.5), 7);
        let last = Metric { key: STEP_MARK.into(), value: 0.5, timestamp: 7, step: 3 };
        assert_eq!((step.len(), step.last()), (8, Some(&last)));
        let mut record = validation_record(4, 0.5);
        record.mean_dice = f64::NAN;
        record.mean_fg_dice = f64::NAN;
        let validation = of_validation(&record, &class_keys(&["background".into()]), 7);
        assert_eq!(keys(&validation), ["dice/background", "dice/class 1", VALIDATION_MARK]);
    }

    #[test]
    fn keys_of_classes_are_distinct_and_allowed() {
        let names = ["liver", "left/right", "left_right", "a & b (c)", "..", "", "Größe 語", "ि", " liver"];
        let names = names.map(str::to_owned);
        let expected = [
            "dice/liver",
            "dice/left_right",
            "dice/left_right 2",
            "dice/a _ b _c_",
            "dice/class 4",
            "dice/class 5",
            "dice/Größe 語",
            "dice/class 7",
            "dice/liver 8",
        ];
        assert_eq!(class_keys(&names), expected);
    }
}
