//! Irregularities of headers that were resolved by a rule.

use std::fmt;

use crate::plural::count as count_of;

/// An irregularity of a header, resolved by a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderNote {
    /// The two transforms put the scan in different places; the sform is used.
    TransformsDisagree {
        /// Largest distance between the two positions of a corner, in mm.
        shift_mm: f64,
    },
    /// The voxel sides of the sform differ from those in `pixdim`.
    SformSides {
        /// Sides of the sform, in the header's unit.
        sform: [f64; 3],
        /// Voxel sides in `pixdim`, in the same unit; sides of 0 count as 1.
        pixdim: [f64; 3],
    },
    /// The unit of length was converted to mm.
    Converted {
        /// Name of the unit.
        unit: &'static str,
    },
    /// The stated unit of length would give voxels of an impossible size, so the numbers were taken as mm.
    UnitIgnored {
        /// Name of the unit.
        unit: &'static str,
        /// Smallest voxel side, in mm, that the unit would give.
        side_mm: f64,
    },
    /// No transform is set; the scan is assumed to have its centre at the origin and its first axis pointing left.
    NoTransform,
    /// Directions without an anatomical meaning, which are assumed to be left, posterior and superior.
    SpaceAssumed {
        /// Name of the space in the header; empty if it names none.
        space: String,
    },
    /// Slices that are in the series twice.
    DuplicateSlices {
        /// Number of files that repeat another file.
        count: usize,
    },
    /// A stack that is not perpendicular to its slices.
    Tilt {
        /// Angle between the stack and the slices' normal, in degrees.
        degrees: f64,
    },
    /// DICOM files whose numbers leave out others, at distances into which the slices of those fit.
    NumbersSkipped {
        /// Difference between the numbers of slices next to each other.
        stride: f64,
    },
    /// DICOM files without `RescaleSlope` and `RescaleIntercept`.
    NoRescale,
    /// Rescaled values in a unit other than HU.
    Unit {
        /// Unit, as named by `RescaleType`.
        unit: String,
    },
    /// Unit of length other than mm in a field that is not used.
    UnitUnused {
        /// Name of the field.
        field: &'static str,
        /// The unit, quoted.
        unit: String,
    },
    /// DICOM pixels with bits above those of `BitsStored`, which are dropped.
    BitsCut {
        /// Share of such pixels.
        share: f64,
    },
    /// DICOM files that are projections through several slices.
    Projection,
    /// DICOM files of `MONOCHROME1`, which inverts the display but not the values.
    ShownInverted {
        /// Number of such slices.
        count: usize,
        /// Number of slices.
        of: usize,
    },
    /// DICOM padding in the range of tissue, which is not treated as padding.
    PaddingIgnored {
        /// Lowest and highest value of the padding, in HU.
        hu: [f64; 2],
    },
    /// DICOM padding, in a modality other than CT, with values that tissue may have; it is not treated as padding.
    PaddingKept {
        /// Lowest and highest value of the padding.
        range: [f64; 2],
    },
    /// More voxels in the file than the header states; they are not read.
    Surplus {
        /// Number of whole slices behind the last one.
        slices: u64,
    },
    /// No spacing in the header; voxel sides of 1 mm are assumed.
    NoSpacing,
    /// Voxel sides of 0 are taken as 1 mm.
    ZeroSides {
        /// Axes of the array, from 0.
        axes: Vec<usize>,
    },
}

impl fmt::Display for HeaderNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransformsDisagree { shift_mm } => {
                write!(f, "sform and qform disagree by {shift_mm:.1} mm; the sform is used, as in nibabel and MONAI")
            }
            Self::SformSides { sform, pixdim } => {
                let [own, other] = [sform, pixdim].map(|sides| sides.map(|side| trimmed(&format!("{side:.6}"))));
                write!(
                    f,
                    "sform with sides {}, pixdim with {}: the sform is used, as in nibabel (MONAI may take the qform); \
                     correct the header",
                    own.join(" x "),
                    other.join(" x ")
                )
            }
            Self::Converted { unit } => write!(f, "header in {unit}; converted to mm"),
            Self::UnitIgnored { unit, side_mm } => {
                write!(f, "header says {unit}, which would make voxels of {side_mm:.2e} mm; taken as mm")
            }
            Self::NoTransform => {
                f.write_str("neither sform nor qform is set; orientation LAS is assumed, as in nibabel")
            }
            Self::SpaceAssumed { space } if space.is_empty() => {
                f.write_str("header names no anatomical space; left-posterior-superior is assumed, as in ITK")
            }
            Self::SpaceAssumed { space } => {
                write!(f, "space {space} has no anatomical meaning; left-posterior-superior is assumed, as in ITK")
            }
            Self::DuplicateSlices { count } => {
                let (files, end) = (count_of(*count, "file"), if *count == 1 { "s" } else { "" });
                write!(f, "{files} repeat{end} a slice with the same pixels; each slice is used once")
            }
            Self::Tilt { degrees } => {
                write!(
                    f,
                    "slices tilted by {degrees:.1} degrees against their stack (gantry tilt); the grid is sheared"
                )
            }
            Self::NumbersSkipped { stride } => write!(
                f,
                "InstanceNumber differs by {stride} from slice to slice, and their distance is {stride} times SliceThickness; \
                 check whether the slices in between are missing"
            ),
            Self::NoRescale => f.write_str("no RescaleSlope and RescaleIntercept; stored values are taken as HU"),
            Self::Unit { unit } => write!(f, "RescaleType is {unit}, not HU; values are taken as HU"),
            Self::BitsCut { share } => write!(
                f,
                "{:.0}% of the pixels have bits above BitsStored, which are dropped; check BitsStored and HighBit",
                share * 100.0
            ),
            Self::UnitUnused { field, unit } => {
                write!(f, "{field} is {unit}; lengths are taken as mm, as in ITK; check the voxel sides")
            }
            Self::Projection => f.write_str(
                "ImageType says that the images are projections through several slices (MIP); exclude it, or convert the \
                 original series",
            ),
            Self::ShownInverted { count, of } => {
                let slices = if count == of { String::new() } else { format!(" in {count} of {of} slices") };
                write!(
                    f,
                    "PhotometricInterpretation is MONOCHROME1{slices}, which inverts the display only (DICOM PS3.3 C.7.6.3.1.2); \
                     values are not inverted"
                )
            }
            Self::PaddingIgnored { hu: [low, high] } if low < high => write!(
                f,
                "PixelPaddingValue to PixelPaddingRangeLimit means {low} to {high} HU, with values of tissue; such voxels are \
                 kept"
            ),
            Self::PaddingIgnored { hu: [hu, _] } => {
                write!(f, "PixelPaddingValue means {hu} HU, a value of tissue; such voxels are kept")
            }
            Self::PaddingKept { range: [low, high] } if low < high => write!(
                f,
                "PixelPaddingValue to PixelPaddingRangeLimit means {low} to {high}, which tissue may have; such voxels are kept"
            ),
            Self::PaddingKept { range: [value, _] } => {
                write!(f, "PixelPaddingValue means {value}, which tissue may have; such voxels are kept")
            }
            Self::Surplus { slices } => {
                write!(f, "the file holds voxels behind the last slice of its header, enough for {slices} more; correct the header")
            }
            Self::NoSpacing => f.write_str("no spacing in the header; 1 mm is assumed, as in ITK; correct the header"),
            Self::ZeroSides { axes } => {
                let names: Vec<&str> = axes.iter().map(|&axis| ["x", "y", "z"][axis]).collect();
                let names = names.join(", ");
                write!(f, "voxel side of 0 along {names} (pixdim), taken as 1 mm, as in nibabel; correct the header")
            }
        }
    }
}

/// Removes trailing zeros from a number with decimals.
fn trimmed(number: &str) -> String {
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}
