//! Decoder of pre-training: self-attention blocks over all tokens, then blocks that attend to the encoder's layers,
//! deepest first.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;

use super::block::{Block, BlockConfig, CrossBlock, linear_params, norm_params};
use super::init::WeightInit;
use super::layer_norm::LayerNorm;
use super::precision::Precision;

/// Sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Number of self-attention blocks.
    pub self_depth: usize,
    /// Number of cross-attention blocks, one for each tapped encoder layer.
    pub cross_depth: usize,
    /// Sizes of each block.
    pub block: BlockConfig,
    /// Number of values in a patch.
    pub patch_width: usize,
}

impl DecoderConfig {
    /// Initialises a decoder of these sizes.
    pub fn init(&self, weights: &mut WeightInit) -> Decoder {
        let dim = self.block.dim;
        Decoder {
            blocks: (0..self.self_depth).map(|_| Block::init(&self.block, weights)).collect(),
            cross_attention_blocks: (0..self.cross_depth).map(|_| CrossBlock::init(&self.block, weights)).collect(),
            norm: LayerNorm::init(dim, self.block.norm_epsilon, weights),
            head: weights.linear(dim, self.patch_width),
            precision: weights.precision(),
        }
    }

    /// Number of parameters.
    #[must_use]
    pub fn num_params(&self) -> usize {
        self.self_depth * self.block.num_params()
            + self.cross_depth * self.block.num_cross_params()
            + norm_params(self.block.dim)
            + linear_params(self.block.dim, self.patch_width)
    }

    /// Minimum number of values that the backward pass keeps for a crop with `tokens` tokens, excluding those of the
    /// head. With `recompute`, blocks keep only their inputs.
    #[must_use]
    pub fn kept_values(&self, tokens: usize, recompute: bool) -> usize {
        let Self { self_depth, cross_depth, block, .. } = self;
        let of_token = if recompute {
            (self_depth + cross_depth) * block.dim
        } else {
            self_depth * block.kept_values() + cross_depth * block.kept_cross_values()
        };
        tokens * of_token
    }
}

/// Decoder from visible tokens and mask tokens to the voxels of patches.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Self-attention blocks, applied first.
    pub blocks: Vec<Block>,
    /// Cross-attention blocks, applied after the self-attention blocks.
    pub cross_attention_blocks: Vec<CrossBlock>,
    /// Layer norm after the last block.
    pub norm: LayerNorm,
    /// Linear map from token to patch, `[dim, p³·C]`.
    pub head: Linear,
    #[module(skip)]
    precision: Precision,
}

impl Decoder {
    /// Applies all blocks to `x` `[N, L, dim]`; `contexts` `[N, M, dim]` are the mapped encoder layers in the order in
    /// which they are read. Norm and head are applied by [`Self::predict`].
    #[must_use]
    pub fn forward(&self, x: Tensor<3>, contexts: Vec<Tensor<3>>) -> Tensor<3> {
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        self.cross_attention_blocks.iter().zip(contexts).fold(x, |x, (block, context)| block.forward(x, context))
    }

    /// Attention weights of the tokens `x` `[N, L, dim]` over the mapped encoder layers `contexts` `[N, M, dim]`:
    /// `[N, num_heads, L, M]` for every cross-attention block in order.
    #[must_use]
    pub fn cross_attention(&self, x: Tensor<3>, contexts: Vec<Tensor<3>>) -> Vec<Tensor<4>> {
        let mut x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let mut layers = Vec::with_capacity(self.cross_attention_blocks.len());
        for (block, context) in self.cross_attention_blocks.iter().zip(contexts) {
            layers.push(block.cross_attention(x.clone(), context.clone()));
            x = block.forward(x, context);
        }
        layers
    }

    /// Computes the values of patches `[N, L, p³·C]` from tokens `[N, L, dim]`. Each token is mapped by itself, so only
    /// the tokens of the wanted patches need to be passed.
    #[must_use]
    pub fn predict(&self, x: Tensor<3>) -> Tensor<3> {
        let p = self.precision;
        p.widen(p.linear(&self.head, self.norm.forward_in(p, x)))
    }
}
