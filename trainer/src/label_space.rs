//! Values that a label map may hold: the classes of a task and, if a dataset has one, its ignore label.
//!
//! The ignore label is that of nnU-Net: it marks voxels without annotation. They enter neither the loss nor any metric,
//! and no model predicts them.

use thiserror::Error;

/// Label space of the classes 0 (background) to `num_classes - 1`, with at most one ignore label above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelSpace {
    num_classes: usize,
    ignore: Option<u8>,
}

/// A label that is neither a class nor the ignore label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("label {label} is out of range; {space}")]
pub struct LabelOutOfRange {
    /// Label that was found.
    pub label: i64,
    /// Index of its voxel in the map, last axis fastest.
    pub voxel: usize,
    /// Allowed labels.
    pub space: LabelSpace,
}

impl LabelSpace {
    /// Creates a label space of `num_classes` classes, background included, without an ignore label.
    #[must_use]
    pub const fn new(num_classes: usize) -> Self {
        Self { num_classes, ignore: None }
    }

    /// Replaces the ignore label.
    ///
    /// # Panics
    /// If the ignore label is one of the classes.
    #[must_use]
    pub fn with_ignore(self, ignore: Option<u8>) -> Self {
        assert!(
            ignore.is_none_or(|label| usize::from(label) >= self.num_classes),
            "the ignore label {ignore:?} is one of the {} classes",
            self.num_classes
        );
        Self { ignore, ..self }
    }

    /// Number of classes, background included.
    #[must_use]
    pub const fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// Returns the ignore label, if there is one.
    #[must_use]
    pub const fn ignore(&self) -> Option<u8> {
        self.ignore
    }

    /// Returns true if a label is a class or the ignore label.
    #[must_use]
    pub fn contains(&self, label: u8) -> bool {
        usize::from(label) < self.num_classes || self.ignore == Some(label)
    }

    /// Number of `labels` other than the ignore label; `None` if the space has no ignore label.
    #[must_use]
    pub fn num_annotated(&self, labels: &[u8]) -> Option<u64> {
        let ignore = self.ignore?;
        Some(labels.iter().map(|&label| u64::from(label != ignore)).sum())
    }

    /// Checks every voxel of a label map.
    ///
    /// # Errors
    /// The first label out of range.
    pub fn check(&self, labels: &[u8]) -> Result<(), LabelOutOfRange> {
        let allowed: [bool; 256] = std::array::from_fn(|label| self.contains(label as u8));
        match labels.iter().position(|&label| !allowed[usize::from(label)]) {
            Some(voxel) => Err(LabelOutOfRange { label: labels[voxel].into(), voxel, space: *self }),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for LabelSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the classes are 0 to {}", self.num_classes.saturating_sub(1))?;
        match self.ignore {
            Some(label) => write!(f, ", the ignore label is {label}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_are_neither_class_nor_ignored_are_found() {
        let space = LabelSpace::new(3);
        assert_eq!(space.check(&[0, 1, 2, 2]), Ok(()));
        let error = space.check(&[0, 2, 3, 4]).unwrap_err();
        assert_eq!((error.label, error.voxel), (3, 2));
        assert_eq!(error.to_string(), "label 3 is out of range; the classes are 0 to 2");

        let space = space.with_ignore(Some(4));
        assert_eq!(space.check(&[4, 0]), Ok(()));
        let error = space.check(&[4, 3]).unwrap_err();
        assert_eq!(error.to_string(), "label 3 is out of range; the classes are 0 to 2, the ignore label is 4");
    }

    #[test]
    #[should_panic(expected = "is one of the 3 classes")]
    fn a_class_cannot_be_the_ignore_label() {
        let _ = LabelSpace::new(3).with_ignore(Some(2));
    }
}
