//! Dice overlap, case by case and class by class.
//!
//! A class that the label does not hold has no Dice (NaN) whatever the prediction says, and NaNs are left out of the
//! means: first over the classes of a case, then over cases. This is the convention of MONAI's `DiceMetric`.

use super::{LabelMap, MetricError, nan_mean};

/// `2 |label ∩ pred| / (|label| + |pred|)` of each class 0..`num_classes`; NaN where the label lacks the class.
///
/// # Errors
/// If the two grids differ in size or either map holds a class of `num_classes` or more.
pub fn dice_per_class(label: &LabelMap<'_>, pred: &LabelMap<'_>, num_classes: usize) -> Result<Vec<f64>, MetricError> {
    if label.dims() != pred.dims() {
        return Err(MetricError::SizeMismatch { label: label.dims(), pred: pred.dims() });
    }
    let mut in_label = [0_u64; 256];
    let mut in_pred = [0_u64; 256];
    let mut in_both = [0_u64; 256];
    for (&l, &p) in label.voxels().iter().zip(pred.voxels()) {
        in_label[usize::from(l)] += 1;
        in_pred[usize::from(p)] += 1;
        in_both[usize::from(l)] += u64::from(l == p);
    }
    for (map, counts) in [("label", &in_label), ("prediction", &in_pred)] {
        let too_high = (0..=u8::MAX).find(|&class| usize::from(class) >= num_classes && counts[usize::from(class)] > 0);
        if let Some(class) = too_high {
            return Err(MetricError::ClassOutOfRange { map, class, num_classes });
        }
    }
    Ok((0..num_classes)
        .map(|class| if class < 256 { dice(in_label[class], in_pred[class], in_both[class]) } else { f64::NAN })
        .collect())
}

fn dice(in_label: u64, in_pred: u64, in_both: u64) -> f64 {
    if in_label == 0 { f64::NAN } else { 2.0 * in_both as f64 / (in_label + in_pred) as f64 }
}

/// Mean over cases of each case's mean over its classes, absent classes and empty cases left out; NaN if all are.
///
/// DIFFERENCE: MONAI gives 0 when every class of every case is absent; we give NaN, since nothing was measured.
#[must_use]
pub fn mean_dice(per_case_class: &[Vec<f64>]) -> f64 {
    nan_mean(per_case_class.iter().map(|classes| nan_mean(classes.iter().copied())))
}

/// Mean over cases of one class, cases without it left out; NaN if no case has it.
#[must_use]
pub fn mean_dice_of_class(per_case_class: &[Vec<f64>], class: usize) -> f64 {
    nan_mean(per_case_class.iter().map(|classes| classes.get(class).copied().unwrap_or(f64::NAN)))
}

/// As [`mean_dice`], but without the background: the figure that papers report.
#[must_use]
pub fn mean_fg_dice(per_case_class: &[Vec<f64>]) -> f64 {
    nan_mean(per_case_class.iter().map(|classes| nan_mean(classes.iter().skip(1).copied())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(voxels: &[u8]) -> LabelMap<'_> {
        LabelMap::new(voxels, [voxels.len(), 1, 1], [1.0; 3]).expect("a valid map")
    }

    fn check(label: &[u8], pred: &[u8], expected: &[f64]) {
        let dice = dice_per_class(&map(label), &map(pred), expected.len()).expect("dice");
        for (class, (&got, &want)) in dice.iter().zip(expected).enumerate() {
            assert!(
                got.is_nan() && want.is_nan() || (got - want).abs() < 1e-12,
                "class {class}: {got}, expected {want}"
            );
        }
    }

    #[test]
    fn counts_each_class_on_its_own() {
        check(&[0, 0, 1, 1, 2], &[0, 1, 1, 1, 2], &[2.0 / 3.0, 4.0 / 5.0, 1.0]);
    }

    #[test]
    fn a_class_missing_from_the_label_has_no_dice() {
        check(&[0, 0, 1], &[0, 2, 1], &[2.0 / 3.0, 1.0, f64::NAN]);
    }

    #[test]
    fn a_class_missed_by_the_prediction_is_zero() {
        check(&[0, 0, 1], &[0, 0, 0], &[4.0 / 5.0, 0.0]);
    }

    #[test]
    fn a_class_out_of_range_is_named() {
        let error = dice_per_class(&map(&[0, 3]), &map(&[0, 0]), 3).expect_err("class 3 of 3");
        assert_eq!(error, MetricError::ClassOutOfRange { map: "label", class: 3, num_classes: 3 });
    }

    #[test]
    fn means_leave_out_what_was_not_measured() {
        let per_case_class = vec![vec![1.0, f64::NAN, 0.5], vec![f64::NAN; 3], vec![0.25, 0.75, f64::NAN]];
        assert!((mean_dice(&per_case_class) - 0.625).abs() < 1e-12);
        assert!((mean_fg_dice(&per_case_class) - 0.625).abs() < 1e-12);
        assert!((mean_dice_of_class(&per_case_class, 1) - 0.75).abs() < 1e-12);
        assert!(mean_dice(&[]).is_nan());
    }
}
