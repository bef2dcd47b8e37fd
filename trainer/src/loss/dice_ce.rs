//! Soft Dice plus cross entropy, the fine-tuning loss.
//!
//! The Dice term squares both the probabilities and the one-hot labels in its denominator, is computed for each case
//! and class (background included) over that case's voxels alone, and only then averaged. With `smooth_nr` 0 a class
//! that is absent from a case contributes a constant 1 and no useful gradient, as in the reference.
//!
//! Voxels with the ignore label are masked as in nnU-Net: they enter none of the sums of the Dice term, and the cross
//! entropy is the mean over all other voxels, 0 if there are none. The two terms of a micro-batch are therefore means
//! over different quantities, crops and annotated voxels, and have different weights in the loss of a step
//! ([`Share`](crate::training::Share)).
//!
//! Source of the Dice form: Milletari et al., *V-Net*, 2016, section 3.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, IntDType, Tensor};

use super::class_map::ClassMap;
use crate::label_space::LabelSpace;
use crate::ops;
use crate::ops::class_sums::ClassSums;
use crate::ops::fixed_order;

/// Term added to the Dice denominator, so that it is not zero for a class absent from both label and prediction.
pub const SMOOTH_DR: f64 = 1e-6;

/// Both terms of the loss, kept separate so that a run can report them; each is a scalar of shape `[1]`.
#[derive(Debug, Clone)]
pub struct DiceCe {
    /// One minus the soft Dice, averaged over cases and classes; in [0, 1].
    pub dice: Tensor<1>,
    /// Cross entropy in nats, averaged over voxels.
    pub cross_entropy: Tensor<1>,
}

impl DiceCe {
    /// Loss to minimise: the plain sum of both terms, shape `[1]`.
    #[must_use]
    pub fn total(self) -> Tensor<1> {
        self.dice + self.cross_entropy
    }
}

/// Softmax Dice and cross entropy of `logits` `[N, C, X, Y, Z]` against labels `[N, 1, X, Y, Z]`.
///
/// # Panics
/// If the labels were checked against another number of classes than C, or the shapes disagree in anything but the
/// channel axis.
#[must_use]
pub fn dice_ce(logits: Tensor<5>, labels: &ClassMap) -> DiceCe {
    let [num_cases, num_classes, x, y, z] = logits.dims();
    let space = labels.space();
    assert_eq!(space.num_classes(), num_classes, "labels were checked against another number of classes");
    let labels = labels.labels();
    assert_eq!(labels.dims(), [num_cases, 1, x, y, z], "labels must be [N, 1, X, Y, Z] of the logits");
    if let Some(terms) = ops::dice_ce::on_cpu(&logits, &labels, space.ignore(), SMOOTH_DR) {
        let [dice, cross_entropy] = [0, 1].map(|term| terms.clone().narrow(0, term, 1));
        return DiceCe { dice, cross_entropy };
    }
    match ops::class_sums::on_gpu(&logits, &labels, space.ignore()) {
        Some(sums) => of_sums(sums),
        None => composed(logits, labels, space),
    }
}

/// Computes the loss from its sums over voxels.
fn of_sums(ClassSums { intersection, squares, voxels, log_likelihood }: ClassSums) -> DiceCe {
    let denominator = squares + voxels.clone() + SMOOTH_DR;
    let dice = fixed_order::mean((intersection * 2.0 / denominator).neg().add_scalar(1.0));
    // Each counted voxel has one label.
    let cross_entropy = (fixed_order::sum(log_likelihood) / fixed_order::sum(voxels).clamp_min(1.0)).neg();
    DiceCe { dice, cross_entropy }
}

/// Computes the loss by Burn's own operations.
fn composed(logits: Tensor<5>, labels: Tensor<5, Int>, space: LabelSpace) -> DiceCe {
    let [num_cases, num_classes, x, y, z] = logits.dims();
    let num_voxels = x * y * z;

    // One spatial axis from here on: reductions over one axis are cheaper than over three.
    let log_probs = log_softmax(logits.reshape([num_cases, num_classes, num_voxels]), 1);
    let (device, dtype) = (log_probs.device().inner(), log_probs.dtype());
    let classes = i64::try_from(num_classes).expect("class count fits an i64");
    let classes = Tensor::<1, Int>::arange(0..classes, &device).reshape([1, num_classes, 1]);
    let labels = labels.reshape([num_cases, 1, num_voxels]).cast(IntDType::from(classes.dtype()));
    // An ignored voxel matches no class: all of its one-hot values are 0.
    let one_hot = labels
        .clone()
        .expand([num_cases, num_classes, num_voxels])
        .equal(classes.expand([num_cases, num_classes, num_voxels]))
        .float()
        .cast(dtype);
    let annotated = space.ignore().map(|ignore| labels.not_equal_elem(i64::from(ignore)).float().cast(dtype));

    let matched = (log_probs.clone() * one_hot.clone()).sum_dim(1);
    let cross_entropy = match &annotated {
        None => matched.mean().neg(),
        Some(annotated) => (matched.sum() / annotated.clone().sum().clamp_min(1.0)).neg(),
    };

    let probs = log_probs.exp();
    let probs = match annotated {
        None => probs,
        Some(annotated) => probs * annotated,
    };
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

    /// Loss of one crop with two classes; `logits` holds those of class 0 for all voxels, followed by those of class 1.
    fn loss(logits: &[f32], labels: &[u8], ignore: Option<u8>) -> (f32, f32) {
        let (device, len) = (Device::flex(), labels.len());
        let logits = Tensor::<5>::from_data(TensorData::new(logits.to_vec(), [1, 2, len, 1, 1]), &device);
        let space = LabelSpace::new(2).with_ignore(ignore);
        let loss = dice_ce(logits, &ClassMap::upload(labels, 1, [len, 1, 1], space, &device).unwrap());
        (loss.dice.into_scalar::<f32>(), loss.cross_entropy.into_scalar::<f32>())
    }

    fn check(logits: &[f32], labels: &[u8], ignore: Option<u8>, expected_dice: f32, expected_ce: f32) {
        let (dice, ce) = loss(logits, labels, ignore);
        assert!((dice - expected_dice).abs() < 1e-5, "dice {dice}, expected {expected_dice}");
        assert!((ce - expected_ce).abs() < 1e-5, "cross entropy {ce}, expected {expected_ce}");
    }

    #[test]
    fn the_operations_of_cpu_and_gpus_are_the_composed_loss() {
        let device = Device::flex().autodiff();
        let (dims, len) = ([2, 3, 4, 5, 6], 120);
        for ignore in [None, Some(3)] {
            let space = LabelSpace::new(3).with_ignore(ignore);
            let labels: Vec<u8> =
                (0..2 * len).map(|at| (at / 7 % if ignore.is_some() { 4 } else { 3 }) as u8).collect();
            let labels = ClassMap::upload(&labels, 2, [4, 5, 6], space, &Device::flex()).unwrap();
            let logits: Vec<f32> = (0..2 * 3 * len).map(|at| (at as f32 * 0.37).sin() * 3.0).collect();
            let outcome = |function: &dyn Fn(Tensor<5>) -> DiceCe| {
                let logits = Tensor::<5>::from_data(TensorData::new(logits.clone(), dims), &device).require_grad();
                let DiceCe { dice, cross_entropy } = function(logits.clone());
                let terms = [dice.clone(), cross_entropy.clone()].map(|term| term.inner().into_scalar::<f32>());
                let grads = (dice * 0.7 + cross_entropy * 1.3).backward();
                (terms, logits.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap())
            };
            let (expected, expected_gradient) = outcome(&|logits| composed(logits, labels.labels(), space));
            let largest = expected_gradient.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let of_gpus = |logits| of_sums(ops::class_sums::of_volumes(&logits, &labels.labels(), space.ignore()));
            for (terms, gradient) in [outcome(&|logits| dice_ce(logits, &labels)), outcome(&of_gpus)] {
                for (term, expected) in terms.iter().zip(expected) {
                    assert!((term - expected).abs() < 1e-6, "{term}, expected {expected}");
                }
                for (value, expected) in gradient.iter().zip(&expected_gradient) {
                    assert!((value - expected).abs() < 1e-5 * largest, "{value}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn a_certain_and_right_prediction_has_no_loss() {
        check(&[50.0, -50.0, -50.0, 50.0], &[0, 1], None, 0.0, 0.0);
    }

    #[test]
    fn an_undecided_prediction_costs_ln_two() {
        // Each class: intersection 0.5, squared probabilities 0.25 + 0.25, one voxel of label: 1 - 1 / 1.5.
        check(&[0.0; 4], &[0, 1], None, 1.0 / 3.0, std::f32::consts::LN_2);
    }

    #[test]
    fn an_absent_class_counts_as_a_full_miss() {
        check(&[50.0, 50.0, -50.0, -50.0], &[0, 0], None, 0.5, 0.0);
    }

    #[test]
    fn ignored_voxels_have_no_part_in_either_term() {
        // The loss depends on the first two voxels only, whatever is predicted at the third and fourth.
        for third in [-3.0, 0.0, 7.0] {
            let logits = [0.0, 0.0, third, 1.0, 0.0, 0.0, -third, third];
            check(&logits, &[0, 1, 2, 2], Some(2), 1.0 / 3.0, std::f32::consts::LN_2);
        }
        // nnU-Net's cross entropy over no voxel is 0; both classes are absent.
        check(&[0.5, 0.1, 0.2, 0.3], &[2, 2], Some(2), 1.0, 0.0);
        // An ignore label that does not occur changes nothing.
        let logits = [0.3, -0.2, 0.9, 0.1];
        let (plain, with) = (loss(&logits, &[0, 1], None), loss(&logits, &[0, 1], Some(2)));
        assert!((plain.0 - with.0).abs() < 1e-6 && (plain.1 - with.1).abs() < 1e-6, "{plain:?} {with:?}");
    }

    #[test]
    fn ignored_voxels_get_no_gradient() {
        let device = Device::flex().autodiff();
        let logits = TensorData::new(vec![0.3_f32, -0.2, 0.9, 0.1, 0.4, -1.0], [1, 2, 3, 1, 1]);
        let logits = Tensor::<5>::from_data(logits, &device).require_grad();
        let space = LabelSpace::new(2).with_ignore(Some(2));
        let labels = ClassMap::upload(&[0, 2, 1], 1, [3, 1, 1], space, &device.clone().inner()).unwrap();
        let gradients = dice_ce(logits.clone(), &labels).total().backward();
        let gradient: Vec<f32> = logits.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        for (at, value) in gradient.into_iter().enumerate() {
            assert_eq!(value == 0.0, at % 3 == 1, "gradient {value} at {at}");
        }
    }

    #[test]
    #[should_panic(expected = "another number of classes")]
    fn labels_of_more_classes_than_logits_are_refused() {
        let device = Device::flex();
        let labels = ClassMap::upload(&[0, 4], 1, [2, 1, 1], LabelSpace::new(5), &device).unwrap();
        let _ = dice_ce(Tensor::zeros([1, 3, 2, 1, 1], &device), &labels);
    }
}
