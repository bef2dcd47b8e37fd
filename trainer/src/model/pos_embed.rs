//! Positions of patches: the 3-D sine-cosine table, fixed or as initial values of a trained table.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};

use super::init::WeightInit;

/// Ratio of the longest wavelength to the shortest, which is 2π patches.
const TEMPERATURE: f32 = 10_000.0;

/// Largest difference between a value of a table in a file and the computed one. bf16 rounds by up to half a unit in
/// the last place, which is 0.002 just below 1. Tables of two grids with equally many patches differ by sin 1 = 0.84 in
/// some value: at the first patch where they differ, one of them is at 1 on an axis and the other one at 0.
const MOST_ROUNDING: f32 = 0.005;

/// Sine-cosine table `[L, dim]` of a grid of patches, row-major over (gx, gy, gz).
///
/// Each axis has a third of the width: first sines, then cosines. The arithmetic is in f32, as in the reference, so
/// that the tables agree to the last bits.
///
/// # Panics
/// If `dim` is not a multiple of 6.
#[must_use]
pub fn sincos_table(grid: [usize; 3], dim: usize) -> Vec<f32> {
    assert!(dim.is_multiple_of(6), "a 3-D sine-cosine table needs a width that is a multiple of 6, not {dim}");
    let omega = frequencies(dim);
    let mut table = Vec::with_capacity(grid.iter().product::<usize>() * dim);
    for position in positions(grid) {
        push_row(&mut table, position, &omega);
    }
    table
}

/// Grid of patches whose sine-cosine table of width `dim` has these values, up to the rounding of 16-bit floats; `None`
/// for any other table, such as a trained one.
#[must_use]
pub fn grid_of_table(values: &[f32], dim: usize) -> Option<[usize; 3]> {
    if dim == 0 || !dim.is_multiple_of(6) || !values.len().is_multiple_of(dim) {
        return None;
    }
    let num_patches = values.len() / dim;
    let omega = frequencies(dim);
    let mut row = Vec::with_capacity(dim);
    let is_table = |grid: &[usize; 3]| {
        positions(*grid).zip(values.chunks_exact(dim)).all(|(position, found)| {
            row.clear();
            push_row(&mut row, position, &omega);
            row.iter().zip(found).all(|(value, found)| (value - found).abs() <= MOST_ROUNDING)
        })
    };
    let sides = |len: usize| (1..=len).filter(move |&side| len.is_multiple_of(side));
    let mut grids =
        sides(num_patches).flat_map(|gx| sides(num_patches / gx).map(move |gy| [gx, gy, num_patches / (gx * gy)]));
    grids.find(is_table)
}

/// Angular frequencies of a table of width `dim`, in radians per patch, descending from 1.
fn frequencies(dim: usize) -> Vec<f32> {
    let num_waves = dim / 6;
    (0..num_waves).map(|i| 1.0 / TEMPERATURE.powf(i as f32 / num_waves as f32)).collect()
}

/// Positions of the patches of a grid, row-major.
fn positions([nx, ny, nz]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..nx * ny * nz).map(move |patch| [patch / (ny * nz), patch / nz % ny, patch % nz])
}

/// Appends the row of a patch.
fn push_row(table: &mut Vec<f32>, position: [usize; 3], omega: &[f32]) {
    for along in position {
        table.extend(omega.iter().map(|w| (along as f32 * w).sin()));
        table.extend(omega.iter().map(|w| (along as f32 * w).cos()));
    }
}

/// A position table `[1, L, dim]`.
#[derive(Module, Debug)]
pub struct PosEmbed {
    /// Table with one row per patch, row-major over the grid. The class token has no row, because its position is zero.
    pub table: Param<Tensor<3>>,
}

impl PosEmbed {
    /// Initialises the sine-cosine table, which is constant unless `trained`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_of_a_table_is_found_among_all_of_its_length() {
        let grids = [[2, 2, 6], [2, 6, 2], [6, 2, 2], [1, 1, 24], [24, 1, 1], [2, 3, 4], [4, 3, 2], [1, 1, 1]];
        for grid in grids {
            for dim in [6, 24] {
                assert_eq!(grid_of_table(&sincos_table(grid, dim), dim), Some(grid), "{grid:?}, {dim}");
            }
        }
        // bf16 keeps the upper half of the bits.
        let rounded = |value: f32| f32::from_bits((value.to_bits() + 0x8000) & 0xffff_0000);
        let table: Vec<f32> = sincos_table([2, 3, 4], 12).into_iter().map(rounded).collect();
        assert_eq!(grid_of_table(&table, 12), Some([2, 3, 4]));
    }

    #[test]
    fn values_of_no_table_have_no_grid() {
        let mut table = sincos_table([2, 3, 4], 12);
        assert_eq!(grid_of_table(&table[12..], 12), None);
        assert_eq!(grid_of_table(&table, 10), None);
        assert_eq!(grid_of_table(&[], 12), None);
        table[100] += 0.01;
        assert_eq!(grid_of_table(&table, 12), None);
        table[100] = f32::NAN;
        assert_eq!(grid_of_table(&table, 12), None);
    }
}
