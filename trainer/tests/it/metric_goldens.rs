//! Surface metrics and the signed-rank test against `surface-distance`, MONAI and `SciPy`; `metric_goldens/make.py` made
//! the expected values.

use hiend_trainer::metric::LabelMap;
use hiend_trainer::metric::surface::{Surface, surface_metrics};
use hiend_trainer::metric::wilcoxon::signed_rank;
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    tolerances_mm: Vec<f64>,
    surfaces: Vec<Case>,
    signed_rank: Vec<Sample>,
}

#[derive(Deserialize)]
struct Case {
    dims: [usize; 3],
    spacing: [f64; 3],
    centre: [i64; 3],
    radius: i64,
    shift: [i64; 3],
    permille: u64,
    label_voxels: usize,
    pred_voxels: usize,
    area: Expected,
    voxels: Expected,
}

#[derive(Deserialize)]
struct Expected {
    surface_dice: Vec<f64>,
    hd95_mm: f64,
    assd_mm: f64,
}

#[derive(Deserialize)]
struct Sample {
    name: String,
    differences: Vec<i32>,
    p_value: f64,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("metric_goldens/expected.json")).expect("goldens")
}

/// Returns 16 pseudo-random bits for a voxel, as in `make.py`.
fn noise(number: u64) -> u64 {
    let mut x = number.wrapping_mul(2_654_435_761).wrapping_add(12_345) & 0xFFFF_FFFF;
    x ^= x >> 15;
    x = x.wrapping_mul(2_246_822_519) & 0xFFFF_FFFF;
    (x ^ (x >> 13)) & 0xFFFF
}

fn mask(case: &Case, centre: [i64; 3], salt: u64) -> Vec<u8> {
    let [_, ny, nz] = case.dims;
    let voxel = |number: usize| {
        let place = [number / (ny * nz), number / nz % ny, number % nz].map(|at| i64::try_from(at).unwrap());
        let inside = (0..3).map(|a| (place[a] - centre[a]).pow(2)).sum::<i64>() <= case.radius.pow(2);
        let flipped = noise(number as u64 + salt) * 1000 < case.permille * 0x1_0000;
        u8::from(inside != flipped)
    };
    (0..case.dims.iter().product()).map(voxel).collect()
}

#[test]
fn surface_metrics_are_those_of_surface_distance_and_monai() {
    let goldens = goldens();
    for (number, case) in goldens.surfaces.iter().enumerate() {
        let label = mask(case, case.centre, 0);
        let pred = mask(case, std::array::from_fn(|a| case.centre[a] + case.shift[a]), 1_000_000);
        let count = |mask: &[u8]| mask.iter().map(|&voxel| usize::from(voxel)).sum::<usize>();
        assert_eq!((count(&label), count(&pred)), (case.label_voxels, case.pred_voxels), "masks of case {number}");
        let label = LabelMap::new(&label, case.dims, case.spacing).unwrap();
        let pred = LabelMap::new(&pred, case.dims, case.spacing).unwrap();
        for (surface, expected) in [(Surface::Area, &case.area), (Surface::Voxels, &case.voxels)] {
            for (&tolerance, &surface_dice) in goldens.tolerances_mm.iter().zip(&expected.surface_dice) {
                let got = surface_metrics(&label, &pred, 1, tolerance, surface).unwrap();
                let pairs = [
                    ("surface Dice", got.surface_dice, surface_dice),
                    ("HD95", got.hd95_mm, expected.hd95_mm),
                    ("ASSD", got.assd_mm, expected.assd_mm),
                ];
                for (metric, got, want) in pairs {
                    // Our distances are f32 between passes and MONAI's results are f32: a few units of 6e-8 each.
                    assert!(
                        (got - want).abs() <= 3e-6 * want.max(1.0),
                        "case {number}, {}, {tolerance} mm: {metric} {got}, expected {want}",
                        surface.name()
                    );
                }
            }
        }
    }
}

#[test]
fn signed_rank_test_is_that_of_scipy() {
    for Sample { name, differences, p_value } in goldens().signed_rank {
        let differences: Vec<f64> = differences.into_iter().map(f64::from).collect();
        let p = signed_rank(&differences).unwrap();
        assert!((p - p_value).abs() <= 1e-9 * p_value, "{name}: {p}, expected {p_value}");
    }
}
