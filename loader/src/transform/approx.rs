//! Elementary functions as short polynomials that the compiler vectorises to eight lanes, and a generator of normally
//! distributed numbers.
//!
//! They replace the system's math library for two reasons. The library is called voxel by voxel: `f32::powf` alone
//! takes 5.1 ms for 96³ voxels, while all of `GammaParams::apply` with [`pow`] takes 1.9 ms. And its last bits differ
//! between systems, while plain multiplications and additions (Rust never fuses them) give the same bits everywhere.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Number of lanes computed together: one AVX2 register of f32.
pub(super) const LANES: usize = 8;

/// Base-2 logarithm of a positive, normal number; absolute error below 5e-7 (relative to max(1, |result|)).
#[inline]
pub(super) fn log2(x: f32) -> f32 {
    // x = 2^exponent · m with m in [sqrt(1/2), sqrt(2)); subtracting the bits of sqrt(1/2) carries into the exponent
    // exactly where m passes sqrt(2).
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let bits = x.to_bits();
    let exponent = (bits.wrapping_sub(SQRT_HALF) as i32) >> 23;
    let m = f32::from_bits(bits.wrapping_sub((exponent as u32) << 23));
    // log(m) = 2 atanh(s), s = (m - 1)/(m + 1), |s| <= 0.1716: the series to s^9 leaves 4e-9.
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0))));
    exponent as f32 + s * (series * (2.0 * std::f32::consts::LOG2_E))
}

/// 2 to the power `y` for y in [-126, 126]; relative error below 3e-7.
#[inline]
pub(super) fn exp2(y: f32) -> f32 {
    // Adding 1.5·2^23 rounds to the nearest integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2: f32 = std::f32::consts::LN_2;
    let shifted = y + ROUND;
    let f = (y - (shifted - ROUND)) * LN_2;
    // The exponential's series on |f| <= ln(2)/2.
    let series = 1.0 + f * (1.0 + f * (1.0 / 2.0 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f / 720.0)))));
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    series * scale
}

/// `x` to the power `exponent`, for x in [0, 1] and an exponent in (0, 8]. The relative error is below 1e-5 for results
/// above 2^-100; smaller results are some number below 2^-60.
#[inline]
pub(super) fn pow(x: f32, exponent: f32) -> f32 {
    const TINY: f32 = 7.888_609e-31; // 2^-100
    exp2((exponent * log2(x.max(TINY))).max(-126.0))
}

/// sin(2π t) for t in [-1/4, 1/4]; absolute error below 3e-7.
#[inline]
fn sin_turns(t: f32) -> f32 {
    let a = t * std::f32::consts::TAU;
    let q = a * a;
    let series = 1.0
        - q * (1.0 / 6.0 - q * (1.0 / 120.0 - q * (1.0 / 5040.0 - q * (1.0 / 362_880.0 - q * (1.0 / 39_916_800.0)))));
    a * series
}

/// Generator of standard normal numbers, by the Box-Muller transform of words of `ChaCha8`.
///
/// Each normal is a function of the seed and its number: normal n comes from block n/16 of the key stream, so that a
/// device can generate the same numbers in any order. The words of a block are eight radii, then eight angles; pair i
/// gives the normals i and 8 + i.
///
/// Adding 96³ normals to a crop takes 2.1 ms on a core whose sibling was busy (`cargo bench -p benches --bench
/// transforms -- gaussian_noise`). Eight xoshiro128++ in parallel took 1.0 ms on an idle core, but each of their numbers
/// depends on all before it. The ziggurat of `rand_distr` takes 4.0 ms over `ChaCha8`, because it branches on every
/// number.
///
/// The radius has 24 random bits, which limits normals to 5.77 standard deviations; true normals exceed that once in
/// 10^8.
#[derive(Debug)]
pub(super) struct Normals {
    source: ChaCha8Rng,
    words: [u32; WORDS],
    /// Index of the first unused word.
    next: usize,
}

/// Number of words generated at a time (1 KiB): several blocks, so that they are computed in vectors.
const WORDS: usize = 256;

impl Normals {
    /// Creates the generator of the sequence for `seed`.
    pub(super) fn new(seed: u64) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self { source: ChaCha8Rng::from_seed(key), words: [0; WORDS], next: WORDS }
    }

    /// Returns the next sixteen normals.
    #[inline]
    pub(super) fn next_pair(&mut self) -> ([f32; LANES], [f32; LANES]) {
        const UNIT: f32 = 1.0 / 16_777_216.0; // 2^-24
        if self.next == WORDS {
            self.source.fill_bytes(bytemuck::cast_slice_mut(&mut self.words));
            self.words = self.words.map(u32::from_le);
            self.next = 0;
        }
        let (radii, angles) = self.words[self.next..self.next + 2 * LANES].split_at(LANES);
        let (mut first, mut second) = ([0.0; LANES], [0.0; LANES]);
        for i in 0..LANES {
            // In (0, 1], so that the logarithm is finite.
            let u = ((radii[i] >> 8) + 1) as i32 as f32 * UNIT;
            let radius = (-2.0 * std::f32::consts::LN_2 * log2(u)).max(0.0).sqrt();
            // Within [-1/2, 1/2) turns.
            let turn = (angles[i] as i32 >> 8) as f32 * UNIT;
            first[i] = radius * sin_turns(0.25 - turn.abs());
            second[i] = radius * sin_turns((0.25 - (turn.abs() - 0.25).abs()).copysign(turn));
        }
        self.next += 2 * LANES;
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in (0, 1), evenly spaced and, for every other one, dense near 0.
    fn unit_numbers() -> impl Iterator<Item = f32> {
        (0..200_000u32).map(|i| {
            let t = (f64::from(i) + 0.5) / 200_000.0;
            (if i % 2 == 0 { t } else { (-40.0 * t).exp2() }) as f32
        })
    }

    #[test]
    fn log2_is_within_its_stated_error() {
        for x in unit_numbers().chain([1.0, 2.0, 0.5, 3.0e-39f32.max(f32::MIN_POSITIVE)]) {
            let exact = f64::from(x).log2();
            assert!((f64::from(log2(x)) - exact).abs() < 5e-7 * exact.abs().max(1.0), "{x}");
        }
    }

    #[test]
    fn exp2_is_within_its_stated_error() {
        for i in -125_000..=125_000 {
            let y = i as f32 / 1000.0;
            let exact = f64::from(y).exp2();
            assert!((f64::from(exp2(y)) / exact - 1.0).abs() < 3e-7, "{y}");
        }
    }

    #[test]
    fn pow_is_within_its_stated_error() {
        for exponent in [0.5f32, 0.7, 0.83, 1.0, 1.31, 1.5, 3.0] {
            for x in unit_numbers() {
                let exact = f64::from(x).powf(f64::from(exponent));
                if exact > 1e-36 {
                    assert!((f64::from(pow(x, exponent)) / exact - 1.0).abs() < 1e-5, "{x}^{exponent}");
                }
            }
            assert!(pow(0.0, exponent) < 1e-15);
            assert!((pow(1.0, exponent) - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn sine_is_within_its_stated_error() {
        for i in -1000..=1000 {
            let t = i as f32 / 4000.0;
            let exact = (f64::from(t) * std::f64::consts::TAU).sin();
            assert!((f64::from(sin_turns(t)) - exact).abs() < 3e-7, "{t}");
        }
    }

    #[test]
    fn words_are_those_of_chacha8() {
        let mut normals = Normals::new(7);
        normals.next_pair();
        let mut key = [0u8; 32];
        key[0] = 7;
        let mut source = ChaCha8Rng::from_seed(key);
        let expected: Vec<u32> = (0..WORDS).map(|_| source.next_u32()).collect();
        assert_eq!(normals.words, *expected);
    }

    #[test]
    fn normals_have_the_moments_and_tails_of_the_distribution() {
        let mut normals = Normals::new(7);
        let numbers: Vec<f64> = (0..125_000)
            .flat_map(|_| {
                let (a, b) = normals.next_pair();
                a.into_iter().chain(b)
            })
            .map(f64::from)
            .collect();
        let n = numbers.len() as f64;
        let moment = |k: i32| numbers.iter().map(|v| v.powi(k)).sum::<f64>() / n;
        // The bounds are about five standard errors of 2 million numbers.
        assert!(moment(1).abs() < 4e-3, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 6e-3, "{}", moment(2));
        assert!(moment(3).abs() < 0.015, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.04, "{}", moment(4));
        let beyond = |bound: f64| numbers.iter().filter(|v| v.abs() > bound).count() as f64 / n;
        for (bound, expected) in [(0.5, 0.617_075), (1.0, 0.317_311), (2.0, 0.045_500), (3.0, 0.002_700)] {
            let error = (expected * (1.0 - expected) / n).sqrt();
            assert!((beyond(bound) - expected).abs() < 5.0 * error, "{bound}: {}", beyond(bound));
        }
        // Neighbours are uncorrelated, whether they come from one pair or from two lanes.
        for lag in [1, LANES, 2 * LANES] {
            let product = numbers.iter().zip(&numbers[lag..]).map(|(a, b)| a * b).sum::<f64>() / n;
            assert!(product.abs() < 4e-3, "{lag}: {product}");
        }
    }
}
