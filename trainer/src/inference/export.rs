//! Converts predictions to label maps on the scan's own grid while the prediction is still running.
//!
//! The network sees a scan oriented to RAS+, resampled and cropped, whereas a user needs a label for each voxel of the
//! input file, whatever its grid: turned, anisotropic, or sheared by a tilted gantry. Each channel is interpolated
//! linearly at the file's voxel centres and the largest one wins, which keeps borders smoother than taking the nearest
//! voxel of a finished label map. Voxels outside the predicted grid are background.
//!
//! Slabs arrive in order along one axis, so only two neighbouring planes have to be kept: memory holds the label map
//! and three planes of all channels, plus two bytes per voxel and class if probabilities are wanted.

mod placement;

use hiend_loader::geometry::{Affine, Orientation, inverse};
use thiserror::Error;

use crate::sliding_window::Slab;
use placement::{Between, Placement};

/// Errors from mapping predictions back to a scan's grid.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ExportError {
    /// An affine whose axes do not span a volume.
    #[error("the {grid} affine spans no volume")]
    Flat {
        /// `source` or `predicted`.
        grid: &'static str,
    },
    /// A predicted grid whose axes do not follow those of the oriented scan.
    #[error("axis {axis} of the predicted grid runs against that of the scan: {scale:.4} predicted voxels per voxel")]
    Turned {
        /// Axis, 0 to 2.
        axis: usize,
        /// Predicted voxels per voxel of the scan along the axis; should be positive.
        scale: f64,
    },
    /// A slab that does not follow the previous one, or has the wrong size.
    #[error("a slab at {start:?} of {dims:?} voxels with {num_values} values does not follow position {expected}")]
    Slab {
        /// First voxel of the slab.
        start: [usize; 3],
        /// Voxels of the slab along x, y, z.
        dims: [usize; 3],
        /// Number of values in the slab.
        num_values: usize,
        /// Position that was expected next.
        expected: usize,
    },
    /// More classes than a `u8` label map can hold.
    #[error("{num_classes} classes do not fit a label map of 8 bits")]
    TooManyClasses {
        /// Number of classes.
        num_classes: usize,
    },
    /// Labels requested before all slabs had arrived.
    #[error("{got} of {expected} planes were predicted")]
    Unfinished {
        /// Number of planes received.
        got: usize,
        /// Number of planes of the grid.
        expected: usize,
    },
}

/// Converter from slabs of predictions to the label map of the scan's file.
#[derive(Debug)]
pub struct LabelExport {
    /// Number of voxels of the file along its own axes, the first axis fastest.
    source_shape: [usize; 3],
    orientation: Orientation,
    pred_dims: [usize; 3],
    /// Axis of the predicted grid along which slabs arrive.
    axis: usize,
    placement: Placement,
    next: usize,
    num_classes: usize,
    /// Planes `next - 2` and `next - 1`, each `[C, A, B]`, where A and B are the two other axes in order.
    planes: [Vec<f32>; 2],
    labels: Vec<u8>,
    /// Probabilities by class and voxel of the file, in units of 1/65535, if they are wanted.
    probabilities: Option<Vec<Vec<u16>>>,
}

/// Result for a scan, with voxels in the order of its file, first axis fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Class of each voxel.
    pub labels: Vec<u8>,
    /// Probabilities by class and voxel in units of 1/65535: the softmax of the interpolated logits. Empty if they were
    /// not requested.
    pub probabilities: Vec<Vec<u16>>,
}

impl LabelExport {
    /// Creates a converter for a file with `source_shape` and `source_affine`, predicted on a grid with `pred_dims` and
    /// `pred_affine` in slabs along `axis` (see [`crate::sliding_window::SlidingWindow::slab_axis`]).
    ///
    /// # Errors
    /// If an affine spans no volume, or an axis of the predicted grid runs against that of the oriented scan.
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
        let pred_from_oriented: Affine = std::array::from_fn(|row| {
            std::array::from_fn(|column| (0..4).map(|k| pred_from_world[row][k] * world_from_oriented[k][column]).sum())
        });
        Ok(Self {
            source_shape,
            orientation,
            pred_dims,
            axis,
            placement: Placement::new(pred_from_oriented, orientation.shape(source_shape), pred_dims)?,
            next: 0,
            num_classes: 0,
            planes: [Vec::new(), Vec::new()],
            labels: vec![0; source_shape.iter().product()],
            probabilities: None,
        })
    }

    /// Also keeps the probability of each class.
    #[must_use]
    pub fn with_probabilities(self) -> Self {
        Self { probabilities: Some(Vec::new()), ..self }
    }

    /// Adds the next slab.
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

    /// Returns the label map, and the probabilities if they were requested.
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

    /// Labels the source voxels that lie between the last two planes, and those on the last plane of the grid.
    fn label_between(&mut self) {
        match std::mem::take(&mut self.placement) {
            Placement::Separable(between) => {
                self.label_rows(&between);
                self.placement = Placement::Separable(between);
            }
            Placement::Oblique(oblique) => {
                let planes = std::mem::take(&mut self.planes);
                let mut logits = vec![0.0; self.num_classes];
                oblique.for_each_between(self.axis, self.next - 1, self.pred_dims, |oriented, weights| {
                    weights.blend(&planes, &mut logits);
                    self.set(oriented, &mut logits);
                });
                self.planes = planes;
                self.placement = Placement::Oblique(oblique);
            }
        }
    }

    /// Labels whole rows of a grid whose axes are parallel to the scan's.
    fn label_rows(&mut self, between: &[Vec<Between>; 3]) {
        let newest = self.next - 1;
        let [rows, columns] = other_axes(self.axis);
        let (num_rows, num_columns) = (self.pred_dims[rows], self.pred_dims[columns]);
        let mut blended = Vec::new();
        let mut row = vec![0.0; self.num_classes * num_columns];
        let mut logits = vec![0.0; self.num_classes];
        for (at, between_planes) in between[self.axis].iter().enumerate() {
            let Some((first, second, share)) = *between_planes else { continue };
            if second != newest {
                continue;
            }
            let before = if first == newest { &self.planes[1] } else { &self.planes[0] };
            blended.clear();
            blended.extend(before.iter().zip(&self.planes[1]).map(|(a, b)| a + (b - a) * share));
            for (i, between_rows) in between[rows].iter().enumerate() {
                let Some((upper, lower, share)) = *between_rows else { continue };
                for (class, row) in row.chunks_exact_mut(num_columns).enumerate() {
                    let plane = &blended[class * num_rows * num_columns..][..num_rows * num_columns];
                    let (a, b) = (&plane[upper * num_columns..], &plane[lower * num_columns..]);
                    for ((value, a), b) in row.iter_mut().zip(a).zip(b) {
                        *value = a + (b - a) * share;
                    }
                }
                for (j, between_columns) in between[columns].iter().enumerate() {
                    let Some((left, right, share)) = *between_columns else { continue };
                    for (logit, row) in logits.iter_mut().zip(row.chunks_exact(num_columns)) {
                        *logit = row[left] + (row[right] - row[left]) * share;
                    }
                    let mut oriented = [0; 3];
                    (oriented[self.axis], oriented[rows], oriented[columns]) = (at, i, j);
                    self.set(oriented, &mut logits);
                }
            }
        }
    }

    /// Sets label and probabilities of a voxel of the oriented scan from its logits, which are overwritten.
    fn set(&mut self, oriented: [usize; 3], logits: &mut [f32]) {
        let place = self.place_in_file(oriented);
        self.labels[place] = largest(logits.iter().copied());
        if let Some(probabilities) = &mut self.probabilities {
            softmax(logits);
            for (class, &probability) in probabilities.iter_mut().zip(&*logits) {
                class[place] = (probability * f32::from(u16::MAX)).round() as u16;
            }
        }
    }

    /// Index in the file of a voxel of the oriented scan.
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

/// The two axes other than `axis`, ascending.
fn other_axes(axis: usize) -> [usize; 2] {
    match axis {
        0 => [1, 2],
        1 => [0, 2],
        _ => [0, 1],
    }
}

/// Copies the plane at `position` along `axis` of values `[C, X, Y, Z]` to `plane`, as `[C, A, B]`.
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

/// Index of the largest value, the lowest index among equals; NaN is never selected.
fn largest(values: impl Iterator<Item = f32>) -> u8 {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, value) in (0..=u8::MAX).zip(values) {
        if value > best.1 {
            best = (class, value);
        }
    }
    best.0
}

/// Converts logits to probabilities, in place.
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

    /// Affine with the same directions and first voxel but another spacing.
    fn with_spacing(affine: &Affine, new: [f64; 3]) -> Affine {
        let old = spacing(affine);
        let row = |row: [f64; 4]| std::array::from_fn(|c| if c < 3 { row[c] * new[c] / old[c] } else { row[c] });
        [row(affine[0]), row(affine[1]), row(affine[2]), affine[3]]
    }
    use proptest::prelude::*;

    const NUM_CLASSES: usize = 3;

    /// Logits that are smooth in each channel, so that interpolation matters and no two are equal.
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

    /// Label at a position in voxels of the predicted grid, computed by the definition.
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
            tilt in prop_oneof![Just([0.0; 3]), [-0.4_f64..0.4, -0.4_f64..0.4, -0.4_f64..0.4]],
        ) {
            let mut affine = [[0.0; 4]; 4];
            for (world, &source) in order.iter().enumerate() {
                affine[world][source] = if signs[world] { -sides[world] } else { sides[world] };
                affine[world][3] = 10.0 * world as f64;
            }
            affine[3][3] = 1.0;
            let orthogonal = affine;
            // A shear of the scan against the predicted grid, as of a tilted gantry.
            for (world, tilt) in tilt.into_iter().enumerate() {
                affine[world][order[(world + 1) % 3]] += tilt * sides[world];
            }
            let orientation = Orientation::closest(&orthogonal).unwrap();
            prop_assume!(Orientation::closest(&affine) == Some(orientation));
            let pred_affine = cropped(&with_spacing(&orientation.affine(&orthogonal, shape), [1.5; 3]), start);
            let pred_from_world = inverse(&pred_affine).unwrap();
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
                let apply = |affine: &Affine, [x, y, z]: [f64; 3]| -> [f64; 3] {
                    std::array::from_fn(|r| affine[r][0] * x + affine[r][1] * y + affine[r][2] * z + affine[r][3])
                };
                let at = apply(&pred_from_world, apply(&affine, source.map(|index| index as f64)));
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
        turned[1][1] = -1.0;
        let error = LabelExport::new([2; 3], &affine, [2; 3], &turned, 2).unwrap_err();
        assert_eq!(error, ExportError::Turned { axis: 1, scale: -1.0 });
    }

    /// Predicts a sphere by its signed distance on an orthogonal grid of 1.5 mm, for scans with a gantry tilt of 20
    /// degrees, or with an affine that deviates from orthogonal by 0.001, which moves the far corner by half a voxel.
    #[test]
    fn sheared_scans_are_labelled_where_their_voxels_lie() {
        let (centre, radius, dims) = ([30.0, 40.0, 35.0], 18.0, [50, 60, 56]);
        let distance = |world: [f64; 3]| radius - (0..3).map(|a| (world[a] - centre[a]).powi(2)).sum::<f64>().sqrt();
        let diagonal = |side: f64| -> Affine {
            std::array::from_fn(|r| {
                std::array::from_fn(|c| {
                    if r != c {
                        0.0
                    } else if r < 3 {
                        side
                    } else {
                        1.0
                    }
                })
            })
        };
        let mut logits = vec![0.0; dims.iter().product()];
        for x in 0..dims[0] {
            for y in 0..dims[1] {
                logits.extend((0..dims[2]).map(|z| distance([x, y, z].map(|v| 1.5 * v as f64)) as f32));
            }
        }
        let (mut tilted, mut skewed) = (diagonal(1.0), diagonal(0.16));
        skewed[2][2] = 3.0;
        (tilted[1][2], tilted[2][2]) = (-3.0 * 20_f64.to_radians().sin(), 3.0 * 20_f64.to_radians().cos());
        skewed[0][1] = 0.001;
        for (affine, shape) in [(tilted, [64, 90, 24]), (skewed, [400, 500, 24])] {
            let mut export = LabelExport::new(shape, &affine, dims, &diagonal(1.5), 1).unwrap();
            for y in 0..dims[1] {
                let mut plane = Vec::new();
                copy_plane(&logits, dims, 1, y, &mut plane);
                export.push(Slab { start: [0, y, 0], dims: [dims[0], 1, dims[2]], values: &plane }).unwrap();
            }
            let labels = export.finish().unwrap().labels;
            let mut num_inside = 0;
            for (place, label) in labels.into_iter().enumerate() {
                let voxel = [place % shape[0], place / shape[0] % shape[1], place / (shape[0] * shape[1])];
                let world: [f64; 3] =
                    std::array::from_fn(|r| (0..3).map(|c| affine[r][c] * voxel[c] as f64).sum::<f64>());
                // Linear interpolation of a distance is off by at most 3 · side² / (8 · radius), 0.047 mm.
                if distance(world).abs() > 0.05 {
                    assert_eq!(label, u8::from(distance(world) > 0.0), "voxel {voxel:?} at {world:?}");
                    num_inside += usize::from(label);
                }
            }
            assert!(num_inside > 1000, "{num_inside}");
        }
    }
}
