//! NIfTI-1 files, compressed or not: converts header fields to a shape, a data type, an affine and a scaling, as MONAI
//! reads them through nibabel.
//!
//! The `nifti` crate parses headers and writes files. Voxels are read here, because that crate inflates through a slower
//! library, copies every voxel through floats, and does not check the header's sizes.
//!
//! nibabel and MONAI differ if the voxel sides of the sform are not those of `pixdim`; [`affine`] describes that case.
//!
//! DIFFERENCE: nibabel ignores `xyzt_units`. Here spatial units of metres or microns are converted to mm if that gives
//! voxels of a credible size, as ITK does; if only the unconverted numbers do, they are taken as mm.

mod write;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use nifti::{Endianness, NiftiHeader};

use super::dtype::{Dtype, Stored};
use super::inflate::{self, GzipReader};
use super::note::HeaderNote;
use super::place::{self, LAST_ROW};
use super::{Format, Loaded, VolumeError, VolumeFault, VolumeInfo, check_complete, open_regular, read_file, stand_in};
use crate::geometry::{Affine, largest_shift_mm, quaternion_axes, spacing};

pub(super) use write::write;

/// Length of a NIfTI-1 header in bytes.
pub(super) const HEADER_LEN: usize = 348;
/// First byte at which voxels of a single-file NIfTI-1 may begin: the header and four bytes of extension flags.
const MIN_VOX_OFFSET: f32 = 352.0;

/// Reads the header at the beginning of a file. The size of an uncompressed file must be that of its header or more.
pub(super) fn read_info(path: &Path) -> Result<VolumeInfo, VolumeFault> {
    let file = open_regular(path)?;
    let file_bytes = file.metadata().map_err(|err| VolumeFault::read(&err))?.len();
    let mut reader = BufReader::new(file);
    let is_gzip = reader.fill_buf().map_err(|err| VolumeFault::read(&err))?.starts_with(&inflate::GZIP_MAGIC);
    let mut head = Vec::with_capacity(HEADER_LEN);
    let limit = HEADER_LEN as u64;
    if is_gzip {
        GzipReader::new(reader).take(limit).read_to_end(&mut head).map_err(|err| inflate::reason(&err))?;
        return Ok(parse_header(&head)?.0);
    }
    reader.take(limit).read_to_end(&mut head).map_err(|err| VolumeFault::read(&err))?;
    let (mut info, offset) = parse_header(&head)?;
    let len = usize::try_from(file_bytes).unwrap_or(usize::MAX);
    check_offset(offset, len)?;
    check_complete(&info, offset, len)?;
    info.note_surplus(surplus(&info, offset, len));
    Ok(info)
}

/// Checks that the voxels of a file of `len` bytes begin within it.
fn check_offset(offset: u64, len: usize) -> Result<(), VolumeFault> {
    if offset > len as u64 { Err(VolumeFault::VoxOffsetBeyond { offset, len }) } else { Ok(()) }
}

/// Number of bytes behind the last voxel in an uncompressed file of `len` bytes.
fn surplus(info: &VolumeInfo, offset: u64, len: usize) -> u64 {
    (len as u64).saturating_sub(offset.saturating_add(info.data_bytes))
}

/// Reads a whole file.
pub(super) fn load(path: &Path) -> Result<Loaded, VolumeError> {
    let at = |reason| VolumeError { path: path.to_owned(), reason };
    let file = read_file(path)?;
    let (blake3, file_bytes) = (blake3::hash(&file).to_hex().to_string(), file.len() as u64);
    let (mut info, offset, (bytes, surplus)) = if file.starts_with(&inflate::GZIP_MAGIC) {
        let mut head = Vec::with_capacity(HEADER_LEN);
        GzipReader::new(file.as_slice())
            .take(HEADER_LEN as u64)
            .read_to_end(&mut head)
            .map_err(|err| at(inflate::reason(&err)))?;
        let (info, offset) = parse_header(&head).map_err(at)?;
        let bytes = inflate::gzip(&file, offset.saturating_add(info.data_bytes)).map_err(at)?;
        (info, offset, bytes)
    } else {
        let (info, offset) = parse_header(&file).map_err(at)?;
        let surplus = surplus(&info, offset, file.len());
        (info, offset, (file, surplus))
    };
    check_offset(offset, bytes.len()).map_err(at)?;
    info.note_surplus(surplus);
    let scaling = info.nifti.as_deref().map(scaling).transpose().map_err(at)?;
    Ok(Loaded { info, blake3, file_bytes, bytes, offset, scaling: scaling.unwrap_or((1.0, 0.0)) })
}

/// Validates the first bytes of a file; returns the header and the first byte of the voxels.
pub(super) fn parse_header(bytes: &[u8]) -> Result<(VolumeInfo, u64), VolumeFault> {
    let not_nifti = || match stand_in::fault(bytes) {
        Some(fault) => fault,
        // A compressed file was inflated before this point, so it was compressed twice.
        None if bytes.starts_with(&inflate::GZIP_MAGIC) => VolumeFault::GzipTwice,
        None => VolumeFault::NotNifti,
    };
    if bytes.len() < HEADER_LEN {
        return Err(not_nifti());
    }
    let size = [bytes[0], bytes[1], bytes[2], bytes[3]];
    match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
        (540, _) | (_, 540) => return Err(VolumeFault::Nifti2),
        (348, _) | (_, 348) => {}
        _ => return Err(not_nifti()),
    }
    match &bytes[344..348] {
        b"n+1\0" => {}
        b"ni1\0" => return Err(VolumeFault::Pair),
        _ => return Err(not_nifti()),
    }
    let header = NiftiHeader::from_reader(&bytes[..HEADER_LEN])
        .map_err(|err| VolumeFault::Header { message: err.to_string() })?;
    let (shape, num_voxels) = shape(&header, bytes)?;
    let dtype = dtype(&header)?;
    scaling(&header)?;
    let data_offset = data_offset(&header)?;
    let mut notes = Vec::new();
    let affine = in_mm(affine(&header, shape, &mut notes)?, &header, &mut notes);
    let orientation = place::orientation(&affine)?;
    let data_bytes = num_voxels * dtype.len() as u64;
    let stored = Stored { dtype, is_big_endian: header.endianness == Endianness::Big };
    let (format, nifti) = (Format::Nifti, Some(Box::new(header)));
    let info =
        VolumeInfo { shape, affine, orientation, data_bytes, notes, format, names: BTreeMap::new(), stored, nifti };
    Ok((info, data_offset))
}

/// Slope and intercept; `(1, 0)` without scaling. As in nibabel, a slope that is zero or not finite means no scaling.
///
/// # Errors
/// If the slope is valid and the intercept is not: the values are then unknown.
pub(super) fn scaling(header: &NiftiHeader) -> Result<(f64, f64), VolumeFault> {
    let (slope, intercept) = (f64::from(header.scl_slope), f64::from(header.scl_inter));
    if slope == 0.0 || !slope.is_finite() {
        return Ok((1.0, 0.0));
    }
    if !intercept.is_finite() {
        return Err(VolumeFault::Intercept { slope, intercept });
    }
    Ok((slope, intercept))
}

fn data_offset(header: &NiftiHeader) -> Result<u64, VolumeFault> {
    // 0, as some programs leave it, stands for the first place possible; read from there, the header would be voxels.
    let offset = if header.vox_offset == 0.0 { MIN_VOX_OFFSET } else { header.vox_offset };
    // Extensions of any length may lie before the voxels; the end of the file is the limit.
    if !((MIN_VOX_OFFSET..f32::INFINITY).contains(&offset) && offset.fract() == 0.0) {
        return Err(VolumeFault::VoxOffset { offset });
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive whole number; one beyond u64 becomes the largest, which no file reaches"
    )]
    Ok(offset as u64)
}

fn shape(header: &NiftiHeader, bytes: &[u8]) -> Result<([usize; 3], u64), VolumeFault> {
    let rank = usize::from(header.dim[0]);
    if !(1..=7).contains(&rank) {
        // No order of bytes makes it valid, so the header was parsed in either; that of its size is meant.
        let rank = [bytes[40], bytes[41]];
        let is_big_endian = bytes[..4] == 348i32.to_be_bytes();
        let rank = if is_big_endian { i16::from_be_bytes(rank) } else { i16::from_le_bytes(rank) };
        return Err(VolumeFault::Rank { rank });
    }
    let lengths = (1..=rank).map(|dimension| {
        let length = header.dim[dimension].cast_signed();
        usize::try_from(length).ok().ok_or(VolumeFault::NegativeLength { dimension, length })
    });
    place::shape(lengths.collect::<Result<_, _>>()?)
}

fn dtype(header: &NiftiHeader) -> Result<Dtype, VolumeFault> {
    let kind = header.data_type().ok().ok_or(VolumeFault::UnknownType { code: header.datatype })?;
    Dtype::of_nifti(kind).ok_or_else(|| VolumeFault::Type { name: format!("{kind:?}") })
}

/// Affine in the header's own unit, as nibabel chooses it: the sform if its code is set, otherwise the qform, otherwise
/// the spacings around the centre with x to the left. Codes outside the standard's 0 to 5 count as 0.
///
/// DIFFERENCE: if the voxel sides of the sform differ from those of `pixdim` by more than 1 in 100,000, MONAI uses the
/// qform, even if it is not set. A sheared sform, as with a tilted gantry, would then lose its shear, and the zeros of
/// an unset qform would swap left and right. The sform is used and the difference reported.
fn affine(header: &NiftiHeader, shape: [usize; 3], notes: &mut Vec<HeaderNote>) -> Result<Affine, VolumeFault> {
    let is_set = |code: i16| (1..=5).contains(&code);
    if is_set(header.sform_code) {
        let [x, y, z] = [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from));
        let affine = [x, y, z, LAST_ROW];
        if let Some(note) = other_sides(&affine, header, shape) {
            notes.push(note);
        } else if is_set(header.qform_code)
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
    note_zero_sides(header, notes);
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

/// Creates a note if the voxel sides of the sform differ from those of `pixdim` by more than a tenth of a voxel in
/// total along an axis of the scan.
fn other_sides(sform: &Affine, header: &NiftiHeader, shape: [usize; 3]) -> Option<HeaderNote> {
    let (own, pixdim) = (spacing(sform), sides(header));
    let differs = |axis: usize| (own[axis] - pixdim[axis]).abs() * shape[axis] as f64 > 0.1 * own[axis];
    let written = [1, 2, 3].map(|axis| f64::from(header.pixdim[axis]));
    (0..3).any(differs).then_some(HeaderNote::SformSides { sform: own, pixdim: written })
}

/// Adds a note about voxel sides of 0 in `pixdim`, if the affine is derived from them.
fn note_zero_sides(header: &NiftiHeader, notes: &mut Vec<HeaderNote>) {
    let axes: Vec<usize> = (0..3).filter(|&axis| header.pixdim[axis + 1] == 0.0).collect();
    if !axes.is_empty() {
        notes.push(HeaderNote::ZeroSides { axes });
    }
}

/// Voxel sides from `pixdim`, as nibabel corrects them: zero becomes 1, and negative sides lose their sign.
fn sides(header: &NiftiHeader) -> [f64; 3] {
    std::array::from_fn(|axis| match f64::from(header.pixdim[axis + 1]) {
        0.0 => 1.0,
        side => side.abs(),
    })
}

fn qform(header: &NiftiHeader) -> Result<Affine, VolumeFault> {
    let quaternion = [header.quatern_b, header.quatern_c, header.quatern_d];
    let squared: f64 = quaternion.iter().map(|&value| f64::from(value).powi(2)).sum();
    // nibabel's limit: three times the precision of f32.
    if squared - 1.0 >= 3.0 * f64::from(f32::EPSILON) {
        return Err(VolumeFault::Quaternion { quaternion });
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
    match header.xyzt_units & 7 {
        1 => place::in_mm(affine, "metres", 1e3, notes),
        3 => place::in_mm(affine, "microns", 1e-3, notes),
        _ => affine,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
