//! Layer norm with a derivative of its own; Burn's module keeps its epsilon to itself.

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor, TensorData};

use super::init::WeightInit;
use crate::ops;

/// Normalises over the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Multiplies, `[dim]`.
    pub gamma: Param<Tensor<1>>,
    /// Is added, `[dim]`.
    pub beta: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// Ones and zeros.
    #[must_use]
    pub fn init(dim: usize, epsilon: f64, weights: &WeightInit) -> Self {
        let constant = |value: f32| TensorData::new(vec![value; dim], [dim]);
        Self { gamma: weights.param(constant(1.0)), beta: weights.param(constant(0.0)), epsilon }
    }

    /// `[.., dim]` → `[.., dim]`, in the type of `x`.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype().into();
        self.forward_as(x, dtype)
    }

    /// The same in `dtype`; it is computed in the type of `x` all the same.
    #[must_use]
    pub fn forward_as<const D: usize>(&self, x: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
        ops::layer_norm::layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon, dtype)
    }
}
