//! Lower bounds for any compressed store: a float32 memory map, and a plain copy.

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use memmap2::Mmap;

use super::{CROP_LEN, CROP_SIZE, Contender};
use crate::volume::Voxels;

/// Copies rows of 96 floats from a mapped file, as `.npy` with `mmap_mode` does.
pub struct MemoryMap {
    map: Mmap,
    shape: [usize; 3],
}

impl MemoryMap {
    /// Writes the volume to a file in `dir` and maps it.
    ///
    /// # Errors
    /// If the file cannot be written or mapped.
    pub fn new(voxels: &Voxels, dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("volume.f32");
        std::fs::write(&path, bytemuck::cast_slice::<f32, u8>(&voxels.to_f32()))?;
        let map = map(&File::open(&path)?).context("map the volume")?;
        Ok(Self { map, shape: voxels.shape })
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe: another process could truncate it")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the file is in a temporary folder of this process and is not written again.
    unsafe { Mmap::map(file) }
}

impl Contender for MemoryMap {
    fn name(&self) -> &'static str {
        "memmap_f32"
    }

    fn label(&self) -> String {
        "float32 memory map, copied only".into()
    }

    fn bytes_per_voxel(&self) -> f64 {
        4.0
    }

    fn cut(&mut self, start: [usize; 3], out: &mut [f32]) -> anyhow::Result<()> {
        let volume: &[f32] = bytemuck::cast_slice(&self.map);
        for (row, to) in out.chunks_exact_mut(CROP_SIZE[2]).enumerate() {
            let (x, y) = (start[0] + row / CROP_SIZE[1], start[1] + row % CROP_SIZE[1]);
            let at = (x * self.shape[1] + y) * self.shape[2] + start[2];
            to.copy_from_slice(&volume[at..at + CROP_SIZE[2]]);
        }
        Ok(())
    }
}

/// Copies the bytes of a crop in one piece, which is the lower bound.
pub struct Memcpy {
    volume: Vec<f32>,
    shape: [usize; 3],
}

impl Memcpy {
    /// Holds the volume in memory.
    #[must_use]
    pub fn new(voxels: &Voxels) -> Self {
        Self { volume: voxels.to_f32(), shape: voxels.shape }
    }
}

impl Contender for Memcpy {
    fn name(&self) -> &'static str {
        "memcpy"
    }

    fn label(&self) -> String {
        "memcpy of a crop's bytes, the lower bound".into()
    }

    fn bytes_per_voxel(&self) -> f64 {
        4.0
    }

    fn cut(&mut self, start: [usize; 3], out: &mut [f32]) -> anyhow::Result<()> {
        let at = ((start[0] * self.shape[1] + start[1]) * self.shape[2] + start[2]).min(self.volume.len() - CROP_LEN);
        out.copy_from_slice(&self.volume[at..at + CROP_LEN]);
        Ok(())
    }
}
