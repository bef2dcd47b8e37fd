//! Volumes in files: `NIfTI`, NRRD, `MetaImage`, and series of DICOM files. Every byte is untrusted until validated.
//!
//! A volume stays in its file's data type; conversion to HU happens row by row where the values are used. Geometry is
//! `world_from_voxel` in RAS+ millimetres whatever units the file uses, so that one scan stored in several formats
//! gives the same voxels at the same positions.
//!
//! The file's extension determines the format. Whether a `NIfTI` file is compressed is decided by its first bytes,
//! because `.nii` files that are gzip data, and the reverse, are common after renaming.

mod data;
#[cfg(feature = "dicom")]
pub mod dicom;
mod dtype;
mod fault;
mod header_text;
mod inflate;
mod label;
mod metaimage;
mod name;
pub(crate) mod nifti;
mod note;
mod nrrd;
mod place;
mod stand_in;
mod wanted;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ::nifti::NiftiHeader;

use crate::escape::{escape_name, shown};
use crate::geometry::{Affine, Orientation};
use dtype::{Dtype, Stored};

pub(crate) use data::of_data_file;
pub use fault::VolumeFault;
pub use label::{LabelVolume, read_labels};
pub use name::{Format, file_stem};
pub use note::HeaderNote;
pub use wanted::Wanted;
pub use write::write_like;

/// A file that cannot be used, and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", shown(path), escape_name(&reason.to_string()))]
pub struct VolumeError {
    /// Path of the file.
    pub path: PathBuf,
    /// Reason why the file cannot be used.
    pub reason: VolumeFault,
}

/// A validated header.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    /// Number of voxels along the array's own axes, the fastest axis of the file first.
    pub shape: [usize; 3],
    /// `world_from_voxel` in mm.
    pub affine: Affine,
    /// Orientation of the array's axes.
    pub orientation: Orientation,
    /// Size of the uncompressed voxels in bytes.
    pub data_bytes: u64,
    /// Irregularities of the header that were resolved by a rule and that the owner of the file should know of.
    pub notes: Vec<HeaderNote>,
    /// Format of the files.
    pub format: Format,
    /// Names of label values in the header; empty for formats other than NRRD.
    pub names: BTreeMap<u8, String>,
    stored: Stored,
    /// Header of a `NIfTI` file as stored.
    nifti: Option<Box<NiftiHeader>>,
}

impl VolumeInfo {
    /// Creates the header of a new volume of 8-bit voxels.
    ///
    /// # Errors
    /// If the shape is not that of a volume, or the affine places no voxels of positive size.
    pub fn new(shape: [usize; 3], affine: Affine) -> Result<Self, VolumeFault> {
        let (shape, data_bytes) = place::shape(shape.to_vec())?;
        let orientation = place::orientation(&affine)?;
        let stored = Stored { dtype: Dtype::U8, is_big_endian: false };
        let format = Format::Nifti;
        let (notes, names) = (Vec::new(), BTreeMap::new());
        Ok(Self { shape, affine, orientation, data_bytes, notes, format, names, stored, nifti: None })
    }

    /// Adds a note if `surplus` bytes behind the last voxel are a slice or more; some programs append less.
    fn note_surplus(&mut self, surplus: u64) {
        let slices = surplus / (self.data_bytes / self.shape[2] as u64).max(1);
        if slices > 0 {
            self.notes.push(HeaderNote::Surplus { slices });
        }
    }

    /// Replaces the geometry.
    #[must_use]
    pub fn with_geometry(&self, affine: Affine, orientation: Orientation) -> Self {
        Self { affine, orientation, ..self.clone() }
    }
}

/// A volume in memory, in its file's data type.
#[derive(Debug)]
pub struct Volume {
    /// The validated header.
    pub info: VolumeInfo,
    /// BLAKE3 hash of the bytes of all its files, in hex.
    pub blake3: String,
    /// Size of all its files in bytes.
    pub file_bytes: u64,
    bytes: Vec<u8>,
    /// Offset of the first byte of the voxels.
    offset: usize,
    slope: f64,
    intercept: f64,
}

/// Content of a volume's files, before its size is compared with the header.
struct Loaded {
    info: VolumeInfo,
    blake3: String,
    file_bytes: u64,
    bytes: Vec<u8>,
    /// Offset of the first byte of the voxels.
    offset: u64,
    /// Slope and intercept by which stored values are scaled.
    scaling: (f64, f64),
}

/// Format in which a path is read: that of its extension; otherwise DICOM for a folder and for names that DICOM files
/// have; otherwise `NIfTI`.
#[must_use]
pub fn format_of(path: &Path) -> Format {
    #[cfg(feature = "dicom")]
    let other = {
        let is_candidate = path.file_name().and_then(|name| name.to_str()).is_some_and(dicom::is_candidate);
        if is_candidate || path.is_dir() { Format::Dicom } else { Format::Nifti }
    };
    #[cfg(not(feature = "dicom"))]
    let other = Format::Nifti;
    Format::of_name(path).filter(|_| !path.is_dir()).unwrap_or(other)
}

/// Reads only a volume's header. For a DICOM series, the path names any of its files, or a folder that holds no other
/// series.
///
/// # Errors
/// If the file is not of its ending's format, or does not hold a 3-D array of numbers with a usable geometry.
pub fn read_info(path: &Path) -> Result<VolumeInfo, VolumeError> {
    read_info_for(path, Wanted::Ct)
}

/// Reads a volume's header, as [`read_info`] does. A DICOM series at the path must be of a wanted modality.
///
/// # Errors
/// The errors of [`read_info`].
#[cfg_attr(not(feature = "dicom"), expect(unused_variables, reason = "DICOM files alone name a modality"))]
pub fn read_info_for(path: &Path, wanted: Wanted) -> Result<VolumeInfo, VolumeError> {
    let at = |reason| VolumeError { path: path.to_owned(), reason };
    match format_of(path) {
        #[cfg(feature = "dicom")]
        Format::Dicom => return dicom::read_series_info(&dicom::files_of(path, wanted)?),
        #[cfg(not(feature = "dicom"))]
        Format::Dicom => nifti::read_info(path),
        Format::Nifti => nifti::read_info(path),
        Format::Nrrd => data::read_info(path, nrrd::parse),
        Format::MetaImage => data::read_info(path, metaimage::parse),
    }
    .map_err(at)
}

/// Reads a whole image.
///
/// # Errors
/// If [`read_info`] fails, the file is damaged or holds fewer voxels than its header promises, or a voxel is not finite.
pub fn read_volume(path: &Path) -> Result<Volume, VolumeError> {
    read_volume_for(path, Wanted::Ct)
}

/// Reads a whole image, as [`read_volume`] does, of any modality in `wanted`.
///
/// # Errors
/// The errors of [`read_volume`].
pub fn read_volume_for(path: &Path, wanted: Wanted) -> Result<Volume, VolumeError> {
    finite(path, read_any(path, wanted)?)
}

/// Reads a series of DICOM files.
///
/// # Errors
/// If a file cannot be read, or the slices make no regular grid.
#[cfg(feature = "dicom")]
pub fn read_series(files: &[PathBuf]) -> Result<Volume, VolumeError> {
    let path = files.first().cloned().unwrap_or_default();
    complete(&path, dicom::load_series(files)?).and_then(|volume| finite(&path, volume))
}

/// Path of the separate file with a header's voxels, such as `a.raw` for `a.mhd`; `None` for all other files, including
/// those that cannot be read.
#[must_use]
pub fn detached(path: &Path) -> Option<PathBuf> {
    match Format::of_name(path)? {
        Format::Nrrd => data::detached(path, nrrd::parse),
        Format::MetaImage => data::detached(path, metaimage::parse),
        Format::Nifti | Format::Dicom => None,
    }
}

/// Rejects an image with voxels that are not finite.
fn finite(path: &Path, volume: Volume) -> Result<Volume, VolumeError> {
    let count = volume.count_not_finite();
    if count > 0 {
        let reason = VolumeFault::ImageNotFinite { count, all: volume.info.shape.iter().product() };
        return Err(VolumeError { path: path.to_owned(), reason });
    }
    Ok(volume)
}

/// Reads a whole volume whose voxels may be NaN or infinite.
#[cfg_attr(not(feature = "dicom"), expect(unused_variables, reason = "DICOM files alone name a modality"))]
fn read_any(path: &Path, wanted: Wanted) -> Result<Volume, VolumeError> {
    let loaded = match format_of(path) {
        #[cfg(feature = "dicom")]
        Format::Dicom => dicom::load_series(&dicom::files_of(path, wanted)?)?,
        #[cfg(not(feature = "dicom"))]
        Format::Dicom => nifti::load(path)?,
        Format::Nifti => nifti::load(path)?,
        Format::Nrrd => data::load(path, nrrd::parse)?,
        Format::MetaImage => data::load(path, metaimage::parse)?,
    };
    complete(path, loaded)
}

/// Checks that the file holds all voxels that the header states.
fn complete(path: &Path, loaded: Loaded) -> Result<Volume, VolumeError> {
    let Loaded { info, blake3, file_bytes, bytes, offset, scaling: (slope, intercept) } = loaded;
    let at = |reason| VolumeError { path: path.to_owned(), reason };
    check_complete(&info, offset, bytes.len()).map_err(at)?;
    let offset = usize::try_from(offset).ok().ok_or_else(|| at(VolumeFault::AddressSpace))?;
    Ok(Volume { info, blake3, file_bytes, bytes, offset, slope, intercept })
}

/// Checks that `len` bytes hold all voxels that the header states, from byte `offset` on.
fn check_complete(info: &VolumeInfo, offset: u64, len: usize) -> Result<(), VolumeFault> {
    let promised = offset.saturating_add(info.data_bytes);
    match promised.saturating_sub(len as u64) {
        0 => Ok(()),
        missing => Err(VolumeFault::Missing { shape: info.shape, missing, promised }),
    }
}

/// Opens a regular file. Rejects a FIFO, which would block the open until a process writes into it.
fn open_regular(path: &Path) -> Result<File, VolumeFault> {
    let data = std::fs::metadata(path).map_err(|err| VolumeFault::open(&err))?;
    if !data.is_file() {
        return Err(VolumeFault::NotRegular);
    }
    if data.len() == 0 {
        return Err(VolumeFault::Empty);
    }
    File::open(path).map_err(|err| VolumeFault::open(&err))
}

/// Reads a whole regular file.
fn read_file(path: &Path) -> Result<Vec<u8>, VolumeError> {
    let mut file = Vec::new();
    open_regular(path)
        .and_then(|mut open| open.read_to_end(&mut file).map_err(|err| VolumeFault::read(&err)))
        .map_err(|reason| VolumeError { path: path.to_owned(), reason })?;
    Ok(file)
}

impl Volume {
    /// Reads voxels `start..start + out.len()` in file order, scaled by the header's slope and intercept, if it has them.
    ///
    /// # Panics
    /// If the range reaches beyond the volume.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let Stored { dtype, is_big_endian: big } = self.info.stored;
        let bytes = self.stored(start, out.len());
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

    /// Bytes of voxels `start..start + num` in file order, as stored.
    ///
    /// # Panics
    /// If the range reaches beyond the volume.
    pub(crate) fn stored(&self, start: usize, num: usize) -> &[u8] {
        // Bounds and offsets were checked against the buffer when the volume was read.
        let voxel = self.info.stored.dtype.len();
        let first = self.offset + start * voxel;
        &self.bytes[first..first + num * voxel]
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
        if self.info.stored.dtype.is_float() || !(self.slope.abs() < 1e9 && self.intercept.abs() < 1e18) {
            self.for_each_row(|row| count += row.iter().filter(|value| !value.is_finite()).count());
        }
        count
    }
}
