//! The type in which matrix products are taken.
//!
//! With [`Precision::Bf16`] the products of linear maps, attention and convolutions take 16-bit factors and add up in
//! 32 bits; weights, their moments, norms, softmaxes, residual sums and losses stay in 32. That is what `PyTorch` calls
//! autocast; bf16 has the exponents of f32, so no loss has to be scaled (Kalamkar et al., arXiv 1905.12322).
//!
//! With [`Precision::F32`] a GPU takes f32 products by its TF32 units: 10 bits of each factor's fraction, 32-bit sums.
//! `CubeCL` decides that and has no switch. The CPU takes them as they are.

use burn::nn::Linear;
use burn::tensor::module::linear;
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};

/// The type in which matrix products are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    F32,
    /// Factors of 16 bits, sums of 32.
    Bf16,
}

impl Precision {
    /// A factor of a product.
    #[must_use]
    pub fn narrow<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(FloatDType::BF16),
        }
    }

    /// `x` times the layer's weight, plus its bias; the result is a factor again.
    #[must_use]
    pub fn linear<const D: usize>(self, layer: &Linear, x: Tensor<D>) -> Tensor<D> {
        let bias = layer.bias.as_ref().map(|bias| self.narrow(bias.val()));
        self.affine(x, self.narrow(layer.weight.val()), bias)
    }

    /// `x` times the layer's weight, without its bias: for operations that add it on the way, in f32.
    #[must_use]
    pub fn product<const D: usize>(self, layer: &Linear, x: Tensor<D>) -> Tensor<D> {
        self.affine(x, self.narrow(layer.weight.val()), None)
    }

    /// `x` times a weight that is a factor, plus a bias that is one.
    #[must_use]
    pub fn affine<const D: usize>(self, x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
        linear(self.narrow(x), weight, bias)
    }

    /// A product's result, brought back for sums, norms and losses.
    #[must_use]
    pub fn widen<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(FloatDType::F32),
        }
    }
}
