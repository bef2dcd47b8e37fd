//! Zarr v3 sharding through `zarrs`: uint16, shards of 128³, inner chunks of 32³, zstd level 3, on a file system.
//!
//! Stores the integers of the window, as this project's store does, so that the codec does not compress floats. The
//! shard index is cached and one thread decodes.

use std::path::Path;
use std::sync::Arc;

use zarrs::array::codec::ZstdCodec;
use zarrs::array::{
    Array, ArrayBuilder, ArrayShardedReadableExt as _, ArrayShardedReadableExtCache, ArraySubset, CodecOptions,
    data_type,
};
use zarrs::filesystem::FilesystemStore;

use super::{CROP_SIZE, Contender};
use crate::volume::Voxels;

/// The volume as a sharded Zarr array, see the [module](self).
pub struct Zarr {
    array: Array<FilesystemStore>,
    cache: ArrayShardedReadableExtCache,
    options: CodecOptions,
    top: f32,
    bytes_per_voxel: f64,
}

impl Zarr {
    /// Writes the array into `dir`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(voxels: &Voxels, dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.join("zarr");
        std::fs::create_dir(&dir)?;
        let store = Arc::new(FilesystemStore::new(&dir)?);
        let shape = voxels.shape.map(|n| n as u64);
        let array = ArrayBuilder::new(shape.to_vec(), vec![128u64; 3], data_type::uint16(), 0u16)
            .subchunk_shape(vec![32u64; 3])
            .bytes_to_bytes_codecs(vec![Arc::new(ZstdCodec::new(3, false))])
            .build(store, "/")?;
        array.store_metadata()?;
        array.store_array_subset(&array.subset_all(), voxels.values.as_slice())?;
        let cache = ArrayShardedReadableExtCache::new(&array);
        let options = CodecOptions::default().with_concurrent_target(1);
        let bytes_per_voxel = super::ratio(bytes_of(&dir)?, voxels);
        Ok(Self { array, cache, options, top: voxels.top(), bytes_per_voxel })
    }
}

/// Total size in bytes of the files in a folder and its subfolders.
fn bytes_of(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_of(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

impl Contender for Zarr {
    fn name(&self) -> &'static str {
        "zarrs"
    }

    fn label(&self) -> String {
        "Zarr v3 shards, uint16 zstd (zarrs)".into()
    }

    fn bytes_per_voxel(&self) -> f64 {
        self.bytes_per_voxel
    }

    fn cut(&mut self, start: [usize; 3], out: &mut [f32]) -> anyhow::Result<()> {
        let ranges: Vec<_> = (0..3).map(|axis| start[axis] as u64..(start[axis] + CROP_SIZE[axis]) as u64).collect();
        let subset = ArraySubset::new_with_ranges(&ranges);
        let values: Vec<u16> = self.array.retrieve_array_subset_sharded_opt(&self.cache, &subset, &self.options)?;
        let scale = 1.0 / self.top;
        for (value, stored) in out.iter_mut().zip(values) {
            *value = f32::from(stored) * scale;
        }
        Ok(())
    }
}
