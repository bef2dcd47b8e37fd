//! Names of our parameters in files of the reference.

use super::layout::Layout;

/// Name of the encoder's table of positions in a pre-training checkpoint.
pub(crate) const ENCODER_POSITIONS: &str = "encoder_pos_embed";
/// Name of the decoder's table of positions in a pre-training checkpoint.
pub(crate) const DECODER_POSITIONS: &str = "decoder_pos_embed";

/// Maps from a model's parameters to the tensors of a kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// [`HiEndMae`](crate::model::hi_end_mae::HiEndMae) to the released pre-training checkpoint.
    Pretraining,
    /// [`Unetr`](crate::model::unetr::Unetr) to the reference's UNETR.
    Unetr,
    /// [`Unetr`](crate::model::unetr::Unetr) to a pre-training checkpoint: the encoder without its class token; no other
    /// parameter has a counterpart.
    UnetrFromPretraining,
}

impl Naming {
    /// Name and layout in the file of the model's parameter at `path`; `None` if the file lacks it.
    pub(super) fn find(self, path: &str, in_channels: usize) -> Option<(String, Layout)> {
        match self {
            Self::Pretraining => Some(pretraining_name(path, in_channels)),
            Self::Unetr => Some(unetr_name(path)),
            Self::UnetrFromPretraining => {
                let inner = path.strip_prefix("vit.")?;
                Some(pretraining_name(&format!("encoder.{inner}"), in_channels))
            }
        }
    }
}

/// Replaces Burn's names of layer norm parameters by those of `PyTorch`.
fn torch_leaf(path: &str) -> String {
    match path.rsplit_once('.') {
        Some((parent, "gamma")) => format!("{parent}.weight"),
        Some((parent, "beta")) => format!("{parent}.bias"),
        _ => path.to_owned(),
    }
}

/// Layout of a parameter outside the patch embedding: transposed for weights of linear maps.
fn layout_of_linear(path: &str) -> Layout {
    let is_norm = path.contains("norm");
    if path.ends_with(".weight") && !is_norm { Layout::Transposed } else { Layout::Same }
}

fn pretraining_name(path: &str, in_channels: usize) -> (String, Layout) {
    match path {
        "encoder.pos_embed.table" => (ENCODER_POSITIONS.to_owned(), Layout::Same),
        "decoder_pos_embed.table" => (DECODER_POSITIONS.to_owned(), Layout::Same),
        "encoder.patch_embed.proj.weight" => (path.to_owned(), Layout::PatchConv { in_channels }),
        _ => (torch_leaf(path), layout_of_linear(path)),
    }
}

pub(super) fn unetr_name(path: &str) -> (String, Layout) {
    if let Some(inner) = path.strip_prefix("vit.") {
        let name = match inner {
            "pos_embed.table" => "patch_embedding.position_embeddings".to_owned(),
            "patch_embed.proj.weight" => "patch_embedding.patch_embeddings.1.weight".to_owned(),
            "patch_embed.proj.bias" => "patch_embedding.patch_embeddings.1.bias".to_owned(),
            _ => torch_leaf(inner)
                .replace(".attn.proj.", ".attn.out_proj.")
                .replace(".fc1.", ".linear1.")
                .replace(".fc2.", ".linear2."),
        };
        return (format!("vit.{name}"), layout_of_linear(inner));
    }
    let name = match path.rsplit_once('.') {
        Some(("out", leaf)) => format!("out.conv.conv.{leaf}"),
        // The only convolution that the reference does not wrap.
        Some(("decoder2.conv3d", _)) | None => path.to_owned(),
        Some((parent, leaf)) => format!("{parent}.conv.{leaf}"),
    };
    (name, Layout::Same)
}
