//! Weights of the micro-batches of a step.
//!
//! The loss of a step consists of means over all its crops or all its annotated voxels, whatever the ranks and
//! micro-batches they belong to. A micro-batch contributes its own means, each weighted by its fraction of the crops or
//! voxels, so that the contributions of all micro-batches and ranks add up to the loss of the step.

use std::iter::Sum;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Numbers of crops and voxels over which the means of a loss are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Number of crops.
    pub crops: usize,
    /// Number of annotated voxels; 0 if the loss has no mean over them.
    pub annotated: u64,
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, counts| Self {
            crops: sum.crops + counts.crops,
            annotated: sum.annotated + counts.annotated,
        })
    }
}

/// Share of a micro-batch in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Counts of the micro-batch.
    pub own: Counts,
    /// Counts of the step, over all micro-batches and ranks.
    pub all: Counts,
}

impl Share {
    /// Weights `mean` `[1]`, a mean over the crops of the micro-batch.
    #[must_use]
    pub fn of_crops(self, mean: Tensor<1>) -> Tensor<1> {
        weighted(mean, self.own.crops as u64, self.all.crops as u64)
    }

    /// Weights `mean` `[1]`, a mean over the annotated voxels of the micro-batch.
    #[must_use]
    pub fn of_annotated(self, mean: Tensor<1>) -> Tensor<1> {
        weighted(mean, self.own.annotated, self.all.annotated)
    }
}

fn weighted(mean: Tensor<1>, own: u64, all: u64) -> Tensor<1> {
    // The loss of a step in one part keeps its bits.
    if own == all { mean } else { mean * (own as f64 / all as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn means_are_weighted_by_their_own_fraction() {
        let own = Counts { crops: 1, annotated: 1 };
        let rest = Counts { crops: 3, annotated: 0 };
        let all: Counts = [own, rest].into_iter().sum();
        assert_eq!(all, Counts { crops: 4, annotated: 1 });
        let mean = || Tensor::<1>::from_floats([8.0], &Device::flex());
        let check = |weighted: Tensor<1>, expected: f32| {
            assert_eq!(weighted.into_scalar::<f32>().to_bits(), expected.to_bits());
        };
        check(Share { own, all }.of_crops(mean()), 2.0);
        check(Share { own, all }.of_annotated(mean()), 8.0);
        check(Share { own: rest, all }.of_crops(mean()), 6.0);
        check(Share { own: rest, all }.of_annotated(mean()), 0.0);
        // Nothing of the step is annotated: its mean over no voxel stays as it is.
        let none = Counts { crops: 4, annotated: 0 };
        check(Share { own: none, all: none }.of_annotated(mean()), 8.0);
    }
}
