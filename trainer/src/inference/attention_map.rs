//! Attention of one query patch of a crop to every other patch, layer by layer, as in the paper's figure.
//!
//! They are the softmax rows that weight the values in the forward pass ([`crate::model::attention`]). In the encoder
//! all patches are visible. In the decoder the query is hidden, as are all patches that it reconstructs, and attends to
//! the encoder's tokens of the visible patches.

use burn::tensor::{Device, Tensor, TensorData};

use super::{DeviceError, host};
use crate::model::encoder::Encoder;
use crate::model::hi_end_mae::HiEndMae;
use crate::model::masking::Mask;
use crate::model::patch_embed::patchify;

/// Attention heads that a map shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Mean over all heads.
    Mean,
    /// One head, counted from 0.
    One(usize),
}

/// Attention weights of one query, by patch.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMap {
    /// Weight of each patch, in the order of the patches; `None` for a patch hidden from the encoder.
    pub patches: Vec<Option<f32>>,
    /// Weight of the class token, if there is one.
    pub cls_token: Option<f32>,
}

impl AttentionMap {
    /// Number of tokens with a weight.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.patches.iter().flatten().count() + usize::from(self.cls_token.is_some())
    }

    /// Sum of all weights, which is 1 up to rounding.
    #[must_use]
    pub fn sum(&self) -> f32 {
        self.patches.iter().flatten().sum::<f32>() + self.cls_token.unwrap_or(0.0)
    }
}

/// Errors from computing attention maps.
#[derive(Debug, thiserror::Error)]
pub enum AttentionError {
    /// A head that the model does not have.
    #[error("head {head} does not exist; this model has {num_heads} heads, counted from 0")]
    NoHead {
        /// Requested head.
        head: usize,
        /// Number of heads.
        num_heads: usize,
    },
    /// A failure of the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Attention maps of patch `query` of the crop `[1, C, X, Y, Z]`, one for every block of an encoder that sees all
/// patches.
///
/// # Errors
/// If the model lacks the head, or the device fails.
pub fn encoder_maps(
    encoder: &Encoder,
    crop: Tensor<5>,
    patch_size: usize,
    query: usize,
    heads: Heads,
) -> Result<Vec<AttentionMap>, AttentionError> {
    let cls = usize::from(encoder.cls_token.is_some());
    let layers = encoder.attention(patchify(crop, patch_size));
    let map = |layer: Tensor<4>| {
        let row = row(layer, query + cls, heads)?;
        Ok(AttentionMap {
            patches: row[cls..].iter().copied().map(Some).collect(),
            cls_token: row[..cls].first().copied(),
        })
    };
    layers.into_iter().map(map).collect()
}

/// Attention maps of patch `query`, which `mask` hides, one for every cross-attention block in order.
///
/// # Errors
/// If the model lacks the head, or the device fails.
///
/// # Panics
/// If `mask` has fewer patches.
pub fn decoder_maps(
    model: &HiEndMae,
    crop: Tensor<5>,
    mask: &Mask,
    query: usize,
    heads: Heads,
) -> Result<Vec<AttentionMap>, AttentionError> {
    let layers = model.cross_attention(crop.clone(), &mask.upload(&crop.device()));
    let place = mask.place(0, query).expect("a patch of the crop");
    let map = |layer: Tensor<4>| {
        let row = row(layer, 1 + place, heads)?;
        let mut patches = vec![None; mask.num_patches()];
        for (&id, &weight) in mask.ids_keep(0).iter().zip(&row[1..]) {
            patches[id] = Some(weight);
        }
        Ok(AttentionMap { patches, cls_token: row.first().copied() })
    };
    layers.into_iter().map(map).collect()
}

/// Row `query` of the attention weights `[1, num_heads, L, M]`.
fn row(layer: Tensor<4>, query: usize, heads: Heads) -> Result<Vec<f32>, AttentionError> {
    let [_, num_heads, _, num_keys] = layer.dims();
    let rows = layer.narrow(2, query, 1);
    let row = match heads {
        Heads::Mean => rows.mean_dim(1),
        Heads::One(head) if head < num_heads => rows.narrow(1, head, 1),
        Heads::One(head) => return Err(AttentionError::NoHead { head, num_heads }),
    };
    Ok(host(row.reshape([num_keys]))?)
}

/// Mask that shows `num_visible` patches but not `query`; `noise`, one number per patch, decides which.
#[must_use]
pub fn mask_hiding(query: usize, mut noise: Vec<f32>, num_visible: usize) -> Mask {
    let num_patches = noise.len();
    noise[query] = f32::INFINITY;
    Mask::from_noise(&noise, num_patches, 0.0).with_num_visible(num_visible)
}

/// Copies a crop to a device, as `[1, 1, X, Y, Z]`.
#[must_use]
pub fn crop_tensor(values: Vec<f32>, [x, y, z]: [usize; 3], device: &Device) -> Tensor<5> {
    Tensor::from_data(TensorData::new(values, [1, 1, x, y, z]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::hi_end_mae::HiEndMaeConfig;
    use crate::model::init::WeightInit;

    const CROP: [usize; 3] = [12, 12, 18];

    fn model() -> HiEndMae {
        let config = HiEndMaeConfig {
            patch_size: 6,
            embed_dim: 24,
            depth: 5,
            num_heads: 2,
            taps: vec![1, 3],
            decoder_embed_dim: 12,
            decoder_num_heads: 3,
            ..HiEndMaeConfig::tiny()
        };
        config.init(CROP, &mut WeightInit::new(4, &Device::flex()))
    }

    fn crop() -> Tensor<5> {
        let values = (0..CROP.iter().product()).map(|i: usize| (i as f32 * 0.13).sin()).collect();
        crop_tensor(values, CROP, &Device::flex())
    }

    #[test]
    fn weights_of_a_map_sum_to_one() {
        let model = model();
        let maps = encoder_maps(&model.encoder, crop(), 6, 7, Heads::Mean).unwrap();
        assert_eq!(maps.len(), 5);
        for map in &maps {
            assert_eq!(map.num_tokens(), 13);
            assert!((map.sum() - 1.0).abs() < 1e-5, "{}", map.sum());
        }
        let noise = (0..12u8).map(|i| f32::from(i * 7 % 12)).collect();
        let mask = mask_hiding(7, noise, 4);
        let maps = decoder_maps(&model, crop(), &mask, 7, Heads::One(2)).unwrap();
        assert_eq!(maps.len(), 2);
        for map in &maps {
            assert_eq!(map.num_tokens(), 5);
            assert!(map.patches[7].is_none());
            assert!((map.sum() - 1.0).abs() < 1e-5, "{}", map.sum());
        }
    }

    #[test]
    fn mean_maps_average_the_heads() {
        let model = model();
        let of = |heads| encoder_maps(&model.encoder, crop(), 6, 2, heads).unwrap().remove(3).patches;
        let (first, second, mean) = (of(Heads::One(0)), of(Heads::One(1)), of(Heads::Mean));
        for patch in 0..12 {
            let expected = f32::midpoint(first[patch].unwrap(), second[patch].unwrap());
            assert!((mean[patch].unwrap() - expected).abs() < 1e-6);
        }
        assert_ne!(first, second);
        let message = encoder_maps(&model.encoder, crop(), 6, 2, Heads::One(2)).unwrap_err().to_string();
        assert_eq!(message, "head 2 does not exist; this model has 2 heads, counted from 0");
    }

    #[test]
    fn only_the_query_is_hidden_if_all_others_are_visible() {
        let mask = mask_hiding(3, vec![0.5; 12], 12);
        let hidden: Vec<usize> = mask.hidden(0).iter().enumerate().filter(|(_, h)| **h).map(|(id, _)| id).collect();
        assert_eq!(hidden, [3]);
    }
}
