//! Convolutions, norms and resizing, compared with plain loops in f64.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are small"
)]

mod conv;
mod instance_norm;
mod resize;

/// Values between -1 and 1 without a short period.
fn wave(len: usize, seed: u64) -> Vec<f32> {
    use rand::{RngExt as _, SeedableRng as _};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A sum of products and the sum of their absolute values, in f64.
#[derive(Clone, Copy, Default)]
struct Exact {
    value: f64,
    absolute: f64,
}

impl Exact {
    fn add(&mut self, a: f32, b: f32) {
        let product = f64::from(a) * f64::from(b);
        self.value += product;
        self.absolute += product.abs();
    }
}

/// Asserts that each value is an f32 sum of `num_terms` products. Whatever the order, each addition and each product
/// rounds by at most 2⁻²⁴ of a partial sum, and no partial sum exceeds the sum of absolute values.
fn assert_sums(what: &str, got: &[f32], want: &[Exact], num_terms: usize) {
    assert_eq!(got.len(), want.len(), "{what}");
    let relative = (num_terms as f64 + 4.0) * 2.0_f64.powi(-24);
    for (at, (&got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want.value).abs();
        assert!(error <= relative * want.absolute + 1e-30, "{what} {at}: {got}, expected {}", want.value);
    }
}

/// Results of a function with one thread and with five threads.
fn with_threads<T: Send>(function: impl Fn() -> T + Sync) -> [T; 2] {
    [1, 5].map(|num_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().expect("threads start");
        pool.install(&function)
    })
}
