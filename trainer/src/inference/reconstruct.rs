//! Reconstruction of a scan's hidden patches by a pre-training model: in one crop, or in all crops that intersect the
//! three planes through a voxel.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor, TensorData};
use hiend_loader::batch::CropRecord;
use hiend_loader::rng::case_key;
use hiend_loader::scan::Scan;

use super::{DeviceError, host};
use crate::feed::Masks;
use crate::model::hi_end_mae::{HiEndMae, HiEndMaeConfig};
use crate::model::masking::Mask;
use crate::model::patch_embed::{grid_of, unpatchify};

/// A pre-training model with the settings that determine which patches it sees.
#[derive(Debug)]
pub struct Reconstructor<'a> {
    /// Pre-training model with its weights.
    pub model: &'a HiEndMae,
    /// Sizes of the model; [`HiEndMaeConfig::mask_ratio`] is the fraction of hidden patches.
    pub config: &'a HiEndMaeConfig,
    /// Sides of the model's crops, in voxels.
    pub crop_size: [usize; 3],
    /// Seed of the masks, which also depend on the scan's name and the crop's number, as in training.
    pub seed: u64,
    /// Device of the model.
    pub device: &'a Device,
}

/// A reconstructed crop.
#[derive(Clone, Debug)]
pub struct ReconstructedCrop {
    /// First voxel of the crop in the scan.
    pub origin: [i64; 3],
    /// Sides of the crop, in voxels.
    pub size: [usize; 3],
    /// Reconstruction of every voxel, including visible ones, z fastest.
    pub pred: Vec<f32>,
    /// Pre-training loss of this crop.
    pub loss: f32,
    patch_size: usize,
    hidden: Vec<bool>,
}

impl ReconstructedCrop {
    /// Returns true if a voxel of the crop was hidden from the encoder.
    #[must_use]
    pub fn is_hidden(&self, [x, y, z]: [usize; 3]) -> bool {
        let [_, along_y, along_z] = grid_of(self.size, self.patch_size);
        let p = self.patch_size;
        self.hidden[((x / p) * along_y + y / p) * along_z + z / p]
    }

    /// Reconstruction of a voxel of the crop.
    #[must_use]
    pub fn value(&self, [x, y, z]: [usize; 3]) -> f32 {
        self.pred[(x * self.size[1] + y) * self.size[2] + z]
    }
}

impl Reconstructor<'_> {
    /// Reconstructs the crop that begins at voxel `origin`; `number` gives each crop of a scan its own mask.
    ///
    /// # Errors
    /// If the device fails.
    pub fn crop(&self, scan: &Scan, origin: [i64; 3], number: u32) -> Result<ReconstructedCrop, DeviceError> {
        let size = self.crop_size;
        let shape = [1, 1, size[0], size[1], size[2]];
        let images = Tensor::<5>::from_data(TensorData::new(scan.crop(origin, size), shape), self.device);
        let mask = self.mask(&scan.name, origin, number);
        let indices = mask.upload(self.device);
        let reconstruction = self.model.reconstruct(images.clone(), &indices);
        let grid = grid_of(size, self.config.patch_size);
        let loss = host(self.model.forward(images, &indices))?;
        Ok(ReconstructedCrop {
            origin,
            size,
            pred: host(unpatchify(reconstruction.pred, grid, self.config.patch_size))?,
            loss: loss.first().copied().unwrap_or(f32::NAN),
            patch_size: self.config.patch_size,
            hidden: mask.hidden(0),
        })
    }

    fn mask(&self, scan: &str, origin: [i64; 3], number: u32) -> Mask {
        let crop = CropRecord {
            case: scan.to_owned(),
            epoch: 0,
            crop: number,
            origin,
            case_key: case_key(scan),
            augmentation: vec![],
        };
        let num_patches = grid_of(self.crop_size, self.config.patch_size).iter().product();
        Masks { seed: self.seed, num_patches, mask_ratio: self.config.mask_ratio }.draw(&[crop])
    }

    /// Reconstructs those crops of a grid over the whole scan that intersect the three planes through voxel `through`.
    /// `done` receives the number of crops done and the number of all crops.
    ///
    /// # Errors
    /// If the device fails.
    pub fn planes(
        &self,
        scan: &Scan,
        through: [usize; 3],
        mut done: impl FnMut(usize, usize),
    ) -> Result<ReconstructedScan, DeviceError> {
        let grid = CropGrid::over(scan.shape, self.crop_size);
        let met: Vec<[usize; 3]> = grid.crops().filter(|&crop| grid.meets_a_plane(crop, through)).collect();
        let mut crops = HashMap::new();
        for (idx, &at) in met.iter().enumerate() {
            // A scan of 2^32 crops would not fit in memory.
            let number = grid.number(at) as u32;
            crops.insert(at, self.crop(scan, grid.origin(at), number)?);
            done(idx + 1, met.len());
        }
        Ok(ReconstructedScan { grid, crops })
    }
}

/// Grid of adjacent crops that covers a whole scan, with the scan in the middle; voxels outside the scan are padding.
#[derive(Clone, Copy, Debug)]
struct CropGrid {
    size: [usize; 3],
    count: [usize; 3],
    /// Number of padding voxels before the scan's first voxel along each axis.
    before: [usize; 3],
}

impl CropGrid {
    fn over(shape: [usize; 3], size: [usize; 3]) -> Self {
        let count: [usize; 3] = std::array::from_fn(|axis| shape[axis].div_ceil(size[axis]).max(1));
        let before = std::array::from_fn(|axis| (count[axis] * size[axis] - shape[axis]) / 2);
        Self { size, count, before }
    }

    fn crops(&self) -> impl Iterator<Item = [usize; 3]> {
        let [nx, ny, nz] = self.count;
        (0..nx * ny * nz).map(move |number| [number / (ny * nz), number / nz % ny, number % nz])
    }

    fn number(&self, [x, y, z]: [usize; 3]) -> usize {
        (x * self.count[1] + y) * self.count[2] + z
    }

    fn origin(&self, crop: [usize; 3]) -> [i64; 3] {
        std::array::from_fn(|axis| (crop[axis] * self.size[axis]) as i64 - self.before[axis] as i64)
    }

    /// Finds the crop of a voxel of the scan, and the voxel's position in the crop.
    fn locate(&self, voxel: [usize; 3]) -> ([usize; 3], [usize; 3]) {
        let padded: [usize; 3] = std::array::from_fn(|axis| voxel[axis] + self.before[axis]);
        (
            std::array::from_fn(|axis| padded[axis] / self.size[axis]),
            std::array::from_fn(|axis| padded[axis] % self.size[axis]),
        )
    }

    fn meets_a_plane(&self, crop: [usize; 3], through: [usize; 3]) -> bool {
        let (middle, _) = self.locate(through);
        (0..3).any(|axis| crop[axis] == middle[axis])
    }
}

/// Reconstructed crops of a whole scan.
#[derive(Debug)]
pub struct ReconstructedScan {
    grid: CropGrid,
    crops: HashMap<[usize; 3], ReconstructedCrop>,
}

impl ReconstructedScan {
    /// Reconstruction of a voxel of the scan; `None` if the encoder saw it or no plane intersects its crop.
    #[must_use]
    pub fn hidden_value(&self, voxel: [usize; 3]) -> Option<f32> {
        let (crop, within) = self.grid.locate(voxel);
        let crop = self.crops.get(&crop)?;
        crop.is_hidden(within).then(|| crop.value(within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_cover_each_voxel_of_the_scan_once() {
        for shape in [[10, 24, 7], [8, 8, 8], [3, 17, 40]] {
            let grid = CropGrid::over(shape, [8, 8, 16]);
            let mut seen = HashMap::new();
            for x in 0..shape[0] {
                for y in 0..shape[1] {
                    for z in 0..shape[2] {
                        let (crop, within) = grid.locate([x, y, z]);
                        let origin = grid.origin(crop);
                        let back: [i64; 3] = std::array::from_fn(|axis| origin[axis] + within[axis] as i64);
                        assert_eq!(back, [x as i64, y as i64, z as i64]);
                        assert!((0..3).all(|axis| within[axis] < grid.size[axis] && crop[axis] < grid.count[axis]));
                        *seen.entry(grid.number(crop)).or_insert(0) += 1;
                    }
                }
            }
            assert_eq!(seen.len(), grid.crops().count());
        }
    }
}
