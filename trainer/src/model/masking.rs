//! Choice of the patches that the encoder sees.
//!
//! The order of a crop's patches is the argsort of one uniform number per patch; the first patches in this order are
//! visible. It is computed on the host: sorting on a CUDA device goes through the host anyway, and a mask that is a
//! pure function of the crop's identity must not depend on a device's generator.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Number of visible patches among `num_patches`: `floor(num_patches · (1 - mask_ratio))`, in f64 as in the reference.
#[must_use]
pub fn num_visible(num_patches: usize, mask_ratio: f64) -> usize {
    (num_patches as f64 * (1.0 - mask_ratio)) as usize
}

/// Shuffled orders of the patches of several crops, on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    num_patches: usize,
    num_visible: usize,
    /// Patch at each position of the shuffled orders, `[N, L]`, row-major.
    ids_shuffle: Vec<usize>,
}

impl Mask {
    /// Creates the mask given by `noise` `[N, L]`, row-major: a stable argsort of each row, with equal numbers in the
    /// order of patches.
    ///
    /// # Panics
    /// If the length of `noise` is not a multiple of `num_patches`.
    #[must_use]
    pub fn from_noise(noise: &[f32], num_patches: usize, mask_ratio: f64) -> Self {
        assert!(noise.len().is_multiple_of(num_patches), "{} is not a multiple of {num_patches}", noise.len());
        let mut ids_shuffle = Vec::with_capacity(noise.len());
        for row in noise.chunks_exact(num_patches) {
            let mut ids: Vec<usize> = (0..num_patches).collect();
            ids.sort_by(|&a, &b| row[a].total_cmp(&row[b]));
            ids_shuffle.extend(ids);
        }
        Self { num_patches, num_visible: num_visible(num_patches, mask_ratio), ids_shuffle }
    }

    /// Replaces the number of visible patches; at least one patch stays hidden.
    #[must_use]
    pub fn with_num_visible(self, num_visible: usize) -> Self {
        Self { num_visible: num_visible.min(self.num_patches - 1), ..self }
    }

    /// Number of crops.
    #[must_use]
    pub fn num_crops(&self) -> usize {
        self.ids_shuffle.len() / self.num_patches
    }

    /// Number of patches in a crop.
    #[must_use]
    pub fn num_patches(&self) -> usize {
        self.num_patches
    }

    /// Mask of the given crops, in that order.
    ///
    /// # Panics
    /// If a crop does not exist.
    #[must_use]
    pub fn select(&self, crops: &[usize]) -> Self {
        let ids_shuffle = crops.iter().flat_map(|&crop| self.row(crop).iter().copied()).collect();
        Self { ids_shuffle, ..*self }
    }

    /// Visible patches of a crop, in shuffled order.
    #[must_use]
    pub fn ids_keep(&self, crop: usize) -> &[usize] {
        &self.row(crop)[..self.num_visible]
    }

    /// For each patch of a crop, in order, whether it is hidden.
    #[must_use]
    pub fn hidden(&self, crop: usize) -> Vec<bool> {
        let mut hidden = vec![true; self.num_patches];
        self.ids_keep(crop).iter().for_each(|&id| hidden[id] = false);
        hidden
    }

    /// Position of a patch in the shuffled order of its crop.
    #[must_use]
    pub fn place(&self, crop: usize, patch: usize) -> Option<usize> {
        self.row(crop).iter().position(|&id| id == patch)
    }

    /// Shuffled order of a crop's patches.
    fn row(&self, crop: usize) -> &[usize] {
        &self.ids_shuffle[crop * self.num_patches..][..self.num_patches]
    }

    /// Copies the mask to a device as index tensors, which are constants, so that the device needs no autodiff.
    #[must_use]
    pub fn upload(&self, device: &Device) -> MaskIndices {
        let num_crops = self.num_crops();
        // Row of a patch in the table of the patches of all crops, one crop after another.
        let flat = |crop: usize, id: usize| (crop * self.num_patches + id) as i64;
        let gather = |range: std::ops::Range<usize>| {
            let rows = (0..num_crops).flat_map(|c| self.row(c)[range.clone()].iter().map(move |&id| flat(c, id)));
            indices(rows.collect(), device)
        };
        let mut restore = vec![0; self.ids_shuffle.len()];
        for crop in 0..num_crops {
            for (place, &id) in self.row(crop).iter().enumerate() {
                restore[crop * self.num_patches + id] = flat(crop, place);
            }
        }
        let visible_patches = (0..num_crops).flat_map(|c| self.ids_keep(c).iter().map(|&id| id as i64));
        MaskIndices {
            num_crops,
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
/// `…_rows` are indices into the patches of all crops, one crop after another, `[N·L, …]`; `…_patches` are indices
/// within a crop.
#[derive(Clone, Debug)]
pub struct MaskIndices {
    /// Number of crops N.
    pub num_crops: usize,
    /// Number of visible patches per crop.
    pub num_visible: usize,
    /// Number of masked patches per crop.
    pub num_masked: usize,
    /// Rows of the visible patches, `[N·num_visible]`.
    pub visible_rows: Tensor<1, Int>,
    /// Rows of the masked patches, `[N·num_masked]`.
    pub masked_rows: Tensor<1, Int>,
    /// Position of each patch in shuffled order (`ids_restore`), as rows, `[N·L]`.
    pub restore_rows: Tensor<1, Int>,
    /// Visible patches (`ids_keep`), `[N·num_visible]`.
    pub visible_patches: Tensor<1, Int>,
    /// Shuffled patches (`ids_shuffle`), `[N·L]`.
    pub shuffled_patches: Tensor<1, Int>,
}

impl MaskIndices {
    /// Selects the visible patches among `patches` `[N, L, W]`; returns `[N, num_visible, W]` in shuffled order.
    #[must_use]
    pub fn visible(&self, patches: Tensor<3>) -> Tensor<3> {
        take(patches, &self.visible_rows)
    }

    /// Selects the masked patches from `patches` `[N, L, W]`; returns `[N, num_masked, W]` in shuffled order.
    #[must_use]
    pub fn masked(&self, patches: Tensor<3>) -> Tensor<3> {
        take(patches, &self.masked_rows)
    }

    /// Restores `tokens` `[N, L, W]` from shuffled order to the order of the patches.
    #[must_use]
    pub fn restore(&self, tokens: Tensor<3>) -> Tensor<3> {
        take(tokens, &self.restore_rows)
    }
}

/// Selects rows of `x` `[N, L, W]`, numbered over all crops; each crop contributes equally many.
fn take(x: Tensor<3>, rows: &Tensor<1, Int>) -> Tensor<3> {
    let [n, l, width] = x.dims();
    let [num_rows] = rows.dims();
    x.reshape([n * l, width]).select(0, rows.clone()).reshape([n, num_rows / n, width])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_with_the_smallest_numbers_are_visible() {
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
            for crop in 0..2 {
                let mut ids = mask.row(crop).to_vec();
                ids.sort_unstable();
                proptest::prop_assert_eq!(ids, (0..27).collect::<Vec<_>>());
                proptest::prop_assert_eq!(mask.ids_keep(crop).len(), num_visible(27, mask_ratio));
                let row = &noise[crop * 27..][..27];
                proptest::prop_assert!(mask.row(crop).is_sorted_by(|&a, &b| row[a] <= row[b]));
            }
            let second = mask.select(&[1]);
            proptest::prop_assert_eq!(second.ids_keep(0), mask.ids_keep(1));
        }
    }
}
