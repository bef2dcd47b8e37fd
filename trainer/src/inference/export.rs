//! Predictions back in the grid of the scan they were made for, while they are still being made.
//!
//! The network sees a scan oriented to RAS+, resampled and cropped. A user wants labels voxel for voxel on the file
//! that was put in. Each channel is interpolated linearly at the file's voxel centres and the largest one wins, which
//! keeps borders smoother than taking the nearest voxel of a finished label map. Voxels outside what was predicted
//! are background.
//!
//! Slabs come in order along one axis, so two neighbouring planes are all that has to be kept: memory is the label
//! map and three planes of all channels; and two bytes a voxel and class where probabilities are wanted.

use hiend_loader::geometry::{Affine, Orientation, inverse};
use thiserror::Error;

use super::sliding_window::Slab;

/// How far from zero the parts of the map between two grids that would turn one against the other may be.
const MAX_SHEAR: f64 = 1e-3;

/// Why predictions cannot be brought back.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ExportError {
    /// An affine that maps the voxels to less than a volume.
    #[error("the {grid} affine spans no volume")]
    Flat {
        /// `source` or `predicted`.
        grid: &'static str,
    },
    /// The predicted grid is not the scan's own, oriented, resampled and cropped.
    #[error("the predicted grid is turned against the scan's by {shear:.4} voxels a voxel")]
    Turned {
        /// The largest part that should be zero.
        shear: f64,
    },
    /// A slab that does not follow the last one, or is of another size.
    #[error("a slab at {start:?} of size {dims:?} with {num_values} values does not follow position {expected}")]
    Slab {
        /// Its first voxel.
        start: [usize; 3],
        /// Its size.
        dims: [usize; 3],
        /// Its values.
        num_values: usize,
        /// The position that comes next.
        expected: usize,
    },
    /// More classes than a `u8` label map can name.
    #[error("{num_classes} classes do not fit a label map of 8 bits")]
    TooManyClasses {
        /// Number of classes.
        num_classes: usize,
    },
    /// Labels were asked for before all slabs had come.
    #[error("{got} of {expected} planes were predicted")]
    Unfinished {
        /// Planes seen.
        got: usize,
        /// Planes of the grid.
        expected: usize,
    },
}

/// A position between two voxels: `(1 - share)` of the first and `share` of the second.
type Between = Option<(usize, usize, f32)>;

/// Turns slabs of predictions into the label map of the scan's own file.
#[derive(Debug)]
pub struct LabelExport {
    /// Voxels of the file along its own axes, the first one fastest.
    source_shape: [usize; 3],
    orientation: Orientation,
    pred_dims: [usize; 3],
    /// The axis of the predicted grid along which slabs come.
    axis: usize,
    /// By axis of the predicted grid and oriented source position: where that lies.
    between: [Vec<Between>; 3],
    next: usize,
    num_classes: usize,
    /// The planes `next - 2` and `next - 1`, each [C, A, B] with the two other axes in order.
    planes: [Vec<f32>; 2],
    labels: Vec<u8>,
    /// By class and voxel of the file, in steps of 1/65535, where they are wanted.
    probabilities: Option<Vec<Vec<u16>>>,
}

/// What a scan's voxels were predicted to be, in the file's own order, first axis fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The class of each voxel.
    pub labels: Vec<u8>,
    /// By class and voxel in steps of 1/65535: the softmax of the interpolated logits. Empty if not asked for.
    pub probabilities: Vec<Vec<u16>>,
}

impl LabelExport {
    /// For a file of `source_shape` and `source_affine`, predicted on a grid of `pred_dims` and `pred_affine`, in
    /// slabs along `axis` (see [`super::sliding_window::SlidingWindow::slab_axis`]).
    ///
    /// # Errors
    /// If the predicted grid is not the source's, oriented, scaled and shifted.
    pub fn new(
        source_shape: [usize; 3],
        source_affine: &Affine,
        pred_dims: [usize; 3],
        pred_affine: &Affine,
        axis: usize,
    ) -> Result<Self, ExportError> {
        let orientation = Orientation::closest(source_affine).ok_or(ExportError::Flat { grid: "source" })?;
        let pred_from_world = inverse(pred_affine).ok_or(ExportError::Flat { grid: "predicted" })?;
        let world_from_oriented = orientation.affine(source_affine, source_shape);
        let pred_from_oriented = |row: usize, column: usize| -> f64 {
            (0..4).map(|k| pred_from_world[row][k] * world_from_oriented[k][column]).sum()
        };
        let others =
            (0..3).flat_map(|row| (0..3).map(move |column| (row, column))).filter(|(row, column)| row != column);
        let shear = others.map(|(row, column)| pred_from_oriented(row, column).abs()).fold(0.0, f64::max);
        if shear.is_nan() || shear > MAX_SHEAR {
            return Err(ExportError::Turned { shear });
        }
        let oriented_shape = orientation.shape(source_shape);
        let between = std::array::from_fn(|a| {
            let (scale, offset) = (pred_from_oriented(a, a), pred_from_oriented(a, 3));
            (0..oriented_shape[a]).map(|i| position_between(scale * i as f64 + offset, pred_dims[a])).collect()
        });
        Ok(Self {
            source_shape,
            orientation,
            pred_dims,
            axis,
            between,
            next: 0,
            num_classes: 0,
            planes: [Vec::new(), Vec::new()],
            labels: vec![0; source_shape.iter().product()],
            probabilities: None,
        })
    }

    /// Keeps the probability of each class, too.
    #[must_use]
    pub fn with_probabilities(self) -> Self {
        Self { probabilities: Some(Vec::new()), ..self }
    }

    /// Takes the next slab.
    ///
    /// # Errors
    /// If it does not follow the last one, or has more than 256 classes.
    pub fn push(&mut self, slab: Slab<'_>) -> Result<(), ExportError> {
        let Slab { start, dims, values } = slab;
        let slab_len = dims.iter().product::<usize>();
        let num_classes = values.len() / slab_len.max(1);
        let spans = (0..3).all(|a| a == self.axis || (start[a] == 0 && dims[a] == self.pred_dims[a]));
        let fits = start[self.axis] == self.next && self.next + dims[self.axis] <= self.pred_dims[self.axis];
        let same = num_classes > 0 && (self.next == 0 || num_classes == self.num_classes);
        if !(spans && fits && same && num_classes * slab_len == values.len()) {
            return Err(ExportError::Slab { start, dims, num_values: values.len(), expected: self.next });
        }
        if num_classes > 256 {
            return Err(ExportError::TooManyClasses { num_classes });
        }
        self.num_classes = num_classes;
        if let Some(probabilities) = &mut self.probabilities
            && probabilities.is_empty()
        {
            // Background where nothing is predicted.
            probabilities.resize(num_classes, vec![0; self.labels.len()]);
            probabilities[0].fill(u16::MAX);
        }
        for position in 0..dims[self.axis] {
            self.planes.swap(0, 1);
            let mut plane = std::mem::take(&mut self.planes[1]);
            copy_plane(values, dims, self.axis, position, &mut plane);
            self.planes[1] = plane;
            self.next += 1;
            self.label_between();
        }
        Ok(())
    }

    /// The label map, and the probabilities if they were asked for.
    ///
    /// # Errors
    /// If slabs are missing.
    pub fn finish(self) -> Result<Exported, ExportError> {
        let expected = self.pred_dims[self.axis];
        if self.next < expected {
            return Err(ExportError::Unfinished { got: self.next, expected });
        }
        Ok(Exported { labels: self.labels, probabilities: self.probabilities.unwrap_or_default() })
    }

    /// Labels the source positions between the last two planes, and those on the last one if nothing follows it.
    fn label_between(&mut self) {
        let newest = self.next - 1;
        let [rows, columns] = other_axes(self.axis);
        let (num_rows, num_columns) = (self.pred_dims[rows], self.pred_dims[columns]);
        let mut blended = Vec::new();
        let mut row = vec![0.0; self.num_classes * num_columns];
        let mut logits = vec![0.0; self.num_classes];
        for at in 0..self.between[self.axis].len() {
            let Some((first, second, share)) = self.between[self.axis][at] else { continue };
            if second != newest {
                continue;
            }
            let before = if first == newest { &self.planes[1] } else { &self.planes[0] };
            blended.clear();
            blended.extend(before.iter().zip(&self.planes[1]).map(|(a, b)| a + (b - a) * share));
            for i in 0..self.between[rows].len() {
                let Some((upper, lower, share)) = self.between[rows][i] else { continue };
                for (class, row) in row.chunks_exact_mut(num_columns).enumerate() {
                    let plane = &blended[class * num_rows * num_columns..][..num_rows * num_columns];
                    let (a, b) = (&plane[upper * num_columns..], &plane[lower * num_columns..]);
                    for ((value, a), b) in row.iter_mut().zip(a).zip(b) {
                        *value = a + (b - a) * share;
                    }
                }
                for j in 0..self.between[columns].len() {
                    let Some((left, right, share)) = self.between[columns][j] else { continue };
                    for (logit, row) in logits.iter_mut().zip(row.chunks_exact(num_columns)) {
                        *logit = row[left] + (row[right] - row[left]) * share;
                    }
                    let mut oriented = [0; 3];
                    (oriented[self.axis], oriented[rows], oriented[columns]) = (at, i, j);
                    let place = self.place_in_file(oriented);
                    self.labels[place] = largest(logits.iter().copied());
                    if let Some(probabilities) = &mut self.probabilities {
                        softmax(&mut logits);
                        for (class, &probability) in probabilities.iter_mut().zip(&logits) {
                            class[place] = (probability * f32::from(u16::MAX)).round() as u16;
                        }
                    }
                }
            }
        }
    }

    fn place_in_file(&self, oriented: [usize; 3]) -> usize {
        let mut source = [0; 3];
        for (a, &position) in oriented.iter().enumerate() {
            let axis = self.orientation.source_axis[a];
            source[axis] = if self.orientation.flipped[a] { self.source_shape[axis] - 1 - position } else { position };
        }
        let [nx, ny, _] = self.source_shape;
        (source[2] * ny + source[1]) * nx + source[0]
    }
}

/// Between which of `dim` voxels a position lies; nothing more than half a voxel outside.
fn position_between(position: f64, dim: usize) -> Between {
    let last = dim.checked_sub(1)?;
    // A hair of rounding must not turn the outermost voxels into background.
    if !(-0.5 - 1e-6..=last as f64 + 0.5 + 1e-6).contains(&position) {
        return None;
    }
    let position = position.clamp(0.0, last as f64);
    let first = (position.floor() as usize).min(last);
    Some((first, (first + 1).min(last), (position - first as f64) as f32))
}

fn other_axes(axis: usize) -> [usize; 2] {
    match axis {
        0 => [1, 2],
        1 => [0, 2],
        _ => [0, 1],
    }
}

/// The plane at `position` along `axis` of values [C, X, Y, Z], as [C, A, B].
fn copy_plane(values: &[f32], dims: [usize; 3], axis: usize, position: usize, plane: &mut Vec<f32>) {
    plane.clear();
    let [rows, columns] = other_axes(axis);
    let strides = [dims[1] * dims[2], dims[2], 1];
    for channel in values.chunks_exact(dims.iter().product()) {
        for i in 0..dims[rows] {
            let first = position * strides[axis] + i * strides[rows];
            plane.extend((0..dims[columns]).map(|j| channel[first + j * strides[columns]]));
        }
    }
}

/// Index of the largest value, the lowest of equals; NaN never wins.
fn largest(values: impl Iterator<Item = f32>) -> u8 {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, value) in (0..=u8::MAX).zip(values) {
        if value > best.1 {
            best = (class, value);
        }
    }
    best.0
}

/// Logits to probabilities.
fn softmax(values: &mut [f32]) {
    let top = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for value in values.iter_mut() {
        *value = (*value - top).exp();
    }
    let sum: f32 = values.iter().sum();
    for value in values {
        *value /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hiend_loader::geometry::{Affine, cropped, spacing};

    /// The same directions and first voxel, another spacing.
    fn with_spacing(affine: &Affine, new: [f64; 3]) -> Affine {
        let old = spacing(affine);
        let row = |row: [f64; 4]| std::array::from_fn(|c| if c < 3 { row[c] * new[c] / old[c] } else { row[c] });
        [row(affine[0]), row(affine[1]), row(affine[2]), affine[3]]
    }
    use proptest::prelude::*;

    const NUM_CLASSES: usize = 3;

    /// Smooth in each channel, so that interpolation matters and ties do not occur.
    fn logits(dims: [usize; 3]) -> Vec<f32> {
        let mut values = Vec::new();
        for class in 0..NUM_CLASSES {
            for x in 0..dims[0] {
                for y in 0..dims[1] {
                    for z in 0..dims[2] {
                        let phase = 0.9 * x as f64 - 0.7 * y as f64 + 1.1 * z as f64 + 2.0 * class as f64;
                        values.push((phase.sin() + 0.1 * class as f64) as f32);
                    }
                }
            }
        }
        values
    }

    /// The same by the definition, at one oriented position given in voxels of the predicted grid.
    fn by_definition(values: &[f32], dims: [usize; 3], at: [f64; 3]) -> u8 {
        if (0..3).any(|a| at[a] < -0.5 || at[a] > dims[a] as f64 - 0.5) {
            return 0;
        }
        let at: [f64; 3] = std::array::from_fn(|a| at[a].clamp(0.0, dims[a] as f64 - 1.0));
        let value = |channel: &[f32]| {
            let mut sum = 0.0;
            for corner in 0..8 {
                let mut weight = 1.0;
                let mut place = 0;
                for a in 0..3 {
                    let (below, share) = (at[a].floor(), at[a].fract());
                    let up = corner >> a & 1 == 1;
                    weight *= if up { share } else { 1.0 - share };
                    place = place * dims[a] + (below as usize + usize::from(up)).min(dims[a] - 1);
                }
                sum += weight * f64::from(channel[place]);
            }
            sum as f32
        };
        largest(values.chunks_exact(dims.iter().product()).map(value))
    }

    proptest! {
        #[test]
        fn labels_are_those_of_trilinear_interpolation(
            shape in [1_usize..9, 1_usize..9, 1_usize..9],
            order in Just([0_usize, 1, 2]).prop_shuffle(),
            signs: [bool; 3],
            sides in [0.5_f64..3.0, 0.5_f64..3.0, 0.5_f64..3.0],
            start in [0_usize..3, 0_usize..3, 0_usize..3],
            pred_dims in [1_usize..7, 1_usize..7, 1_usize..7],
            thickness in 1_usize..4,
            axis in 0_usize..3,
        ) {
            let mut affine = [[0.0; 4]; 4];
            for (world, &source) in order.iter().enumerate() {
                affine[world][source] = if signs[world] { -sides[world] } else { sides[world] };
                affine[world][3] = 10.0 * world as f64;
            }
            affine[3][3] = 1.0;
            let orientation = Orientation::closest(&affine).unwrap();
            let oriented = orientation.affine(&affine, shape);
            let pred_affine = cropped(&with_spacing(&oriented, [1.5; 3]), start);
            let values = logits(pred_dims);

            let mut export = LabelExport::new(shape, &affine, pred_dims, &pred_affine, axis).unwrap();
            for from in (0..pred_dims[axis]).step_by(thickness) {
                let mut dims = pred_dims;
                dims[axis] = thickness.min(pred_dims[axis] - from);
                let mut first = [0; 3];
                first[axis] = from;
                let mut part = Vec::new();
                for class in 0..NUM_CLASSES {
                    for x in first[0]..first[0] + dims[0] {
                        for y in first[1]..first[1] + dims[1] {
                            for z in first[2]..first[2] + dims[2] {
                                let row = (class * pred_dims[0] + x) * pred_dims[1] + y;
                                part.push(values[row * pred_dims[2] + z]);
                            }
                        }
                    }
                }
                export.push(Slab { start: first, dims, values: &part }).unwrap();
            }
            let labels = export.finish().unwrap().labels;

            for (place, &label) in labels.iter().enumerate() {
                let source = [place % shape[0], place / shape[0] % shape[1], place / (shape[0] * shape[1])];
                let at: [f64; 3] = std::array::from_fn(|a| {
                    let axis = orientation.source_axis[a];
                    let o = if orientation.flipped[a] { shape[axis] - 1 - source[axis] } else { source[axis] };
                    o as f64 * sides[a] / 1.5 - start[a] as f64
                });
                // Positions on the very edge, or ties between classes, may go either way by rounding.
                let near_edge = (0..3).any(|a| {
                    (at[a] + 0.5).abs() < 1e-5 || (at[a] - pred_dims[a] as f64 + 0.5).abs() < 1e-5
                });
                if !near_edge {
                    let nudged = [-1e-5, 0.0, 1e-5].map(|by| by_definition(&values, pred_dims, at.map(|v| v + by)));
                    prop_assert!(nudged.contains(&label), "voxel {source:?}: {label}, expected {nudged:?}");
                }
            }
        }
    }

    #[test]
    fn slabs_out_of_order_and_missing_ones_are_errors() {
        let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let mut export = LabelExport::new([2; 3], &affine, [2; 3], &affine, 2).unwrap();
        let late = Slab { start: [0, 0, 1], dims: [2, 2, 1], values: &[0.0; 12] };
        assert!(matches!(export.push(late), Err(ExportError::Slab { expected: 0, .. })));
        assert_eq!(export.finish(), Err(ExportError::Unfinished { got: 0, expected: 2 }));
        let mut turned = affine;
        turned[0][1] = 0.3;
        assert!(matches!(LabelExport::new([2; 3], &affine, [2; 3], &turned, 2), Err(ExportError::Turned { .. })));
    }
}
