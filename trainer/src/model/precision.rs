//! Number type of the factors of matrix products: `train.precision` in a configuration.
//!
//! With [`Precision::Bf16`] the products of linear maps, attention and convolutions take 16-bit factors and are summed
//! in 32 bits; weights, their moments, norms, softmaxes, residual sums and losses stay in 32 bits. `PyTorch` calls this
//! autocast. bf16 has the exponents of f32, so that no loss has to be scaled (Kalamkar et al., arXiv 1905.12322).
//!
//! With [`Precision::Tf32`] a GPU rounds the factors of f32 products to 10 bits of fraction for its matrix units; sums
//! are 32-bit. With [`Precision::F32`] the factors are not rounded. Without cuBLASLt and cuDNN, `CubeCL`'s own kernels
//! for products and convolutions round to TF32 in either case, because it has no switch. The CPU rounds in neither
//! case.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use crate::ops::product::{Factors, affine, linear};

/// Number type of the factors of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    F32,
    /// 32 bits, rounded to TF32 for products on GPUs.
    Tf32,
    /// 16-bit factors, 32-bit sums.
    Bf16,
}

impl Precision {
    /// Name in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// Form in which products take their factors.
    #[must_use]
    pub fn factors(self) -> Factors {
        match self {
            Self::F32 => Factors::F32,
            Self::Tf32 => Factors::Tf32,
            Self::Bf16 => Factors::Bf16,
        }
    }

    /// Converts `x` to the number type of factors.
    #[must_use]
    pub fn narrow<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Tf32 => x,
            Self::Bf16 => x.cast(FloatDType::BF16),
        }
    }

    /// Computes `x` `[.., d_input]` times the layer's weight, plus its bias → `[.., d_output]`, in the number type of
    /// factors.
    #[must_use]
    pub fn linear<const D: usize>(self, layer: &Linear, x: Tensor<D>) -> Tensor<D> {
        self.affine(x, layer.weight.val(), layer.bias.as_ref().map(Param::val))
    }

    /// Computes `x` `[.., d_input]` times the layer's weight, without its bias → `[.., d_output]`, in the number type
    /// of factors. The operation that follows adds the bias in f32.
    #[must_use]
    pub fn product<const D: usize>(self, layer: &Linear, x: Tensor<D>) -> Tensor<D> {
        self.affine(x, layer.weight.val(), None)
    }

    /// Computes `x` `[.., K]` times `weight` `[K, N]`, plus a bias `[N]` if there is one → `[.., N]`, in the number
    /// type of factors.
    #[must_use]
    pub fn affine<const D: usize>(self, x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match bias {
            Some(bias) => affine(x, weight, bias, self.factors()),
            None => linear(x, weight, self.factors()),
        }
    }

    /// Converts a product's result to f32, for sums, norms and losses.
    #[must_use]
    pub fn widen<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Tf32 => x,
            Self::Bf16 => x.cast(FloatDType::F32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_configurations() {
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            assert_eq!(serde_json::to_value(precision).unwrap(), precision.name());
        }
    }
}
