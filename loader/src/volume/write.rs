//! Writing of label maps and other results of a scan on the scan's own grid.

use std::io;
use std::path::Path;

use ::nifti::DataElement;
use hiend_cache::durable;

use super::dtype::Dtype;
use super::{Format, VolumeError, VolumeFault, VolumeInfo, metaimage, nifti, nrrd};

/// Writes voxels `[x, y, z]`, the first axis fastest, on the grid of the scan they belong to, in the format of the
/// path's extension: NRRD and `MetaImage` with compressed voxels, everything else as `NIfTI`. A `NIfTI` scan's header
/// is kept, with its units and codes. The file appears under its name once it is complete and on disk.
///
/// Removes temporary files that killed processes left in its folder.
///
/// # Errors
/// If there are not as many voxels as the scan has, or the file cannot be written.
pub fn write_like<T>(path: &Path, scan: &VolumeInfo, voxels: &[T]) -> Result<(), VolumeError>
where
    T: DataElement + bytemuck::Pod,
{
    let at = |reason| VolumeError { path: path.to_owned(), reason };
    durable::remove_stale_beside(path);
    let expected: usize = scan.shape.iter().product();
    if voxels.len() != expected {
        let message = format!("{} voxels for a scan of {expected}", voxels.len());
        return Err(at(VolumeFault::VoxelCount { message }));
    }
    let encode: Encode = match Format::of_name(path) {
        Some(Format::Nrrd) => nrrd::encode,
        Some(Format::MetaImage) => metaimage::encode,
        _ => return nifti::write(path, scan, voxels).map_err(at),
    };
    let no_dtype = || at(VolumeFault::Type { name: format!("{:?}", T::DATA_TYPE) });
    let dtype = Dtype::of_nifti(T::DATA_TYPE).ok_or_else(no_dtype)?;
    let failed = |action, error: io::Error| at(VolumeFault::Write { action, message: error.to_string() });
    let file = encode(scan, dtype, bytemuck::cast_slice(voxels)).map_err(|error| failed("compress", error))?;
    durable::write(path, &file).map_err(|error| failed(error.action, error.source))
}

/// Function that encodes a whole file from the grid, the type and the bytes of its voxels.
type Encode = fn(&VolumeInfo, Dtype, &[u8]) -> io::Result<Vec<u8>>;

/// True where voxels in memory have their highest byte first.
pub(super) const IS_BIG_ENDIAN: bool = cfg!(target_endian = "big");

#[cfg(test)]
mod tests;
