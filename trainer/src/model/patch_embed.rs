//! Volumes as patches: cutting, joining, and the linear map from a patch to a token.
//!
//! Patches are ordered by (gx, gy, gz), row-major; the values of a patch by (px, py, pz, channel). The released encoder
//! embeds with a convolution whose stride equals its kernel; on patches that are already cut this is one matrix
//! product, and it is computed for visible patches only.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;

use super::init::WeightInit;
use super::precision::Precision;

/// Number of patches along each axis.
///
/// A remainder of `crop_size` is dropped; the validation of a model's configuration rejects it beforehand.
#[must_use]
pub fn grid_of(crop_size: [usize; 3], patch_size: usize) -> [usize; 3] {
    crop_size.map(|side| side / patch_size)
}

/// Cuts `[N, C, X, Y, Z]` into patches `[N, L, p³·C]`.
///
/// # Panics
/// If a side of the volume is not a multiple of `patch_size`.
#[must_use]
pub fn patchify(volume: Tensor<5>, patch_size: usize) -> Tensor<3> {
    let [n, c, x, y, z] = volume.dims();
    let p = patch_size;
    let [gx, gy, gz] = grid_of([x, y, z], p);
    volume.reshape([n, c, gx, p, gy, p, gz, p]).permute([0, 2, 4, 6, 3, 5, 7, 1]).reshape([
        n,
        gx * gy * gz,
        p * p * p * c,
    ])
}

/// Joins patches `[N, L, p³·C]` into `[N, C, X, Y, Z]`: the inverse of [`patchify`].
///
/// # Panics
/// If `patches` does not hold `grid` patches of this size.
#[must_use]
pub fn unpatchify(patches: Tensor<3>, grid: [usize; 3], patch_size: usize) -> Tensor<5> {
    let [n, _, width] = patches.dims();
    let p = patch_size;
    let c = width / (p * p * p);
    let [gx, gy, gz] = grid;
    patches.reshape([n, gx, gy, gz, p, p, p, c]).permute([0, 7, 1, 4, 2, 5, 3, 6]).reshape([
        n,
        c,
        gx * p,
        gy * p,
        gz * p,
    ])
}

/// Linear map from a patch to a token.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// Weight `[p³·C, embed_dim]`, the released convolution's weight flattened and transposed; bias `[embed_dim]`.
    pub proj: Linear,
    #[module(skip)]
    precision: Precision,
}

impl PatchEmbed {
    /// Initialises the flattened weight Xavier-uniformly and the bias with zeros.
    pub fn init(patch_size: usize, in_channels: usize, embed_dim: usize, weights: &mut WeightInit) -> Self {
        let proj = weights.linear(patch_size.pow(3) * in_channels, embed_dim);
        Self { proj, precision: weights.precision() }
    }

    /// Maps patches to tokens: `[N, L, p³·C]` → `[N, L, embed_dim]`.
    #[must_use]
    pub fn forward(&self, patches: Tensor<3>) -> Tensor<3> {
        self.precision.widen(self.precision.linear(&self.proj, patches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn numbered(shape: [usize; 5]) -> Tensor<5> {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    #[test]
    fn patches_have_the_documented_order() {
        let patches: Vec<f32> = patchify(numbered([1, 1, 4, 2, 6]), 2).into_data().try_to_vec().unwrap();
        // Patch 1 is the next along z; its first values run along z, then y, then x.
        assert_eq!(patches[8..16], [2.0, 3.0, 8.0, 9.0, 14.0, 15.0, 20.0, 21.0]);
    }

    proptest::proptest! {
        #[test]
        fn joining_undoes_cutting(
            n in 1usize..3,
            c in 1usize..3,
            grid in proptest::array::uniform3(1usize..4),
            patch_size in 1usize..4,
        ) {
            let [x, y, z] = grid.map(|patches| patches * patch_size);
            let volume = numbered([n, c, x, y, z]);
            let back = unpatchify(patchify(volume.clone(), patch_size), grid, patch_size);
            proptest::prop_assert_eq!(back.into_data(), volume.into_data());
        }
    }
}
