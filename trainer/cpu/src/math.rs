//! Elementary functions without branches, which the compiler vectorises, and sums in a fixed order.

use wide::f32x8;

/// Constant that rounds to the nearest integer when it is added and subtracted: 1.5 · 2²³; the integer is then in the
/// low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// Exponential function, within 1.1 units in the last place of the result, for every input; the result may be
/// subnormal, infinite or NaN.
#[inline]
#[must_use]
pub fn exp(x: f32) -> f32 {
    // The results of larger and smaller arguments are infinite and zero, as those of the bounds are. NaN passes.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let y = exp_of_rest(x, shifted - ROUND);
    // Two powers of two, each within the exponents of normal numbers.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n - half)
}

/// Computes 2ⁿ for n from -126 to 127.
#[inline]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23).cast_unsigned())
}

/// Exponential function of `x` up to zero: within 1.1 units in the last place down to -86.9, and within 2e-38 below;
/// half the work of [`exp`]. NaN gives NaN.
#[inline]
#[must_use]
pub fn exp_of_negative(x: f32) -> f32 {
    let x = if x < -86.9 { -86.9 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let y = exp_of_rest(x, shifted - ROUND);
    // The result is a normal number, so that its exponent can be added; all but the integer is shifted out.
    f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Exponential function of `x - n · ln 2`, for the integer n nearest to `x / ln 2`.
#[inline]
fn exp_of_rest(x: f32, n: f32) -> f32 {
    // ln 2 in two parts; products of the first with the integers up to 150 are exact.
    const LN2_HIGH: f32 = 0.693_359_4; // 355 / 512 exactly
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // (eʳ - 1 - r) / r² by a polynomial fitted on |r| < ln 2 / 2, with a relative error of 7e-9.
    let q = 0.001_390_127_6f32.mul_add(r, 0.008_363_144);
    let q = q.mul_add(r, 0.041_666_854);
    let q = q.mul_add(r, 0.166_665_78);
    let q = q.mul_add(r, 0.5);
    (q * r).mul_add(r, r) + 1.0
}

/// Standard normal distribution function Φ(x), within a relative error of 4e-7, and density φ(x); beyond 13 standard
/// deviations Φ is 0 or 1 and φ is 0. NaN gives NaN.
///
/// `Φ(-u) = exp(-u²/2) · P(t)` for `u ≥ 0` and `t = 1 / (1 + 0.35 u)`, with a polynomial P fitted to a relative error of
/// 4e-8. Φ and φ share the exponential function.
#[inline]
#[must_use]
pub fn normal(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.398_942_3;
    let u = x.abs();
    // The rounding error of the square would grow with it.
    let square = u * u;
    let rest = u.mul_add(u, -square);
    let density = exp_of_negative(-0.5 * square);
    // The density is as good as zero here, and at infinite u the rest is NaN.
    let density = if u > 13.0 { 0.0 } else { (-0.5 * rest).mul_add(density, density) };
    let t = 1.0 / 0.35f32.mul_add(u, 1.0);
    let p = (-0.029_159_483f32).mul_add(t, 0.144_038_83);
    let p = p.mul_add(t, -0.255_855_68);
    let p = p.mul_add(t, 0.159_339_13);
    let p = p.mul_add(t, -0.023_226_043);
    let p = p.mul_add(t, 0.105_558_44);
    let p = p.mul_add(t, 0.119_819_745);
    let p = p.mul_add(t, 0.139_863_73);
    let p = p.mul_add(t, 0.139_621_29);
    let tail = density * p * t;
    (if x > 0.0 { 1.0 - tail } else { tail }, ROOT * density)
}

/// Number of partial sums of a row: four vectors of eight.
const LANES: usize = 32;

/// Sums `row` in a fixed order: 32 partial sums, each of every 32nd value, and then their sum.
#[inline]
pub(crate) fn sum(row: &[f32]) -> f32 {
    sum_of([row], |[x]| x)
}

/// Sums `f` over rows of equal length, in the order of [`sum`].
#[inline]
pub(crate) fn sum_of<const N: usize>(rows: [&[f32]; N], f: impl Fn([f32x8; N]) -> f32x8) -> f32 {
    let mut sums = [f32x8::ZERO; LANES / 8];
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len), "equally long rows");
    let eights = rows.map(|row| row.as_chunks::<8>().0);
    let value = |number: usize| f(eights.map(|row| f32x8::from(row[number])));
    let whole = len / LANES * (LANES / 8);
    for number in (0..whole).step_by(LANES / 8) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += value(number + lane);
        }
    }
    for (lane, number) in (whole..len / 8).enumerate() {
        sums[lane] += value(number);
    }
    let halves = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    let tail = |index: usize| f(rows.map(|row| f32x8::splat(row[index]))).to_array()[0];
    (len / 8 * 8..len).map(tail).fold(halves.reduce_add(), |sum, value| sum + value)
}

/// Largest value of `row`, NaN excluded; negative infinity if there is none.
#[inline]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = row.as_chunks::<LANES>();
    for values in whole {
        for (most, &value) in most.iter_mut().zip(values) {
            *most = larger(*most, value);
        }
    }
    for (most, &value) in most.iter_mut().zip(rest) {
        *most = larger(*most, value);
    }
    most.into_iter().fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rayon::prelude::*;

    /// Distance in units of the last place of `expected`.
    fn ulps(actual: f32, expected: f64) -> f64 {
        let rounded = expected as f32;
        if rounded.is_infinite() || rounded.is_nan() || actual == rounded {
            return if actual == rounded || (actual.is_nan() && rounded.is_nan()) { 0.0 } else { f64::INFINITY };
        }
        let exponent = (expected.abs().to_bits() >> 52) as i32 - 1023;
        let unit = 2f64.powi(exponent.max(-126) - 23);
        (f64::from(actual) - expected).abs() / unit
    }

    /// Largest value of `error` over every `stride`-th float of magnitude up to `bound`, and the float where it occurs.
    fn worst(bound: f32, stride: u32, error: impl Fn(f32) -> f64 + Sync) -> (f64, f32) {
        (0..=bound.to_bits() / stride)
            .into_par_iter()
            .flat_map_iter(|number| [1.0, -1.0].map(|sign| sign * f32::from_bits(stride * number)))
            .map(|x| (error(x), x))
            .reduce(|| (0.0, 0.0), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a })
    }

    #[test]
    fn exp_is_within_1_1_units_in_the_last_place() {
        let (error, x) = worst(110.0, 101, |x| ulps(exp(x), f64::from(x).exp()));
        assert!(error <= 1.1, "{error} at {x}");
    }

    #[test]
    fn exp_of_negative_is_within_1_1_units_in_the_last_place() {
        let (error, x) = worst(86.9, 101, |x| ulps(exp_of_negative(-x.abs()), f64::from(-x.abs()).exp()));
        assert!(error <= 1.1, "{error} at {x}");
        assert!([-87.0, f32::MIN, f32::NEG_INFINITY].into_iter().all(|x| (0.0..2e-38).contains(&exp_of_negative(x))));
        assert!(exp_of_negative(f32::NAN).is_nan());
    }

    #[test]
    #[ignore = "takes a minute: all floats instead of one in a hundred"]
    fn exp_of_every_float_is_within_1_1_units_in_the_last_place() {
        let (error, x) = worst(110.0, 1, |x| ulps(exp(x), f64::from(x).exp()));
        assert!(error <= 1.1, "{error} at {x}");
    }

    #[test]
    fn exp_of_special_values_is_that_of_the_standard_library() {
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 88.722_84, 88.7, -103.97, -104.1] {
            assert!(ulps(exp(x), f64::from(x).exp()) <= 1.1, "{x}: {}", exp(x));
        }
        assert!(exp(f32::NAN).is_nan());
    }

    /// Computes Φ in f64, by the series of the error function near zero and its continued fraction elsewhere.
    pub(crate) fn distribution(x: f64) -> f64 {
        let u = x.abs();
        let density = (-0.5 * u * u).exp() / std::f64::consts::TAU.sqrt();
        let tail = if u < 3.0 {
            let (mut term, mut sum, mut k) = (u, u, 1.0);
            while term > 1e-18 * sum {
                k += 2.0;
                term *= u * u / k;
                sum += term;
            }
            0.5 - density * sum
        } else {
            density / (1..200).rev().fold(u, |below, k| u + f64::from(k) / below)
        };
        if x > 0.0 { 1.0 - tail } else { tail }
    }

    #[test]
    fn the_normal_distribution_is_within_4e_7() {
        // The reference itself.
        assert!((distribution(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((distribution(-5.0) / 2.866_515_718_791_939e-7 - 1.0).abs() < 1e-12);
        let points = (0..500_000).into_par_iter().map(|i| i as f32 * (2.0 * 12.9 / 5e5) - 12.9);
        let worst = points
            .map(|x| {
                let (cdf, pdf) = normal(x);
                let wide = f64::from(x);
                let density = (-0.5 * wide * wide).exp() / std::f64::consts::TAU.sqrt();
                let error = (f64::from(cdf) / distribution(wide) - 1.0).abs();
                (error.max((f64::from(pdf) / density - 1.0).abs()), x)
            })
            .reduce(|| (0.0, 0.0), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a });
        assert!(worst.0 <= 4e-7, "{worst:?}");
    }

    #[test]
    fn the_normal_distribution_has_its_limits() {
        assert!((normal(0.0).0 - 0.5).abs() <= f32::EPSILON / 2.0);
        assert_eq!(normal(f32::INFINITY), (1.0, 0.0));
        assert_eq!(normal(f32::NEG_INFINITY), (0.0, 0.0));
        assert_eq!(normal(40.0), (1.0, 0.0));
        assert_eq!(normal(-40.0), (0.0, 0.0));
        assert!(normal(f32::NAN).0.is_nan() && normal(f32::NAN).1.is_nan());
    }

    #[test]
    fn sums_and_maxima_take_every_value_once() {
        for len in [0, 1, 31, 32, 33, 100] {
            let row: Vec<f32> = (0..len).map(|i: u16| f32::from(i) - 50.0).collect();
            assert_eq!(sum(&row), row.iter().sum::<f32>());
            assert_eq!(largest(&row), row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
