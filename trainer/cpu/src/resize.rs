//! Trilinear resizing of volumes `[rows, x, y, z]` with voxel centres (not corners) aligned, and its gradient.
//!
//! A row is one channel of one case. Planes are interpolated along z first, while they are small, and kept two at a time;
//! each row of the result is then a sum of four rows.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions on an axis are small and not negative"
)]

use rayon::prelude::*;

use crate::conv::strips::ranges;
use crate::output::Blank;

/// Number of parts along x into which a volume is divided among threads.
const NUM_PARTS: usize = 4;

/// Two neighbours of a position on the input's axis, and the weight of the upper neighbour.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Between {
    below: usize,
    above: usize,
    share: f32,
}

impl Between {
    fn weights(self) -> [f32; 2] {
        [1.0 - self.share, self.share]
    }

    fn neighbours(self) -> [usize; 2] {
        [self.below, self.above]
    }
}

/// Computes the neighbours among `from` voxels of each of `to` positions.
fn axis(from: usize, to: usize) -> Vec<Between> {
    (0..to)
        .map(|i| {
            // Outside the first and the last centre the edge value holds.
            let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
            let below = at.floor() as usize;
            Between { below, above: (below + 1).min(from - 1), share: (at - below as f64) as f32 }
        })
        .collect()
}

/// Sizes of the input and the output of a resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResizeShape {
    /// Number of volumes: cases times channels.
    pub num_rows: usize,
    /// Number of voxels of the input along x, y, z.
    pub from: [usize; 3],
    /// Number of voxels of the output along x, y, z.
    pub to: [usize; 3],
}

impl ResizeShape {
    fn axes(&self) -> [Vec<Between>; 3] {
        std::array::from_fn(|a| axis(self.from[a], self.to[a]))
    }
}

/// Resizes `x` `[num_rows, from]` to `[num_rows, to]`.
///
/// # Panics
/// If `x` has another length than `shape` says, or an axis is empty.
#[must_use]
pub fn trilinear(x: &[f32], shape: ResizeShape) -> Vec<f32> {
    let ResizeShape { num_rows, from: [fx, fy, fz], to: [tx, ty, tz] } = shape;
    assert_eq!(x.len(), num_rows * fx * fy * fz, "input");
    let [along_x, along_y, along_z] = shape.axes();
    let y = Blank::new(num_rows * tx * ty * tz);
    let tasks: Vec<_> = (0..num_rows).flat_map(|row| ranges(tx, NUM_PARTS).map(move |part| (row, part))).collect();
    tasks.into_par_iter().for_each(|(row, part)| {
        let mut written = y.part();
        // The input's planes at two positions along x, at the output's size along z.
        let mut planes = [(); 2].map(|()| (usize::MAX, vec![0.0; fy * tz]));
        let mut line = vec![0.0; tz];
        for at_x in part {
            let between = along_x[at_x];
            if planes[1].0 == between.below {
                planes.swap(0, 1);
            }
            for ((held, plane), wanted) in planes.iter_mut().zip(between.neighbours()) {
                if *held != wanted {
                    *held = wanted;
                    widen(&x[(row * fx + wanted) * fy * fz..][..fy * fz], plane, &along_z, fz);
                }
            }
            let [wx0, wx1] = between.weights();
            for (at_y, between) in along_y.iter().enumerate() {
                let [wy0, wy1] = between.weights();
                let row_of = |plane: usize, y: usize| &planes[plane].1[y * tz..][..tz];
                let [y0, y1] = between.neighbours();
                let rows = row_of(0, y0).iter().zip(row_of(0, y1)).zip(row_of(1, y0)).zip(row_of(1, y1));
                for (value, (((a, b), c), d)) in line.iter_mut().zip(rows) {
                    *value = wx0 * (wy0 * a + wy1 * b) + wx1 * (wy0 * c + wy1 * d);
                }
                #[allow(unsafe_code, reason = "rows of an output that threads share")]
                // SAFETY: tasks are disjoint planes of the output, whose rows are written once.
                unsafe {
                    written.write(((row * tx + at_x) * ty + at_y) * tz, &line);
                }
            }
        }
    });
    y.finish()
}

/// Interpolates each row of a plane along z.
fn widen(plane: &[f32], wide: &mut [f32], along_z: &[Between], fz: usize) {
    for (row, wide) in plane.chunks_exact(fz).zip(wide.chunks_exact_mut(along_z.len())) {
        for (value, between) in wide.iter_mut().zip(along_z) {
            *value = (1.0 - between.share) * row[between.below] + between.share * row[between.above];
        }
    }
}

/// Gradient of the input of [`trilinear`]: `dy` `[num_rows, to]` → `[num_rows, from]`.
///
/// # Panics
/// If `dy` has another length than `shape` says, or an axis is empty.
#[must_use]
pub fn trilinear_gradient(dy: &[f32], shape: ResizeShape) -> Vec<f32> {
    let ResizeShape { num_rows, from: [fx, fy, fz], to: [tx, ty, tz] } = shape;
    assert_eq!(dy.len(), num_rows * tx * ty * tz, "gradient");
    let [along_x, along_y, along_z] = shape.axes();
    let dx = Blank::new(num_rows * fx * fy * fz);
    // Positions of the output that read each position of the input, with their weights.
    let mut readers = vec![vec![]; fx];
    for (at_x, between) in along_x.iter().enumerate() {
        for (position, weight) in between.neighbours().into_iter().zip(between.weights()) {
            if weight != 0.0 {
                readers[position].push((at_x, weight));
            }
        }
    }
    let tasks: Vec<_> = (0..num_rows).flat_map(|row| ranges(fx, NUM_PARTS).map(move |part| (row, part))).collect();
    tasks.into_par_iter().for_each(|(row, part)| {
        let mut written = dx.part();
        let mut plane = vec![0.0; ty * tz];
        let mut wide = vec![0.0; tz];
        let mut narrow = vec![0.0; fy * fz];
        for at_x in part {
            plane.fill(0.0);
            for &(from, weight) in &readers[at_x] {
                let values = &dy[(row * tx + from) * ty * tz..][..ty * tz];
                plane.iter_mut().zip(values).for_each(|(sum, &value)| *sum += weight * value);
            }
            narrow.fill(0.0);
            for (between, values) in along_y.iter().zip(plane.chunks_exact(tz)) {
                for (at_y, weight) in between.neighbours().into_iter().zip(between.weights()) {
                    wide.iter_mut().zip(values).for_each(|(wide, &value)| *wide = weight * value);
                    let narrow = &mut narrow[at_y * fz..][..fz];
                    for (&value, between) in wide.iter().zip(&along_z) {
                        narrow[between.below] += (1.0 - between.share) * value;
                        narrow[between.above] += between.share * value;
                    }
                }
            }
            #[allow(unsafe_code, reason = "planes of an output that threads share")]
            // SAFETY: tasks are disjoint planes of the output, each written once.
            unsafe {
                written.write((row * fx + at_x) * fy * fz, &narrow);
            }
        }
    });
    dx.finish()
}
