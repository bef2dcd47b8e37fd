//! Soft Dice plus cross entropy, the fine-tuning loss.
//!
//! The Dice term squares both the probabilities and the one-hot labels in its denominator, is computed for each
//! case and class (background included) over that case's voxels alone, and only then averaged. With `smooth_nr` 0
//! a class that a case does not hold contributes a constant 1 and no useful gradient; the reference does the same.
//!
//! Source of the Dice form: Milletari et al., *V-Net*, 2016, section 3.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

/// Added to the Dice denominator, so that a class absent from both label and prediction divides by something.
pub const SMOOTH_DR: f64 = 1e-6;

/// The two terms of the loss, kept apart so that a run can report them; each is a scalar of shape `[1]`.
#[derive(Debug, Clone)]
pub struct DiceCe {
    /// One minus the soft Dice, averaged over cases and classes; in [0, 1].
    pub dice: Tensor<1>,
    /// Cross entropy in nats, averaged over voxels.
    pub cross_entropy: Tensor<1>,
}

impl DiceCe {
    /// The loss that is minimised: the plain sum of both terms, shape `[1]`.
    #[must_use]
    pub fn total(self) -> Tensor<1> {
        self.dice + self.cross_entropy
    }
}

/// Softmax Dice and cross entropy of `logits` [N, C, X, Y, Z] against `labels` [N, 1, X, Y, Z].
///
/// Labels are class indices in 0..C. A voxel whose label lies outside that range matches no class: it adds nothing
/// to the cross entropy and only predictions to the Dice denominator, so callers check labels when they are read.
///
/// # Panics
/// If the two shapes disagree in anything but the channel axis, or `labels` has more than one channel.
#[must_use]
pub fn dice_ce(logits: Tensor<5>, labels: Tensor<5, Int>) -> DiceCe {
    let [num_cases, num_classes, x, y, z] = logits.dims();
    assert_eq!(labels.dims(), [num_cases, 1, x, y, z], "labels must be [N, 1, X, Y, Z] of the logits");
    let num_voxels = x * y * z;

    // One spatial axis from here on: reductions over one axis are cheaper than over three.
    let log_probs = log_softmax(logits.reshape([num_cases, num_classes, num_voxels]), 1);
    let device = log_probs.device().inner();
    let classes = i64::try_from(num_classes).expect("class count fits an i64");
    let classes = Tensor::<1, Int>::arange(0..classes, &device).reshape([1, num_classes, 1]);
    let one_hot = labels
        .reshape([num_cases, 1, num_voxels])
        .expand([num_cases, num_classes, num_voxels])
        .equal(classes.expand([num_cases, num_classes, num_voxels]))
        .float()
        .cast(log_probs.dtype());

    let cross_entropy = (log_probs.clone() * one_hot.clone()).sum_dim(1).mean().neg();

    let probs = log_probs.exp();
    // A one-hot value is its own square, so the label's part of the denominator is its plain count.
    let intersection = (probs.clone() * one_hot.clone()).sum_dim(2);
    let denominator = probs.square().sum_dim(2) + one_hot.sum_dim(2);
    let dice = (intersection * 2.0 / (denominator + SMOOTH_DR)).neg().add_scalar(1.0).mean();
    DiceCe { dice, cross_entropy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn check(logits: [f32; 4], labels: [i64; 2], expected_dice: f32, expected_ce: f32) {
        let device = Device::flex();
        let logits = Tensor::<5>::from_data(TensorData::new(logits.to_vec(), [1, 2, 2, 1, 1]), &device);
        let labels = Tensor::<5, Int>::from_data(TensorData::new(labels.to_vec(), [1, 1, 2, 1, 1]), &device);
        let loss = dice_ce(logits, labels);
        let (dice, ce) = (loss.dice.into_scalar::<f32>(), loss.cross_entropy.into_scalar::<f32>());
        assert!((dice - expected_dice).abs() < 1e-5, "dice {dice}, expected {expected_dice}");
        assert!((ce - expected_ce).abs() < 1e-5, "cross entropy {ce}, expected {expected_ce}");
    }

    #[test]
    fn certain_and_right_is_zero() {
        check([50.0, -50.0, -50.0, 50.0], [0, 1], 0.0, 0.0);
    }

    #[test]
    fn undecided_is_ln_two() {
        // Each class: intersection 0.5, squared probabilities 0.25 + 0.25, one voxel of label: 1 - 1 / 1.5.
        check([0.0; 4], [0, 1], 1.0 / 3.0, std::f32::consts::LN_2);
    }

    #[test]
    fn an_absent_class_counts_as_a_full_miss() {
        check([50.0, 50.0, -50.0, -50.0], [0, 0], 0.5, 0.0);
    }
}
