//! Flips and quarter turns as one signed permutation of the axes, so that a crop is copied once.

use serde::{Deserialize, Serialize};

use super::mirror::MirrorParams;
use super::rotate90::Rotate90Params;

/// From where each output axis is read: along which source axis, and from which end.
///
/// Read the other way round it would be its inverse: `source[a]` belongs to *output* axis `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AxisMap {
    /// The source axis along which output axis `a` runs.
    pub source: [usize; 3],
    /// Whether output axis `a` runs against it.
    pub flipped: [bool; 3],
}

impl AxisMap {
    /// Output is source.
    pub const IDENTITY: Self = Self { source: [0, 1, 2], flipped: [false; 3] };

    /// First the flips, then the turns, as the recipe orders them.
    #[must_use]
    pub fn new(flip: Option<MirrorParams>, rotate90: Option<Rotate90Params>) -> Self {
        let flips = flip.map_or([false; 3], |params| params.axes);
        // Which axis of the flipped crop an output axis reads, and whether backwards.
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

    /// The shape to cut so that the output has `shape`.
    #[must_use]
    pub fn source_shape(&self, shape: [usize; 3]) -> [usize; 3] {
        let mut cut = [0; 3];
        for (axis, &from) in self.source.iter().enumerate() {
            cut[from] = shape[axis];
        }
        cut
    }

    /// Where the output's first voxel lies in a source of shape [`Self::source_shape`] whose steps along x, y, z are
    /// `strides`, and the step there for each step along an output axis.
    #[must_use]
    pub fn walk(&self, shape: [usize; 3], strides: [usize; 3]) -> (usize, [isize; 3]) {
        let mut start = 0;
        let mut steps = [0; 3];
        for axis in 0..3 {
            let stride = strides[self.source[axis]];
            let step = stride as isize;
            if self.flipped[axis] {
                start += (shape[axis] - 1) * stride;
                steps[axis] = -step;
            } else {
                steps[axis] = step;
            }
        }
        (start, steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::scratch::Scratch;

    #[test]
    fn one_map_does_what_flips_and_turns_do_one_after_the_other() {
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
            let (start, steps) = map.walk(shape, [20, 5, 1]);
            let mut walked = Vec::new();
            for x in 0..shape[0] {
                for y in 0..shape[1] {
                    for z in 0..shape[2] {
                        let step = x as isize * steps[0] + y as isize * steps[1] + z as isize * steps[2];
                        walked.push(numbered[start.checked_add_signed(step).unwrap()]);
                    }
                }
            }
            assert_eq!(walked, expected, "{flip:?} {turn:?}");
        }
    }
}
