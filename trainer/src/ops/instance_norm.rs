//! Instance norm (Ulyanov, Vedaldi and Lempitsky, arXiv 1607.08022) without parameters, the sum with a residual branch and
//! the leaky rectifier: `leaky(norm(x) + branch)`.
//!
//! In f32 on the CPU this is one operation of `hiend_cpu`; on GPUs it is one operation of [`volume`], with one pass
//! over the values for their sums and one for the result, in each direction. For other types on the CPU it is composed
//! of Burn's operations.

pub mod volume;

use burn::backend::TensorMetadata as _;
use burn::tensor::activation::leaky_relu;
use burn::tensor::{DType, FloatDType, Tensor};
use hiend_cpu::instance_norm::{self as cpu, Normed, RowStats, norm_leaky_gradients, row_stats};

use super::conv::{channels_first, channels_last, is_on_flex};
use super::on_cpu::{CpuOperation, CpuTensor, Operand, apply, in_order, is_on_cpu, tensor, values};

/// Second summand before the rectifier.
#[derive(Clone, Debug)]
pub enum Branch {
    /// No second summand.
    None,
    /// A tensor, unchanged.
    Plain(Tensor<5>),
    /// A tensor, normalised.
    Normed(Tensor<5>),
}

impl Branch {
    fn widened(self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Plain(r) => Self::Plain(widened(r)),
            Self::Normed(r) => Self::Normed(widened(r)),
        }
    }
}

/// Converts `x` to f32 if its type has 16 bits; returns `x` itself otherwise.
fn widened(x: Tensor<5>) -> Tensor<5> {
    match FloatDType::from(x.dtype()) {
        FloatDType::F16 | FloatDType::BF16 => x.cast(FloatDType::F32),
        _ => x,
    }
}

/// Constants of the norm and the rectifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormLeaky {
    /// Term added to the variance.
    pub epsilon: f64,
    /// Slope of the rectifier below zero.
    pub slope: f64,
}

impl NormLeaky {
    /// Computes `leaky(norm(x) + branch)` for `x` and a branch `[N, C, X, Y, Z]`, in f32. The norm gives each case and
    /// channel zero mean and unit (biased) variance over its voxels.
    #[must_use]
    pub fn forward(self, x: Tensor<5>, branch: Branch) -> Tensor<5> {
        let dtype = if x.dtype() == DType::F64 { FloatDType::F64 } else { FloatDType::F32 };
        self.forward_in(x, branch, dtype)
    }

    /// Computes the same as [`Self::forward`], with the result in `dtype`.
    #[must_use]
    pub fn forward_in(self, x: Tensor<5>, branch: Branch, dtype: FloatDType) -> Tensor<5> {
        if !is_on_flex(&x) {
            let x = channels_last(x);
            return channels_first(match branch {
                Branch::None => volume::alone(x, self, dtype),
                Branch::Plain(r) => volume::joined(x, channels_last(r), false, self, dtype),
                Branch::Normed(r) => volume::joined(x, channels_last(r), true, self, dtype),
            });
        }
        let Self { epsilon, slope } = self;
        let fused = |kind| Fused { epsilon, slope: slope as f32, kind };
        let x = widened(x);
        let on_cpu = is_on_cpu(&x);
        let y = match branch.widened() {
            Branch::None if on_cpu => apply(fused(Kind::Alone), [Operand::of(x)]),
            Branch::Plain(r) if on_cpu => apply(fused(Kind::Plain), [Operand::of(x), Operand::of(r)]),
            Branch::Normed(r) if on_cpu => apply(fused(Kind::Normed), [Operand::of(x), Operand::of(r)]),
            branch => self.composed(x, branch),
        };
        if FloatDType::from(y.dtype()) == dtype { y } else { y.cast(dtype) }
    }

    fn composed(self, x: Tensor<5>, branch: Branch) -> Tensor<5> {
        let y = norm(x, self.epsilon);
        let y = match branch {
            Branch::None => y,
            Branch::Plain(r) => y + r,
            Branch::Normed(r) => y + norm(r, self.epsilon),
        };
        leaky_relu(y, self.slope)
    }
}

fn norm(x: Tensor<5>, epsilon: f64) -> Tensor<5> {
    let dims @ [n, c, dx, dy, dz] = x.dims();
    let x = x.reshape([n * c, dx * dy * dz]);
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    (centred / (variance + epsilon).sqrt()).reshape(dims)
}

/// Operation of `hiend_cpu`. Inputs are `x` and the branch, if there is one.
#[derive(Clone, Copy, Debug)]
struct Fused {
    epsilon: f64,
    slope: f32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Alone,
    Plain,
    Normed,
}

/// Inputs, the statistics of their rows, and the result.
#[derive(Clone, Debug)]
struct Saved {
    x: CpuTensor,
    stats: Vec<RowStats>,
    /// Branch with its values, if they are needed, and its statistics, if it is normalised.
    branch: Option<(CpuTensor, Vec<RowStats>)>,
    y: CpuTensor,
}

impl Fused {
    fn branch(self, branch: Option<&(CpuTensor, Vec<RowStats>)>) -> cpu::Branch<'_> {
        match (self.kind, branch) {
            (Kind::Plain, Some((x, _))) => cpu::Branch::Plain(values(x)),
            (Kind::Normed, Some((x, stats))) => cpu::Branch::Normed(Normed { x: values(x), stats }),
            _ => cpu::Branch::None,
        }
    }
}

impl<const N: usize> CpuOperation<N> for Fused {
    type Saved = Saved;

    fn forward(self, inputs: [CpuTensor; N], _: [bool; N]) -> (CpuTensor, Saved) {
        let mut inputs = inputs.into_iter().map(in_order);
        let x = inputs.next().expect("one input at least");
        let shape = x.shape();
        let num_rows = shape[0] * shape[1];
        let stats = row_stats(values(&x), num_rows, self.epsilon);
        let branch = inputs.next().map(|branch| {
            let stats = match self.kind {
                Kind::Normed => row_stats(values(&branch), num_rows, self.epsilon),
                Kind::Alone | Kind::Plain => vec![],
            };
            (branch, stats)
        });
        let normed = Normed { x: values(&x), stats: &stats };
        let y = tensor(cpu::norm_leaky(normed, self.branch(branch.as_ref()), self.slope), shape);
        (y.clone(), Saved { x, stats, branch, y })
    }

    fn backward(self, saved: Saved, dy: CpuTensor, wanted: [bool; N]) -> [Option<CpuTensor>; N] {
        let Saved { x, stats, branch, y } = saved;
        let normed = Normed { x: values(&x), stats: &stats };
        let branch = self.branch(branch.as_ref());
        let (dx, d_branch) = norm_leaky_gradients(normed, branch, values(&y), values(&dy), self.slope);
        let mut gradients = [Some(dx), d_branch].into_iter();
        wanted.map(|wanted| {
            let gradient = gradients.next().flatten();
            if wanted { gradient.map(|values| tensor(values, x.shape())) } else { None }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{values_and_gradients, wave};
    use burn::tensor::Device;

    const OPERATION: NormLeaky = NormLeaky { epsilon: 1e-5, slope: 0.01 };

    #[test]
    fn values_and_gradients_match_the_composition() {
        let tensors = [wave([2, 3, 60], 0.7, 1.0), wave([2, 3, 60], 0.3, 2.0)];
        let device = Device::flex();
        let volume = |x: Tensor<3>| x.reshape([2, 3, 3, 4, 5]);
        let branches: [fn(Tensor<5>) -> Branch; 3] = [|_| Branch::None, Branch::Plain, Branch::Normed];
        for branch in branches {
            let run = |function: &dyn Fn(Tensor<5>, Branch) -> Tensor<5>| {
                values_and_gradients(&device, &tensors, |[x, r]| {
                    // The second input is used even without a branch, so that it has a gradient.
                    let y = function(volume(x), branch(volume(r.clone()))).reshape([2, 3, 60]);
                    y + r
                })
            };
            let ours = run(&|x, branch| OPERATION.forward(x, branch));
            // Means over 60 values, added in another order and in f64.
            ours.assert_close(&run(&|x, branch| OPERATION.composed(x, branch)), 1e-5);
        }
    }

    #[test]
    fn each_channel_gets_zero_mean_and_unit_variance() {
        let x = Tensor::<5>::from_data(wave([2, 2, 4, 4, 4], 0.7, 3.0), &Device::flex());
        let linear = NormLeaky { epsilon: 1e-5, slope: 1.0 };
        let normed: Vec<f32> = linear.forward(x, Branch::None).into_data().try_to_vec().unwrap();
        for channel in normed.chunks_exact(64) {
            let mean = channel.iter().sum::<f32>() / 64.0;
            let variance = channel.iter().map(|v| v * v).sum::<f32>() / 64.0;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3, "mean {mean}, variance {variance}");
        }
    }
}
