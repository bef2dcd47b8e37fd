//! One step of `AdamW` (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) in one pass over memory.

use rayon::prelude::*;

/// Scalars of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub lr: f32,
    /// Factor by which weight decay scales the parameter.
    pub keep: f32,
    /// Decay rates of the two moments.
    pub betas: [f32; 2],
    /// Term added to the square root of the second moment.
    pub epsilon: f32,
    /// Bias corrections of the moments, `1 - betasᵗ`.
    pub corrections: [f32; 2],
}

/// Number of values that a thread takes at a time: 256 KiB over the four vectors.
const BLOCK: usize = 16 * 1024;

/// Changes `param` and its moments `first` and `second` with the gradient `grad`.
///
/// # Panics
/// If the lengths differ.
pub fn apply(param: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32], step: Step) {
    assert!(grad.len() == param.len() && first.len() == param.len() && second.len() == param.len(), "equal lengths");
    if param.len() <= BLOCK {
        return apply_block(param, grad, first, second, step);
    }
    let moments = first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK));
    let blocks = param.par_chunks_mut(BLOCK).zip(grad.par_chunks(BLOCK)).zip(moments);
    blocks.for_each(|((param, grad), (first, second))| apply_block(param, grad, first, second, step));
}

fn apply_block(param: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32], step: Step) {
    let Step { lr, keep, betas: [b1, b2], epsilon, corrections: [c1, c2] } = step;
    for (((param, &grad), first), second) in param.iter_mut().zip(grad).zip(first).zip(second) {
        *first = *first * b1 + grad * (1.0 - b1);
        *second = *second * b2 + grad * grad * (1.0 - b2);
        let delta = *first / c1 / ((*second / c2).sqrt() + epsilon);
        *param = *param * keep - delta * lr;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits, wave, wide};

    #[test]
    fn steps_are_the_algorithm() {
        for len in [0, 1, 77, 40_000] {
            let (mut param, mut first, mut second) = (wave(len, 0.7, 1.0), vec![0.0; len], vec![0.0; len]);
            let [mut p, mut m, mut v] = [&param, &first, &second].map(|x| wide(x));
            for t in 1..5 {
                let grad = wave(len, 0.3 + t as f32, 2.0);
                let corrections = [1.0 - 0.9f32.powi(t), 1.0 - 0.95f32.powi(t)];
                let step = Step { lr: 1e-2, keep: 1.0 - 5e-4, betas: [0.9, 0.95], epsilon: 1e-8, corrections };
                apply(&mut param, &grad, &mut first, &mut second, step);
                for i in 0..len {
                    let g = f64::from(grad[i]);
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    v[i] = 0.95 * v[i] + 0.05 * g * g;
                    let mean = m[i] / (1.0 - 0.9f64.powi(t));
                    p[i] = p[i] * (1.0 - 5e-4) - 1e-2 * mean / ((v[i] / (1.0 - 0.95f64.powi(t))).sqrt() + 1e-8);
                }
            }
            if len > 0 {
                assert_close(&param, &p, 1e-6);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let step = Step { lr: 1e-2, keep: 0.99, betas: [0.9, 0.95], epsilon: 1e-8, corrections: [0.1, 0.05] };
        assert_same_bits(|| {
            let [mut param, grad, mut first] = [0.7, 0.3, 0.1].map(|frequency| wave(40_000, frequency, 1.0));
            let mut second = vec![0.5; 40_000];
            apply(&mut param, &grad, &mut first, &mut second, step);
            vec![param, first, second]
        });
    }
}
