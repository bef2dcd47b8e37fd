//! Oddities of headers that were resolved by a rule.

use std::fmt;

/// An oddity of a header, resolved by a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderNote {
    /// The two transforms put the scan in different places; the sform is used.
    TransformsDisagree {
        /// Largest distance between a corner's two places, in mm.
        shift_mm: f64,
    },
    /// The sform has other sides than `pixdim`.
    SformSides {
        /// Sides of the sform, in the header's unit.
        sform: [f64; 3],
        /// Sides in `pixdim`, in the same unit; those of 0 count as 1.
        pixdim: [f64; 3],
    },
    /// The unit of length was converted to mm.
    Converted {
        /// Name of the unit.
        unit: &'static str,
    },
    /// The unit of length would make voxels of an impossible size, so the numbers were taken as mm.
    UnitIgnored {
        /// Name of the unit.
        unit: &'static str,
        /// Smallest voxel side in mm that the unit would give.
        side_mm: f64,
    },
    /// The transforms are not set; the scan is taken to lie with its centre at the origin, the first axis to the left.
    NoTransform,
    /// Directions without an anatomical meaning, which are taken as left, posterior and superior.
    SpaceAssumed {
        /// Name of the space in the header; empty if it names none.
        space: String,
    },
    /// Slices that are in the series twice.
    DuplicateSlices {
        /// Number of files that repeat another one.
        count: usize,
    },
    /// A stack that is not perpendicular to its slices.
    Tilt {
        /// Angle between the stack and the slices' normal, in degrees.
        degrees: f64,
    },
    /// DICOM files without `RescaleSlope` and `RescaleIntercept`.
    NoRescale,
    /// Rescaled values in another unit than HU.
    Unit {
        /// The unit, as `RescaleType` names it.
        unit: String,
    },
    /// DICOM files of `MONOCHROME1`, which inverts the display and not the values.
    ShownInverted,
    /// DICOM padding with values of tissue, which is not taken as padding.
    PaddingIgnored {
        /// Lowest and highest value of the padding, in HU.
        hu: [f64; 2],
    },
    /// DICOM padding of another modality than CT with values that tissue may have, which is not taken as padding.
    PaddingKept {
        /// Lowest and highest value of the padding.
        range: [f64; 2],
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
                write!(f, "{count} files repeat a slice with the same pixels; each slice is used once")
            }
            Self::Tilt { degrees } => {
                write!(
                    f,
                    "slices tilted by {degrees:.1} degrees against their stack (gantry tilt); the grid is sheared"
                )
            }
            Self::NoRescale => f.write_str("no RescaleSlope and RescaleIntercept; stored values are taken as HU"),
            Self::Unit { unit } => write!(f, "RescaleType is {unit}, not HU; values are taken as HU"),
            Self::ShownInverted => f.write_str(
                "PhotometricInterpretation is MONOCHROME1, which inverts the display only (DICOM PS3.3 C.7.6.3.1.2); values \
                 are not inverted",
            ),
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
            Self::NoSpacing => f.write_str("no spacing in the header; 1 mm is assumed, as in ITK; correct the header"),
            Self::ZeroSides { axes } => {
                let names: Vec<&str> = axes.iter().map(|&axis| ["x", "y", "z"][axis]).collect();
                let names = names.join(", ");
                write!(f, "voxel side of 0 along {names} (pixdim), taken as 1 mm, as in nibabel; correct the header")
            }
        }
    }
}

/// A number with decimals, without zeros at its end.
fn trimmed(number: &str) -> String {
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}
