//! What a pre-training model makes of the hidden patches of a scan: of one crop, or of all that some slices meet.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor, TensorData};
use hiend_loader::batch::CropRecord;
use hiend_loader::rng::case_key;
use hiend_loader::scan::Scan;

use crate::feed::Masks;
use crate::model::hi_end_mae::{HiEndMae, HiEndMaeConfig};
use crate::model::masking::Mask;
use crate::model::patch_embed::{grid_of, unpatchify};

/// A model, with what decides which patches it sees.
#[derive(Debug)]
pub struct Reconstructor<'a> {
    /// The model.
    pub model: &'a HiEndMae,
    /// Its sizes; [`HiEndMaeConfig::mask_ratio`] says how much is hidden.
    pub config: &'a HiEndMaeConfig,
    /// Sides of its crops, voxels.
    pub crop_size: [usize; 3],
    /// Decides the masks, with the scan's name and the crop's number: as in training.
    pub seed: u64,
    /// Where it runs.
    pub device: &'a Device,
}

/// A crop through the model.
#[derive(Clone, Debug)]
pub struct ReconstructedCrop {
    /// First voxel in the scan.
    pub origin: [i64; 3],
    /// Sides, voxels.
    pub size: [usize; 3],
    /// What the decoder makes of every voxel, visible ones too, z fastest.
    pub pred: Vec<f32>,
    /// The training's loss on this crop.
    pub loss: f32,
    patch_size: usize,
    hidden: Vec<bool>,
}

impl ReconstructedCrop {
    /// Whether a voxel of the crop was hidden from the encoder.
    #[must_use]
    pub fn is_hidden(&self, [x, y, z]: [usize; 3]) -> bool {
        let [_, along_y, along_z] = grid_of(self.size, self.patch_size);
        let p = self.patch_size;
        self.hidden[((x / p) * along_y + y / p) * along_z + z / p]
    }

    /// What the decoder makes of a voxel of the crop.
    #[must_use]
    pub fn value(&self, [x, y, z]: [usize; 3]) -> f32 {
        self.pred[(x * self.size[1] + y) * self.size[2] + z]
    }
}

impl Reconstructor<'_> {
    /// The crop that begins at voxel `origin`; `number` gives each crop of a scan a mask of its own.
    ///
    /// # Errors
    /// What the device says, if it fails.
    pub fn crop(&self, scan: &Scan, origin: [i64; 3], number: u32) -> Result<ReconstructedCrop, String> {
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

    /// All crops that the three planes through voxel `through` meet, of those that lie side by side over the whole
    /// scan. `done` is told after each how many there are in all.
    ///
    /// # Errors
    /// What the device says, if it fails.
    pub fn planes(
        &self,
        scan: &Scan,
        through: [usize; 3],
        mut done: impl FnMut(usize, usize),
    ) -> Result<ReconstructedScan, String> {
        let grid = CropGrid::over(scan.shape, self.crop_size);
        let met: Vec<[usize; 3]> = grid.crops().filter(|&crop| grid.meets_a_plane(crop, through)).collect();
        let mut crops = HashMap::new();
        for (idx, &at) in met.iter().enumerate() {
            let number = u32::try_from(grid.number(at)).map_err(|_| "the scan has too many crops".to_owned())?;
            crops.insert(at, self.crop(scan, grid.origin(at), number)?);
            done(idx + 1, met.len());
        }
        Ok(ReconstructedScan { grid, crops })
    }
}

/// Crops side by side over a whole scan, which lies in their middle; what reaches out of it is padding.
#[derive(Clone, Copy, Debug)]
struct CropGrid {
    size: [usize; 3],
    count: [usize; 3],
    /// Padding before the scan's first voxel.
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

    /// The crop that a voxel of the scan lies in, and where in it.
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

/// Crops of a whole scan through the model.
#[derive(Debug)]
pub struct ReconstructedScan {
    grid: CropGrid,
    crops: HashMap<[usize; 3], ReconstructedCrop>,
}

impl ReconstructedScan {
    /// What the decoder makes of a voxel of the scan if it was hidden; nothing if it was visible or is in none of the
    /// planes.
    #[must_use]
    pub fn hidden_value(&self, voxel: [usize; 3]) -> Option<f32> {
        let (crop, within) = self.grid.locate(voxel);
        let crop = self.crops.get(&crop)?;
        crop.is_hidden(within).then(|| crop.value(within))
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, String> {
    let data = tensor.try_into_data().map_err(|error| format!("{error:?}"))?;
    data.try_to_vec().map_err(|error| format!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_cover_the_scan_and_each_voxel_once() {
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
