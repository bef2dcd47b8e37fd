//! Sums over the voxels of each case and class from which the fine-tuning loss is computed, on GPUs, as one operation
//! with one derivative: the logits are read once in the forward pass and once in the backward pass. Composed of Burn's
//! operations, softmax, one-hot labels, products and sums are some 60 passes over as many values as there are logits.
//!
//! With the softmax `p` of a voxel's logits and its one-hot label `y`, the sums of a class are `Σ p·y`, `Σ p²`, `Σ y`
//! and `Σ y·ln p`. For their gradients `a`, `b`, (none) and `d`, the gradient of a logit is `p·(g - Σ p·g) + d·(y - p)`
//! with `g = a·y + 2·b·p` and the `d` of the label. Voxels with the ignore label enter no sum.

pub(super) mod kinds;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{FloatDType, Int, Tensor};

use self::kinds::KINDS;
use super::conv::{channels_last, is_on_flex};
use super::{cpu, widened};

/// Sums of each case and class, `[N, C]` each.
#[derive(Clone, Debug)]
pub struct ClassSums {
    /// Sum of the probabilities of the class over the voxels with its label.
    pub intersection: Tensor<2>,
    /// Sum of the squared probabilities of the class.
    pub squares: Tensor<2>,
    /// Number of voxels with the label.
    pub voxels: Tensor<2>,
    /// Sum of the logarithms of the probability of the class over the voxels with its label.
    pub log_likelihood: Tensor<2>,
}

/// Largest number of classes for the kernels, which are unrolled over classes: on Vulkan's software device a kernel for
/// 14 classes compiles in a second, one for 33 takes more than five minutes.
const MOST_CLASSES: usize = 16;

/// Computes the sums of `logits` `[N, C, X, Y, Z]` with `labels` `[N, 1, X, Y, Z]`, each a class or `ignore`. `None` on
/// the CPU, and for more than 16 classes.
#[must_use]
pub fn on_gpu(logits: &Tensor<5>, labels: &Tensor<5, Int>, ignore: Option<u8>) -> Option<ClassSums> {
    (!is_on_flex(logits) && logits.dims()[1] <= MOST_CLASSES).then(|| of_volumes(logits, labels, ignore))
}

/// Computes the same sums as [`on_gpu`], on any device.
pub(crate) fn of_volumes(logits: &Tensor<5>, labels: &Tensor<5, Int>, ignore: Option<u8>) -> ClassSums {
    let [cases, classes, x, y, z] = logits.dims();
    // Copies nothing if the logits' channels are neighbours in memory.
    let logits = channels_last(logits.clone()).reshape([cases, x * y * z, classes]);
    let labels = labels.clone().reshape([cases, x * y * z]).cast(FloatDType::F32);
    of_rows(logits, labels, ignore)
}

/// Computes the sums of `logits` `[N, V, C]` with `labels` `[N, V]`, without gradients.
fn of_rows(logits: Tensor<3>, labels: Tensor<2>, ignore: Option<u8>) -> ClassSums {
    let labels = if logits.is_autodiff() { Tensor::from_inner(labels) } else { labels };
    let (logits, labels) = (logits.into_dispatch(), labels.into_dispatch());
    let sums = Tensor::<3>::from_dispatch(<Dispatch as SumClasses>::sum_classes(logits, labels, ignore));
    let [intersection, squares, voxels, log_likelihood] =
        [0, 1, 2, 3].map(|kind| sums.clone().narrow(1, kind, 1).squeeze_dim::<2>(1));
    ClassSums { intersection, squares, voxels, log_likelihood }
}

/// Differentiable operation, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait SumClasses: Backend {
    /// Computes the sums `[N, 4, C]` of `logits` `[N, V, C]` with `labels` `[N, V]`, in f32.
    fn sum_classes(logits: FloatTensor<Self>, labels: FloatTensor<Self>, ignore: Option<u8>) -> FloatTensor<Self>;
}

/// The operation and its derivative without a graph, for each backend.
pub trait ClassSumParts: Backend {
    /// Computes the sums that [`SumClasses::sum_classes`] describes, without a graph.
    #[must_use]
    fn sums(logits: FloatTensor<Self>, labels: FloatTensor<Self>, ignore: Option<u8>) -> FloatTensor<Self>;

    /// Gradient of the logits, in their number type, given the gradient of the sums.
    #[must_use]
    fn gradient(
        logits: FloatTensor<Self>,
        labels: FloatTensor<Self>,
        ignore: Option<u8>,
        dsums: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Reference implementation, voxel by voxel.
mod reference {
    use super::{Flex, FloatTensor, KINDS, cpu, widened};
    use burn::backend::TensorMetadata as _;

    /// Logits in f32 and labels, in order, with the number of classes and of voxels per case.
    pub(super) struct Voxels {
        logits: FloatTensor<Flex>,
        labels: FloatTensor<Flex>,
        classes: usize,
        per_case: usize,
        ignore: Option<u8>,
    }

    impl Voxels {
        pub(super) fn new(logits: FloatTensor<Flex>, labels: FloatTensor<Flex>, ignore: Option<u8>) -> Self {
            let [_, per_case, classes] = logits.shape().dims();
            let (logits, labels) = (cpu::in_order(widened::<Flex>(logits)), cpu::in_order(labels));
            Self { logits, labels, classes, per_case, ignore }
        }

        /// Calls `function` with number, label and softmax of each voxel that is not ignored.
        fn for_each(&self, mut function: impl FnMut(usize, usize, &[f64])) {
            let rows = cpu::values(&self.logits).chunks_exact(self.classes);
            for (voxel, (row, &label)) in rows.zip(cpu::values(&self.labels)).enumerate() {
                let label = label as usize;
                if self.ignore.map(usize::from) == Some(label) {
                    continue;
                }
                let largest = row.iter().fold(f32::NEG_INFINITY, |largest, &logit| largest.max(logit));
                let powers: Vec<f64> = row.iter().map(|logit| f64::from(logit - largest).exp()).collect();
                let total = powers.iter().sum::<f64>();
                let p: Vec<f64> = powers.iter().map(|power| power / total).collect();
                function(voxel, label, &p);
            }
        }

        pub(super) fn sums(&self) -> FloatTensor<Flex> {
            let classes = self.classes;
            let width = KINDS as usize * classes;
            let cases = cpu::values(&self.labels).len() / self.per_case;
            let mut sums = vec![0.0_f64; cases * width];
            self.for_each(|voxel, label, p| {
                let sums = &mut sums[voxel / self.per_case * width..][..width];
                sums[label] += p[label];
                sums[2 * classes + label] += 1.0;
                sums[3 * classes + label] += p[label].ln();
                for (square, p) in sums[classes..2 * classes].iter_mut().zip(p) {
                    *square += p * p;
                }
            });
            let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
            cpu::tensor(sums, [cases, KINDS as usize, classes])
        }

        pub(super) fn gradient(&self, dsums: FloatTensor<Flex>) -> FloatTensor<Flex> {
            let (classes, dsums) = (self.classes, cpu::in_order(dsums));
            let mut gradient = vec![0.0_f32; cpu::values(&self.logits).len()];
            self.for_each(|voxel, label, p| {
                let width = KINDS as usize * classes;
                let dsums = &cpu::values(&dsums)[voxel / self.per_case * width..][..width];
                let of_p = |class: usize| {
                    let of_label = if class == label { dsums[class] } else { 0.0 };
                    f64::from(of_label) + 2.0 * p[class] * f64::from(dsums[classes + class])
                };
                let along: f64 = (0..classes).map(|class| p[class] * of_p(class)).sum();
                let of_log = f64::from(dsums[3 * classes + label]);
                for (class, gradient) in gradient[voxel * classes..][..classes].iter_mut().enumerate() {
                    let y = if class == label { 1.0 } else { 0.0 };
                    *gradient = (p[class] * (of_p(class) - along) + of_log * (y - p[class])) as f32;
                }
            });
            cpu::tensor(gradient, self.logits.shape())
        }
    }
}

impl ClassSumParts for Flex {
    fn sums(logits: FloatTensor<Self>, labels: FloatTensor<Self>, ignore: Option<u8>) -> FloatTensor<Self> {
        reference::Voxels::new(logits, labels, ignore).sums()
    }

    fn gradient(
        logits: FloatTensor<Self>,
        labels: FloatTensor<Self>,
        ignore: Option<u8>,
        dsums: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let dtype = logits.dtype().into();
        super::cast::<Self>(reference::Voxels::new(logits, labels, ignore).gradient(dsums), dtype)
    }
}

#[cfg(feature = "cube")]
impl ClassSumParts for burn::backend::Cube {
    fn sums(logits: FloatTensor<Self>, labels: FloatTensor<Self>, ignore: Option<u8>) -> FloatTensor<Self> {
        super::kernels::class_sums::sums(logits, labels, ignore)
    }

    fn gradient(
        logits: FloatTensor<Self>,
        labels: FloatTensor<Self>,
        ignore: Option<u8>,
        dsums: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        super::kernels::class_sums::gradient(logits, labels, ignore, dsums)
    }
}

impl SumClasses for Flex {
    fn sum_classes(logits: FloatTensor<Self>, labels: FloatTensor<Self>, ignore: Option<u8>) -> FloatTensor<Self> {
        <Self as ClassSumParts>::sums(logits, labels, ignore)
    }
}

#[cfg(feature = "cube")]
impl SumClasses for burn::backend::Cube {
    fn sum_classes(logits: FloatTensor<Self>, labels: FloatTensor<Self>, ignore: Option<u8>) -> FloatTensor<Self> {
        <Self as ClassSumParts>::sums(logits, labels, ignore)
    }
}

/// Derivative of the operation, whose only parent is the logits.
#[derive(Debug)]
struct Derivative {
    ignore: Option<u8>,
}

impl<B: ClassSumParts> Backward<B, 1> for Derivative {
    /// Logits and labels.
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (logits, labels) = ops.state;
        let dsums = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::gradient(logits, labels, self.ignore, dsums));
        }
    }
}

impl<B: SumClasses + ClassSumParts, C: CheckpointStrategy> SumClasses for Autodiff<B, C> {
    fn sum_classes(logits: FloatTensor<Self>, labels: FloatTensor<Self>, ignore: Option<u8>) -> FloatTensor<Self> {
        let nodes = [logits.node()];
        let (logits, labels) = (logits.into_primitive(), labels.into_primitive());
        match Backward::<B, 1>::prepare::<C>(Derivative { ignore }, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let sums = <B as ClassSumParts>::sums(logits.clone(), labels.clone(), ignore);
                prepared.finish((logits, labels), sums)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::sum_classes(logits, labels, ignore)),
        }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{Outcome, on_devices, short_of, values_and_gradients, wave};
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{Device, TensorData};

    /// Numbers of voxels per case and of classes. The first entry has several groups, the last of which is not full.
    const SIZES: [(usize, usize); 4] = [(70_001, 2), (333, 14), (64, 3), (5, MOST_CLASSES)];

    fn labels(voxels: usize, classes: usize, device: &Device) -> Tensor<2> {
        let label = |at: usize| (at * 7919 / 3 % (classes + 1)) as f32;
        Tensor::from_data(TensorData::new((0..2 * voxels).map(label).collect::<Vec<_>>(), [2, voxels]), device)
    }

    /// Sums of two cases as `[2, 4, C]`, and the gradient of the logits.
    fn outcome(
        device: &Device,
        (voxels, classes): (usize, usize),
        sums: impl Fn(Tensor<3>, Tensor<2>) -> ClassSums,
    ) -> Outcome {
        values_and_gradients(device, &[wave([2, voxels, classes], 0.7, 4.0)], |[logits]| {
            let ClassSums { intersection, squares, voxels, log_likelihood } =
                sums(logits, labels(voxels, classes, &device.clone().inner()));
            Tensor::stack(vec![intersection, squares, voxels, log_likelihood], 1)
        })
    }

    /// Computes the sums by Burn's operations. Labels above the classes are ignored.
    fn composed(logits: Tensor<3>, labels: Tensor<2>) -> ClassSums {
        let [cases, voxels, classes] = logits.dims();
        let device = labels.device();
        let numbers: Vec<f32> = (0..classes).map(|class| class as f32).collect();
        let numbers = Tensor::<1>::from_data(TensorData::new(numbers, [classes]), &device);
        let one_hot = labels.clone().reshape([cases, voxels, 1]).expand([cases, voxels, classes]);
        let one_hot = one_hot.equal(numbers.reshape([1, 1, classes]).expand([cases, voxels, classes])).float();
        let annotated = labels.lower_elem(classes as f32).float().reshape([cases, voxels, 1]);
        let (one_hot, annotated) = if logits.is_autodiff() {
            (Tensor::from_inner(one_hot), Tensor::from_inner(annotated))
        } else {
            (one_hot, annotated)
        };
        let log_probs = log_softmax(logits, 2);
        let probs = log_probs.clone().exp() * annotated;
        let total = |x: Tensor<3>| x.sum_dim(1).squeeze_dim::<2>(1);
        ClassSums {
            intersection: total(probs.clone() * one_hot.clone()),
            squares: total(probs.square()),
            voxels: total(one_hot.clone()),
            log_likelihood: total(log_probs * one_hot),
        }
    }

    fn values_and_gradients_match_the_composition(device: &Device) {
        for size in SIZES {
            let ignore = Some(size.1 as u8);
            let ours = outcome(device, size, |logits, labels| of_rows(logits, labels, ignore));
            // Sums of up to 70,001 values in another order, those of the composition in f32 one after another.
            ours.assert_close(&outcome(&Device::flex(), size, composed), 5e-5);
        }
    }

    fn sixteen_bit_logits_are_read_as_they_are(device: &Device) {
        let short = short_of(device);
        for size in SIZES {
            let ignore = Some(size.1 as u8);
            let ours = outcome(device, size, |logits, labels| of_rows(logits.cast(short), labels, ignore));
            let rounded = |logits: Tensor<3>, labels| composed(logits.cast(short).cast(FloatDType::F32), labels);
            // The gradient is rounded to 16 bits once.
            ours.assert_close(&outcome(&Device::flex(), size, rounded), 5e-3);
        }
    }

    fn the_same_logits_give_the_same_bits(device: &Device) {
        let sums = || outcome(device, SIZES[0], |logits, labels| of_rows(logits, labels, Some(2)));
        sums().assert_close(&sums(), 0.0);
    }

    on_devices!(
        values_and_gradients_match_the_composition,
        sixteen_bit_logits_are_read_as_they_are,
        the_same_logits_give_the_same_bits,
    );
}
