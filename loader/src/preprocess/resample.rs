//! Orientation and resampling in one pass, exactly on MONAI's grid.
//!
//! # The grid
//! As `Spacingd`: the first voxel centres coincide, and an axis of n voxels gets `round((n - 1) * old / new + 1)`
//! (ties to even). Because the directions stay, the resampling is separable, axis by axis.
//! DIFFERENCE: MONAI removes shear from an affine (tilted gantry) and resamples accordingly; here the shear stays in
//! the affine and each axis is resampled along its own direction.
//!
//! # Coordinates
//! MONAI goes through `affine_grid` and `grid_sample`: an output index becomes a coordinate in [-1, 1], then a source
//! index, in double precision. Where a source coordinate is a half exactly (3 mm to 1.5 mm: every other voxel), the
//! rounding of that detour decides which voxel is nearest, so [`source_coordinate`] makes the same detour, operation
//! by operation, and label maps come out equal voxel for voxel.
//!
//! # Order of work
//! A NIfTI array has its first axis fastest; the result has z fastest. Planes of the source's two fast axes are
//! resampled whole, two neighbouring ones are kept, and each output plane is their mixture. Rows stay contiguous, so
//! the mixing is vector code; output planes gather in blocks of [`BLOCK`] before they are turned into z-fast order,
//! which keeps the scattered writes within the cache.

use crate::geometry::{Affine, spacing, with_spacing};
use crate::nifti::{NiftiInfo, NiftiVolume};
use crate::preprocess::foreground::RowAt;

/// Output planes that are gathered before they are turned into z-fast order.
const BLOCK: usize = 32;
/// Spacings closer than this (mm) are the same, as MONAI's tolerance for affines.
const SAME_SPACING_MM: f64 = 1e-3;

/// How one output axis reads its source axis.
#[derive(Clone, Debug)]
struct AxisMap {
    /// Lower source index, upper source index and weight of the upper one, for trilinear reading.
    linear: Vec<(u32, u32, f32)>,
    /// Source index for nearest reading.
    nearest: Vec<u32>,
    /// Source voxels along the axis.
    source_len: usize,
}

/// The map from a source array to the oriented, resampled one.
#[derive(Clone, Debug)]
pub struct Resampling {
    /// By source axis, fastest first.
    axes: [AxisMap; 3],
    /// The output axis that each source axis becomes.
    target_axis: [usize; 3],
    affine: Affine,
}

impl Resampling {
    /// The map for a scan and a target spacing in mm (`None`: only orient).
    #[must_use]
    pub fn new(info: &NiftiInfo, target: Option<[f64; 3]>) -> Self {
        let oriented_shape = info.orientation.shape(info.shape);
        let oriented = info.orientation.affine(&info.affine, info.shape);
        let old = spacing(&oriented);
        let new = target.unwrap_or(old);
        let same = (0..3).all(|axis| (old[axis] - new[axis]).abs() <= SAME_SPACING_MM);
        let mut target_axis = [0; 3];
        let maps: [AxisMap; 3] = std::array::from_fn(|axis| {
            let source = info.orientation.source_axis[axis];
            target_axis[source] = axis;
            let scale = if same {
                1.0
            } else {
                {
                    let z = (old[axis] * old[axis]).sqrt();
                    let rot = old[axis] * (1.0 / z);
                    rot * new[axis] * (1.0 / old[axis])
                }
            };
            AxisMap::new(oriented_shape[axis], scale, info.orientation.flipped[axis])
        });
        let affine = if same { oriented } else { with_spacing(&oriented, new) };
        Self { axes: target_axis.map(|axis| maps[axis].clone()), target_axis, affine }
    }

    /// Voxels of the result along x, y, z.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        let mut shape = [0; 3];
        for (map, &axis) in self.axes.iter().zip(&self.target_axis) {
            shape[axis] = map.nearest.len();
        }
        shape
    }

    /// The output axis that each source axis becomes, the source's fastest first.
    #[must_use]
    pub fn target_axis(&self) -> [usize; 3] {
        self.target_axis
    }

    /// `world_from_voxel` of the result.
    #[must_use]
    pub fn affine(&self) -> Affine {
        self.affine
    }

    /// Distance in the result between neighbours along each source axis.
    fn strides(&self) -> [usize; 3] {
        let shape = self.shape();
        let by_output = [shape[1] * shape[2], shape[2], 1];
        self.target_axis.map(|axis| by_output[axis])
    }
}

impl AxisMap {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the axis, which is short")]
    fn new(source_len: usize, scale: f64, flipped: bool) -> Self {
        let len = (((source_len as f64 - 1.0) / scale) + 1.0).round_ties_even().max(1.0) as usize;
        let last = source_len as u32 - 1;
        let place = |idx: u32| if flipped { last - idx } else { idx };
        let coordinates =
            (0..len).map(|idx| if scale == 1.0 { idx as f64 } else { source_coordinate(idx, len, source_len, scale) });
        let mut map = Self { linear: Vec::with_capacity(len), nearest: Vec::with_capacity(len), source_len };
        for coordinate in coordinates {
            let lower = (coordinate.floor() as u32).min(last);
            let weight = (coordinate - f64::from(lower)) as f32;
            map.linear.push((place(lower), place((lower + 1).min(last)), weight));
            map.nearest.push(place((coordinate.round() as u32).min(last)));
        }
        map
    }
}

/// The source coordinate of an output index, with the rounding of MONAI's detour over normalised coordinates.
fn source_coordinate(idx: usize, len: usize, source_len: usize, scale: f64) -> f64 {
    let (n, m) = (len as f64, source_len as f64);
    let at = if len == 1 { -1.0 } else { linspace(idx, len) };
    let normalised = at * (n - 1.0) / n;
    // theta = norm(source) * scale * inverse(norm(output)), along one axis.
    let (source_gain, source_shift) = (2.0 / m, 1.0 / m - 1.0);
    let output_gain = 2.0 / n;
    let (inverse_gain, inverse_shift) = (1.0 / output_gain, -(1.0 / n - 1.0) * (1.0 / output_gain));
    let gain = source_gain * scale * inverse_gain;
    let shift = source_gain * scale * inverse_shift + source_shift;
    let unclipped = ((normalised * gain + shift + 1.0) * m - 1.0) / 2.0;
    unclipped.clamp(0.0, m - 1.0)
}

/// Element `idx` of `torch.linspace(-1, 1, len)` in double precision, to the last bit.
///
/// PyTorch's AVX2 kernel counts from both ends with fused multiply-add, four elements at a time while eight are left;
/// within four it adds rounded multiples of the step.
fn linspace(idx: usize, len: usize) -> f64 {
    let step = 2.0 / (len as f64 - 1.0);
    let counted = |idx: usize| {
        if idx < len / 2 { step.mul_add(idx as f64, -1.0) } else { (-step).mul_add((len - 1 - idx) as f64, 1.0) }
    };
    if idx < len / 8 * 8 {
        let first = idx / 4 * 4;
        counted(first) + step * (idx - first) as f64
    } else {
        counted(idx)
    }
}

/// Resamples trilinearly. `sink` gets every row of values with its place and the samples to write.
///
/// `out` is z fastest, of [`Resampling::shape`].
pub fn trilinear<T: Copy + Default>(
    volume: &NiftiVolume,
    resampling: &Resampling,
    out: &mut [T],
    mut sink: impl FnMut(&[f32], RowAt, &mut [T]),
) {
    let [fast, middle, slow] = &resampling.axes;
    let (width, height) = (fast.nearest.len(), middle.nearest.len());
    let mut lower = Plane::new(width, height);
    let mut upper = Plane::new(width, height);
    let mut mixed = vec![0f32; width];
    let mut block = vec![T::default(); width * height * BLOCK.min(slow.nearest.len())];
    let mut scratch = Scratch::new(fast, middle);
    let mut first_plane = 0;
    for (plane, &(low, high, weight)) in slow.linear.iter().enumerate() {
        // Going up or down the source, one of the two planes usually is there already.
        if upper.source == Some(low) || lower.source == Some(high) {
            std::mem::swap(&mut lower, &mut upper);
        }
        lower.load(low, volume, resampling, &mut scratch);
        let mixing = weight > 0.0 && high != low;
        if mixing {
            upper.load(high, volume, resampling, &mut scratch);
        }
        let at = plane - first_plane;
        for row in 0..height {
            let range = row * width..(row + 1) * width;
            let samples = &mut block[at * width * height..][range.clone()];
            let values = &lower.values[range.clone()];
            if mixing {
                mix(values, &upper.values[range], weight, &mut mixed);
                sink(&mixed, RowAt { plane, row }, samples);
            } else {
                sink(values, RowAt { plane, row }, samples);
            }
        }
        if at + 1 == BLOCK || plane + 1 == slow.linear.len() {
            place_block(&block, [width, height, at + 1], first_plane, resampling.strides(), out);
            first_plane = plane + 1;
        }
    }
}

/// Resamples a label map in file order to the nearest voxel; the result is z fastest.
#[must_use]
pub fn nearest(labels: &[u8], resampling: &Resampling) -> Vec<u8> {
    let [fast, middle, slow] = &resampling.axes;
    let mut out = vec![0u8; resampling.shape().iter().product()];
    let (width, height) = (fast.nearest.len(), middle.nearest.len());
    let mut block = vec![0u8; width * height * BLOCK.min(slow.nearest.len())];
    for (number, planes) in slow.nearest.chunks(BLOCK).enumerate() {
        for (at, &plane) in planes.iter().enumerate() {
            for (row, &source_row) in middle.nearest.iter().enumerate() {
                let start = (plane as usize * middle.source_len + source_row as usize) * fast.source_len;
                let source = &labels[start..start + fast.source_len];
                let target = &mut block[(at * height + row) * width..][..width];
                for (label, &from) in target.iter_mut().zip(&fast.nearest) {
                    *label = source[from as usize];
                }
            }
        }
        place_block(&block, [width, height, planes.len()], number * BLOCK, resampling.strides(), &mut out);
    }
    out
}

/// One source plane, resampled within itself.
struct Plane {
    source: Option<u32>,
    values: Vec<f32>,
}

/// Rows of the source as they are read.
struct Scratch {
    rows: [(Option<u32>, Vec<f32>); 2],
    mixed: Vec<f32>,
}

impl Scratch {
    fn new(fast: &AxisMap, middle: &AxisMap) -> Self {
        debug_assert!(middle.source_len > 0);
        let row = || (None, vec![0f32; fast.source_len]);
        Self { rows: [row(), row()], mixed: vec![0f32; fast.source_len] }
    }
}

impl Plane {
    fn new(width: usize, height: usize) -> Self {
        Self { source: None, values: vec![0f32; width * height] }
    }

    fn load(&mut self, source: u32, volume: &NiftiVolume, resampling: &Resampling, scratch: &mut Scratch) {
        if self.source == Some(source) {
            return;
        }
        self.source = Some(source);
        let [fast, middle, _] = &resampling.axes;
        let plane_start = source as usize * middle.source_len * fast.source_len;
        let Scratch { rows: [lower, upper], mixed } = scratch;
        (lower.0, upper.0) = (None, None);
        let read = |row: u32, into: &mut (Option<u32>, Vec<f32>)| {
            if into.0 != Some(row) {
                volume.read_f32(plane_start + row as usize * fast.source_len, &mut into.1);
                into.0 = Some(row);
            }
        };
        for (&(low, high, weight), out) in middle.linear.iter().zip(self.values.chunks_exact_mut(fast.linear.len())) {
            if upper.0 == Some(low) || lower.0 == Some(high) {
                std::mem::swap(lower, upper);
            }
            read(low, lower);
            let row = if weight > 0.0 && high != low {
                read(high, upper);
                mix(&lower.1, &upper.1, weight, mixed);
                &*mixed
            } else {
                &lower.1
            };
            for (value, &(left, right, weight)) in out.iter_mut().zip(&fast.linear) {
                let (left, right) = (row[left as usize], row[right as usize]);
                *value = left + (right - left) * weight;
            }
        }
    }
}

fn mix(a: &[f32], b: &[f32], weight: f32, out: &mut [f32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = a + (b - a) * weight;
    }
}

/// Writes a block of planes, source order, into the output. Whatever axis is z there is the inner loop.
fn place_block<T: Copy>(
    block: &[T],
    [width, height, depth]: [usize; 3],
    first: usize,
    strides: [usize; 3],
    out: &mut [T],
) {
    let out = &mut out[first * strides[2]..];
    let plane = width * height;
    if strides[0] == 1 {
        for at in 0..depth {
            for row in 0..height {
                let to = at * strides[2] + row * strides[1];
                out[to..to + width].copy_from_slice(&block[at * plane + row * width..][..width]);
            }
        }
        return;
    }
    let (outer, outer_step, inner, inner_step, inner_stride, outer_stride) = if strides[2] == 1 {
        (height, width, depth, plane, strides[2], strides[1])
    } else {
        (depth, plane, height, width, strides[1], strides[2])
    };
    for o in 0..outer {
        for column in 0..width {
            let from = o * outer_step + column;
            let to = o * outer_stride + column * strides[0];
            for i in 0..inner {
                out[to + i * inner_stride] = block[from + i * inner_step];
            }
        }
    }
}
