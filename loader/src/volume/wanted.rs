//! Modalities of the images that are read.

/// Images that a path may name. Only DICOM files state their modality; files of other formats are read with either
/// value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// CT images.
    #[default]
    Ct,
    /// Cross-sections of every modality that makes volumes: CT, MR, PET and other nuclear medicine.
    CrossSections,
}
