//! Flips and quarter turns as one signed permutation of the axes, so that a crop is copied once.

use serde::{Deserialize, Serialize};

use super::mirror::MirrorParams;
use super::rotate90::Rotate90Params;

/// Source axis and direction from which each output axis is read.
///
/// Both arrays are indexed by the *output* axis; indexed by the source axis they would be the inverse map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AxisMap {
    /// Source axis along which output axis `a` runs.
    pub source: [usize; 3],
    /// True if output axis `a` runs in the opposite direction of its source axis.
    pub flipped: [bool; 3],
}

impl AxisMap {
    /// Map that leaves every voxel in place.
    pub const IDENTITY: Self = Self { source: [0, 1, 2], flipped: [false; 3] };

    /// Combines flips, applied first, and quarter turns, in the recipe's order.
    #[must_use]
    pub fn new(flip: Option<MirrorParams>, rotate90: Option<Rotate90Params>) -> Self {
        let flips = flip.map_or([false; 3], |params| params.axes);
        // The axis of the flipped crop that an output axis reads, and whether backwards.
        let (source, mut flipped) = match rotate90.map_or(0, |params| params.turns % 4) {
            1 => ([1, 0, 2], [true, false, false]),
            2 => ([0, 1, 2], [true, true, false]),
            3 => ([1, 0, 2], [false, true, false]),
            _ => ([0, 1, 2], [false; 3]),
        };
        for (axis, flip) in flipped.iter_mut().enumerate() {
            *flip ^= flips[source[axis]];
        }
        Self { source, flipped }
    }

    /// Source shape of an output of `shape`.
    #[must_use]
    pub fn source_shape(&self, shape: [usize; 3]) -> [usize; 3] {
        let mut cut = [0; 3];
        for (axis, &from) in self.source.iter().enumerate() {
            cut[from] = shape[axis];
        }
        cut
    }

    /// Start and strides of a walk through the source in the order of an output of `shape`: the index of the output's
    /// first voxel, and the increment of the index along each output axis. `strides` are the source's along x, y, z.
    #[must_use]
    pub fn walk(&self, shape: [usize; 3], strides: [usize; 3]) -> (usize, [isize; 3]) {
        let mut start = 0;
        let mut increments = [0; 3];
        for axis in 0..3 {
            let stride = strides[self.source[axis]];
            increments[axis] = stride as isize;
            if self.flipped[axis] {
                start += (shape[axis] - 1) * stride;
                increments[axis] = -increments[axis];
            }
        }
        (start, increments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::scratch::Scratch;

    #[test]
    fn map_equals_flips_followed_by_turns() {
        let source_shape = [3, 4, 5];
        let numbered: Vec<f32> = (0..60).map(|i| i as f32).collect();
        for code in 0..32u8 {
            let axes = [code & 1 != 0, code & 2 != 0, code & 4 != 0];
            let flip = axes.contains(&true).then_some(MirrorParams { axes });
            let turn = (code >> 3 != 0).then_some(Rotate90Params { turns: code >> 3 });

            let mut expected = numbered.clone();
            let mut shape = source_shape;
            if let Some(flip) = flip {
                flip.apply(&mut expected, shape);
            }
            if let Some(turn) = turn {
                shape = turn.apply(&mut expected, shape, &mut Scratch::new());
            }

            let map = AxisMap::new(flip, turn);
            assert_eq!(map.source_shape(shape), source_shape);
            let (start, increments) = map.walk(shape, [20, 5, 1]);
            let mut walked = Vec::new();
            for x in 0..shape[0] {
                for y in 0..shape[1] {
                    for z in 0..shape[2] {
                        let at = [x, y, z].iter().zip(increments).map(|(&n, by)| n as isize * by).sum();
                        walked.push(numbered[start.checked_add_signed(at).unwrap()]);
                    }
                }
            }
            assert_eq!(walked, expected, "{flip:?} {turn:?}");
        }
    }
}
