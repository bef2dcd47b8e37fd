//! Quarter turns in the plane of the first two axes, in the direction of `np.rot90`: from x towards y.

use std::fmt;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::range::Probability;
use super::scratch::Scratch;
use crate::rng::{DrawId, Operation};

/// Settings of the quarter turns; one, two and three turns are equally likely.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotate90 {
    /// Probability of turning.
    pub probability: Probability,
}

/// Sampled number of quarter turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotate90Params {
    /// Number of quarter turns: 1, 2 or 3; other numbers count modulo 4.
    pub turns: u8,
}

impl Default for Rotate90 {
    fn default() -> Self {
        Self { probability: Probability::known(0.3) }
    }
}

impl Rotate90 {
    /// Samples the parameters of the crop `id`; `None` if the transform is not applied to it.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> Option<Rotate90Params> {
        let mut rng = id.rng(Operation::Rotate90);
        let apply = self.probability.sample(&mut rng);
        let turns = 1 + (rng.random::<f64>() * 3.0) as u8;
        apply.then_some(Rotate90Params { turns })
    }
}

impl Rotate90Params {
    /// Turns a crop of `shape` and returns its new shape: an odd number of turns exchanges x and y.
    ///
    /// This is the plain form, through a copy of the crop, against which the pipeline's fused copy is tested.
    ///
    /// # Panics
    /// If `voxels` does not have `shape`.
    pub fn apply(&self, voxels: &mut [f32], shape: [usize; 3], scratch: &mut Scratch) -> [usize; 3] {
        let [nx, ny, nz] = shape;
        assert_eq!(voxels.len(), nx * ny * nz, "a crop has its shape");
        let (from, _) = scratch.take(voxels.len(), 0);
        from.copy_from_slice(voxels);
        let turns = self.turns % 4;
        let turned = if turns % 2 == 1 { [ny, nx, nz] } else { shape };
        for (row, to) in voxels.chunks_exact_mut(nz).enumerate() {
            let (i, j) = (row / turned[1], row % turned[1]);
            let (x, y) = match turns {
                1 => (j, ny - 1 - i),
                2 => (nx - 1 - i, ny - 1 - j),
                3 => (nx - 1 - j, i),
                _ => (i, j),
            };
            to.copy_from_slice(&from[(x * ny + y) * nz..][..nz]);
        }
        turned
    }
}

impl fmt::Display for Rotate90Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rotate {}", u16::from(self.turns) * 90)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_agree_with_numpy() {
        // np.rot90([[1, 2, 3], [4, 5, 6]], k, axes=(0, 1))
        let check = |turns, expected_shape: [usize; 3], expected: [f32; 6]| {
            let mut voxels = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
            let shape = Rotate90Params { turns }.apply(&mut voxels, [2, 3, 1], &mut Scratch::new());
            assert_eq!((shape, voxels), (expected_shape, expected), "{turns} turns");
        };
        check(1, [3, 2, 1], [3.0, 6.0, 2.0, 5.0, 1.0, 4.0]);
        check(2, [2, 3, 1], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
        check(3, [3, 2, 1], [4.0, 1.0, 5.0, 2.0, 6.0, 3.0]);
    }

    #[test]
    fn description_is_a_phrase() {
        assert_eq!(Rotate90Params { turns: 3 }.to_string(), "rotate 270");
    }
}
