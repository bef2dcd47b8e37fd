//! Header fields to a shape, a data type, an affine and a scaling, as nibabel reads them.
//!
//! DIFFERENCE: nibabel ignores `xyzt_units`. Here spatial units of metres or microns are converted to mm where that
//! gives voxels of a credible size, as ITK does; where only the bare numbers do, they are taken as mm.

use std::fmt;

use nifti::{NiftiHeader, NiftiType};

use super::{NiftiFault, NiftiInfo};
use crate::geometry::{Affine, Orientation, largest_shift_mm, quaternion_axes, spacing};

/// Length of a NIfTI-1 header in bytes.
pub(super) const HEADER_LEN: usize = 348;
/// First byte at which voxels of a single-file NIfTI-1 may begin: the header and four bytes of extension flags.
const MIN_VOX_OFFSET: f32 = 352.0;
/// Largest number of voxels that is read; no scanner makes 16 Gi.
const MAX_VOXELS: u64 = 1 << 34;
/// Voxel side lengths in mm that a scan of a patient may have.
const CREDIBLE_SIDES_MM: std::ops::RangeInclusive<f64> = 0.02..=50.0;

/// An oddity of a header, resolved by a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderNote {
    /// The two transforms put the scan in different places; the sform is used.
    TransformsDisagree {
        /// Largest distance between a corner's two places, in mm.
        shift_mm: f64,
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
            Self::Converted { unit } => write!(f, "header in {unit}; converted to mm"),
            Self::UnitIgnored { unit, side_mm } => {
                write!(f, "header says {unit}, which would make voxels of {side_mm:.2e} mm; taken as mm")
            }
            Self::NoTransform => {
                f.write_str("neither sform nor qform is set; orientation LAS is assumed, as in nibabel")
            }
            Self::ZeroSides { axes } => {
                let names: Vec<&str> = axes.iter().map(|&axis| ["x", "y", "z"][axis]).collect();
                let names = names.join(", ");
                write!(f, "voxel side of 0 along {names} (pixdim), taken as 1 mm, as in nibabel; mend the header")
            }
        }
    }
}

/// Type of a stored voxel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Dtype {
    /// Bytes of a voxel.
    pub(super) fn len(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }
}

/// Validates the first bytes of a file.
pub(super) fn parse_header(bytes: &[u8]) -> Result<NiftiInfo, NiftiFault> {
    if bytes.len() < HEADER_LEN {
        return Err(NiftiFault::NotNifti);
    }
    let size = [bytes[0], bytes[1], bytes[2], bytes[3]];
    match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
        (540, _) | (_, 540) => return Err(NiftiFault::Nifti2),
        (348, _) | (_, 348) => {}
        _ => return Err(NiftiFault::NotNifti),
    }
    match &bytes[344..348] {
        b"n+1\0" => {}
        b"ni1\0" => return Err(NiftiFault::Pair),
        _ => return Err(NiftiFault::NotNifti),
    }
    let header = NiftiHeader::from_reader(&bytes[..HEADER_LEN])
        .map_err(|err| NiftiFault::Header { message: err.to_string() })?;
    let shape = shape(&header)?;
    let dtype = dtype(&header)?;
    let num_voxels = shape.iter().try_fold(1u64, |n, &length| n.checked_mul(length as u64));
    let Some(num_voxels) = num_voxels.filter(|&n| n <= MAX_VOXELS) else {
        return Err(NiftiFault::TooLarge { shape });
    };
    let data_offset = data_offset(&header)?;
    let mut notes = Vec::new();
    let affine = in_mm(affine(&header, shape, &mut notes)?, &header, &mut notes);
    if let Some(side) = spacing(&affine).into_iter().find(|side| !(side.is_finite() && *side > 1e-4)) {
        return Err(NiftiFault::Spacing { side });
    }
    if affine.iter().flatten().any(|value| !value.is_finite()) {
        return Err(NiftiFault::AffineNotFinite);
    }
    let orientation = Orientation::closest(&affine).ok_or(NiftiFault::AffineFlat)?;
    let data_bytes = num_voxels * dtype.len() as u64;
    Ok(NiftiInfo { shape, affine, orientation, data_bytes, header, notes, dtype, data_offset })
}

/// Slope and intercept; `(1, 0)` without scaling. As in nibabel, a slope that is zero or not finite means no scaling.
///
/// # Errors
/// If the slope is valid and the intercept is not: the values are then unknown.
pub(super) fn scaling(header: &NiftiHeader) -> Result<(f64, f64), NiftiFault> {
    let (slope, intercept) = (f64::from(header.scl_slope), f64::from(header.scl_inter));
    if slope == 0.0 || !slope.is_finite() {
        return Ok((1.0, 0.0));
    }
    if !intercept.is_finite() {
        return Err(NiftiFault::Intercept { slope, intercept });
    }
    Ok((slope, intercept))
}

fn data_offset(header: &NiftiHeader) -> Result<u64, NiftiFault> {
    // As in nibabel, 0 stands for the first place possible.
    let offset = if header.vox_offset == 0.0 { MIN_VOX_OFFSET } else { header.vox_offset };
    if !((MIN_VOX_OFFSET..=1e6).contains(&offset) && offset.fract() == 0.0) {
        return Err(NiftiFault::VoxOffset { offset });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a small integer")]
    Ok(offset as u64)
}

fn shape(header: &NiftiHeader) -> Result<[usize; 3], NiftiFault> {
    let rank = usize::from(header.dim[0]);
    if !(1..=7).contains(&rank) {
        return Err(NiftiFault::Rank { rank });
    }
    let lengths: Vec<usize> = header.dim[1..=rank].iter().map(|&length| usize::from(length)).collect();
    let longer = lengths.iter().skip(3).any(|&length| length != 1);
    if longer {
        return Err(NiftiFault::NotThreeD { rank, lengths });
    }
    match lengths.get(..3) {
        Some(&[x, y, z]) if x > 0 && y > 0 && z > 0 && x.max(y).max(z) <= 32_767 => Ok([x, y, z]),
        _ => Err(NiftiFault::Lengths { lengths }),
    }
}

fn dtype(header: &NiftiHeader) -> Result<Dtype, NiftiFault> {
    let kind = header.data_type().ok().ok_or(NiftiFault::UnknownType { code: header.datatype })?;
    Ok(match kind {
        NiftiType::Uint8 => Dtype::U8,
        NiftiType::Int8 => Dtype::I8,
        NiftiType::Uint16 => Dtype::U16,
        NiftiType::Int16 => Dtype::I16,
        NiftiType::Uint32 => Dtype::U32,
        NiftiType::Int32 => Dtype::I32,
        NiftiType::Uint64 => Dtype::U64,
        NiftiType::Int64 => Dtype::I64,
        NiftiType::Float32 => Dtype::F32,
        NiftiType::Float64 => Dtype::F64,
        other => return Err(NiftiFault::Type { name: format!("{other:?}") }),
    })
}

const LAST_ROW: [f64; 4] = [0.0, 0.0, 0.0, 1.0];

/// The affine that nibabel's `get_best_affine` chooses, in the header's own unit: sform if its code is set, else qform,
/// else the spacings around the centre with x to the left. Codes outside the standard's 0 to 5 count as 0.
fn affine(header: &NiftiHeader, shape: [usize; 3], notes: &mut Vec<HeaderNote>) -> Result<Affine, NiftiFault> {
    let is_set = |code: i16| (1..=5).contains(&code);
    if is_set(header.sform_code) {
        let [x, y, z] = [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from));
        let affine = [x, y, z, LAST_ROW];
        if is_set(header.qform_code)
            && let Ok(other) = qform(header)
        {
            let shift_mm = largest_shift_mm(&affine, &other, shape);
            let side = spacing(&affine).into_iter().fold(f64::INFINITY, f64::min);
            if shift_mm > 0.5 * side {
                notes.push(HeaderNote::TransformsDisagree { shift_mm });
            }
        }
        return Ok(affine);
    }
    let axes: Vec<usize> = (0..3).filter(|&axis| header.pixdim[axis + 1] == 0.0).collect();
    if !axes.is_empty() {
        notes.push(HeaderNote::ZeroSides { axes });
    }
    if is_set(header.qform_code) {
        return qform(header);
    }
    notes.push(HeaderNote::NoTransform);
    let sides = sides(header);
    let mut affine = [[0.0; 4], [0.0; 4], [0.0; 4], LAST_ROW];
    for axis in 0..3 {
        let side = if axis == 0 { -sides[axis] } else { sides[axis] };
        affine[axis][axis] = side;
        affine[axis][3] = -side * (shape[axis] as f64 - 1.0) / 2.0;
    }
    Ok(affine)
}

/// Voxel sides of `pixdim` as nibabel mends them: zero becomes 1, negative ones lose their sign.
fn sides(header: &NiftiHeader) -> [f64; 3] {
    std::array::from_fn(|axis| match f64::from(header.pixdim[axis + 1]) {
        0.0 => 1.0,
        side => side.abs(),
    })
}

fn qform(header: &NiftiHeader) -> Result<Affine, NiftiFault> {
    let quaternion = [header.quatern_b, header.quatern_c, header.quatern_d];
    let squared: f64 = quaternion.iter().map(|&value| f64::from(value).powi(2)).sum();
    // nibabel's limit: three times the precision of f32.
    if squared - 1.0 >= 3.0 * f64::from(f32::EPSILON) {
        return Err(NiftiFault::Quaternion { quaternion });
    }
    let [x, y, z] = sides(header);
    // As in nibabel, everything but -1 is 1.
    let turned = if header.pixdim[0].to_bits() == (-1f32).to_bits() { -1.0 } else { 1.0 };
    let axes = quaternion_axes(quaternion, [x, y, z * turned]);
    let origin = [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from);
    let row = |r: usize| [axes[r][0], axes[r][1], axes[r][2], origin[r]];
    Ok([row(0), row(1), row(2), LAST_ROW])
}

/// Converts an affine in the header's unit of length to mm.
fn in_mm(affine: Affine, header: &NiftiHeader, notes: &mut Vec<HeaderNote>) -> Affine {
    let (unit, mm) = match header.xyzt_units & 7 {
        1 => ("metres", 1e3),
        3 => ("microns", 1e-3),
        _ => return affine,
    };
    let credible = |factor: f64| spacing(&affine).iter().all(|side| CREDIBLE_SIDES_MM.contains(&(side * factor)));
    if !credible(mm) && credible(1.0) {
        let side = spacing(&affine).into_iter().fold(f64::INFINITY, f64::min);
        notes.push(HeaderNote::UnitIgnored { unit, side_mm: side * mm });
        return affine;
    }
    notes.push(HeaderNote::Converted { unit });
    let mut scaled = affine;
    for row in scaled.iter_mut().take(3) {
        for value in row {
            *value *= mm;
        }
    }
    scaled
}
