//! Numbers of voxels of each class in label, prediction and both.

use super::{LabelMap, MetricError};
use crate::label_space::{LabelOutOfRange, LabelSpace};

/// Convention for the Dice of a class that is absent from a case's label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absent {
    /// Not measured, whatever the prediction, as in MONAI's `DiceMetric`.
    #[default]
    Monai,
    /// 0 if the class is predicted, otherwise not measured, as in nnU-Net's evaluation.
    NnUnet,
}

impl Absent {
    /// Name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Monai => "monai",
            Self::NnUnet => "nnunet",
        }
    }
}

/// Numbers of voxels of one class in one case, ignored voxels excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Number of voxels of the class in both maps.
    pub true_positive: u64,
    /// Number of voxels of the class only in the prediction.
    pub false_positive: u64,
    /// Number of voxels of the class only in the label.
    pub false_negative: u64,
    /// Number of voxels of the class in neither map.
    pub true_negative: u64,
}

impl Overlap {
    /// Number of voxels of the class in the label.
    #[must_use]
    pub const fn in_label(self) -> u64 {
        self.true_positive + self.false_negative
    }

    /// Number of voxels of the class in the prediction.
    #[must_use]
    pub const fn in_pred(self) -> u64 {
        self.true_positive + self.false_positive
    }

    /// Dice `2 |label ∩ pred| / (|label| + |pred|)`, in [0, 1]; NaN if it is not measured.
    #[must_use]
    pub fn dice(self, absent: Absent) -> f64 {
        let measured = match absent {
            Absent::Monai => self.in_label() > 0,
            Absent::NnUnet => self.in_label() + self.in_pred() > 0,
        };
        if measured { 2.0 * self.true_positive as f64 / (self.in_label() + self.in_pred()) as f64 } else { f64::NAN }
    }

    /// Intersection over union `|label ∩ pred| / |label ∪ pred|`, in [0, 1]; NaN if neither map has the class.
    #[must_use]
    pub fn iou(self) -> f64 {
        self.true_positive as f64 / (self.true_positive + self.false_positive + self.false_negative) as f64
    }
}

/// Computes the overlap of every class of `space`.
///
/// # Errors
/// If the two grids differ in size, the label holds neither a class nor the ignore label, or the prediction holds
/// anything but classes.
pub fn overlaps(label: &LabelMap<'_>, pred: &LabelMap<'_>, space: LabelSpace) -> Result<Vec<Overlap>, MetricError> {
    if label.dims() != pred.dims() {
        return Err(MetricError::SizeMismatch { label: label.dims(), pred: pred.dims() });
    }
    let out_of_range = |map| move |found: LabelOutOfRange| MetricError::LabelOutOfRange { map, found };
    let num_classes = space.num_classes();
    space.check(label.voxels()).map_err(out_of_range("label"))?;
    LabelSpace::new(num_classes).check(pred.voxels()).map_err(out_of_range("prediction"))?;

    let mut in_label = [0_u64; 256];
    let mut in_pred = [0_u64; 256];
    let mut in_both = [0_u64; 256];
    let mut num_voxels = 0;
    for (&l, &p) in label.voxels().iter().zip(pred.voxels()).filter(|(l, _)| Some(**l) != space.ignore()) {
        in_label[usize::from(l)] += 1;
        in_pred[usize::from(p)] += 1;
        in_both[usize::from(l)] += u64::from(l == p);
        num_voxels += 1;
    }
    let of = |class: usize| {
        // A label map of 8 bits has no class above 255.
        let [label, pred, both] = [&in_label, &in_pred, &in_both].map(|counts| counts.get(class).copied().unwrap_or(0));
        Overlap {
            true_positive: both,
            false_positive: pred - both,
            false_negative: label - both,
            true_negative: num_voxels - (label + pred - both),
        }
    };
    Ok((0..num_classes).map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_voxel_that_is_not_ignored_is_counted_once() {
        let map = |voxels| LabelMap::new(voxels, [7, 1, 1], [1.0; 3]).unwrap();
        let space = LabelSpace::new(3).with_ignore(Some(9));
        let overlaps = overlaps(&map(&[0, 1, 1, 2, 9, 0, 9]), &map(&[0, 1, 0, 1, 1, 0, 2]), space).unwrap();
        let counts = |of: Overlap| [of.true_positive, of.false_positive, of.false_negative, of.true_negative];
        assert_eq!(
            overlaps.iter().map(|&of| counts(of)).collect::<Vec<_>>(),
            [[2, 1, 0, 2], [1, 1, 1, 2], [0, 0, 1, 4]]
        );
        assert!((overlaps[1].iou() - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_class_that_only_the_prediction_has_is_zero_for_nnunet_and_not_measured_for_monai() {
        let of = Overlap { false_positive: 3, true_negative: 5, ..Overlap::default() };
        assert_eq!(of.dice(Absent::NnUnet).to_bits(), 0.0_f64.to_bits());
        assert!(of.dice(Absent::Monai).is_nan());
        let absent = Overlap { true_negative: 8, ..Overlap::default() };
        assert!(absent.dice(Absent::NnUnet).is_nan() && absent.dice(Absent::Monai).is_nan() && absent.iou().is_nan());
    }
}
