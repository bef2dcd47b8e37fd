//! Layer norm as one operation with its own derivative.
//!
//! Burn's module is not used, because its epsilon cannot be read: here epsilon belongs to the architecture and is
//! written with exported weights.

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
    /// Initialises a norm of width `dim` with scale 1 and offset 0.
    #[must_use]
    pub fn init(dim: usize, epsilon: f64, weights: &WeightInit) -> Self {
        let constant = |value: f32| TensorData::new(vec![value; dim], [dim]);
        Self { gamma: weights.param(constant(1.0)), beta: weights.param(constant(0.0)), epsilon }
    }

    /// Normalises `x` `[.., dim]`; the result has the number type of `x`.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype().into();
        self.forward_as(x, dtype)
    }

    /// Normalises `x` `[.., dim]` for a product in `precision`; computed in the number type of `x`.
    #[must_use]
    pub fn forward_in<const D: usize>(&self, precision: Precision, x: Tensor<D>) -> Tensor<D> {
        let dtype = factor_dtype(precision, &x);
        self.forward_as(x, dtype)
    }

    /// Starts a pre-norm branch: returns the trunk `x` `[N, L, dim]`, and its [`Self::forward_in`] for the branch.
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
