//! NIfTI-1 files, compressed or not. Every byte is untrusted until validated.
//!
//! The `nifti` crate parses headers and (for predictions and phantoms) writes files. Voxels are read here, because
//! that crate inflates through a slower library, copies every voxel through floats, and trusts the header's sizes.
//! A volume stays in its file's data type; conversion to HU happens row by row where the values are used.
//!
//! Geometry and scaling follow nibabel (`header`), and with it MONAI. Whether a file is compressed is decided by its
//! first bytes, not by its name: `.nii` files that are gzip data, and the reverse, are common after renaming.

mod fault;
mod gzip;
mod header;
mod label;
mod name;
mod write;

use std::fs::File;
use std::io::{BufRead as _, Read};
use std::path::{Path, PathBuf};

use nifti::{Endianness, NiftiHeader};

use crate::geometry::{Affine, Orientation};
use gzip::GzipReader;
use header::{Dtype, HEADER_LEN, parse_header, scaling};

pub use fault::NiftiFault;
pub use header::HeaderNote;
pub use label::{LabelVolume, read_labels};
pub use name::file_stem;
pub use write::write_like;

/// A file that cannot be used, and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct NiftiError {
    /// The file.
    pub path: PathBuf,
    /// The fault.
    pub reason: NiftiFault,
}

/// A validated header.
#[derive(Clone, Debug)]
pub struct NiftiInfo {
    /// Voxels along the array's own axes, the fastest axis of the file first.
    pub shape: [usize; 3],
    /// `world_from_voxel` in mm, chosen as nibabel does: sform, else qform, else the spacings alone.
    pub affine: Affine,
    /// Orientation of the array's axes.
    pub orientation: Orientation,
    /// Bytes of the inflated voxels.
    pub data_bytes: u64,
    /// The header as stored in the file.
    pub header: NiftiHeader,
    /// Oddities of the header that were resolved by a rule and that the owner of the file should know of.
    pub notes: Vec<HeaderNote>,
    dtype: Dtype,
    data_offset: u64,
}

impl NiftiInfo {
    /// Replaces the geometry of the header.
    #[must_use]
    pub fn with_geometry(&self, affine: Affine, orientation: Orientation) -> Self {
        Self { affine, orientation, ..self.clone() }
    }
}

/// A volume in memory, in its file's data type.
#[derive(Debug)]
pub struct NiftiVolume {
    /// The validated header.
    pub info: NiftiInfo,
    /// BLAKE3 hash of the file's bytes, in hex.
    pub blake3: String,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    bytes: Vec<u8>,
    slope: f64,
    intercept: f64,
}

/// Reads a file's header only.
///
/// # Errors
/// If the file is not a NIfTI-1 file with a 3-D array of numbers and a usable geometry.
pub fn read_info(path: &Path) -> Result<NiftiInfo, NiftiError> {
    let at = |reason| NiftiError { path: path.to_owned(), reason };
    let mut reader = std::io::BufReader::new(open_regular(path).map_err(at)?);
    let is_gzip = reader.fill_buf().map_err(|err| at(NiftiFault::read(&err)))?.starts_with(&gzip::MAGIC);
    let mut head = Vec::with_capacity(HEADER_LEN);
    let limit = HEADER_LEN as u64;
    let result = if is_gzip {
        GzipReader::new(reader).take(limit).read_to_end(&mut head).map_err(|err| gzip::reason(&err))
    } else {
        reader.take(limit).read_to_end(&mut head).map_err(|err| NiftiFault::read(&err))
    };
    result.and_then(|_| parse_header(&head)).map_err(at)
}

/// Reads a whole image.
///
/// # Errors
/// If [`read_info`] fails, the file is damaged or holds fewer voxels than its header promises, or a voxel is not finite.
pub fn read_volume(path: &Path) -> Result<NiftiVolume, NiftiError> {
    let volume = read_any(path)?;
    let count = volume.count_not_finite();
    if count > 0 {
        let reason = NiftiFault::ImageNotFinite { count, all: volume.info.shape.iter().product() };
        return Err(NiftiError { path: path.to_owned(), reason });
    }
    Ok(volume)
}

/// Reads a whole volume whose voxels may be NaN or infinite.
fn read_any(path: &Path) -> Result<NiftiVolume, NiftiError> {
    let at = |reason| NiftiError { path: path.to_owned(), reason };
    let mut file = Vec::new();
    open_regular(path)
        .and_then(|mut open| open.read_to_end(&mut file).map_err(|err| NiftiFault::read(&err)))
        .map_err(at)?;
    let blake3 = blake3::hash(&file).to_hex().to_string();
    let file_bytes = file.len() as u64;
    let (info, bytes) = if file.starts_with(&gzip::MAGIC) {
        let mut head = Vec::with_capacity(HEADER_LEN);
        GzipReader::new(file.as_slice())
            .take(HEADER_LEN as u64)
            .read_to_end(&mut head)
            .map_err(|err| at(gzip::reason(&err)))?;
        let info = parse_header(&head).map_err(at)?;
        let bytes = gzip::inflate(&file, info.data_offset + info.data_bytes).map_err(at)?;
        (info, bytes)
    } else {
        (parse_header(&file).map_err(at)?, file)
    };
    let promised = info.data_offset + info.data_bytes;
    if (bytes.len() as u64) < promised {
        let missing = promised - bytes.len() as u64;
        return Err(at(NiftiFault::Missing { shape: info.shape, missing, promised }));
    }
    let (slope, intercept) = scaling(&info.header).map_err(at)?;
    Ok(NiftiVolume { info, blake3, file_bytes, bytes, slope, intercept })
}

/// Opens a regular file. A FIFO would block the open until somebody writes into it.
fn open_regular(path: &Path) -> Result<File, NiftiFault> {
    let data = std::fs::metadata(path).map_err(|err| NiftiFault::open(&err))?;
    if !data.is_file() {
        return Err(NiftiFault::NotRegular);
    }
    File::open(path).map_err(|err| NiftiFault::open(&err))
}

impl NiftiVolume {
    /// Reads voxels `start..start + out.len()` in file order, scaled by the header's slope and intercept.
    ///
    /// # Panics
    /// If the range reaches beyond the volume.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let dtype = self.info.dtype;
        // Bounds and offsets were checked against the buffer when the volume was read.
        let first = usize::try_from(self.info.data_offset).expect("within the buffer") + start * dtype.len();
        let bytes = &self.bytes[first..first + out.len() * dtype.len()];
        let big = self.info.header.endianness == Endianness::Big;
        let (slope, intercept) = (self.slope, self.intercept);
        #[expect(clippy::float_cmp, reason = "exactly no scaling")]
        let plain = slope == 1.0 && intercept == 0.0;
        macro_rules! convert {
            ($type:ty) => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<{ size_of::<$type>() }>().0) {
                    let raw = if big { <$type>::from_be_bytes(*bytes) } else { <$type>::from_le_bytes(*bytes) };
                    *value = if plain { raw as f32 } else { (raw as f64 * slope + intercept) as f32 };
                }
            };
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_lossless,
            reason = "values \
            become f32 as in MONAI, which loads every volume as f32"
        )]
        match dtype {
            Dtype::U8 => convert!(u8),
            Dtype::I8 => convert!(i8),
            Dtype::U16 => convert!(u16),
            Dtype::I16 => convert!(i16),
            Dtype::U32 => convert!(u32),
            Dtype::I32 => convert!(i32),
            Dtype::U64 => convert!(u64),
            Dtype::I64 => convert!(i64),
            Dtype::F32 => convert!(f32),
            Dtype::F64 => convert!(f64),
        }
    }

    /// Calls `see` with every row along the fastest axis, in file order.
    pub fn for_each_row(&self, mut see: impl FnMut(&[f32])) {
        let num_voxels: usize = self.info.shape.iter().product();
        let mut row = vec![0f32; self.info.shape[0]];
        for start in (0..num_voxels).step_by(row.len()) {
            self.read_f32(start, &mut row);
            see(&row);
        }
    }

    fn count_not_finite(&self) -> usize {
        let mut count = 0;
        // A scaled integer may overflow f32 as well, but only with a slope that no scanner writes.
        if self.info.dtype.is_float() || !(self.slope.abs() < 1e9 && self.intercept.abs() < 1e18) {
            self.for_each_row(|row| count += row.iter().filter(|value| !value.is_finite()).count());
        }
        count
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
