//! Which patches the encoder sees.
//!
//! The order of a sample's patches is the argsort of one uniform number a patch; the first ones are visible. It is
//! worked out on the host: sorting on a CUDA device goes through the host anyway, and a mask that is a pure function
//! of the crop's identity must not depend on a device's generator.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Visible patches of `num_patches`: `floor(num_patches · (1 - mask_ratio))`, in f64 as the reference computes it.
#[must_use]
pub fn num_visible(num_patches: usize, mask_ratio: f64) -> usize {
    (num_patches as f64 * (1.0 - mask_ratio)) as usize
}

/// Shuffled orders of the patches of some samples, on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    num_patches: usize,
    num_visible: usize,
    /// `[N, L]`, row-major: the patch at each place of the shuffled order.
    ids_shuffle: Vec<usize>,
}

impl Mask {
    /// The mask of `noise` `[N, L]`, row-major: a stable argsort of each row, equal numbers in order of patches.
    ///
    /// # Panics
    /// If `noise` is no whole number of rows.
    #[must_use]
    pub fn from_noise(noise: &[f32], num_patches: usize, mask_ratio: f64) -> Self {
        assert!(noise.len().is_multiple_of(num_patches), "{} is no multiple of {num_patches}", noise.len());
        let mut ids_shuffle = Vec::with_capacity(noise.len());
        for row in noise.chunks_exact(num_patches) {
            let mut ids: Vec<usize> = (0..num_patches).collect();
            ids.sort_by(|&a, &b| row[a].total_cmp(&row[b]));
            ids_shuffle.extend(ids);
        }
        Self { num_patches, num_visible: num_visible(num_patches, mask_ratio), ids_shuffle }
    }

    /// The same order with another number of visible patches, at most all but one.
    #[must_use]
    pub fn with_num_visible(self, num_visible: usize) -> Self {
        Self { num_visible: num_visible.min(self.num_patches - 1), ..self }
    }

    /// Number of samples.
    #[must_use]
    pub fn num_samples(&self) -> usize {
        self.ids_shuffle.len() / self.num_patches
    }

    /// Number of patches of a sample.
    #[must_use]
    pub fn num_patches(&self) -> usize {
        self.num_patches
    }

    /// The mask of some of the samples, in the order given.
    ///
    /// # Panics
    /// If there is no such sample.
    #[must_use]
    pub fn select(&self, samples: &[usize]) -> Self {
        let ids_shuffle = samples.iter().flat_map(|&sample| self.row(sample).iter().copied()).collect();
        Self { ids_shuffle, ..*self }
    }

    /// The visible patches of a sample, in shuffled order.
    #[must_use]
    pub fn ids_keep(&self, sample: usize) -> &[usize] {
        &self.row(sample)[..self.num_visible]
    }

    /// Which patches of a sample are hidden, in order of the patches.
    #[must_use]
    pub fn hidden(&self, sample: usize) -> Vec<bool> {
        let mut hidden = vec![true; self.num_patches];
        self.ids_keep(sample).iter().for_each(|&id| hidden[id] = false);
        hidden
    }

    /// The place of a patch in a sample's shuffled order.
    #[must_use]
    pub fn place(&self, sample: usize, patch: usize) -> Option<usize> {
        self.row(sample).iter().position(|&id| id == patch)
    }

    /// The shuffled order of a sample's patches.
    fn row(&self, sample: usize) -> &[usize] {
        &self.ids_shuffle[sample * self.num_patches..][..self.num_patches]
    }

    /// Index tensors for a device. They are constants, so a device without autodiff serves.
    #[must_use]
    pub fn upload(&self, device: &Device) -> MaskIndices {
        let num_samples = self.num_samples();
        // Row of patch `id` of `sample` where the patches of all samples lie below each other.
        let flat = |sample: usize, id: usize| (sample * self.num_patches + id) as i64;
        let gather = |range: std::ops::Range<usize>| {
            let rows = (0..num_samples).flat_map(|s| self.row(s)[range.clone()].iter().map(move |&id| flat(s, id)));
            indices(rows.collect(), device)
        };
        let mut restore = vec![0; self.ids_shuffle.len()];
        for sample in 0..num_samples {
            for (place, &id) in self.row(sample).iter().enumerate() {
                restore[sample * self.num_patches + id] = flat(sample, place);
            }
        }
        let visible_patches = (0..num_samples).flat_map(|s| self.ids_keep(s).iter().map(|&id| id as i64));
        MaskIndices {
            num_samples,
            num_visible: self.num_visible,
            num_masked: self.num_patches - self.num_visible,
            visible_rows: gather(0..self.num_visible),
            masked_rows: gather(self.num_visible..self.num_patches),
            restore_rows: indices(restore, device),
            visible_patches: indices(visible_patches.collect(), device),
            shuffled_patches: indices(self.ids_shuffle.iter().map(|&id| id as i64).collect(), device),
        }
    }
}

fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// A [`Mask`] as indices on a device.
///
/// `…_rows` count in patches of all samples lying below each other, `[N·L, …]`; `…_patches` count within a sample.
#[derive(Clone, Debug)]
pub struct MaskIndices {
    /// N.
    pub num_samples: usize,
    /// Visible patches a sample.
    pub num_visible: usize,
    /// Masked patches a sample.
    pub num_masked: usize,
    /// Rows of the visible patches, `[N·num_visible]`.
    pub visible_rows: Tensor<1, Int>,
    /// Rows of the masked patches, `[N·num_masked]`.
    pub masked_rows: Tensor<1, Int>,
    /// `ids_restore` as rows, `[N·L]`: where each patch lies in shuffled order.
    pub restore_rows: Tensor<1, Int>,
    /// `ids_keep`, `[N·num_visible]`.
    pub visible_patches: Tensor<1, Int>,
    /// `ids_shuffle`, `[N·L]`.
    pub shuffled_patches: Tensor<1, Int>,
}

impl MaskIndices {
    /// The visible ones of `patches` `[N, L, W]`, as `[N, num_visible, W]`, in shuffled order.
    #[must_use]
    pub fn visible(&self, patches: Tensor<3>) -> Tensor<3> {
        take(patches, &self.visible_rows)
    }

    /// The masked ones of `patches` `[N, L, W]`, as `[N, num_masked, W]`, in shuffled order.
    #[must_use]
    pub fn masked(&self, patches: Tensor<3>) -> Tensor<3> {
        take(patches, &self.masked_rows)
    }

    /// `tokens` `[N, L, W]` in shuffled order, back in the order of the patches.
    #[must_use]
    pub fn restore(&self, tokens: Tensor<3>) -> Tensor<3> {
        take(tokens, &self.restore_rows)
    }
}

/// Rows of `x` `[N, L, W]`, counted over all samples, as many of each sample.
fn take(x: Tensor<3>, rows: &Tensor<1, Int>) -> Tensor<3> {
    let [n, l, width] = x.dims();
    let [num_rows] = rows.dims();
    x.reshape([n * l, width]).select(0, rows.clone()).reshape([n, num_rows / n, width])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_numbers_are_visible() {
        let mask = Mask::from_noise(&[0.4, 0.1, 0.3, 0.1, 0.9, 0.8, 0.7, 0.6], 4, 0.5);
        assert_eq!(mask.ids_keep(0), [1, 3]);
        assert_eq!(mask.ids_keep(1), [3, 2]);
    }

    #[test]
    fn the_number_of_visible_patches_is_rounded_down() {
        assert_eq!(num_visible(512, 0.75), 128);
        assert_eq!(num_visible(64, 0.6), 25);
        assert_eq!(num_visible(10, 0.9), 0);
    }

    #[test]
    fn restoring_undoes_the_shuffle() {
        let device = Device::flex();
        let noise: Vec<f32> = (0..54u32).map(|i| (i * 37 % 54) as f32).collect();
        let indices = Mask::from_noise(&noise, 27, 0.75).upload(&device);
        let values: Vec<f32> = (0..108u8).map(f32::from).collect();
        let patches = Tensor::<3>::from_data(TensorData::new(values, [2, 27, 2]), &device);
        let shuffled = Tensor::cat(vec![indices.visible(patches.clone()), indices.masked(patches.clone())], 1);
        assert_ne!(shuffled.clone().into_data(), patches.clone().into_data());
        assert_eq!(indices.restore(shuffled).into_data(), patches.into_data());
    }

    proptest::proptest! {
        #[test]
        fn every_patch_is_either_visible_or_masked(
            noise in proptest::collection::vec(0f32..1.0, 2 * 27),
            mask_ratio in 0.05f64..0.95,
        ) {
            let mask = Mask::from_noise(&noise, 27, mask_ratio);
            for sample in 0..2 {
                let mut ids = mask.row(sample).to_vec();
                ids.sort_unstable();
                proptest::prop_assert_eq!(ids, (0..27).collect::<Vec<_>>());
                proptest::prop_assert_eq!(mask.ids_keep(sample).len(), num_visible(27, mask_ratio));
                let row = &noise[sample * 27..][..27];
                proptest::prop_assert!(mask.row(sample).is_sorted_by(|&a, &b| row[a] <= row[b]));
            }
            let second = mask.select(&[1]);
            proptest::prop_assert_eq!(second.ids_keep(0), mask.ids_keep(1));
        }
    }
}
