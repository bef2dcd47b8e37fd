//! Layer norm as one operation with one derivative.
//!
//! Not Burn's module, whose epsilon cannot be read: ours belongs to the architecture and is written with exported weights.

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor, TensorData};

use super::init::WeightInit;
use super::precision::Precision;
use crate::ops;
use crate::ops::trunk::Trunk;

/// Layer norm over the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[dim]`.
    pub gamma: Param<Tensor<1>>,
    /// Offset, `[dim]`.
    pub beta: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// A norm of width `dim` with scale 1 and offset 0.
    #[must_use]
    pub fn init(dim: usize, epsilon: f64, weights: &WeightInit) -> Self {
        let constant = |value: f32| TensorData::new(vec![value; dim], [dim]);
        Self { gamma: weights.param(constant(1.0)), beta: weights.param(constant(0.0)), epsilon }
    }

    /// The norm of `x` `[.., dim]`, in the type of `x`.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype().into();
        self.forward_as(x, dtype)
    }

    /// The norm of `x` `[.., dim]` as a factor of a product in `precision`; computed in the type of `x`.
    #[must_use]
    pub fn forward_in<const D: usize>(&self, precision: Precision, x: Tensor<D>) -> Tensor<D> {
        let dtype = factor_dtype(precision, &x);
        self.forward_as(x, dtype)
    }

    /// The start of a pre-norm branch: the trunk `x` `[N, L, dim]`, and [`Self::forward_in`] of it for the branch.
    #[must_use]
    pub fn branch(&self, precision: Precision, x: Tensor<3>) -> (Trunk, Tensor<3>) {
        let dtype = factor_dtype(precision, &x);
        Trunk::leave(x, self.gamma.val(), self.beta.val(), self.epsilon, dtype)
    }

    fn forward_as<const D: usize>(&self, x: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
        ops::layer_norm::layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon, dtype)
    }
}

fn factor_dtype<const D: usize>(precision: Precision, x: &Tensor<D>) -> FloatDType {
    if precision == Precision::Bf16 { FloatDType::BF16 } else { x.dtype().into() }
}
