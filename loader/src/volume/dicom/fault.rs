//! Reasons why a DICOM series cannot be used.

use std::path::Path;

use super::super::{VolumeError, VolumeFault};
use crate::escape::escape_name;

/// Reason why a file or a series cannot be used, in one line, with a remedy where there is one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DicomFault {
    /// A file of another format.
    #[error("not a DICOM file (no DICM at byte 128)")]
    NotDicom,
    /// Elements that cannot be read.
    #[error("damaged DICOM data ({})", escape_name(message))]
    Damaged {
        /// Message of the DICOM parser.
        message: String,
    },
    /// A required element that is missing or has no usable value.
    #[error("{name} {problem}")]
    Element {
        /// Name of the element.
        name: &'static str,
        /// The problem, as a predicate.
        problem: String,
    },
    /// A file that is not a CT image.
    #[error("DICOM {what}; expected a CT image")]
    NotCt {
        /// Name of the file's content.
        what: String,
    },
    /// A file that is not an image of any modality that makes volumes.
    #[error("DICOM {what}; expected a CT, MR, PET or NM image")]
    NotCrossSection {
        /// Name of the file's content.
        what: String,
    },
    /// A folder with no series or with several.
    #[error("{count} {series} of DICOM files in this folder; expected one, name a file of the wanted series")]
    SeriesInFolder {
        /// Number of series.
        count: usize,
        /// Kind of series: `CT series`, or `series` of any modality.
        series: &'static str,
    },
    /// Several frames in one file.
    #[error("{series}: enhanced multi-frame DICOM; convert it to one file per slice, or to .nii.gz")]
    MultiFrame {
        /// Name of the series, for the message.
        series: String,
    },
    /// A compression without a decoder.
    #[error("transfer syntax {name} ({}) is not read; decompress the files first", escape_name(uid))]
    TransferSyntax {
        /// Name of the transfer syntax.
        name: String,
        /// UID of the transfer syntax.
        uid: String,
    },
    /// Images that cannot be in one volume.
    #[error("{series}: images of different {property} in one series, such as {first} and {other}; separate them")]
    Mixed {
        /// Name of the series, for the message.
        series: String,
        /// The property in which they differ.
        property: &'static str,
        /// File name of one of them.
        first: String,
        /// File name of another.
        other: String,
    },
    /// Images without a rescaling among others that have one.
    #[error(
        "{series}: {count} of {of} images without RescaleSlope and RescaleIntercept, such as {example}, which the others \
         have; copy the series again, or separate them"
    )]
    SomeUnscaled {
        /// Name of the series, for the message.
        series: String,
        /// Number of images without a rescaling.
        count: usize,
        /// Number of images.
        of: usize,
        /// File name of an image without a rescaling.
        example: String,
    },
    /// A series of one image.
    #[error("{series}: only one slice; a volume needs two or more")]
    OneSlice {
        /// Name of the series, for the message.
        series: String,
    },
    /// Different images at the same position.
    #[error(
        "{series}: {} at the position of a different one, such as {first} and {other}; separate the phases or reconstructions",
        crate::plural::count(count, "image")
    )]
    SeveralImages {
        /// Name of the series, for the message.
        series: String,
        /// Number of such images.
        count: usize,
        /// File name of one image.
        first: String,
        /// File name of another image at the same position.
        other: String,
    },
    /// Different images that all have the same position, which happens after anonymisation.
    #[error("{series}: ImagePositionPatient is the same in all {count} images; the order of slices is unknown")]
    OnePosition {
        /// Name of the series, for the message.
        series: String,
        /// Number of images.
        count: usize,
    },
    /// Different images whose positions are all in the plane of the images.
    #[error(
        "{series}: ImagePositionPatient puts all {count} images into one plane of ImageOrientationPatient; the order of \
         slices is unknown"
    )]
    OnePlane {
        /// Name of the series, for the message.
        series: String,
        /// Number of images.
        count: usize,
    },
    /// Gaps of whole slices.
    #[error(
        "{series}: {missing} of {of} slices missing, the first between {before} and {after}; copy the series again"
    )]
    MissingSlices {
        /// Name of the series, for the message.
        series: String,
        /// Number of slices missing.
        missing: usize,
        /// Number of slices of the whole series.
        of: usize,
        /// File name of the slice before the first gap.
        before: String,
        /// File name of the slice after the first gap.
        after: String,
    },
    /// Unequal distances between slices.
    #[error("{series}: distances between slices from {least:.3} to {most:.3} mm; expected equal ones")]
    Varying {
        /// Name of the series, for the message.
        series: String,
        /// Shortest distance, in mm.
        least: f64,
        /// Longest distance, in mm.
        most: f64,
    },
    /// Pixel data that does not match the header.
    #[error("pixel data: {problem}")]
    Pixels {
        /// Description of the mismatch.
        problem: String,
    },
}

impl DicomFault {
    pub(super) fn at(self, path: &Path) -> VolumeError {
        VolumeError { path: path.to_owned(), reason: VolumeFault::Dicom(self) }
    }

    pub(super) fn damaged(error: &dyn std::error::Error) -> Self {
        let message = hiend_cache::with_sources(error);
        // One line, whatever the file holds.
        Self::Damaged { message: message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect() }
    }
}
