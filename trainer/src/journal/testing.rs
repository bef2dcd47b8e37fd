//! Records for tests.

use super::{StepRecord, ValidationRecord};

/// Record of a step of 100 ms.
pub(crate) fn step_record(step: u64, loss: f64) -> StepRecord {
    StepRecord {
        step,
        epoch: step as f64 / 100.0,
        loss,
        lr: 1e-4,
        grad_norm: Some(0.5),
        crops: 4,
        crops_per_sec: 40.0,
        step_ms: 100.0,
        wait_ms: 2.5,
        upload_ms: 1.5,
        compute_ms: 97.5,
        decode_ms: 20.0,
        augment_ms: 10.0,
        ranks: vec![],
    }
}

/// Record of a validation with three classes, one of which occurs in no case.
pub(crate) fn validation_record(step: u64, mean_dice: f64) -> ValidationRecord {
    ValidationRecord {
        step,
        epoch: step as f64 / 100.0,
        mean_dice,
        mean_fg_dice: mean_dice - 0.05,
        dice_per_class: vec![Some(0.99), Some(0.5), None],
        num_cases: 2,
        best: true,
        secs: 1.0,
    }
}
