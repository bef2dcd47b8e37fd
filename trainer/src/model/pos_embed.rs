//! Positions of patches: the 3-D sine-cosine table, fixed or as initial values of a trained table.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};

use super::init::WeightInit;

/// Ratio of the longest wavelength to the shortest, which is 2π patches.
const TEMPERATURE: f32 = 10_000.0;

/// Sine-cosine table `[L, dim]` of a grid of patches, row-major over (gx, gy, gz).
///
/// A third of the width belongs to each axis, the first half of it sines, the second cosines. The arithmetic is in
/// f32, as in the reference, so that the tables agree to the last bits.
///
/// # Panics
/// If `dim` is not a multiple of 6.
#[must_use]
pub fn sincos_table(grid: [usize; 3], dim: usize) -> Vec<f32> {
    assert!(dim.is_multiple_of(6), "a 3-D sine-cosine table needs a width that is a multiple of 6, not {dim}");
    let num_waves = dim / 6;
    let omega: Vec<f32> = (0..num_waves).map(|i| 1.0 / TEMPERATURE.powf(i as f32 / num_waves as f32)).collect();
    let mut table = Vec::with_capacity(grid.iter().product::<usize>() * dim);
    for gx in 0..grid[0] {
        for gy in 0..grid[1] {
            for gz in 0..grid[2] {
                for position in [gx, gy, gz] {
                    table.extend(omega.iter().map(|w| (position as f32 * w).sin()));
                    table.extend(omega.iter().map(|w| (position as f32 * w).cos()));
                }
            }
        }
    }
    table
}

/// A position table `[1, L, dim]`.
#[derive(Module, Debug)]
pub struct PosEmbed {
    /// One row per patch, row-major over the grid. The class token has no row: its position is zero.
    pub table: Param<Tensor<3>>,
}

impl PosEmbed {
    /// Initialises the sine-cosine table, a constant of the model unless `trained`.
    ///
    /// # Panics
    /// If `dim` is not a multiple of 6.
    #[must_use]
    pub fn init(grid: [usize; 3], dim: usize, trained: bool, weights: &WeightInit) -> Self {
        let num_patches = grid.iter().product();
        let data = TensorData::new(sincos_table(grid, dim), [1, num_patches, dim]);
        Self { table: if trained { weights.param(data) } else { weights.constant(data) } }
    }

    /// Positions of all patches, `[1, L, dim]`.
    #[must_use]
    pub fn all(&self) -> Tensor<3> {
        self.table.val()
    }

    /// Positions `[num_crops, k, dim]` of the patches `patch_idx` `[num_crops · k]`.
    #[must_use]
    pub fn rows(&self, patch_idx: Tensor<1, Int>, num_crops: usize) -> Tensor<3> {
        let [_, num_patches, dim] = self.table.dims();
        let [num_rows] = patch_idx.dims();
        let table = self.table.val().reshape([num_patches, dim]);
        table.select(0, patch_idx).reshape([num_crops, num_rows / num_crops, dim])
    }
}
