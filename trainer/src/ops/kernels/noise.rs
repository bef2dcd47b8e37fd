//! Gaussian noise from the key stream of `ChaCha8`; each unit adds one block of sixteen values.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use hiend_loader::transform::GaussianNoiseParams;

use super::launch::{elementwise, uninit};

/// The quarter round of the cipher (Bernstein, `ChaCha`, a variant of Salsa20, section 3).
#[cube]
fn quarter(a: u32, b: u32, c: u32, d: u32) -> (u32, u32, u32, u32) {
    let a = a + b;
    let d = rotated(d ^ a, 16u32);
    let c = c + d;
    let b = rotated(b ^ c, 12u32);
    let a = a + b;
    let d = rotated(d ^ a, 8u32);
    let c = c + d;
    let b = rotated(b ^ c, 7u32);
    (a, b, c, d)
}

/// Rotates `word` to the left.
#[cube]
fn rotated(word: u32, #[comptime] by: u32) -> u32 {
    (word << by) | (word >> comptime!(32 - by))
}

/// Computes two standard normal values from the words of a radius and an angle (Box-Muller).
#[cube]
fn normals(radius: u32, angle: u32) -> (f32, f32) {
    let unit = comptime!(1.0f32 / 16_777_216.0);
    let u = f32::cast_from((radius >> 8) + 1) * unit;
    let length = (-2.0f32 * u.ln()).sqrt();
    // The upper 24 bits as a signed number of turns.
    let upper = f32::cast_from(angle >> 8) * unit;
    let turns = select(upper >= 0.5f32, upper - 1.0f32, upper);
    let angle = turns * comptime!(std::f32::consts::TAU);
    (length * angle.cos(), length * angle.sin())
}

/// Adds a pair of values at `at` and `at + 8`, if these indices lie below `count`.
#[cube]
fn store(x: &[f32], y: &mut [f32], at: u32, count: u32, pair: (f32, f32), std: f32) {
    if at < count {
        y[at as usize] = x[at as usize] + std * pair.0;
    }
    if at + 8 < count {
        y[(at + 8) as usize] = x[(at + 8) as usize] + std * pair.1;
    }
}

#[cube(launch_unchecked)]
pub(super) fn add_normals(x: &[f32], y: &mut [f32], count: u32, std: f32, seed_low: u32, seed_high: u32) {
    let block = ABSOLUTE_POS as u32;
    let at = block * 16;
    if at < count {
        let mut a0 = 0x6170_7865u32;
        let mut a1 = 0x3320_646eu32;
        let mut a2 = 0x7962_2d32u32;
        let mut a3 = 0x6b20_6574u32;
        let mut b0 = seed_low;
        let mut b1 = seed_high;
        let mut b2 = 0u32;
        let mut b3 = 0u32;
        let mut c0 = 0u32;
        let mut c1 = 0u32;
        let mut c2 = 0u32;
        let mut c3 = 0u32;
        let mut d0 = block;
        let mut d1 = 0u32;
        let mut d2 = 0u32;
        let mut d3 = 0u32;
        for _ in 0..4u32 {
            let (a, b, c, d) = quarter(a0, b0, c0, d0);
            let (e, f, g, h) = quarter(a1, b1, c1, d1);
            let (i, j, k, l) = quarter(a2, b2, c2, d2);
            let (m, n, o, p) = quarter(a3, b3, c3, d3);
            let (q0, q5, q10, q15) = quarter(a, f, k, p);
            let (q1, q6, q11, q12) = quarter(e, j, o, d);
            let (q2, q7, q8, q13) = quarter(i, n, c, h);
            let (q3, q4, q9, q14) = quarter(m, b, g, l);
            a0 = q0;
            a1 = q1;
            a2 = q2;
            a3 = q3;
            b0 = q4;
            b1 = q5;
            b2 = q6;
            b3 = q7;
            c0 = q8;
            c1 = q9;
            c2 = q10;
            c3 = q11;
            d0 = q12;
            d1 = q13;
            d2 = q14;
            d3 = q15;
        }
        // Words 0 to 7 are radii, 8 to 15 angles. The initial state is added to the final one.
        store(x, y, at, count, normals(a0 + 0x6170_7865u32, c0), std);
        store(x, y, at + 1, count, normals(a1 + 0x3320_646eu32, c1), std);
        store(x, y, at + 2, count, normals(a2 + 0x7962_2d32u32, c2), std);
        store(x, y, at + 3, count, normals(a3 + 0x6b20_6574u32, c3), std);
        store(x, y, at + 4, count, normals(b0 + seed_low, d0 + block), std);
        store(x, y, at + 5, count, normals(b1 + seed_high, d1), std);
        store(x, y, at + 6, count, normals(b2, d2), std);
        store(x, y, at + 7, count, normals(b3, d3), std);
    }
}

/// Adds the noise to `x`.
pub(crate) fn add(x: CubeTensor, params: GaussianNoiseParams) -> CubeTensor {
    let x = into_contiguous(x);
    assert_eq!(x.dtype, DType::F32, "voxels are f32");
    let count = x.meta.shape().num_elements();
    let y = uninit(&x, x.meta.shape().clone(), DType::F32);
    let client = x.client.clone();
    let (cubes, dim) = elementwise(&client, count.div_ceil(16));
    assert!(u32::try_from(count + 16).is_ok(), "kernels count values in 32 bits");
    // SAFETY: both buffers hold `count` values, which bounds every index.
    unsafe {
        add_normals::launch_unchecked(
            &client,
            cubes,
            dim,
            x.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            count as u32,
            params.std,
            params.seed as u32,
            (params.seed >> 32) as u32,
        );
    }
    y
}
