//! Slices that hold nothing but one value, or that repeat the slice before them, as damaged and filled files have them.
//!
//! Voxels are compared as stored, and each comparison ends at the first difference: only slices of one value are read to
//! their end, and of them only those across the file's last axis and the outermost ones across the others.

use crate::volume::Volume;

/// Largest share of slices that repeat the one before. Scans brought to thinner slices by their nearest neighbours have
/// more, spread over the whole scan.
const MOST_REPEATED: f64 = 0.25;

/// Slices of a volume without content of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slices {
    /// Slices of one value where a scan has content.
    pub blank: Option<BlankSlices>,
    /// Slices that equal the one before.
    pub repeated: Option<RepeatedSlices>,
}

/// Slices that hold nothing but one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlankSlices {
    /// Value of their voxels.
    pub value: f32,
    /// Axis of the file across which they lie, from 0 to 2.
    pub axis: usize,
    /// Number of them.
    pub num: usize,
    /// First and last of them, counted from 0.
    pub ends: [usize; 2],
    /// Number of all slices across the axis.
    pub all: usize,
    /// True if outermost slices across another axis than the last have one value as well, as in a padded or masked scan;
    /// false in a file that was not written to its end, or that lacks slices.
    pub is_padded: bool,
}

/// Slices across the file's last axis that equal the one before, and hold more than one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepeatedSlices {
    /// Number of them.
    pub num: usize,
    /// First of them, counted from 0.
    pub first: usize,
    /// Number of all slices.
    pub all: usize,
}

impl Slices {
    /// Finds such slices in a volume. The outermost slices may have any value for which `is_background` returns true.
    pub(super) fn of(volume: &Volume, is_background: impl Fn(f32) -> bool) -> Self {
        let stacked = blank_in_stack(volume, &is_background);
        let outermost = [0, 1].into_iter().find_map(|axis| blank_outermost(volume, axis, &is_background));
        let is_padded = outermost.is_some();
        let blank = stacked.or(outermost).map(|blank| BlankSlices { is_padded, ..blank });
        Self { blank, repeated: repeated(volume) }
    }
}

impl BlankSlices {
    /// Describes slices, in ascending order, that have the value of the first one.
    fn of(found: &[(usize, f32)], axis: usize, all: usize) -> Option<Self> {
        let &(first, value) = found.first()?;
        let of_value = || found.iter().filter(move |(_, other)| other.total_cmp(&value).is_eq());
        let last = of_value().map(|(at, _)| *at).next_back()?;
        Some(Self { value, axis, num: of_value().count(), ends: [first, last], all, is_padded: false })
    }
}

/// Slices of one value across the last axis: between others, or at an end and not of the background.
fn blank_in_stack(volume: &Volume, is_background: impl Fn(f32) -> bool) -> Option<BlankSlices> {
    let all = volume.info.shape[2];
    let values: Vec<Option<f32>> = (0..all).map(|at| only_value(volume, 2, at)).collect();
    let content = values.iter().position(Option::is_none)?..=values.iter().rposition(Option::is_none)?;
    let found = values.iter().enumerate().filter_map(|(at, value)| Some((at, (*value)?)));
    let found: Vec<(usize, f32)> = found.filter(|(at, value)| content.contains(at) || !is_background(*value)).collect();
    BlankSlices::of(&found, 2, all)
}

/// Outermost slices of one value across an axis that are not of the background.
fn blank_outermost(volume: &Volume, axis: usize, is_background: impl Fn(f32) -> bool) -> Option<BlankSlices> {
    let all = volume.info.shape[axis];
    let blank = |at: usize| Some((at, only_value(volume, axis, at).filter(|value| !is_background(*value))?));
    let mut found: Vec<(usize, f32)> = (0..all).map_while(blank).collect();
    let mut at_end: Vec<(usize, f32)> = (found.len()..all).rev().map_while(blank).collect();
    at_end.reverse();
    found.append(&mut at_end);
    if found.len() == all { None } else { BlankSlices::of(&found, axis, all) }
}

/// Slices that repeat the one before; `None` if there are none, or if the whole scan is made that way.
fn repeated(volume: &Volume) -> Option<RepeatedSlices> {
    let [nx, ny, all] = volume.info.shape;
    let slice = |at: usize| volume.stored(at * nx * ny, nx * ny);
    let is_repeated = |at: &usize| slice(*at) == slice(at - 1) && only_value(volume, 2, *at).is_none();
    let found: Vec<usize> = (1..all).filter(is_repeated).collect();
    let first = *found.first()?;
    let is_whole_scan = found.len() as f64 > MOST_REPEATED * all as f64;
    (!is_whole_scan).then_some(RepeatedSlices { num: found.len(), first, all })
}

/// Value of all voxels of a slice across an axis; `None` if they differ.
fn only_value(volume: &Volume, axis: usize, at: usize) -> Option<f32> {
    let [nx, ny, nz] = volume.info.shape;
    let voxel_of = |fast: usize, slow: usize| match axis {
        0 => (slow * ny + fast) * nx + at,
        1 => (slow * ny + at) * nx + fast,
        _ => (at * ny + slow) * nx + fast,
    };
    let (num_fast, num_slow) = match axis {
        0 => (ny, nz),
        1 => (nx, nz),
        _ => (nx, ny),
    };
    let first = voxel_of(0, 0);
    let value = volume.stored(first, 1);
    let is_equal = |voxel: usize| volume.stored(voxel, 1) == value;
    if !(0..num_slow).all(|slow| (0..num_fast).all(|fast| is_equal(voxel_of(fast, slow)))) {
        return None;
    }
    let mut value = [0.0];
    volume.read_f32(first, &mut value);
    Some(value[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::nifti::testing::TestFile;
    use crate::volume::read_volume;

    const SHAPE: [usize; 3] = [6, 5, 12];

    /// Slices of a volume of different values after a change; `change` sees each voxel's position and value.
    fn of(change: impl Fn([usize; 3], i16) -> i16) -> Slices {
        let [nx, ny, nz] = SHAPE;
        let values: Vec<i16> = (0..nx * ny * nz)
            .map(|at| change([at % nx, at / nx % ny, at / (nx * ny)], i16::try_from(at).unwrap()))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let file = TestFile::new(SHAPE, &values).write(&dir.path().join("a.nii"));
        Slices::of(&read_volume(&file).unwrap(), |value| value <= -900.0)
    }

    #[test]
    fn slices_of_one_value_are_found_where_a_scan_has_content() {
        assert_eq!(of(|_, value| value), Slices::default());
        // Air at both ends, and between others.
        assert_eq!(of(|[_, _, z], value| if (2..=9).contains(&z) { value } else { -1024 }), Slices::default());
        let stack = BlankSlices { value: -1024.0, axis: 2, num: 2, ends: [7, 8], all: 12, is_padded: false };
        let between = of(|[_, _, z], value| if z == 7 || z == 8 { -1024 } else { value });
        assert_eq!(between, Slices { blank: Some(stack), repeated: None });
        let tail = of(|[_, _, z], value| if z > 6 { 0 } else { value }).blank;
        assert_eq!(tail, Some(BlankSlices { value: 0.0, num: 5, ends: [7, 11], ..stack }));
        // Slices of another value do not count with the first ones.
        let two = of(|[_, _, z], value| match z {
            2 | 10 => 7,
            5 => 9,
            _ => value,
        });
        assert_eq!(two.blank, Some(BlankSlices { value: 7.0, num: 2, ends: [2, 10], ..stack }));
        // A volume of nothing but such slices has no content.
        assert_eq!(of(|[_, _, z], _| if z < 6 { 0 } else { 50 }).blank, None);
    }

    #[test]
    fn outermost_slices_of_one_value_are_padding() {
        let faces = of(|[x, _, _], value| if x == 0 || x > 3 { 3071 } else { value }).blank;
        let expected = BlankSlices { value: 3071.0, axis: 0, num: 3, ends: [0, 5], all: 6, is_padded: true };
        assert_eq!(faces, Some(expected));
        let rows = of(|[_, y, _], value| if y == 4 { 0 } else { value }).blank;
        assert_eq!(rows, Some(BlankSlices { value: 0.0, axis: 1, num: 1, ends: [4, 4], all: 5, is_padded: true }));
        assert_eq!(of(|[_, y, _], value| if y == 4 { -2000 } else { value }).blank, None);
        // On all sides.
        let box_of_zeros = of(|[x, y, z], value| if x < 1 || y < 1 || z > 9 { 0 } else { value }).blank;
        let expected = BlankSlices { value: 0.0, axis: 2, num: 2, ends: [10, 11], all: 12, is_padded: true };
        assert_eq!(box_of_zeros, Some(expected));
    }

    #[test]
    fn slices_that_repeat_the_one_before_are_found() {
        // The value of a voxel in slice `z`, for voxels of different values.
        let at = |[x, y, _]: [usize; 3], z: usize| i16::try_from((z * SHAPE[1] + y) * SHAPE[0] + x).unwrap();
        let found = of(|place, _| at(place, if (7..9).contains(&place[2]) { 6 } else { place[2] }));
        assert_eq!(found, Slices { blank: None, repeated: Some(RepeatedSlices { num: 2, first: 7, all: 12 }) });
        // Every slice twice.
        assert_eq!(of(|place, _| at(place, place[2] / 2)), Slices::default());
    }
}
