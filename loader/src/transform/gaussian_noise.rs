//! Additive Gaussian noise of nnU-Net's chain.

use std::fmt;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::approx::{LANES, Normals};
use super::range::{Probability, Range};
use crate::rng::{DrawId, Operation};

/// Settings of the noise: independent normal numbers with one sampled standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussianNoise {
    /// Probability of applying the transform.
    pub probability: Probability,
    /// Range of the standard deviation, in units of the window.
    ///
    /// nnU-Net calls it a variance but uses it as a standard deviation.
    ///
    /// DIFFERENCE: nnU-Net adds the noise to values of standard deviation 1; here one unit is the whole window, 425 HU,
    /// so the same number is about four times as much noise on abdominal CT. The default is nnU-Net's number; set `[0,
    /// 0.025]` for nnU-Net's strength on CT.
    pub std: Range,
}

/// Sampled strength and field of the noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianNoiseParams {
    /// Standard deviation, in units of the window.
    pub std: f32,
    /// Seed of the field of normals; equal seeds give equal fields.
    pub seed: u64,
}

impl Default for GaussianNoise {
    fn default() -> Self {
        Self { probability: Probability::known(0.1), std: Range::known(0.0, 0.1) }
    }
}

impl GaussianNoise {
    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> Option<GaussianNoiseParams> {
        let mut rng = id.rng(Operation::GaussianNoise);
        let apply = self.probability.sample(&mut rng);
        let std = self.std.sample(&mut rng);
        let seed = rng.random();
        apply.then_some(GaussianNoiseParams { std, seed })
    }
}

impl GaussianNoiseParams {
    /// First `count` normal numbers of the field, with standard deviation 1.
    ///
    /// Normal n comes from block n/16 of the key stream of `ChaCha8` whose key is the seed, little-endian, then
    /// zeros: with i = n mod 8, from the block's words i and 8 + i, `u = ((word >> 8) + 1) / 2^24` and
    /// `t = (word >> 8, with its sign) / 2^24`, it is `sqrt(-2 ln u)` times `cos 2πt` in the first half of the block
    /// and times `sin 2πt` in the second.
    #[must_use]
    pub fn field(&self, count: usize) -> Vec<f32> {
        let mut field = vec![0.0; count];
        Self { std: 1.0, seed: self.seed }.apply(&mut field);
        field
    }

    /// Adds the noise to a crop.
    pub fn apply(&self, image: &mut [f32]) {
        let mut normals = Normals::new(self.seed);
        let (sixteens, rest) = image.as_chunks_mut::<{ 2 * LANES }>();
        for sixteen in sixteens {
            let (first, second) = normals.next_pair();
            for i in 0..LANES {
                sixteen[i] += self.std * first[i];
                sixteen[LANES + i] += self.std * second[i];
            }
        }
        let (first, second) = normals.next_pair();
        for (v, normal) in rest.iter_mut().zip(first.into_iter().chain(second)) {
            *v += self.std * normal;
        }
    }
}

impl fmt::Display for GaussianNoiseParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gaussian noise {:.4}", self.std)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::moments::moments;

    #[test]
    fn noise_has_the_given_standard_deviation() {
        let mut image = vec![0.5; 100_003];
        GaussianNoiseParams { std: 0.05, seed: 9 }.apply(&mut image);
        let after = moments(&image);
        // The mean of 100,003 draws has a standard error of 0.05/316 = 1.6e-4, their deviation one of 1.1e-4: six and
        // nine of them.
        assert!((after.mean - 0.5).abs() < 1e-3 && (after.std - 0.05).abs() < 1e-3, "{after:?}");
    }

    #[test]
    fn equal_seeds_give_equal_fields() {
        let field = |seed| {
            let mut image = vec![0.0; 33];
            GaussianNoiseParams { std: 1.0, seed }.apply(&mut image);
            image
        };
        assert_eq!(field(1), field(1));
        assert_ne!(field(1), field(2));
    }
}
