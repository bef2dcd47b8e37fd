//! Surface distances of one class: surface Dice at a tolerance, the 95th percentile Hausdorff distance (HD95), and the
//! average symmetric surface distance (ASSD).
//!
//! Definitions, of which the field has several:
//! - A surface voxel is a voxel of the class with at least one of its six face neighbours outside the class; beyond
//!   the volume's border everything counts as outside.
//! - A distance is measured from the centre of a surface voxel of one map to the nearest surface voxel centre of the
//!   other, in mm with the true spacing of each axis.
//! - HD95 is the larger of the two directed 95th percentiles (linear interpolation between ranks, as `NumPy`'s default
//!   and MONAI's `compute_hausdorff_distance`), not the percentile of both directions pooled.
//! - Surface Dice (Nikolov et al. 2018, arXiv 1809.04430) is the share of both surfaces' voxels that lie within the
//!   tolerance of the other surface. DIFFERENCE: voxels are counted as in MONAI; Nikolov's own code weighs each by
//!   the area of surface it stands for.
//! - ASSD is the mean distance of all surface voxels of both maps, as MONAI's symmetric average surface distance.
//! - A class absent from both maps has no metric (NaN). For a class absent from one of them, HD95 and ASSD are infinite
//!   and surface Dice is 0.
//!
//! Distances come from an exact Euclidean distance transform, separable lower envelopes of parabolas (Felzenszwalb
//! and Huttenlocher, *Distance Transforms of Sampled Functions*, 2012), inside the box that bounds both masks.

use super::{LabelMap, MetricError};

/// Surface metrics of one class in one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurfaceMetrics {
    /// Share of both surfaces within the tolerance, in [0, 1]; NaN if the class is in neither map.
    pub surface_dice: f64,
    /// 95th percentile Hausdorff distance, mm; infinite if one map lacks the class, NaN if both do.
    pub hd95_mm: f64,
    /// Average symmetric surface distance, mm; infinite if one map lacks the class, NaN if both do.
    pub assd_mm: f64,
}

impl SurfaceMetrics {
    /// Metrics of a class that neither map has.
    const ABSENT: Self = Self { surface_dice: f64::NAN, hd95_mm: f64::NAN, assd_mm: f64::NAN };
    /// Metrics of a class that one map lacks.
    const MISSED: Self = Self { surface_dice: 0.0, hd95_mm: f64::INFINITY, assd_mm: f64::INFINITY };
}

/// Surface Dice at `tolerance_mm` and HD95 of `class`.
///
/// Both maps share the spacing of `label`. Takes about 10 bytes per voxel of the box around both masks.
///
/// # Errors
/// If the grids differ in size or the tolerance is negative or not finite.
pub fn surface_metrics(
    label: &LabelMap<'_>,
    pred: &LabelMap<'_>,
    class: u8,
    tolerance_mm: f64,
) -> Result<SurfaceMetrics, MetricError> {
    if label.dims() != pred.dims() {
        return Err(MetricError::SizeMismatch { label: label.dims(), pred: pred.dims() });
    }
    if !tolerance_mm.is_finite() || tolerance_mm < 0.0 {
        return Err(MetricError::Tolerance { tolerance_mm });
    }
    let (label_box, pred_box) = (bounding_box(label, class), bounding_box(pred, class));
    let (label_box, pred_box) = match (label_box, pred_box) {
        (None, None) => return Ok(SurfaceMetrics::ABSENT),
        (None, Some(_)) | (Some(_), None) => return Ok(SurfaceMetrics::MISSED),
        (Some(label_box), Some(pred_box)) => (label_box, pred_box),
    };
    let region = label_box.union(pred_box);
    let label_surface = surface_indices(label, class, region);
    let pred_surface = surface_indices(pred, class, region);
    let spacing = label.spacing_mm();
    let to_label = sorted_distances(&pred_surface, &label_surface, region.dims(), spacing);
    let to_pred = sorted_distances(&label_surface, &pred_surface, region.dims(), spacing);

    // Squares of f32 sums carry a few units of rounding: without the slack, a distance equal to the tolerance by
    // construction (one voxel of 1.5 mm at 1.5 mm) could fall on either side.
    let limit = tolerance_mm * (1.0 + 1e-6);
    let within = count(to_label.partition_point(|&d| d <= limit) + to_pred.partition_point(|&d| d <= limit));
    let num_surface = count(to_label.len() + to_pred.len());
    Ok(SurfaceMetrics {
        surface_dice: within / num_surface,
        hd95_mm: percentile(&to_label, 0.95).max(percentile(&to_pred, 0.95)),
        assd_mm: to_label.iter().chain(&to_pred).sum::<f64>() / num_surface,
    })
}

/// A box of voxels, `start` inclusive and `end` exclusive.
#[derive(Debug, Clone, Copy)]
struct Region {
    start: [usize; 3],
    end: [usize; 3],
}

impl Region {
    fn union(self, other: Self) -> Self {
        Self {
            start: std::array::from_fn(|a| self.start[a].min(other.start[a])),
            end: std::array::from_fn(|a| self.end[a].max(other.end[a])),
        }
    }

    fn dims(self) -> [usize; 3] {
        std::array::from_fn(|a| self.end[a] - self.start[a])
    }
}

fn bounding_box(map: &LabelMap<'_>, class: u8) -> Option<Region> {
    let [_, ny, nz] = map.dims();
    let mut found: Option<Region> = None;
    for (row_idx, row) in map.voxels().chunks_exact(nz.max(1)).enumerate() {
        let Some(first) = row.iter().position(|&v| v == class) else { continue };
        let last = row.iter().rposition(|&v| v == class).unwrap_or(first);
        let (x, y) = (row_idx / ny, row_idx % ny);
        let here = Region { start: [x, y, first], end: [x + 1, y + 1, last + 1] };
        found = Some(found.map_or(here, |region| region.union(here)));
    }
    found
}

/// Indices, within `region`, of the surface voxels of `class`.
fn surface_indices(map: &LabelMap<'_>, class: u8, region: Region) -> Vec<usize> {
    let [nx, ny, nz] = map.dims();
    let voxels = map.voxels();
    let [_, ry, rz] = region.dims();
    let mut surface = Vec::new();
    for x in region.start[0]..region.end[0] {
        for y in region.start[1]..region.end[1] {
            for z in region.start[2]..region.end[2] {
                let at = (x * ny + y) * nz + z;
                if voxels[at] != class {
                    continue;
                }
                let inside = x > 0
                    && x + 1 < nx
                    && y > 0
                    && y + 1 < ny
                    && z > 0
                    && z + 1 < nz
                    && [at - ny * nz, at + ny * nz, at - nz, at + nz, at - 1, at + 1]
                        .iter()
                        .all(|&n| voxels[n] == class);
                if !inside {
                    let [sx, sy, sz] = region.start;
                    surface.push(((x - sx) * ry + (y - sy)) * rz + (z - sz));
                }
            }
        }
    }
    surface
}

/// Distances in mm from each voxel of `from` to the nearest one of `to`, ascending.
fn sorted_distances(from: &[usize], to: &[usize], dims: [usize; 3], spacing: [f64; 3]) -> Vec<f64> {
    let squared = squared_distances(to, dims, spacing);
    let mut distances: Vec<f64> = from.iter().map(|&at| f64::from(squared[at]).sqrt()).collect();
    distances.sort_unstable_by(f64::total_cmp);
    distances
}

/// Squared distances in mm² of all voxels of a grid to the nearest of `targets` (not empty), z fastest.
fn squared_distances(targets: &[usize], dims: [usize; 3], spacing: [f64; 3]) -> Vec<f32> {
    // f32 between passes: a third of the memory of f64 with its work line, at a relative error of 1e-7.
    let mut grid = vec![f32::INFINITY; dims.iter().product()];
    for &at in targets {
        grid[at] = 0.0;
    }
    let [nx, ny, nz] = dims;
    let mut envelope = Envelope::default();
    for row in 0..nx * ny {
        envelope.transform(&mut grid, row * nz, 1, nz, spacing[2]);
    }
    for x in 0..nx {
        for z in 0..nz {
            envelope.transform(&mut grid, x * ny * nz + z, nz, ny, spacing[1]);
        }
    }
    for column in 0..ny * nz {
        envelope.transform(&mut grid, column, ny * nz, nx, spacing[0]);
    }
    grid
}

/// Work space of the one-dimensional transform: the parabolas on the lower envelope and the position from which each
/// is the lowest.
#[derive(Debug, Default)]
struct Envelope {
    line: Vec<f64>,
    roots: Vec<usize>,
    begins: Vec<f64>,
}

impl Envelope {
    /// Replaces the `len` values at `first`, `first + stride`, … by the minimum over `q` of
    /// `value(q) + ((p - q) * increment)²`.
    fn transform(&mut self, grid: &mut [f32], first: usize, stride: usize, len: usize, increment: f64) {
        self.line.clear();
        self.line.extend((0..len).map(|i| f64::from(grid[first + i * stride])));
        self.roots.clear();
        self.begins.clear();
        for q in 0..len {
            if self.line[q].is_infinite() {
                continue;
            }
            // Find where the parabola rooted at q falls below the last one kept; drop those that it hides altogether.
            let mut begin = f64::NEG_INFINITY;
            while let (Some(&root), Some(&root_begin)) = (self.roots.last(), self.begins.last()) {
                begin = crossing(root, self.line[root], q, self.line[q], increment);
                if begin > root_begin {
                    break;
                }
                self.roots.pop();
                self.begins.pop();
                begin = f64::NEG_INFINITY;
            }
            self.roots.push(q);
            self.begins.push(begin);
        }
        if self.roots.is_empty() {
            return;
        }
        let mut lowest = 0;
        for p in 0..len {
            while self.begins.get(lowest + 1).is_some_and(|&begin| begin <= position(p, increment)) {
                lowest += 1;
            }
            let root = self.roots[lowest];
            let offset = position(p, increment) - position(root, increment);
            let value = (self.line[root] + offset * offset) as f32;
            grid[first + p * stride] = value;
        }
    }
}

/// Position in mm at which the parabola rooted at `right` falls below the one rooted at `left`.
fn crossing(left: usize, left_value: f64, right: usize, right_value: f64, increment: f64) -> f64 {
    let (l, r) = (position(left, increment), position(right, increment));
    ((right_value + r * r) - (left_value + l * l)) / (2.0 * (r - l))
}

fn position(idx: usize, increment: f64) -> f64 {
    idx as f64 * increment
}

fn count(n: usize) -> f64 {
    n as f64
}

/// Quantile `q` of ascending values by linear interpolation between the two nearest ranks.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let rank = q * count(last);
    let below = (rank.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (rank - count(below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn near(got: f64, want: f64) -> bool {
        got.total_cmp(&want).is_eq()
            || got.is_nan() && want.is_nan()
            || (got - want).abs() <= 1e-5 * want.abs().max(1.0)
    }

    /// The definitions, evaluated by comparing every pair of surface voxels.
    fn brute(label: &[u8], pred: &[u8], dims: [usize; 3], spacing: [f64; 3], tolerance_mm: f64) -> SurfaceMetrics {
        let surface = |voxels: &[u8]| {
            let at = |p: [i64; 3]| {
                let inside = (0..3).all(|a| p[a] >= 0 && p[a] < i64::try_from(dims[a]).unwrap());
                let p = p.map(|v| usize::try_from(v).unwrap_or(0));
                inside && voxels[(p[0] * dims[1] + p[1]) * dims[2] + p[2]] == 1
            };
            let mut found = Vec::new();
            for idx in 0..voxels.len() {
                let p = [idx / (dims[1] * dims[2]), idx / dims[2] % dims[1], idx % dims[2]]
                    .map(|v| i64::try_from(v).unwrap());
                let neighbours = (0..6).map(|n| {
                    let mut q = p;
                    q[n / 2] += if n % 2 == 0 { 1 } else { -1 };
                    q
                });
                if at(p) && neighbours.into_iter().any(|q| !at(q)) {
                    found.push(p);
                }
            }
            found
        };
        let (a, b) = (surface(label), surface(pred));
        if a.is_empty() && b.is_empty() {
            return SurfaceMetrics::ABSENT;
        }
        if a.is_empty() || b.is_empty() {
            return SurfaceMetrics::MISSED;
        }
        let distance = |p: &[i64; 3], q: &[i64; 3]| {
            (0..3).map(|i| ((p[i] - q[i]) as f64 * spacing[i]).powi(2)).sum::<f64>().sqrt()
        };
        let directed = |from: &[[i64; 3]], to: &[[i64; 3]]| {
            let mut all: Vec<f64> =
                from.iter().map(|p| to.iter().map(|q| distance(p, q)).fold(f64::INFINITY, f64::min)).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (ab, ba) = (directed(&a, &b), directed(&b, &a));
        let within = ab.iter().chain(&ba).filter(|&&d| d <= tolerance_mm + 1e-9).count();
        SurfaceMetrics {
            surface_dice: count(within) / count(a.len() + b.len()),
            hd95_mm: percentile(&ab, 0.95).max(percentile(&ba, 0.95)),
            assd_mm: ab.iter().chain(&ba).sum::<f64>() / count(a.len() + b.len()),
        }
    }

    fn check(label: &[u8], pred: &[u8], dims: [usize; 3], spacing: [f64; 3], tolerance_mm: f64) -> SurfaceMetrics {
        let label_map = LabelMap::new(label, dims, spacing).expect("label");
        let pred_map = LabelMap::new(pred, dims, spacing).expect("prediction");
        let got = surface_metrics(&label_map, &pred_map, 1, tolerance_mm).expect("metrics");
        let want = brute(label, pred, dims, spacing, tolerance_mm);
        assert!(near(got.hd95_mm, want.hd95_mm), "HD95 {got:?}, expected {want:?}");
        assert!(near(got.surface_dice, want.surface_dice), "surface Dice {got:?}, expected {want:?}");
        assert!(near(got.assd_mm, want.assd_mm), "ASSD {got:?}, expected {want:?}");
        got
    }

    proptest! {
        #[test]
        fn distances_are_those_of_all_pairs(
            dims in [1_usize..7, 1_usize..7, 1_usize..7],
            spacing in [0.4_f64..3.0, 0.4_f64..3.0, 0.4_f64..5.0],
            tolerance_mm in 0.0_f64..4.0,
            fill in 0.0_f64..0.7,
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut draw = || {
                // A xorshift scatters voxels well enough, and alike on every machine.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                f64::from(u32::try_from(state >> 32).unwrap()) / f64::from(u32::MAX)
            };
            let num_voxels = dims.iter().product();
            let label: Vec<u8> = (0..num_voxels).map(|_| u8::from(draw() < fill)).collect();
            let pred: Vec<u8> = (0..num_voxels).map(|_| u8::from(draw() < fill)).collect();
            check(&label, &pred, dims, spacing, tolerance_mm);
        }
    }

    #[test]
    fn identical_masks_have_distance_zero() {
        let mask: Vec<u8> = (0..125).map(|i| u8::from(i % 3 == 0)).collect();
        let got = check(&mask, &mask, [5, 5, 5], [1.5, 0.7, 2.0], 0.0);
        assert_eq!(got, SurfaceMetrics { surface_dice: 1.0, hd95_mm: 0.0, assd_mm: 0.0 });
    }

    #[test]
    fn a_shift_by_one_voxel_is_one_spacing() {
        let (mut label, mut pred) = (vec![0; 4], vec![0; 4]);
        label[1] = 1;
        pred[2] = 1;
        let got = check(&label, &pred, [1, 1, 4], [1.0, 1.0, 1.5], 1.5);
        assert_eq!(got, SurfaceMetrics { surface_dice: 1.0, hd95_mm: 1.5, assd_mm: 1.5 });
        assert!((check(&label, &pred, [1, 1, 4], [1.0, 1.0, 1.5], 1.4).surface_dice).abs() < 1e-12);
    }

    #[test]
    fn empty_masks_follow_the_documented_convention() {
        let both = check(&[0; 8], &[0; 8], [2, 2, 2], [1.0; 3], 1.0);
        assert!(both.surface_dice.is_nan() && both.hd95_mm.is_nan());
        let one = check(&[1; 8], &[0; 8], [2, 2, 2], [1.0; 3], 1.0);
        assert_eq!(one, SurfaceMetrics::MISSED);
    }
}
