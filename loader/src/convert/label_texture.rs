//! Sign that a label map is a copy of an image: many values, and few neighbours of equal value.

use crate::plural::count;
use crate::volume::LabelVolume;

/// Largest number of classes of a label map that is not examined further.
const FEW_CLASSES: usize = 32;
/// Least share of equal neighbours, among those that are not both background, in a label map. Classes fill areas; the voxels
/// of an image have one neighbour in ten or fewer of their own value.
const LEAST_EQUAL: f64 = 0.3;

/// Describes a label map with the values of an image in one line; `None` for any other.
pub(super) fn finding(label: &LabelVolume) -> Option<String> {
    let mut is_present = [false; 256];
    label.voxels.iter().for_each(|value| is_present[usize::from(*value)] = true);
    let num = is_present[1..].iter().filter(|is_present| **is_present).count();
    if num <= FEW_CLASSES {
        return None;
    }
    let pairs = || label.voxels.windows(2).filter(|pair| pair[0] > 0 || pair[1] > 0);
    let (equal, all) = (pairs().filter(|pair| pair[0] == pair[1]).count(), pairs().count());
    let share = equal as f64 / all.max(1) as f64;
    (share < LEAST_EQUAL).then(|| {
        format!(
            "label map with {} and {:.0}% of neighbouring voxels equal: an image by its values; check the file",
            count(num, "different value"),
            share * 100.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::nifti::testing::TestFile;
    use crate::volume::read_labels;

    fn of(value: impl Fn(usize) -> usize) -> Option<String> {
        let voxels: Vec<u8> = (0..30 * 20 * 10).map(|at| u8::try_from(value(at)).unwrap()).collect();
        let dir = tempfile::tempdir().unwrap();
        let file = TestFile::new([30, 20, 10], &[]).with_u8(&voxels).write(&dir.path().join("a.nii"));
        finding(&read_labels(&file).unwrap())
    }

    #[test]
    fn copies_of_an_image_are_told_from_many_classes() {
        let text = of(|at| at * 7919 % 151).unwrap();
        assert!(text.starts_with("label map with 150 different values and 0% of neighbouring voxels equal"), "{text}");
        // Many classes of three voxels each and more, and few classes in any form.
        assert_eq!(of(|at| at / 3 % 200), None);
        assert_eq!(of(|at| at * 7 % 30), None);
    }
}
