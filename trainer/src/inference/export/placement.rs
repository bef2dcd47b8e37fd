//! Positions of a scan's voxels in the predicted grid.

use hiend_loader::geometry::Affine;

use super::{ExportError, other_axes};

/// Largest displacement by shear over the whole scan, in predicted voxels, at which the axes of both grids count as
/// parallel.
const MAX_DRIFT: f64 = 0.01;
/// Tolerance, in voxels, so that rounding does not turn the outermost voxels of a grid into background.
const EDGE: f64 = 1e-6;

/// A position between two voxels: their indices and the share of the second; `None` outside the grid.
pub(super) type Between = Option<(usize, usize, f32)>;

/// Map from the oriented scan to the predicted grid.
#[derive(Clone, Debug)]
pub(super) enum Placement {
    /// Parallel axes: the position for each axis of the predicted grid and each index of the oriented scan.
    Separable([Vec<Between>; 3]),
    /// Axes with shear.
    Oblique(Oblique),
}

impl Default for Placement {
    fn default() -> Self {
        Self::Separable([const { Vec::new() }; 3])
    }
}

impl Placement {
    pub(super) fn new(map: Affine, shape: [usize; 3], pred_dims: [usize; 3]) -> Result<Self, ExportError> {
        for (axis, row) in map.iter().enumerate().take(3) {
            let scale = row[axis];
            if scale.is_nan() || scale <= 0.0 {
                return Err(ExportError::Turned { axis, scale });
            }
        }
        let drift = |row: usize| -> f64 {
            (0..3).filter(|&column| column != row).map(|column| map[row][column].abs() * shape[column] as f64).sum()
        };
        if (0..3).any(|row| drift(row) > MAX_DRIFT) {
            return Ok(Self::Oblique(Oblique { map, shape }));
        }
        Ok(Self::Separable(std::array::from_fn(|a| {
            (0..shape[a]).map(|i| position_between(map[a][a] * i as f64 + map[a][3], pred_dims[a])).collect()
        })))
    }
}

/// Finds the two voxels around a position along an axis of `dim` voxels; `None` if it is more than half a voxel
/// outside.
fn position_between(position: f64, dim: usize) -> Between {
    let last = dim.checked_sub(1)?;
    if !(-0.5 - EDGE..=last as f64 + 0.5 + EDGE).contains(&position) {
        return None;
    }
    let position = position.clamp(0.0, last as f64);
    let first = (position.floor() as usize).min(last);
    Some((first, (first + 1).min(last), (position - first as f64) as f32))
}

/// Map to a grid whose axes are not parallel.
#[derive(Clone, Debug)]
pub(super) struct Oblique {
    /// Affine from the oriented scan to the predicted grid (`pred_from_oriented`).
    map: Affine,
    /// Shape of the oriented scan in voxels.
    shape: [usize; 3],
}

/// Weights of the eight predicted voxels around a voxel of the scan.
pub(super) struct Weights {
    /// True if the position lies on the newest plane itself, which is then the last of the grid.
    on_newest: bool,
    share: f32,
    /// Four voxels of a plane, each with its index and weight.
    corners: [(usize, f32); 4],
    plane_len: usize,
}

impl Weights {
    /// Interpolates every channel between two planes `[C, A, B]`, the older one first.
    pub(super) fn blend(&self, planes: &[Vec<f32>; 2], logits: &mut [f32]) {
        let at = |plane: &[f32]| self.corners.iter().map(|&(index, weight)| plane[index] * weight).sum::<f32>();
        for (class, logit) in logits.iter_mut().enumerate() {
            let [older, newest] = planes;
            let newest = at(&newest[class * self.plane_len..]);
            *logit = if self.on_newest {
                newest
            } else {
                let older = at(&older[class * self.plane_len..]);
                older + (newest - older) * self.share
            };
        }
    }
}

impl Oblique {
    /// Calls `label` with every voxel of the oriented scan between plane `newest` along `axis` and the plane before it,
    /// and also those on `newest` or beyond if it is the last plane. Over all planes, each voxel inside the grid is
    /// visited once.
    pub(super) fn for_each_between(
        &self,
        axis: usize,
        newest: usize,
        pred_dims: [usize; 3],
        mut label: impl FnMut([usize; 3], Weights),
    ) {
        let [rows, columns] = other_axes(axis);
        let (num_rows, num_columns) = (pred_dims[rows], pred_dims[columns]);
        let mut oriented = [0; 3];
        for i in 0..self.shape[rows] {
            for j in 0..self.shape[columns] {
                (oriented[rows], oriented[columns], oriented[axis]) = (i, j, 0);
                for at in self.candidates(oriented, axis, newest) {
                    oriented[axis] = at;
                    let [along, row, column] =
                        [axis, rows, columns].map(|a| position_between(self.position(oriented, a), pred_dims[a]));
                    let (Some((first, second, share)), Some(row), Some(column)) = (along, row, column) else {
                        continue;
                    };
                    if second != newest {
                        continue;
                    }
                    let (left, right) = (column.0, column.1);
                    let (upper, lower) = (row.0 * num_columns, row.1 * num_columns);
                    let corners = [
                        (upper + left, (1.0 - row.2) * (1.0 - column.2)),
                        (upper + right, (1.0 - row.2) * column.2),
                        (lower + left, row.2 * (1.0 - column.2)),
                        (lower + right, row.2 * column.2),
                    ];
                    let plane_len = num_rows * num_columns;
                    label(oriented, Weights { on_newest: first == newest, share, corners, plane_len });
                }
            }
        }
    }

    /// Position along an axis of the predicted grid.
    fn position(&self, oriented: [usize; 3], axis: usize) -> f64 {
        let row = &self.map[axis];
        (0..3).map(|column| row[column] * oriented[column] as f64).sum::<f64>() + row[3]
    }

    /// Range of indices along `axis`, starting from a voxel with index 0, whose positions may lie near plane `newest`:
    /// within one and a half planes on either side, which includes voxels half a voxel outside of the grid.
    fn candidates(&self, first: [usize; 3], axis: usize, newest: usize) -> std::ops::Range<usize> {
        let (start, scale) = (self.position(first, axis), self.map[axis][axis]);
        let index = |position: f64| ((position - start) / scale).clamp(0.0, self.shape[axis] as f64);
        let (low, high) = (index(newest as f64 - 1.6), index(newest as f64 + 0.6));
        low.floor() as usize..(high.ceil() as usize + 1).min(self.shape[axis])
    }
}
