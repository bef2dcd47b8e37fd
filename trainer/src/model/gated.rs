//! Models whose blocks deliver their gradients during the backward pass.

use burn::module::{Module, ParamId, list_param_ids};

use super::block::Block;
use super::hi_end_mae::HiEndMae;
use super::unetr::Unetr;

/// A model whose blocks are behind gates ([`crate::ops::gate`]).
pub trait Gated: Module {
    /// Parameters of each block behind a gate, with blocks in the order of the forward pass.
    fn gated(&self) -> Vec<Vec<ParamId>>;
}

impl Gated for HiEndMae {
    fn gated(&self) -> Vec<Vec<ParamId>> {
        params_of(self.encoder.blocks.iter().chain(&self.decoder.blocks))
    }
}

impl Gated for Unetr {
    fn gated(&self) -> Vec<Vec<ParamId>> {
        params_of(&self.vit.blocks)
    }
}

fn params_of<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> Vec<Vec<ParamId>> {
    blocks.into_iter().map(list_param_ids).collect()
}
