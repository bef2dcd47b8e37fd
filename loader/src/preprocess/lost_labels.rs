//! Label values that no voxel of the prepared label map has any more: small structures between the voxels of a coarser grid,
//! and structures outside of the foreground, to which the volume is cropped.

/// Number of voxels that are examined at once; where all of them are background, one comparison suffices.
const BLOCK: usize = 64;

/// A label value that preprocessing removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostLabel {
    /// The value.
    pub value: u8,
    /// Number of its voxels in the source.
    pub num_voxels: u64,
    /// Stage that removed its last voxel.
    pub stage: LosingStage,
}

/// A stage of preprocessing that removes voxels of a label map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LosingStage {
    /// Resampling by the nearest neighbour.
    Resampling,
    /// Crop to the foreground.
    Crop,
}

/// Number of voxels of each label value but the background, 0, which is not counted.
pub(super) type LabelCounts = [u64; 256];

/// Counts the voxels of each label value.
pub(super) fn count_labels(voxels: &[u8]) -> LabelCounts {
    let mut counts = [0; 256];
    for block in voxels.chunks(BLOCK) {
        if block.iter().any(|value| *value != 0) {
            for value in block {
                counts[usize::from(*value)] += 1;
            }
        }
    }
    counts[0] = 0;
    counts
}

/// Label values of the source that are lost after resampling or the crop, in ascending order.
pub(super) fn lost_labels(source: &LabelCounts, resampled: &LabelCounts, cropped: &LabelCounts) -> Vec<LostLabel> {
    (0..=u8::MAX)
        .filter_map(|value| {
            let [source, resampled, cropped] = [source, resampled, cropped].map(|counts| counts[usize::from(value)]);
            let stage = if resampled == 0 { LosingStage::Resampling } else { LosingStage::Crop };
            (source > 0 && cropped == 0).then_some(LostLabel { value, num_voxels: source, stage })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_values_are_listed_with_the_stage_that_removed_them() {
        let source: Vec<u8> = (0..300u16).map(|at| u8::try_from(at / 100).unwrap() * u8::from(at % 3 == 0)).collect();
        let counts = count_labels(&source);
        assert_eq!((counts[0], counts[1], counts[2], counts[3]), (0, 33, 33, 0));
        let [one, none] = [count_labels(&[0, 2]), count_labels(&[0; 200])];
        assert!(lost_labels(&counts, &counts, &counts).is_empty());
        let first = LostLabel { value: 1, num_voxels: 33, stage: LosingStage::Resampling };
        let second = LostLabel { value: 2, num_voxels: 33, stage: LosingStage::Crop };
        assert_eq!(lost_labels(&counts, &one, &none), [first, second]);
        assert_eq!(lost_labels(&counts, &one, &one), [first]);
    }
}
