//! Convolutions of volumes `[N, C, X, Y, Z]`, z fastest, with stride 1 and zero padding that keeps the size, and their
//! gradients.
//!
//! Volumes are not unfolded to columns. A thread copies the rows it needs, with their padding, into a ring of three
//! planes that stays in its cache, and blocks of 4 channels by 24 voxels are summed in registers. The work is divided
//! by sizes alone and sums have a fixed order, so results do not depend on the number of threads.

mod cubic;
mod cubic_weight;
pub(crate) mod micro;
pub(crate) mod panel;
mod pointwise;
pub(crate) mod strips;

use rayon::prelude::*;

pub use cubic::{conv3, conv3_input_gradient};
pub use cubic_weight::conv3_weight_gradient;
pub use pointwise::{conv1, conv1_input_gradient, conv1_weight_gradient};

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Number of volumes in the batch.
    pub batch: usize,
    /// Number of input channels.
    pub in_channels: usize,
    /// Number of output channels.
    pub out_channels: usize,
    /// Number of voxels of the input along x, y, z.
    pub size: [usize; 3],
}

impl ConvShape {
    /// Number of voxels in a channel.
    #[must_use]
    pub fn num_voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// Number of values in the input.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.batch * self.in_channels * self.num_voxels()
    }

    /// Number of values in an output that has as many voxels as the input.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.batch * self.out_channels * self.num_voxels()
    }

    /// Shape of the convolution that maps gradients of the output to gradients of the input.
    fn reversed(self) -> Self {
        Self { in_channels: self.out_channels, out_channels: self.in_channels, ..self }
    }
}

/// Sums `dy` `[N, C, voxels]` over volumes and voxels → `[C]`, the gradient of a bias; in f64.
///
/// # Panics
/// If the length of `dy` is not a multiple of `batch * channels`.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the sum is kept in f32")]
pub fn bias_gradient(dy: &[f32], batch: usize, channels: usize) -> Vec<f32> {
    let num_voxels = dy.len() / (batch * channels).max(1);
    assert_eq!(dy.len(), batch * channels * num_voxels, "gradient");
    let sum = |n: usize, channel: usize| -> f64 {
        dy[(n * channels + channel) * num_voxels..][..num_voxels].chunks(1024).map(sum_of).sum()
    };
    (0..channels).into_par_iter().map(|channel| (0..batch).map(|n| sum(n, channel)).sum::<f64>() as f32).collect()
}

/// Sums at most a few thousand values, in 8 lanes of f64.
fn sum_of(values: &[f32]) -> f64 {
    let (vectors, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0_f64; 8];
    for vector in vectors {
        lanes.iter_mut().zip(vector).for_each(|(lane, &value)| *lane += f64::from(value));
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value)).sum::<f64>()
}
