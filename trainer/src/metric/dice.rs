//! Dice overlap by case and class.
//!
//! A class that is absent from the label has no Dice (NaN), whatever the prediction, and NaNs are left out of the
//! means: first over the classes of a case, then over cases. This is the convention of MONAI's `DiceMetric`.
//!
//! Voxels with the ignore label count for no class, whatever is predicted there, as in nnU-Net.

use super::overlap::{Absent, overlaps};
use super::{LabelMap, MetricError, nan_mean};
use crate::label_space::LabelSpace;

/// Dice `2 |label ∩ pred| / (|label| + |pred|)` of every class; NaN if the label lacks the class.
///
/// # Errors
/// If the two grids differ in size, the label holds neither a class nor the ignore label of `space`, or the prediction
/// holds anything but classes.
pub fn dice_per_class(label: &LabelMap<'_>, pred: &LabelMap<'_>, space: LabelSpace) -> Result<Vec<f64>, MetricError> {
    Ok(overlaps(label, pred, space)?.into_iter().map(|overlap| overlap.dice(Absent::Monai)).collect())
}

/// Mean over cases of each case's mean over its classes, excluding absent classes and empty cases; NaN if nothing
/// remains.
///
/// DIFFERENCE: MONAI gives 0 if every class of every case is absent; this function gives NaN, because nothing was
/// measured.
#[must_use]
pub fn mean_dice(per_case_class: &[Vec<f64>]) -> f64 {
    nan_mean(per_case_class.iter().map(|classes| nan_mean(classes.iter().copied())))
}

/// Mean over cases of one class, excluding cases that lack it; NaN if no case has it.
#[must_use]
pub fn mean_dice_of_class(per_case_class: &[Vec<f64>], class: usize) -> f64 {
    nan_mean(per_case_class.iter().map(|classes| classes.get(class).copied().unwrap_or(f64::NAN)))
}

/// Mean Dice as in [`mean_dice`], without the background: the value that papers report.
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

    fn check(label: &[u8], pred: &[u8], ignore: Option<u8>, expected: &[f64]) {
        let space = LabelSpace::new(expected.len()).with_ignore(ignore);
        let dice = dice_per_class(&map(label), &map(pred), space).expect("dice");
        for (class, (&got, &want)) in dice.iter().zip(expected).enumerate() {
            assert!(
                got.is_nan() && want.is_nan() || (got - want).abs() < 1e-12,
                "class {class}: {got}, expected {want}"
            );
        }
    }

    #[test]
    fn each_class_is_counted_by_itself() {
        check(&[0, 0, 1, 1, 2], &[0, 1, 1, 1, 2], None, &[2.0 / 3.0, 4.0 / 5.0, 1.0]);
    }

    #[test]
    fn a_class_missing_from_the_label_has_no_dice() {
        check(&[0, 0, 1], &[0, 2, 1], None, &[2.0 / 3.0, 1.0, f64::NAN]);
    }

    #[test]
    fn a_class_missing_from_the_prediction_is_zero() {
        check(&[0, 0, 1], &[0, 0, 0], None, &[4.0 / 5.0, 0.0]);
    }

    #[test]
    fn ignored_voxels_count_for_no_class() {
        // Without the two ignored voxels the maps are those of `each_class_is_counted_by_itself`.
        check(&[9, 0, 0, 1, 1, 2, 9], &[2, 0, 1, 1, 1, 2, 1], Some(9), &[2.0 / 3.0, 4.0 / 5.0, 1.0]);
        check(&[9, 9], &[0, 1], Some(9), &[f64::NAN; 2]);
    }

    #[test]
    fn a_label_out_of_range_is_named() {
        let error = |label: &[u8], pred: &[u8], ignore| {
            let space = LabelSpace::new(3).with_ignore(ignore);
            dice_per_class(&map(label), &map(pred), space).expect_err("label 3 or 4 of 3 classes").to_string()
        };
        assert_eq!(error(&[0, 3], &[0, 0], None), "in the label: label 3 is out of range; the classes are 0 to 2");
        // No model predicts the ignore label.
        let expected = "in the prediction: label 4 is out of range; the classes are 0 to 2";
        assert_eq!(error(&[0, 4], &[0, 4], Some(4)), expected);
    }

    #[test]
    fn absent_classes_have_no_part_in_the_means() {
        let per_case_class = vec![vec![1.0, f64::NAN, 0.5], vec![f64::NAN; 3], vec![0.25, 0.75, f64::NAN]];
        assert!((mean_dice(&per_case_class) - 0.625).abs() < 1e-12);
        assert!((mean_fg_dice(&per_case_class) - 0.625).abs() < 1e-12);
        assert!((mean_dice_of_class(&per_case_class, 1) - 0.75).abs() < 1e-12);
        assert!(mean_dice(&[]).is_nan());
    }
}
