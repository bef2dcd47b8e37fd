//! Vision transformer that is pre-trained and then fine-tuned.
//!
//! In pre-training it sees only the visible patches, preceded by a class token, with fixed positions. In fine-tuning
//! (UNETR) it sees all patches, without a class token, and its position table is trained.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::block::{Block, BlockConfig, linear_params, norm_params};
use super::init::WeightInit;
use super::layer_norm::LayerNorm;
use super::patch_embed::PatchEmbed;
use super::pos_embed::PosEmbed;
use crate::ops::fixed_order::expand;

/// Sizes and kind of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Side of a patch, in voxels.
    pub patch_size: usize,
    /// Number of channels of the volume.
    pub in_channels: usize,
    /// Number of patches along each axis.
    pub grid: [usize; 3],
    /// Number of blocks.
    pub depth: usize,
    /// Sizes of each block.
    pub block: BlockConfig,
    /// True if a class token leads the sequence.
    pub cls_token: bool,
    /// True if the position table is trained.
    pub trained_positions: bool,
    /// Indices of the blocks whose outputs are returned, from 0, ascending.
    pub taps: Vec<usize>,
}

impl EncoderConfig {
    /// Initialises an encoder of these sizes.
    ///
    /// # Panics
    /// If the width of the tokens is not a multiple of 6 (see [`super::pos_embed::sincos_table`]).
    pub fn init(&self, weights: &mut WeightInit) -> Encoder {
        let dim = self.block.dim;
        Encoder {
            patch_embed: PatchEmbed::init(self.patch_size, self.in_channels, dim, weights),
            pos_embed: PosEmbed::init(self.grid, dim, self.trained_positions, weights),
            cls_token: self.cls_token.then(|| weights.token(dim)),
            blocks: (0..self.depth).map(|_| Block::init(&self.block, weights)).collect(),
            norm: LayerNorm::init(dim, self.block.norm_epsilon, weights),
            taps: self.taps.clone(),
        }
    }

    /// Number of patches in a volume.
    #[must_use]
    pub fn num_patches(&self) -> usize {
        self.grid.iter().product()
    }

    /// Number of parameters, including the position table.
    #[must_use]
    pub fn num_params(&self) -> usize {
        let dim = self.block.dim;
        linear_params(self.patch_size.pow(3) * self.in_channels, dim)
            + self.num_patches() * dim
            + if self.cls_token { dim } else { 0 }
            + self.depth * self.block.num_params()
            + norm_params(dim)
    }

    /// Minimum number of values that the backward pass keeps for a crop with `tokens` tokens. With `recompute`, blocks
    /// keep only their inputs, and one block at a time is recomputed.
    #[must_use]
    pub fn kept_values(&self, tokens: usize, recompute: bool) -> usize {
        let Self { depth, block, .. } = self;
        let of_token = if recompute { depth * block.dim + block.kept_values() } else { depth * block.kept_values() };
        tokens * of_token
    }
}

/// Output of an encoder; the class token, if there is one, comes first.
#[derive(Debug)]
pub struct EncoderOutput {
    /// Outputs of the tapped blocks, before the final norm, each `[N, L, dim]`.
    pub taps: Vec<Tensor<3>>,
    /// Output of the last block after the final norm, `[N, L, dim]`.
    pub norm: Tensor<3>,
}

/// Vision transformer over patches of a volume.
#[derive(Module, Debug)]
pub struct Encoder {
    /// Linear map from patch to token.
    pub patch_embed: PatchEmbed,
    /// Positions, added to the tokens of patches but not to the class token.
    pub pos_embed: PosEmbed,
    /// Class token, `[1, 1, dim]`.
    pub cls_token: Option<Param<Tensor<3>>>,
    /// Transformer blocks in order.
    pub blocks: Vec<Block>,
    /// Layer norm after the last block.
    pub norm: LayerNorm,
    #[module(skip)]
    taps: Vec<usize>,
}

impl Encoder {
    /// Encodes all patches `[N, L, p³·C]` of a volume, in order.
    #[must_use]
    pub fn forward(&self, patches: Tensor<3>) -> EncoderOutput {
        self.forward_tokens(self.embed(patches))
    }

    /// Attention weights between all tokens when all patches `[N, L, p³·C]` are visible: `[N, num_heads, L, L]` for
    /// every block in order, the class token first if there is one.
    #[must_use]
    pub fn attention(&self, patches: Tensor<3>) -> Vec<Tensor<4>> {
        let mut x = self.with_cls_token(self.embed(patches));
        let mut layers = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            layers.push(block.attention(x.clone()));
            x = block.forward(x);
        }
        layers
    }

    /// Computes the tokens `[N, L, dim]`, positions included, of all patches `[N, L, p³·C]` in order.
    fn embed(&self, patches: Tensor<3>) -> Tensor<3> {
        let tokens = self.patch_embed.forward(patches);
        let shape = tokens.dims();
        tokens + expand(self.pos_embed.all(), shape)
    }

    /// Encodes visible patches `[N, k, p³·C]`; `patch_idx` `[N·k]` is the index of each in its volume.
    #[must_use]
    pub fn forward_visible(&self, visible: Tensor<3>, patch_idx: Tensor<1, Int>) -> EncoderOutput {
        let [n, _, _] = visible.dims();
        let x = self.patch_embed.forward(visible) + self.pos_embed.rows(patch_idx, n);
        self.forward_tokens(x)
    }

    /// Applies all blocks to tokens `[N, L, dim]` that include their positions.
    fn forward_tokens(&self, x: Tensor<3>) -> EncoderOutput {
        let mut x = self.with_cls_token(x);
        let mut taps = Vec::with_capacity(self.taps.len());
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x);
            if self.taps.contains(&i) {
                taps.push(x.clone());
            }
        }
        EncoderOutput { taps, norm: self.norm.forward(x) }
    }

    fn with_cls_token(&self, x: Tensor<3>) -> Tensor<3> {
        let [n, _, dim] = x.dims();
        match &self.cls_token {
            Some(token) => Tensor::cat(vec![expand(token.val(), [n, 1, dim]), x], 1),
            None => x,
        }
    }
}
