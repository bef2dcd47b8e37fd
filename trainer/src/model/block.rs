//! Transformer blocks with residual branches and norms before each branch.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::attention::{CrossAttention, SelfAttention};
use super::init::{WeightInit, bias_of};
use super::layer_norm::LayerNorm;
use super::precision::Precision;
use crate::ops::gate::Gates;
use crate::ops::gelu::biased_gelu;
use crate::ops::recompute::{Recompute, recomputed};
use crate::ops::trunk::Trunk;

/// Sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Number of attention heads; divides `dim`.
    pub num_heads: usize,
    /// Width of the MLP's hidden layer, as a multiple of `dim`.
    pub mlp_ratio: usize,
    /// Epsilon of the layer norms: 1e-6 in pre-training, 1e-5 in fine-tuning.
    pub norm_epsilon: f64,
}

impl BlockConfig {
    /// Number of parameters of a [`Block`].
    #[must_use]
    pub fn num_params(&self) -> usize {
        let dim = self.dim;
        2 * norm_params(dim) + linear_params(dim, 3 * dim) + linear_params(dim, dim) + self.mlp_params()
    }

    /// Number of parameters of a [`CrossBlock`].
    #[must_use]
    pub fn num_cross_params(&self) -> usize {
        let dim = self.dim;
        self.num_params() + norm_params(dim) + 2 * linear_params(dim, dim) + linear_params(dim, 2 * dim)
    }

    /// Minimum number of values per token that the backward pass of a [`Block`] keeps: the block's input, both norms,
    /// the queries, keys and values, the attention's result, and the MLP's hidden layer before and after the
    /// activation.
    #[must_use]
    pub fn kept_values(&self) -> usize {
        (7 + 2 * self.mlp_ratio) * self.dim
    }

    /// Minimum number of values per token that the backward pass of a [`CrossBlock`] keeps: those of a [`Block`], and
    /// norm, queries and result of the second attention.
    #[must_use]
    pub fn kept_cross_values(&self) -> usize {
        self.kept_values() + 3 * self.dim
    }

    fn mlp_params(&self) -> usize {
        let hidden = self.dim * self.mlp_ratio;
        linear_params(self.dim, hidden) + linear_params(hidden, self.dim)
    }
}

/// Number of parameters of a linear map with bias.
pub(super) fn linear_params(d_input: usize, d_output: usize) -> usize {
    (d_input + 1) * d_output
}

/// Number of parameters of a layer norm.
pub(super) fn norm_params(dim: usize) -> usize {
    2 * dim
}

/// Two linear maps with an exact GELU between them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// First linear map, `[dim, hidden]`.
    pub fc1: Linear,
    /// Second linear map, `[hidden, dim]`.
    pub fc2: Linear,
    #[module(skip)]
    precision: Precision,
}

impl Mlp {
    /// Initialises an MLP with a hidden layer of width `mlp_ratio · dim`.
    pub fn init(dim: usize, mlp_ratio: usize, weights: &mut WeightInit) -> Self {
        let (fc1, fc2) = (weights.linear(dim, mlp_ratio * dim), weights.linear(mlp_ratio * dim, dim));
        Self { fc1, fc2, precision: weights.precision() }
    }

    /// Adds the MLP of the `normed` tokens to the trunk `x` `[N, L, dim]` → `[N, L, dim]`.
    #[must_use]
    pub fn add_to(&self, x: impl Into<Trunk>, normed: Tensor<3>) -> Tensor<3> {
        let p = self.precision;
        let hidden = biased_gelu(p.product(&self.fc1, normed), bias_of(&self.fc1));
        x.into().join(p.product(&self.fc2, hidden), bias_of(&self.fc2))
    }
}

/// Transformer block: self-attention, then MLP.
#[derive(Module, Debug)]
pub struct Block {
    /// Layer norm before the attention.
    pub norm1: LayerNorm,
    /// Attention of the sequence to itself.
    pub attn: SelfAttention,
    /// Layer norm before the MLP.
    pub norm2: LayerNorm,
    /// MLP, applied token by token.
    pub mlp: Mlp,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    recompute: bool,
    #[module(skip)]
    gates: Gates,
}

impl Block {
    /// Initialises a block of these sizes.
    pub fn init(config: &BlockConfig, weights: &mut WeightInit) -> Self {
        let &BlockConfig { dim, num_heads, mlp_ratio, norm_epsilon } = config;
        Self {
            norm1: LayerNorm::init(dim, norm_epsilon, weights),
            attn: SelfAttention::init(dim, num_heads, weights),
            norm2: LayerNorm::init(dim, norm_epsilon, weights),
            mlp: Mlp::init(dim, mlp_ratio, weights),
            precision: weights.precision(),
            recompute: weights.recompute(),
            gates: weights.gates().clone(),
        }
    }

    /// Applies the block: `[N, L, dim]` → `[N, L, dim]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.gates.pass(self, x);
        if self.recompute { recomputed(self, [x]) } else { self.run([x]) }
    }

    /// Attention weights between all tokens of `x` `[N, L, dim]`, `[N, num_heads, L, L]`.
    #[must_use]
    pub fn attention(&self, x: Tensor<3>) -> Tensor<4> {
        self.attn.weights(self.norm1.forward_in(self.precision, x))
    }
}

impl Recompute<1> for Block {
    fn run(&self, [x]: [Tensor<3>; 1]) -> Tensor<3> {
        let (x, normed) = self.norm1.branch(self.precision, x);
        let (x, normed) = self.norm2.branch(self.precision, self.attn.add_to(x, normed));
        self.mlp.add_to(x, normed)
    }
}

/// Cross-attention block: self-attention, then attention to another sequence, then MLP (arXiv 2502.08347, section 3.2).
#[derive(Module, Debug)]
pub struct CrossBlock {
    /// Layer norm before the self-attention.
    pub norm0: LayerNorm,
    /// Attention of the sequence to itself.
    pub self_attn: SelfAttention,
    /// Layer norm before the cross-attention; the context is not normalised.
    pub norm1: LayerNorm,
    /// Attention of the sequence to the context.
    pub cross_attn: CrossAttention,
    /// Layer norm before the MLP.
    pub norm2: LayerNorm,
    /// MLP, applied token by token.
    pub mlp: Mlp,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    recompute: bool,
}

impl CrossBlock {
    /// Initialises a block of these sizes.
    pub fn init(config: &BlockConfig, weights: &mut WeightInit) -> Self {
        let &BlockConfig { dim, num_heads, mlp_ratio, norm_epsilon } = config;
        Self {
            norm0: LayerNorm::init(dim, norm_epsilon, weights),
            self_attn: SelfAttention::init(dim, num_heads, weights),
            norm1: LayerNorm::init(dim, norm_epsilon, weights),
            cross_attn: CrossAttention::init(dim, num_heads, weights),
            norm2: LayerNorm::init(dim, norm_epsilon, weights),
            mlp: Mlp::init(dim, mlp_ratio, weights),
            precision: weights.precision(),
            recompute: weights.recompute(),
        }
    }

    /// Applies the block to `x` `[N, L, dim]` with `context` `[N, M, dim]`; returns `[N, L, dim]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        if self.recompute { recomputed(self, [x, context]) } else { self.run([x, context]) }
    }

    /// Attention weights from each token of `x` `[N, L, dim]` to each of `context` `[N, M, dim]`, `[N, num_heads, L, M]`.
    #[must_use]
    pub fn cross_attention(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<4> {
        self.cross_attn.weights(self.norm1.forward_in(self.precision, self.attend_self(x)), context)
    }

    fn attend_self(&self, x: Tensor<3>) -> Tensor<3> {
        let (x, normed) = self.norm0.branch(self.precision, x);
        self.self_attn.add_to(x, normed)
    }
}

impl Recompute<2> for CrossBlock {
    fn run(&self, [x, context]: [Tensor<3>; 2]) -> Tensor<3> {
        let (x, normed) = self.norm1.branch(self.precision, self.attend_self(x));
        let (x, normed) = self.norm2.branch(self.precision, self.cross_attn.add_to(x, normed, context));
        self.mlp.add_to(x, normed)
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{on_devices, wave};
    use burn::module::{ModuleVisitor, Param};
    use burn::optim::GradientsParams;
    use burn::tensor::{DType, Device};

    const CONFIG: BlockConfig = BlockConfig { dim: 24, num_heads: 3, mlp_ratio: 2, norm_epsilon: 1e-6 };

    /// Computes the result, then the gradients of both inputs and of all parameters.
    fn outcome<M: Module>(model: &M, device: &Device, run: impl Fn([Tensor<3>; 2]) -> Tensor<3>) -> Vec<Vec<f32>> {
        let inputs =
            [5, 7].map(|tokens| Tensor::<3>::from_data(wave([2, tokens, 24], 0.7, 1.0), device).require_grad());
        let y = run(inputs.clone());
        let mut grads = y.clone().square().sum().backward();
        let host = |x: Tensor<3>| x.into_data().try_to_vec::<f32>().unwrap();
        let mut all = vec![host(y.inner())];
        all.extend(inputs.iter().filter_map(|input| input.grad_remove(&mut grads)).map(host));
        let mut params = Values { grads: GradientsParams::from_module(&mut grads, model), values: vec![] };
        model.visit(&mut params);
        all.extend(params.values);
        all
    }

    struct Values {
        grads: GradientsParams,
        values: Vec<Vec<f32>>,
    }

    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = self.grads.get::<D>(param.id).expect("every parameter has a gradient");
            self.values.push(grad.into_data().try_to_vec().unwrap());
        }
    }

    fn recomputed_blocks_have_gradients_of_the_same_bits(device: &Device) {
        let precisions = [Some(Precision::F32), device.supports_dtype(DType::BF16).then_some(Precision::Bf16)];
        for precision in precisions.into_iter().flatten() {
            let device = device.clone().autodiff();
            let mut weights = WeightInit::new(1, &device).with_precision(precision);
            let block = Block::init(&CONFIG, &mut weights);
            let plain = outcome(&block, &device, |[x, _]| block.run([block.run([x])]));
            let again = outcome(&block, &device, |[x, _]| recomputed(&block, [recomputed(&block, [x])]));
            assert_eq!(plain.len(), 2 + 12);
            assert!(plain == again, "{device:?} in {precision:?}");

            let cross = CrossBlock::init(&CONFIG, &mut weights);
            let plain = outcome(&cross, &device, |inputs| cross.run(inputs));
            let again = outcome(&cross, &device, |inputs| recomputed(&cross, inputs));
            assert_eq!(plain.len(), 3 + 20);
            assert!(plain == again, "{device:?} in {precision:?}");
            // The context is a constant.
            let plain = outcome(&cross, &device, |[x, context]| cross.run([x, context.inner()]));
            let again = outcome(&cross, &device, |[x, context]| recomputed(&cross, [x, context.inner()]));
            assert_eq!(plain.len(), 2 + 20);
            assert!(plain == again, "{device:?} in {precision:?}, of a constant");
        }
    }

    on_devices!(recomputed_blocks_have_gradients_of_the_same_bits);

    #[test]
    fn untracked_inputs_give_an_untracked_result() {
        let device = Device::flex();
        let block = Block::init(&CONFIG, &mut WeightInit::new(1, &device));
        let x = Tensor::<3>::from_data(wave([2, 5, 24], 0.7, 1.0), &device);
        let y = recomputed(&block, [x.clone()]);
        assert!(!y.is_tracked());
        assert_eq!(y.into_data(), block.run([x]).into_data());
    }
}
