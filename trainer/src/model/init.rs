//! Initial values of all weights, sampled on the host so that they depend only on the seed.
//!
//! Burn's own initialisers use a generator that is global to a backend: two models made in one process, or the same
//! model on CPU and GPU, would differ. Here the values come from one `ChaCha8` stream in the order in which the layers
//! are created; changing that order changes the weights for a seed.

use burn::module::{Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::precision::Precision;
use crate::ops::attention::Computation;
use crate::ops::gate::Gates;

/// Standard deviation of class and mask tokens.
const TOKEN_STD: f32 = 0.02;

/// Source of initial weights on a device, with the settings that layers copy.
#[derive(Debug)]
pub struct WeightInit {
    rng: ChaCha8Rng,
    device: Device,
    precision: Precision,
    attention: Computation,
    recompute: bool,
    gates: Gates,
}

impl WeightInit {
    /// Creates a source of weights for `device` from `seed`. A model to be trained needs an autodiff device.
    #[must_use]
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            device: device.clone(),
            precision: Precision::F32,
            attention: Computation::default(),
            recompute: false,
            gates: Gates::default(),
        }
    }

    /// Sets the precision of the model's products.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Sets the computation of the model's attentions.
    #[must_use]
    pub fn with_attention(self, attention: Computation) -> Self {
        Self { attention, ..self }
    }

    /// Makes transformer blocks keep only their inputs for the backward pass
    /// ([`crate::ops::recompute`]) if `recompute` is set, and all intermediate results otherwise.
    #[must_use]
    pub fn with_recompute(self, recompute: bool) -> Self {
        Self { recompute, ..self }
    }

    /// Sets the gates behind which the model's blocks are placed.
    #[must_use]
    pub fn with_gates(self, gates: Gates) -> Self {
        Self { gates, ..self }
    }

    /// Gates of the model's blocks.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Returns true if blocks keep only their inputs for the backward pass.
    #[must_use]
    pub fn recompute(&self) -> bool {
        self.recompute
    }

    /// Precision of the model's products.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Computation of the model's attentions.
    #[must_use]
    pub fn attention(&self) -> Computation {
        self.attention
    }

    /// Device of the weights.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Creates a linear map with a Xavier-uniform weight `[d_input, d_output]` and a zero bias.
    pub fn linear(&mut self, d_input: usize, d_output: usize) -> Linear {
        let bound = (6.0 / (d_input + d_output) as f64).sqrt() as f32;
        let values = (0..d_input * d_output).map(|_| self.rng.random_range(-bound..bound)).collect::<Vec<f32>>();
        Linear {
            weight: self.param(TensorData::new(values, [d_input, d_output])),
            bias: Some(self.param(TensorData::new(vec![0f32; d_output], [d_output]))),
        }
    }

    /// Creates a token `[1, 1, dim]`, normally distributed with standard deviation 0.02.
    pub fn token(&mut self, dim: usize) -> Param<Tensor<3>> {
        let values = (0..dim).map(|_| TOKEN_STD * self.normal()).collect::<Vec<f32>>();
        self.param(TensorData::new(values, [1, 1, dim]))
    }

    /// Creates a trained parameter, uniform within `bound` of zero.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f64) -> Param<Tensor<D>> {
        let bound = bound as f32;
        let values = (0..shape.iter().product()).map(|_| self.rng.random_range(-bound..bound)).collect::<Vec<f32>>();
        self.param(TensorData::new(values, shape))
    }

    /// Creates a trained parameter with the given values.
    #[must_use]
    pub fn param<const D: usize>(&self, data: TensorData) -> Param<Tensor<D>> {
        Param::from_data(data, &self.device)
    }

    /// Creates a parameter that is stored with the model but never trained.
    #[must_use]
    pub fn constant<const D: usize>(&self, data: TensorData) -> Param<Tensor<D>> {
        Param::initialized(ParamId::new(), Tensor::from_data(data, &self.device)).set_require_grad(false)
    }

    /// Samples a standard normal number (Box-Muller; the second number of each pair is discarded, because tokens are
    /// few).
    fn normal(&mut self) -> f32 {
        let radius: f64 = 1.0 - self.rng.random::<f64>();
        let angle: f64 = self.rng.random::<f64>() * std::f64::consts::TAU;
        ((-2.0 * radius.ln()).sqrt() * angle.cos()) as f32
    }
}

/// Bias of a linear map created by [`WeightInit::linear`].
///
/// # Panics
/// If the map has no bias.
#[must_use]
pub fn bias_of(layer: &Linear) -> Tensor<1> {
    layer.bias.as_ref().expect("linear maps of this crate have a bias").val()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64) -> (Vec<f32>, Vec<f32>) {
        let mut init = WeightInit::new(seed, &Device::flex());
        let linear = init.linear(30, 20);
        let token = init.token(4000);
        (linear.weight.val().into_data().try_to_vec().unwrap(), token.val().into_data().try_to_vec().unwrap())
    }

    #[test]
    fn weights_depend_on_the_seed_alone() {
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
    }

    #[test]
    fn weights_have_the_documented_spread() {
        let (weight, token) = values(3);
        let bound = (6.0f32 / 50.0).sqrt();
        assert!(weight.iter().all(|w| w.abs() < bound));
        assert!(weight.iter().any(|w| w.abs() > 0.95 * bound));
        let std = (token.iter().map(|t| t * t).sum::<f32>() / token.len() as f32).sqrt();
        assert!((std - TOKEN_STD).abs() < 1e-3, "{std}");
    }
}
