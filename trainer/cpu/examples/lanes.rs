//! Compares vectors of 8 lanes (AVX2) with 16 (AVX-512) on one core: the rate of independent fused multiply-adds, and that
//! of a convolution's blocks of sums whose operands are in the second-level cache.
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "a measurement")]

#[cfg(target_arch = "x86_64")]
fn main() {
    x86::run();
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("this processor has neither AVX2 nor AVX-512");
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, clippy::inline_always, reason = "instructions that not every processor has")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_set1_ps,
    };
    use std::hint::black_box;
    use std::time::Instant;

    /// A vector of floats.
    ///
    /// # Safety
    /// The methods must be called on processors that have the vector's instructions only.
    trait Vector: Copy {
        const LANES: usize;
        unsafe fn splat(value: f32) -> Self;
        unsafe fn load(from: *const f32) -> Self;
        unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;
    }

    macro_rules! vector {
        ($vector:ty, $lanes:literal, $splat:ident, $load:ident, $mul_add:ident) => {
            impl Vector for $vector {
                const LANES: usize = $lanes;
                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    // SAFETY: the processor has the instruction.
                    unsafe { $splat(value) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the processor has the instruction, and the caller passes a place of as many floats.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
                    // SAFETY: the processor has the instruction.
                    unsafe { $mul_add(self, factor, sum) }
                }
            }
        };
    }
    vector!(__m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_fmadd_ps);
    vector!(__m512, 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_fmadd_ps);

    const CHANNELS: usize = 32;
    const ROWS: usize = 8;
    const ROW: usize = 56;
    const CHANNEL: usize = (ROWS + 2) * ROW;
    const PLANE: usize = CHANNELS * CHANNEL;
    /// Number of voxels of a row that are computed.
    const VOXELS: usize = 48;

    /// Runs 12 independent chains and returns the number of floating-point operations.
    #[inline(always)]
    unsafe fn chains<V: Vector>() -> usize {
        const LEN: usize = 1_000_000;
        // SAFETY: as the caller promises, the processor has the vector's instructions.
        unsafe {
            let (factor, term) = (V::splat(black_box(0.999)), V::splat(black_box(0.001)));
            let mut sums = black_box([term; 12]);
            for _ in 0..LEN {
                for sum in &mut sums {
                    *sum = sum.mul_add(factor, term);
                }
            }
            black_box(sums);
        }
        2 * 12 * LEN * V::LANES
    }

    /// Computes blocks of `B` output channels by three vectors of voxels, and returns the number of operations.
    #[inline(always)]
    unsafe fn blocks<V: Vector, const B: usize>(planes: &[f32], weights: &[f32]) -> usize {
        assert!(planes.len() >= 3 * PLANE && weights.len() >= CHANNELS * 27 * B, "operands");
        for (row, voxel) in (0..ROWS).flat_map(|row| (0..VOXELS).step_by(3 * V::LANES).map(move |voxel| (row, voxel))) {
            // SAFETY: as the caller promises, the processor has the vector's instructions. The last vector ends 6 values
            // before its row does.
            unsafe {
                let mut sums = [[V::splat(0.0); 3]; B];
                for (channel, weights) in weights.chunks_exact(27 * B).take(CHANNELS).enumerate() {
                    for (x, weights) in weights.chunks_exact(9 * B).enumerate() {
                        for (y, weights) in weights.chunks_exact(3 * B).enumerate() {
                            let at = planes.as_ptr().add(x * PLANE + channel * CHANNEL + (row + y) * ROW + voxel);
                            for (z, weights) in weights.chunks_exact(B).enumerate() {
                                let voxels: [V; 3] = std::array::from_fn(|v| V::load(at.add(v * V::LANES + z)));
                                for (sums, &weight) in sums.iter_mut().zip(weights) {
                                    let weight = V::splat(weight);
                                    for (sum, voxel) in sums.iter_mut().zip(voxels) {
                                        *sum = voxel.mul_add(weight, *sum);
                                    }
                                }
                            }
                        }
                    }
                }
                black_box(sums);
            }
        }
        2 * B * ROWS * VOXELS * CHANNELS * 27
    }

    #[target_feature(enable = "avx2,fma")]
    fn narrow(planes: &[f32], weights: &[f32]) -> [f64; 2] {
        // SAFETY: the function is called where its features are.
        unsafe { [rate(|| chains::<__m256>()), rate(|| blocks::<__m256, 4>(planes, weights))] }
    }

    #[target_feature(enable = "avx512f")]
    fn wide(planes: &[f32], weights: &[f32]) -> [f64; 2] {
        // SAFETY: the function is called where its features are.
        unsafe { [rate(|| chains::<__m512>()), rate(|| blocks::<__m512, 8>(planes, weights))] }
    }

    /// Highest rate of some calls of `function`, in GFLOP/s.
    #[inline(always)]
    fn rate(function: impl Fn() -> usize) -> f64 {
        let call = |_| {
            let started = Instant::now();
            let operations = function();
            operations as f64 / started.elapsed().as_secs_f64() / 1e9
        };
        (0..200).map(call).fold(0.0, f64::max)
    }

    pub(super) fn run() {
        let planes: Vec<f32> = (0..3 * PLANE).map(|i| (i % 7) as f32 - 3.0).collect();
        let weights: Vec<f32> = (0..CHANNELS * 27 * 8).map(|i| (i % 5) as f32 - 2.0).collect();
        let print = |name: &str, [peak, blocks]: [f64; 2]| {
            println!("{name}: peak {peak:.1} GFLOP/s, blocks of a convolution {blocks:.1}");
        };
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features.
            print("8 lanes", unsafe { narrow(&planes, &weights) });
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            print("16 lanes", unsafe { wide(&planes, &weights) });
        } else {
            println!("16 lanes: this processor has no AVX-512");
        }
    }
}
