//! Surface distances of one class: surface Dice at a tolerance (normalised surface Dice, NSD), the 95th percentile
//! Hausdorff distance (HD95), and the average symmetric surface distance (ASSD).
//!
//! Two conventions are in use for a surface and the average over it, see [`Surface`]:
//!
//! | | [`Surface::Voxels`] | [`Surface::Area`] |
//! |---|---|---|
//! | origin | MONAI | Nikolov et al. 2018 (arXiv 1809.04430), the package `surface-distance` |
//! | surface | voxels of the class with one of their six face neighbours outside | surface elements at voxel corners, from the 2 x 2 x 2 voxels around (module `elements`) |
//! | weight | 1 | area of the element, mm² |
//! | HD95 | linear interpolation between ranks | first distance within which 95% of the area lies |
//!
//! Common to both:
//! - Everything beyond the volume's border counts as outside the class.
//! - A distance is measured from an element of one surface to the nearest element of the other, in mm with the true
//!   spacing of each axis.
//! - HD95 is the larger of the two directed percentiles, not the percentile of both directions pooled.
//! - Surface Dice is the share of both surfaces, by weight, that lies within the tolerance of the other surface.
//! - ASSD is the weighted mean distance over both surfaces pooled. DIFFERENCE: `surface-distance` returns the means of the
//!   two directions and leaves it to the reader how to combine them.
//! - A class absent from both maps has no metric (NaN). For a class absent from one of them, HD95 and ASSD are infinite
//!   and surface Dice is 0.
//!
//! Distances are exact (module `distance`) and computed inside the box that bounds both masks.

mod distance;
mod elements;
mod voxels;

use super::{LabelMap, MetricError};
use distance::squared_distances;

/// Convention of a surface and its weights; see the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Surface {
    /// Voxels of the class that touch its outside, all of equal weight.
    #[default]
    Voxels,
    /// Surface elements, weighted by their areas.
    Area,
}

impl Surface {
    /// Name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Voxels => "voxels",
            Self::Area => "area",
        }
    }
}

/// Surface metrics of one class in one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurfaceMetrics {
    /// Share of both surfaces within the tolerance, in [0, 1]; NaN if the class is in neither map.
    pub surface_dice: f64,
    /// 95th percentile Hausdorff distance, in mm; infinite if one map lacks the class, NaN if both do.
    pub hd95_mm: f64,
    /// Average symmetric surface distance, in mm; infinite if one map lacks the class, NaN if both do.
    pub assd_mm: f64,
}

impl SurfaceMetrics {
    /// Metrics of a class that both maps lack.
    const ABSENT: Self = Self { surface_dice: f64::NAN, hd95_mm: f64::NAN, assd_mm: f64::NAN };
    /// Metrics of a class that one map lacks.
    const MISSED: Self = Self { surface_dice: 0.0, hd95_mm: f64::INFINITY, assd_mm: f64::INFINITY };
}

/// Computes surface Dice at `tolerance_mm`, HD95 and ASSD of `class`.
///
/// Both maps share the spacing of `label`. Takes 4 bytes per voxel of the box around both
/// masks, and about 40 per surface element of each.
///
/// # Errors
/// If the grids differ in size or the tolerance is negative or not finite.
pub fn surface_metrics(
    label: &LabelMap<'_>,
    pred: &LabelMap<'_>,
    class: u8,
    tolerance_mm: f64,
    surface: Surface,
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
    let spacing = label.spacing_mm();
    let [label_elements, pred_elements] = match surface {
        Surface::Voxels => [label, pred].map(|map| {
            let indices = voxels::surface_indices(map, class, region);
            indices.into_iter().map(|at| Element { at, weight: 1.0 }).collect()
        }),
        Surface::Area => {
            let areas = elements::areas_mm2(spacing);
            [label, pred].map(|map| elements::surface_elements(map, class, region, &areas))
        }
    };
    let dims = match surface {
        Surface::Voxels => region.dims(),
        Surface::Area => region.dims().map(|side| side + 1),
    };
    let to_label = Directed::new(&pred_elements, &label_elements, dims, spacing);
    let to_pred = Directed::new(&label_elements, &pred_elements, dims, spacing);

    // Squares of f32 sums carry a few units of rounding: without the slack, a distance equal to the tolerance by
    // construction (one voxel of 1.5 mm at 1.5 mm) could fall on either side.
    let limit = tolerance_mm * (1.0 + 1e-6);
    let total = to_label.weight() + to_pred.weight();
    Ok(SurfaceMetrics {
        surface_dice: (to_label.weight_within(limit) + to_pred.weight_within(limit)) / total,
        hd95_mm: to_label.percentile(0.95, surface).max(to_pred.percentile(0.95, surface)),
        assd_mm: (to_label.moment() + to_pred.moment()) / total,
    })
}

/// An element of a surface.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Element {
    /// Index in the grid of the elements, z fastest.
    at: usize,
    /// Weight in sums: 1, or an area in mm².
    weight: f64,
}

/// Distances in mm from the elements of one surface to the other surface, ascending, with the elements' weights.
#[derive(Debug)]
struct Directed(Vec<(f64, f64)>);

impl Directed {
    fn new(from: &[Element], to: &[Element], dims: [usize; 3], spacing: [f64; 3]) -> Self {
        let targets: Vec<usize> = to.iter().map(|element| element.at).collect();
        let squared = squared_distances(&targets, dims, spacing);
        let distance = |element: &Element| (f64::from(squared[element.at]).sqrt(), element.weight);
        let mut distances: Vec<(f64, f64)> = from.iter().map(distance).collect();
        distances.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        Self(distances)
    }

    fn weight(&self) -> f64 {
        self.weight_within(f64::INFINITY)
    }

    fn weight_within(&self, limit: f64) -> f64 {
        let within = self.0.partition_point(|&(distance, _)| distance <= limit);
        // The sum of nothing is 0 here; `Iterator::sum` has -0 for it.
        self.0[..within].iter().fold(0.0, |sum, (_, weight)| sum + weight)
    }

    /// Sum of distances times weights.
    fn moment(&self) -> f64 {
        self.0.iter().fold(0.0, |sum, (distance, weight)| sum + distance * weight)
    }

    /// Quantile `q` of the distances.
    fn percentile(&self, q: f64, surface: Surface) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        match surface {
            Surface::Voxels => {
                let rank = q * last as f64;
                let below = (rank.floor() as usize).min(last);
                let above = (below + 1).min(last);
                self.0[below].0 + (self.0[above].0 - self.0[below].0) * (rank - below as f64)
            }
            Surface::Area => {
                let total = self.weight();
                let mut sum = 0.0;
                let reaches = |&(_, weight): &(f64, f64)| {
                    sum += weight;
                    sum / total >= q
                };
                self.0[self.0.iter().position(reaches).unwrap_or(last)].0
            }
        }
    }
}

/// A box of voxels, from `start` (inclusive) to `end` (exclusive).
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(n: usize) -> f64 {
        n as f64
    }

    /// Quantile `q` of ascending values by linear interpolation between the two nearest ranks.
    fn percentile(sorted: &[f64], q: f64) -> f64 {
        Directed(sorted.iter().map(|&distance| (distance, 1.0)).collect()).percentile(q, Surface::Voxels)
    }

    fn near(got: f64, want: f64) -> bool {
        got.total_cmp(&want).is_eq()
            || got.is_nan() && want.is_nan()
            || (got - want).abs() <= 1e-5 * want.abs().max(1.0)
    }

    /// Computes the metrics by their definitions, comparing every pair of surface voxels.
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
        let got = surface_metrics(&label_map, &pred_map, 1, tolerance_mm, Surface::Voxels).expect("metrics");
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

    #[test]
    fn area_of_a_box_is_that_of_its_faces_with_cut_edges() {
        // A single voxel is an octahedron: eight corners, each with a triangle through the middles of three edges.
        let areas = elements::areas_mm2([1.0, 2.0, 3.0]);
        let map = LabelMap::new(&[1], [1; 3], [1.0, 2.0, 3.0]).unwrap();
        let region = bounding_box(&map, 1).unwrap();
        let found = elements::surface_elements(&map, 1, region, &areas);
        // Normal of the triangle with legs of 0.5, 1 and 1.5 mm: half of (1 * 1.5, 0.5 * 1.5, 0.5 * 1).
        let triangle = (1.5_f64.powi(2) + 0.75_f64.powi(2) + 0.5_f64.powi(2)).sqrt() / 2.0;
        assert_eq!(found.len(), 8);
        assert!(found.iter().all(|element| (element.weight - triangle).abs() < 1e-12), "{found:?} {triangle}");
    }

    #[test]
    fn area_of_a_slab_shifted_by_one_voxel_lies_at_one_spacing() {
        let dims = [1, 1, 6];
        let (label, pred) = ([0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0]);
        let spacing = [30.0, 30.0, 1.5];
        let (label, pred) = (LabelMap::new(&label, dims, spacing), LabelMap::new(&pred, dims, spacing));
        let (label, pred) = (label.unwrap(), pred.unwrap());
        let at = |tolerance| surface_metrics(&label, &pred, 1, tolerance, Surface::Area).unwrap();
        assert!((at(1.5).surface_dice - 1.0).abs() < 1e-12 && at(1.4).surface_dice < 1.0);
        assert!((at(1.5).hd95_mm - 1.5).abs() < 1e-6);
    }
}
