//! Pre-norm residual connection: a branch leaves the tokens through a layer norm and is added back to them.

use burn::tensor::{FloatDType, Tensor};

use super::junction::Junction;
use super::layer_norm::layer_norm_at;
use super::residual::add_branch_at;

/// Tokens `[N, L, W]` in f32 to which a branch is to be added.
#[derive(Clone, Debug)]
pub struct Trunk {
    tokens: Tensor<3>,
    junction: Junction,
}

impl Trunk {
    /// Returns the trunk `x` and, for the branch, its layer norm in `dtype` ([`super::layer_norm::layer_norm`]).
    ///
    /// Both gradients of `x` are added in the pass that computes the norm's gradient.
    #[must_use]
    pub fn leave(
        x: Tensor<3>,
        gamma: Tensor<1>,
        beta: Tensor<1>,
        epsilon: f64,
        dtype: FloatDType,
    ) -> (Self, Tensor<3>) {
        Self::leave_at(Junction::open(), x, gamma, beta, epsilon, dtype)
    }

    fn leave_at(
        junction: Junction,
        x: Tensor<3>,
        gamma: Tensor<1>,
        beta: Tensor<1>,
        epsilon: f64,
        dtype: FloatDType,
    ) -> (Self, Tensor<3>) {
        let normed = layer_norm_at(x.clone(), gamma, beta, epsilon, dtype, junction.clone());
        (Self { tokens: x, junction }, normed)
    }

    /// Computes the trunk plus `branch` `[N, L, W]`, of any type, plus `bias` `[W]`, in f32. The branch must depend on
    /// the norm returned by [`Self::leave`].
    #[must_use]
    pub fn join(self, branch: Tensor<3>, bias: Tensor<1>) -> Tensor<3> {
        add_branch_at(self.tokens, branch, bias, self.junction)
    }
}

/// A trunk whose branch begins without a norm.
impl From<Tensor<3>> for Trunk {
    fn from(tokens: Tensor<3>) -> Self {
        Self { tokens, junction: Junction::default() }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{Outcome, on_devices, values_and_gradients, wave};
    use burn::tensor::Device;

    const SHAPES: [[usize; 3]; 3] = [[2, 70, 96], [1, 1, 96], [1, 1, 96]];

    /// Outcome of two branches in a row, where the tokens between them are also an output and thus have three
    /// gradients.
    fn outcome(device: &Device, open: bool) -> Outcome {
        let inputs = SHAPES.map(|shape| wave(shape, 0.7 / shape[1] as f32, 2.0));
        values_and_gradients(device, &inputs, |[x, gamma, beta]| {
            let (gamma, beta) = (gamma.reshape([96]), beta.reshape([96]));
            let branch = |x: Tensor<3>| {
                let junction = if open { Junction::open() } else { Junction::default() };
                let (trunk, normed) = Trunk::leave_at(junction, x, gamma.clone(), beta.clone(), 1e-5, FloatDType::F32);
                trunk.join(normed.clone() * normed, beta.clone())
            };
            let middle = branch(x);
            branch(middle.clone()) + middle.sin()
        })
    }

    fn gradients_that_meet_in_the_norm_are_those_that_burn_adds(device: &Device) {
        // The sum of three gradients in another order, and in a fused multiply-add where a device has one.
        outcome(device, true).assert_close(&outcome(device, false), 1e-6);
    }

    on_devices!(gradients_that_meet_in_the_norm_are_those_that_burn_adds);

    #[test]
    #[should_panic(expected = "does not depend on its norm")]
    fn a_branch_without_its_norm_is_a_panic() {
        let device = Device::flex().autodiff();
        let x = Tensor::<3>::from_data(wave(SHAPES[0], 0.7, 1.0), &device).require_grad();
        let vector = Tensor::<1>::ones([96], &device);
        let (trunk, normed) =
            Trunk::leave_at(Junction::open(), x, vector.clone(), vector.clone(), 1e-5, FloatDType::F32);
        drop(normed);
        let other = Tensor::<3>::from_data(wave(SHAPES[0], 0.3, 1.0), &device);
        let _ = trunk.join(other, vector).sum().backward();
    }
}
