//! Both learning-rate schedules against the reference.

use hiend_trainer::schedule::{Every, ScheduleConfig, Unit, warmup_cosine_per_epoch};

use crate::golden::{Golden, cases};

/// Both sides compute in f64; the order of operations differs.
const TOLERANCE: f64 = 1e-12;

fn check(name: &str, peak: f64, actual: &[f64], expected: &Golden) {
    assert_eq!(actual.len(), expected.values.len());
    let error = actual.iter().zip(&expected.values).fold(0f64, |m, (a, e)| m.max((a - e).abs() / peak));
    println!("golden {name}: largest difference {error:.2e} of the peak (tolerance {TOLERANCE:.0e})");
    assert!(error <= TOLERANCE, "{name}: {error:e}");
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
        check(&format!("{} pretrain_per_iter", case.name), peak, &rates, case.tensor("schedule/pretrain_per_iter"));

        let rates: Vec<f64> = (0..total).map(|epoch| warmup_cosine_per_epoch(peak, epoch, warmup, total)).collect();
        check(&format!("{} finetune_per_epoch", case.name), peak, &rates, case.tensor("schedule/finetune_per_epoch"));
    }
}
