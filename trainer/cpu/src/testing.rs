//! Values and comparisons shared by the tests.

/// Values from `-amplitude` to `amplitude`, without a period that could hide an index error.
pub(crate) fn wave(len: usize, frequency: f32, amplitude: f32) -> Vec<f32> {
    (0..len).map(|i| ((i as f32 * frequency).sin() * 43_758.547).fract() * amplitude).collect()
}

/// Asserts that no value differs from `expected` by more than `tolerance` times the largest absolute expected value.
pub(crate) fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    for (index, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - e).abs() / largest.max(f64::MIN_POSITIVE);
        assert!(error <= tolerance, "value {index}: {a} instead of {e}, error {error:.2e} of {largest}");
    }
}

/// Asserts that `f` returns the same bits with one thread and with three.
pub(crate) fn assert_same_bits(f: impl Fn() -> Vec<Vec<f32>> + Sync) {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        pool.install(&f)
    };
    let bits = |all: Vec<Vec<f32>>| all.into_iter().map(|v| v.into_iter().map(f32::to_bits).collect()).collect();
    let (one, three): (Vec<Vec<u32>>, Vec<Vec<u32>>) = (bits(run(1)), bits(run(3)));
    assert!(one == three, "one thread and three differ");
}

/// Converts values to f64.
pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}
