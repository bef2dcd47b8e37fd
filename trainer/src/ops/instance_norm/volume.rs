//! Instance norm of channels-last volumes `[N, X, Y, Z, C]`, the sum with a branch and the leaky rectifier, as one operation
//! with one derivative.
//!
//! With `x̂ = (x - mean) · rstd` and `g = dy · leaky'(x̂ + branch)`: `dx = rstd · (g - mean(g) - x̂ · mean(g · x̂))`,
//! and in the same way for a normalised branch; a plain branch has the gradient `g`. Inputs, statistics and `dy` determine the
//! gradients, so the result is not kept.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{FloatDType, Shape, Tensor};

use super::NormLeaky;
use crate::ops::{cast, dtype_of, widened};

/// Computes `leaky(norm(x))` for `x` `[N, X, Y, Z, C]`, in `dtype`. The gradient has the type of `x`.
#[must_use]
pub fn alone(x: Tensor<5>, options: NormLeaky, dtype: FloatDType) -> Tensor<5> {
    Tensor::from_dispatch(<Dispatch as VolumeNorm>::norm_alone(x.into_dispatch(), options, dtype))
}

/// Computes `leaky(norm(x) + branch)` for `x` and a branch `[N, X, Y, Z, C]`, in `dtype`; the branch is normalised if
/// `normed`. Gradients have the types of their tensors.
#[must_use]
pub fn joined(x: Tensor<5>, branch: Tensor<5>, normed: bool, options: NormLeaky, dtype: FloatDType) -> Tensor<5> {
    let (x, branch) = (x.into_dispatch(), branch.into_dispatch());
    Tensor::from_dispatch(<Dispatch as VolumeNorm>::norm_joined(x, branch, normed, options, dtype))
}

/// Differentiable operations, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait VolumeNorm: Backend {
    /// Norm and rectifier of one tensor, as in [`alone`].
    fn norm_alone(x: FloatTensor<Self>, options: NormLeaky, dtype: FloatDType) -> FloatTensor<Self>;

    /// Norm of a tensor, sum with the branch and rectifier, as in [`joined`].
    fn norm_joined(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        normed: bool,
        options: NormLeaky,
        dtype: FloatDType,
    ) -> FloatTensor<Self>;
}

/// Second summand before the rectifier, with its statistics if it is normalised.
pub type Summand<B> = (FloatTensor<B>, Option<<B as VolumeNorms>::Stats>);

/// Parts of the operation without derivatives, for each backend.
pub trait VolumeNorms: Backend {
    /// Mean and reciprocal standard deviation of each case and channel.
    type Stats: Clone + Debug + Send + 'static;

    /// Computes the statistics of `x` over its voxels.
    #[must_use]
    fn stats(x: FloatTensor<Self>, epsilon: f64) -> Self::Stats;

    /// Computes `leaky(norm(x) + branch)`, in `dtype`.
    #[must_use]
    fn bent(
        x: FloatTensor<Self>,
        stats: Self::Stats,
        branch: Option<Summand<Self>>,
        slope: f64,
        dtype: FloatDType,
    ) -> FloatTensor<Self>;

    /// Computes the gradients of `x` and of the branch, in their types.
    #[must_use]
    fn bent_gradients(
        x: FloatTensor<Self>,
        stats: Self::Stats,
        branch: Option<Summand<Self>>,
        dy: FloatTensor<Self>,
        slope: f64,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>);
}

/// Parts composed of the backend's own operations.
mod composed {
    use super::{Backend, FloatDType, FloatTensor, Shape, cast, dtype_of, widened};
    use burn::backend::TensorMetadata as _;

    /// Mean and reciprocal standard deviation, `[N, 1, C]`.
    pub(super) type Stats<B> = [FloatTensor<B>; 2];

    /// A tensor with its statistics, if it is normalised.
    type Term<B> = (FloatTensor<B>, Option<Stats<B>>);

    /// Reshapes a tensor to `[N, V, C]`, in at least 32 bits.
    fn rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        let [n, dx, dy, dz, channels] = x.shape().dims();
        B::float_reshape(widened::<B>(x), Shape::from([n, dx * dy * dz, channels]))
    }

    pub(super) fn stats<B: Backend>(x: FloatTensor<B>, epsilon: f64) -> Stats<B> {
        let x = rows::<B>(x);
        let mean = B::float_mean_dim(x.clone(), 1);
        let centered = B::float_sub(x, mean.clone());
        let variance = B::float_mean_dim(B::float_mul(centered.clone(), centered), 1);
        [mean, B::float_recip(B::float_sqrt(B::float_add_scalar(variance, epsilon.into())))]
    }

    /// Rows of a term in the form in which they are added.
    fn added<B: Backend>((x, stats): Term<B>) -> FloatTensor<B> {
        match stats {
            Some([mean, rstd]) => B::float_mul(B::float_sub(rows::<B>(x), mean), rstd),
            None => rows::<B>(x),
        }
    }

    pub(super) fn bent<B: Backend>(
        x: FloatTensor<B>,
        stats: Stats<B>,
        branch: Option<Term<B>>,
        slope: f64,
        dtype: FloatDType,
    ) -> FloatTensor<B> {
        let shape = x.shape();
        let mut z = added::<B>((x, Some(stats)));
        if let Some(branch) = branch {
            z = B::float_add(z, added::<B>(branch));
        }
        cast::<B>(B::float_reshape(B::leaky_relu(z, slope.into()), shape), dtype)
    }

    /// Gradient of a tensor, given that of its normalised values.
    fn gradient<B: Backend>(g: FloatTensor<B>, normal: FloatTensor<B>, rstd: FloatTensor<B>) -> FloatTensor<B> {
        let along = B::float_mean_dim(B::float_mul(g.clone(), normal.clone()), 1);
        let centered = B::float_sub(g.clone(), B::float_mean_dim(g, 1));
        B::float_mul(B::float_sub(centered, B::float_mul(normal, along)), rstd)
    }

    pub(super) fn gradients<B: Backend>(
        x: FloatTensor<B>,
        stats: Stats<B>,
        branch: Option<Term<B>>,
        dy: FloatTensor<B>,
        slope: f64,
    ) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        let (shape, dtype) = (x.shape(), dtype_of::<B>(&x));
        let [_, rstd] = stats.clone();
        let own = added::<B>((x, Some(stats)));
        let branch = branch.map(|(x, stats)| {
            let (dtype, deviation) = (dtype_of::<B>(&x), stats.as_ref().map(|[_, rstd]| rstd.clone()));
            (added::<B>((x, stats)), deviation, dtype)
        });
        let z = match &branch {
            Some((other, ..)) => B::float_add(own.clone(), other.clone()),
            None => own.clone(),
        };
        // Half of 1 + slope, plus or minus half of 1 - slope.
        let half = B::float_mul_scalar(B::float_sign(z), f64::midpoint(1.0, -slope).into());
        let factor = B::float_add_scalar(half, f64::midpoint(1.0, slope).into());
        let g = B::float_mul(rows::<B>(dy), factor);
        let back = |x: FloatTensor<B>, dtype| cast::<B>(B::float_reshape(x, shape.clone()), dtype);
        let dx = back(gradient::<B>(g.clone(), own, rstd), dtype);
        let dbranch = branch.map(|(other, deviation, dtype)| match deviation {
            Some(rstd) => back(gradient::<B>(g, other, rstd), dtype),
            None => back(g, dtype),
        });
        (dx, dbranch)
    }
}

impl VolumeNorms for Flex {
    type Stats = composed::Stats<Self>;

    fn stats(x: FloatTensor<Self>, epsilon: f64) -> Self::Stats {
        composed::stats::<Self>(x, epsilon)
    }

    fn bent(
        x: FloatTensor<Self>,
        stats: Self::Stats,
        branch: Option<Summand<Self>>,
        slope: f64,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        composed::bent::<Self>(x, stats, branch, slope, dtype)
    }

    fn bent_gradients(
        x: FloatTensor<Self>,
        stats: Self::Stats,
        branch: Option<Summand<Self>>,
        dy: FloatTensor<Self>,
        slope: f64,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        composed::gradients::<Self>(x, stats, branch, dy, slope)
    }
}

#[cfg(feature = "cube")]
impl VolumeNorms for burn::backend::Cube {
    /// Mean and reciprocal standard deviation, `[2, N, C]`.
    type Stats = FloatTensor<Self>;

    fn stats(x: FloatTensor<Self>, epsilon: f64) -> Self::Stats {
        kernels::stats(x, epsilon)
    }

    fn bent(
        x: FloatTensor<Self>,
        stats: Self::Stats,
        branch: Option<Summand<Self>>,
        slope: f64,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        let branch = branch.map(|(x, stats)| kernels::Summand { x, stats });
        kernels::forward(x, stats, branch, slope as f32, dtype)
    }

    fn bent_gradients(
        x: FloatTensor<Self>,
        stats: Self::Stats,
        branch: Option<Summand<Self>>,
        dy: FloatTensor<Self>,
        slope: f64,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let branch = branch.map(|(x, stats)| kernels::Summand { x, stats });
        kernels::backward(x, stats, branch, dy, slope as f32)
    }
}

#[cfg(feature = "cube")]
use crate::ops::kernels::instance_norm as kernels;

/// Inputs with their statistics.
#[derive(Clone, Debug)]
struct Saved<B: VolumeNorms> {
    x: FloatTensor<B>,
    stats: B::Stats,
    branch: Option<Summand<B>>,
    slope: f64,
}

impl<B: VolumeNorms> Saved<B> {
    /// Computes the statistics of `x`, and of the branch if its flag states that it is normalised.
    fn new(x: FloatTensor<B>, branch: Option<(FloatTensor<B>, bool)>, options: NormLeaky) -> Self {
        let stats = B::stats(x.clone(), options.epsilon);
        let branch = branch.map(|(branch, normed)| {
            let stats = normed.then(|| B::stats(branch.clone(), options.epsilon));
            (branch, stats)
        });
        Self { x, stats, branch, slope: options.slope }
    }

    fn value(&self, dtype: FloatDType) -> FloatTensor<B> {
        B::bent(self.x.clone(), self.stats.clone(), self.branch.clone(), self.slope, dtype)
    }
}

/// The operations without a derivative.
impl<B: VolumeNorms> VolumeNorm for B {
    fn norm_alone(x: FloatTensor<Self>, options: NormLeaky, dtype: FloatDType) -> FloatTensor<Self> {
        Saved::<Self>::new(x, None, options).value(dtype)
    }

    fn norm_joined(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        normed: bool,
        options: NormLeaky,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        Saved::<Self>::new(x, Some((branch, normed)), options).value(dtype)
    }
}

/// Derivative of the operation, whose parents are `x` and, if there is one, the branch.
#[derive(Debug)]
struct Derivative;

impl<B: VolumeNorms, const N: usize> Backward<B, N> for Derivative {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Saved { x, stats, branch, slope } = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let (dx, dbranch) = B::bent_gradients(x, stats, branch, dy, slope);
        for (parent, grad) in ops.parents.into_iter().zip([Some(dx), dbranch]) {
            if let (Some(node), Some(grad)) = (parent, grad) {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

impl<B: VolumeNorms, C: CheckpointStrategy> VolumeNorm for Autodiff<B, C> {
    fn norm_alone(x: FloatTensor<Self>, options: NormLeaky, dtype: FloatDType) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        match Backward::<B, 1>::prepare::<C>(Derivative, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let saved = Saved::<B>::new(x, None, options);
                let y = saved.value(dtype);
                prepared.finish(saved, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::norm_alone(x, options, dtype)),
        }
    }

    fn norm_joined(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        normed: bool,
        options: NormLeaky,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), branch.node()];
        let (x, branch) = (x.into_primitive(), branch.into_primitive());
        match Backward::<B, 2>::prepare::<C>(Derivative, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let saved = Saved::<B>::new(x, Some((branch, normed)), options);
                let y = saved.value(dtype);
                prepared.finish(saved, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::norm_joined(x, branch, normed, options, dtype)),
        }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::instance_norm::Branch;
    use crate::ops::testing::{Outcome, on_devices, short_of, values_and_gradients, wave};
    use burn::tensor::{Device, TensorData};

    const OPTIONS: NormLeaky = NormLeaky { epsilon: 1e-5, slope: 0.01 };

    #[derive(Clone, Copy, Debug)]
    enum Kind {
        Alone,
        Plain,
        Normed,
    }

    const KINDS: [Kind; 3] = [Kind::Alone, Kind::Plain, Kind::Normed];
    /// Sizes of a volume, and numbers of channels divisible by vectors of four, of two, or only by one. In the first,
    /// groups have more voxels than the minimum, and the last group is not full.
    const SIZES: [([usize; 3], usize); 4] = [([41, 43, 39], 4), ([3, 4, 5], 12), ([1, 9, 8], 6), ([2, 3, 7], 5)];

    fn ours(x: Tensor<5>, branch: Tensor<5>, kind: Kind, dtype: FloatDType) -> Tensor<5> {
        match kind {
            Kind::Alone => alone(x, OPTIONS, dtype),
            Kind::Plain => joined(x, branch, false, OPTIONS, dtype),
            Kind::Normed => joined(x, branch, true, OPTIONS, dtype),
        }
    }

    /// Burn's operations on volumes with the channels first.
    fn burns(x: Tensor<5>, branch: Tensor<5>, kind: Kind) -> Tensor<5> {
        let [x, branch] = [x, branch].map(|x| x.permute([0, 4, 1, 2, 3]));
        let branch = match kind {
            Kind::Alone => Branch::None,
            Kind::Plain => Branch::Plain(branch),
            Kind::Normed => Branch::Normed(branch),
        };
        OPTIONS.composed(x, branch).permute([0, 2, 3, 4, 1])
    }

    fn inputs(voxels: usize, channels: usize) -> [TensorData; 2] {
        [wave([2, voxels, channels], 0.7, 1.0), wave([2, voxels, channels], 0.3, 2.0)]
    }

    /// Computes value and gradients of a function of `x` and the branch; the branch is tracked even if it is not used.
    fn outcome(
        device: &Device,
        ([sx, sy, sz], channels): ([usize; 3], usize),
        function: impl Fn(Tensor<5>, Tensor<5>) -> Tensor<5>,
    ) -> Outcome {
        let voxels = sx * sy * sz;
        values_and_gradients(device, &inputs(voxels, channels), |[x, branch]| {
            let [volume, other] = [x, branch.clone()].map(|x| x.reshape([2, sx, sy, sz, channels]));
            function(volume, other).cast(FloatDType::F32).reshape([2, voxels, channels]) + branch
        })
    }

    fn values_and_gradients_match_the_composition(device: &Device) {
        for size in SIZES {
            for kind in KINDS {
                let ours = outcome(device, size, |x, branch| ours(x, branch, kind, FloatDType::F32));
                // Sums of up to 68,757 values in another order: one after another in f32, squares add up to 1e-5 of it.
                let reference = outcome(&Device::flex(), size, |x, branch| burns(x, branch, kind));
                ours.assert_close(&reference, 5e-5);
            }
        }
    }

    fn sixteen_bit_inputs_and_results_are_rounded_once(device: &Device) {
        let short = short_of(device);
        for kind in KINDS {
            let rounded = outcome(device, SIZES[1], |x, branch| ours(x.cast(short), branch.cast(short), kind, short));
            let reference = outcome(&Device::flex(), SIZES[1], |x, branch| {
                burns(x.cast(short).cast(FloatDType::F32), branch.cast(short).cast(FloatDType::F32), kind)
            });
            // A result or gradient of 8 bits: half a unit of 2^-7 of a value, which a gradient of 16 bits passes on.
            rounded.assert_close(&reference, 1e-2);
        }
    }

    fn a_large_mean_does_not_cost_the_variance(device: &Device) {
        let ([sx, sy, sz], channels) = SIZES[1];
        let voxels = sx * sy * sz;
        let x = Tensor::<3>::from_data(wave([2, voxels, channels], 0.7, 1.0), device) + 1000.0;
        let y = alone(x.reshape([2, sx, sy, sz, channels]), NormLeaky { slope: 1.0, ..OPTIONS }, FloatDType::F32);
        let squares = y.reshape([2, voxels, channels]).square();
        let variance: Vec<f32> = squares.mean_dim(1).into_data().try_to_vec().unwrap();
        // From squares of the values, a million each, the variance of 0.33 would be known to 0.06.
        assert!(variance.iter().all(|variance| (variance - 1.0).abs() < 1e-3), "{variance:?}");
    }

    fn not_a_number_stays_one(device: &Device) {
        let x = Tensor::<5>::full([1, 2, 2, 2, 4], f32::NAN, device);
        let y: Vec<f32> = alone(x, OPTIONS, FloatDType::F32).into_data().try_to_vec().unwrap();
        assert!(y.iter().all(|value| value.is_nan()));
    }

    fn same_inputs_give_the_same_bits(device: &Device) {
        for kind in KINDS {
            let run = || outcome(device, SIZES[0], |x, branch| ours(x, branch, kind, FloatDType::F32));
            run().assert_close(&run(), 0.0);
        }
    }

    on_devices!(
        values_and_gradients_match_the_composition,
        sixteen_bit_inputs_and_results_are_rounded_once,
        a_large_mean_does_not_cost_the_variance,
        not_a_number_stays_one,
        same_inputs_give_the_same_bits,
    );
}
