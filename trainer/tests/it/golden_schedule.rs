//! Tests of both learning-rate schedules against the reference.

use hiend_trainer::schedule::{Every, ScheduleConfig, Unit, warmup_cosine_per_epoch};

use crate::golden::{Case, Comparisons, cases};

/// Tolerance for different orders of operations; both sides compute in f64.
const TOLERANCE: f64 = 1e-12;

/// Compares rates with a case; the error is relative to the peak.
fn check(case: &Case, name: &str, peak: f64, actual: &[f64]) {
    let expected = &case.tensor(&format!("schedule/{name}")).values;
    assert_eq!(actual.len(), expected.len());
    let error = actual.iter().zip(expected).fold(0f64, |m, (a, e)| m.max((a - e).abs() / peak));
    let mut comparison = Comparisons::default();
    comparison.check(case, &format!("schedule {name}"), error, TOLERANCE);
    comparison.finish();
}

#[test]
fn golden_schedules() {
    for case in cases("misc") {
        let settings = &case.settings["schedule"];
        let int = |key: &str| settings[key].as_u64().unwrap();
        let peak = settings["base_lr"].as_f64().unwrap();
        let (warmup, total, per_epoch) = (int("warmup_epochs"), int("epochs"), int("iters_per_epoch"));

        let config = ScheduleConfig { unit: Unit::Epoch, total, warmup, rate_changes: Every::Step };
        let rates: Vec<f64> = (0..total * per_epoch).map(|step| config.lr(peak, step, per_epoch)).collect();
        check(&case, "pretrain_per_iter", peak, &rates);

        let rates: Vec<f64> = (0..total).map(|epoch| warmup_cosine_per_epoch(peak, epoch, warmup, total)).collect();
        check(&case, "finetune_per_epoch", peak, &rates);
    }
}
