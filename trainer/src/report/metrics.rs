//! Metrics of a run, recorded from its events; [`METRICS`] lists them.
//!
//! Without a recorder in the process nothing is kept.

use hiend_loader::stats::Metric;
use metrics::{counter, gauge, histogram};

use crate::journal::Stage;
use crate::training::Event;

/// Metrics of a run.
pub const METRICS: &[Metric] = &[
    Metric::counter("hiend_train_steps_total", "Optimizer steps done by this process."),
    Metric::counter("hiend_train_crops_total", "Crops of those steps."),
    Metric::gauge("hiend_train_step", "Optimizer steps of the run, those before a resume included."),
    Metric::gauge("hiend_train_end_step", "Optimizer steps after which the run ends."),
    Metric::gauge("hiend_train_epoch", "Position in epochs."),
    Metric::gauge("hiend_train_loss", "Mean loss of the last batch."),
    Metric::gauge("hiend_train_learning_rate", "Learning rate of the last step."),
    Metric::gauge("hiend_train_gradient_norm", "Global gradient norm of the last step before clipping."),
    Metric::histogram("hiend_train_step_seconds", "Time of a step, waiting and computing."),
    Metric::histogram("hiend_train_wait_seconds", "Time of a step in which no batch was ready."),
    Metric::histogram("hiend_train_upload_seconds", "Time of a batch's transfer to the device, alongside the steps."),
    Metric::gauge("hiend_train_rank_wait_seconds", "Time for which a rank waited for its batch, by rank."),
    Metric::gauge("hiend_train_rank_behind_seconds", "Time of a rank's arrival after the first rank, by rank."),
    Metric::gauge(
        "hiend_train_rank_stage",
        "1 for the slowest stage of a rank's step, 0 for the others, by rank and stage.",
    ),
    Metric::counter("hiend_train_checkpoints_total", "Checkpoints written by this process."),
    Metric::counter("hiend_train_warnings_total", "Failures that did not end the run."),
    Metric::histogram("hiend_train_validation_seconds", "Time of a validation."),
    Metric::gauge("hiend_train_mean_dice", "Mean Dice of the last validation that measured it, background included."),
    Metric::gauge(
        "hiend_train_mean_fg_dice",
        "Mean Dice, without background, of the last validation that measured it.",
    ),
];

/// Records an event.
pub fn record(event: &Event<'_>) {
    match event {
        Event::Started { step, end_step, .. } => {
            gauge!("hiend_train_step").set(*step as f64);
            gauge!("hiend_train_end_step").set(*end_step as f64);
            // Present from the first scrape on, so that their increase is seen.
            for name in ["hiend_train_checkpoints_total", "hiend_train_warnings_total"] {
                counter!(name).increment(0);
            }
        }
        Event::Step(record) => {
            counter!("hiend_train_steps_total").increment(1);
            counter!("hiend_train_crops_total").increment(record.crops as u64);
            gauge!("hiend_train_step").set(record.step as f64);
            gauge!("hiend_train_epoch").set(record.epoch);
            gauge!("hiend_train_loss").set(record.loss);
            gauge!("hiend_train_learning_rate").set(record.lr);
            if let Some(norm) = record.grad_norm {
                gauge!("hiend_train_gradient_norm").set(norm);
            }
            for (name, ms) in [
                ("hiend_train_step_seconds", record.step_ms),
                ("hiend_train_wait_seconds", record.wait_ms),
                ("hiend_train_upload_seconds", record.upload_ms),
            ] {
                histogram!(name).record(ms / 1e3);
            }
            for rank in &record.ranks {
                let number = rank.rank.to_string();
                gauge!("hiend_train_rank_wait_seconds", "rank" => number.clone()).set(rank.wait_ms / 1e3);
                gauge!("hiend_train_rank_behind_seconds", "rank" => number.clone()).set(rank.behind_ms / 1e3);
                for stage in Stage::ALL {
                    let is_slowest = f64::from(stage == rank.stage);
                    gauge!("hiend_train_rank_stage", "rank" => number.clone(), "stage" => stage.name()).set(is_slowest);
                }
            }
        }
        Event::Validation(record) => {
            histogram!("hiend_train_validation_seconds").record(record.secs);
            // Without a measured value the gauge is left alone: a NaN would spread to every sum and alert.
            if !record.mean_dice.is_nan() {
                gauge!("hiend_train_mean_dice").set(record.mean_dice);
            }
            if !record.mean_fg_dice.is_nan() {
                gauge!("hiend_train_mean_fg_dice").set(record.mean_fg_dice);
            }
        }
        Event::Checkpoint(_) => counter!("hiend_train_checkpoints_total").increment(1),
        Event::Warning(_) => counter!("hiend_train_warnings_total").increment(1),
        Event::Tuning | Event::Validating { .. } | Event::Picture(_) | Event::Note(_) | Event::Stopped(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Mutex};

    use metrics::atomics::AtomicU64;
    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::*;
    use crate::journal::testing::{step_record, validation_record};
    use crate::journal::{RankRecord, StepRecord, ValidationRecord};

    /// Names of the metrics that were recorded, and values of the gauges by name and labels.
    #[derive(Default)]
    struct Recorded {
        names: Mutex<BTreeSet<String>>,
        gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    }

    impl Recorded {
        fn insert(&self, key: &Key) {
            self.names.lock().unwrap().insert(key.name().to_owned());
        }

        /// Values of the gauges whose name and labels begin with `start`.
        fn gauges(&self, start: &str) -> Vec<(String, f64)> {
            let gauges = self.gauges.lock().unwrap();
            let wanted = gauges.iter().filter(|(key, _)| key.starts_with(start));
            wanted.map(|(key, bits)| (key.clone(), f64::from_bits(bits.load(Ordering::Relaxed)))).collect()
        }
    }

    impl Recorder for Recorded {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.insert(key);
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.insert(key);
            let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
            let series = key.name().to_owned() + &labels.collect::<String>();
            Gauge::from_arc(Arc::clone(self.gauges.lock().unwrap().entry(series).or_default()))
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.insert(key);
            Histogram::noop()
        }
    }

    #[test]
    fn the_events_of_a_run_record_every_listed_metric_and_no_other() {
        let path = Path::new("run");
        let rank = RankRecord { rank: 0, wait_ms: 1.0, behind_ms: 2.0, stage: Stage::Compute };
        let step = StepRecord { ranks: vec![rank], ..step_record(1, 0.5) };
        let validation = validation_record(1, 0.5);
        let events = [
            Event::Started { num_params: 1, device: "cpu".into(), step: 0, end_step: 2, best: None, run_dir: path },
            Event::Step(&step),
            Event::Validation(&validation),
            Event::Checkpoint(path),
            Event::Warning("no picture".into()),
        ];
        let recorded = Recorded::default();
        metrics::with_local_recorder(&recorded, || events.iter().for_each(record));
        let listed: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
        assert_eq!(recorded.names.into_inner().unwrap(), listed);
    }

    #[test]
    fn each_rank_has_one_slowest_stage_at_a_time() {
        let recorded = Recorded::default();
        for stages in [[Stage::Compute, Stage::Upload], [Stage::Decode, Stage::Augment]] {
            let rank = |(rank, stage)| RankRecord { rank, wait_ms: 1.0, behind_ms: 2.0, stage };
            let step = StepRecord { ranks: (0..).zip(stages).map(rank).collect(), ..step_record(1, 0.5) };
            metrics::with_local_recorder(&recorded, || record(&Event::Step(&step)));
            for (rank, slowest) in (0..).zip(stages) {
                let series = format!("hiend_train_rank_stage rank={rank} stage=");
                let gauges = recorded.gauges(&series);
                assert_eq!(gauges.len(), Stage::ALL.len());
                for (name, value) in gauges {
                    let expected = f64::from(name == format!("{series}{}", slowest.name()));
                    assert!((value - expected).abs() < 1e-9, "{name}: {value}");
                }
            }
        }
    }

    #[test]
    fn a_dice_that_was_not_measured_has_no_gauge() {
        let validation = ValidationRecord { mean_fg_dice: f64::NAN, ..validation_record(1, 0.5) };
        let recorded = Recorded::default();
        metrics::with_local_recorder(&recorded, || record(&Event::Validation(&validation)));
        let names = recorded.names.into_inner().unwrap();
        assert!(names.contains("hiend_train_mean_dice") && !names.contains("hiend_train_mean_fg_dice"), "{names:?}");
    }
}
