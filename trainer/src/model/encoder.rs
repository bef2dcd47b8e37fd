//! The vision transformer that pre-training leaves behind and fine-tuning starts from.
//!
//! In pre-training it sees the visible patches only, behind a class token, with fixed positions. In fine-tuning
//! (UNETR) it sees all patches, without a class token, and its position table is trained.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::block::{Block, BlockConfig, linear_params, norm_params};
use super::init::WeightInit;
use super::layer_norm::LayerNorm;
use super::patch_embed::PatchEmbed;
use super::pos_embed::PosEmbed;

/// Sizes and kind of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Side of a patch, voxels.
    pub patch_size: usize,
    /// Channels of the volume.
    pub in_channels: usize,
    /// Patches along each axis.
    pub grid: [usize; 3],
    /// Number of blocks.
    pub depth: usize,
    /// Sizes of each block.
    pub block: BlockConfig,
    /// Whether a class token leads the sequence.
    pub cls_token: bool,
    /// Whether the position table is trained.
    pub trained_positions: bool,
    /// Blocks whose outputs are handed out, zero-based, ascending.
    pub taps: Vec<usize>,
}

impl EncoderConfig {
    /// Width of the tokens must be a multiple of 6 (see [`super::pos_embed::sincos_table`]).
    ///
    /// # Panics
    /// If it is not.
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

    /// Parameters, the position table included.
    #[must_use]
    pub fn num_params(&self) -> usize {
        let dim = self.block.dim;
        linear_params(self.patch_size.pow(3) * self.in_channels, dim)
            + self.num_patches() * dim
            + if self.cls_token { dim } else { 0 }
            + self.depth * self.block.num_params()
            + norm_params(dim)
    }
}

/// What an encoder gives back; class token first where there is one.
#[derive(Debug)]
pub struct EncoderOutput {
    /// Outputs of the tapped blocks, before the final norm, each `[N, L, dim]`.
    pub taps: Vec<Tensor<3>>,
    /// The last block's output, `[N, L, dim]`, normed.
    pub norm: Tensor<3>,
}

/// A vision transformer over patches of a volume.
#[derive(Module, Debug)]
pub struct Encoder {
    /// Patch to token.
    pub patch_embed: PatchEmbed,
    /// Added to the tokens of the patches, not to the class token.
    pub pos_embed: PosEmbed,
    /// `[1, 1, dim]`.
    pub cls_token: Option<Param<Tensor<3>>>,
    /// In order.
    pub blocks: Vec<Block>,
    /// After the last block.
    pub norm: LayerNorm,
    #[module(skip)]
    taps: Vec<usize>,
}

impl Encoder {
    /// All patches `[N, L, p³·C]` of a volume, in order.
    #[must_use]
    pub fn forward(&self, patches: Tensor<3>) -> EncoderOutput {
        self.forward_tokens(self.embed(patches))
    }

    /// How much each token looks at each other one when all patches `[N, L, p³·C]` are seen: for every block in order,
    /// `[N, num_heads, L, L]`, the class token first where there is one.
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

    /// All patches `[N, L, p³·C]`, in order, as tokens `[N, L, dim]` with their positions.
    fn embed(&self, patches: Tensor<3>) -> Tensor<3> {
        self.patch_embed.forward(patches) + self.pos_embed.all()
    }

    /// The visible patches `[N, k, p³·C]`; `patch_idx` `[N·k]` says which patch of its volume each one is.
    #[must_use]
    pub fn forward_visible(&self, visible: Tensor<3>, patch_idx: Tensor<1, Int>) -> EncoderOutput {
        let [n, _, _] = visible.dims();
        let x = self.patch_embed.forward(visible) + self.pos_embed.rows(patch_idx, n);
        self.forward_tokens(x)
    }

    /// Blocks over tokens `[N, L, dim]` that carry their positions already.
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
            Some(token) => Tensor::cat(vec![token.val().expand([n, 1, dim]), x], 1),
            None => x,
        }
    }
}
