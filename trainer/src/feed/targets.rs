//! Training targets of crops: masks in pre-training, label maps in fine-tuning.

use burn::tensor::Device;
use hiend_loader::batch::CropRecord;
use hiend_loader::program::escape_name;
use hiend_loader::rng::{DrawId, Operation};
use rand::RngExt as _;

use crate::augment::CropBoxes;
use crate::label_space::{LabelOutOfRange, LabelSpace};
use crate::loss::class_map::{ClassMap, ClassMapError};
use crate::model::masking::{Mask, MaskIndices};

/// Some crops of a batch, on the host.
#[derive(Clone, Copy, Debug)]
pub struct HostCrops<'a> {
    /// Crop size along x, y, z, in voxels.
    pub crop_size: [usize; 3],
    /// Origin of each crop.
    pub crops: &'a [CropRecord],
    /// Labels of all voxels, crop after crop, if the stream carries labels. If crops arrive as boxes, labels of all
    /// voxels of the boxes.
    pub labels: Option<&'a [u8]>,
    /// The boxes on the device, if the device augments.
    pub boxes: Option<&'a CropBoxes>,
}

impl HostCrops<'_> {
    /// Each crop with its labels; empty if the stream carries no labels.
    fn with_labels(&self) -> impl Iterator<Item = (&CropRecord, &[u8])> {
        let labels = self.labels.unwrap_or_default();
        let voxels = self.crop_size.iter().product::<usize>();
        let of = move |number: usize| match self.boxes {
            Some(boxes) => &labels[boxes.range(number)],
            None => &labels[number * voxels..(number + 1) * voxels],
        };
        self.crops.iter().enumerate().filter(|_| self.labels.is_some()).map(move |(number, crop)| (crop, of(number)))
    }
}

/// Error of a batch from which a target cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The stream carries no labels.
    #[error("the stream carries no labels; set stream.labels = true")]
    NoLabels,
    /// A label that is neither a class nor the ignore label.
    #[error("case {}: {found}", escape_name(case))]
    Label {
        /// `DATASET/CASE`.
        case: String,
        /// Label found, and labels allowed.
        found: LabelOutOfRange,
    },
    /// Labels on the device, made from checked labels, cannot be counted.
    #[error(transparent)]
    OnDevice(ClassMapError),
}

/// Maker of the targets of crops.
pub trait Targets: Send + 'static {
    /// Type of the targets of some crops, on the device.
    type Target: Send + 'static;

    /// Makes the targets of `crops`.
    ///
    /// # Errors
    /// [`TargetError`] if the crops hold none, or the device fails.
    fn make(&self, crops: &HostCrops<'_>, device: &Device) -> Result<Self::Target, TargetError>;
}

/// Targets of pre-training: the masked patches, a pure function of the seed and of each crop's identity.
#[derive(Clone, Copy, Debug)]
pub struct Masks {
    /// Seed of the run.
    pub seed: u64,
    /// Number of patches in a crop.
    pub num_patches: usize,
    /// Fraction of the patches that are masked.
    pub mask_ratio: f64,
}

/// A mask on the host and on the device.
#[derive(Clone, Debug)]
pub struct Masked {
    /// Mask on the host.
    pub mask: Mask,
    /// Patch indices on the device.
    pub indices: MaskIndices,
}

impl Masks {
    /// Samples the mask of `crops`.
    #[must_use]
    pub fn draw(&self, crops: &[CropRecord]) -> Mask {
        let mut noise = Vec::with_capacity(crops.len() * self.num_patches);
        for crop in crops {
            let id = DrawId { seed: self.seed, epoch: crop.epoch, case: crop.case_key, crop: crop.crop };
            let mut rng = id.rng(Operation::Mask);
            noise.extend((0..self.num_patches).map(|_| rng.random::<f32>()));
        }
        Mask::from_noise(&noise, self.num_patches, self.mask_ratio)
    }
}

impl Targets for Masks {
    type Target = Masked;

    fn make(&self, crops: &HostCrops<'_>, device: &Device) -> Result<Masked, TargetError> {
        let mask = self.draw(crops.crops);
        Ok(Masked { indices: mask.upload(device), mask })
    }
}

/// Targets of fine-tuning: label maps `[n, 1, x, y, z]`, checked crop by crop.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// Labels that may occur.
    pub space: LabelSpace,
}

impl Targets for Labels {
    type Target = ClassMap;

    fn make(&self, crops: &HostCrops<'_>, device: &Device) -> Result<ClassMap, TargetError> {
        let labels = crops.labels.ok_or(TargetError::NoLabels)?;
        for (crop, labels) in crops.with_labels() {
            let named = |found| TargetError::Label { case: crop.case.clone(), found };
            self.space.check(labels).map_err(named)?;
        }
        match crops.boxes.and_then(CropBoxes::labels) {
            // Every label of a crop is copied from its box.
            Some(labels) => ClassMap::of_checked(labels, self.space).map_err(TargetError::OnDevice),
            None => Ok(ClassMap::upload_checked(labels, crops.crops.len(), crops.crop_size, self.space, device)),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Int, Tensor, TensorData};
    use hiend_loader::batch::Images;

    use super::*;
    use crate::augment::tests::CROP_SIZE;
    use crate::testing::SyntheticStream;

    #[test]
    fn labels_are_required_and_are_classes() {
        let batch = SyntheticStream { seed: 1, crop_size: [8; 3], crops: 2, steps_per_epoch: 3 }.batch(0);
        let make = |labels: Option<&[u8]>| {
            let crops = HostCrops { crop_size: [8; 3], crops: &batch.crops, labels, boxes: None };
            Labels { space: LabelSpace::new(3).with_ignore(Some(5)) }.make(&crops, &Device::flex())
        };
        let mut labels = vec![2; 1024];
        labels[3] = 5;
        let target = make(Some(&labels)).unwrap();
        assert_eq!((target.labels().dims(), target.num_annotated()), ([2, 1, 8, 8, 8], Some(1023)));
        labels[1000] = 3;
        let error = make(Some(&labels)).unwrap_err().to_string();
        let expected = "label 3 is out of range; the classes are 0 to 2, the ignore label is 5";
        assert_eq!(error, format!("case synthetic/case1: {expected}"));
        assert!(matches!(make(None), Err(TargetError::NoLabels)));
    }

    #[test]
    fn annotated_voxels_are_those_of_crops_augmented_on_the_device() {
        let batch = crate::augment::tests::batch(0..24);
        let Images::Boxes(quantized, boxes) = &batch.images else { unreachable!("made as boxes") };
        let (device, in_boxes) = (Device::flex(), batch.labels.as_ref().unwrap());
        let upload = |data: TensorData, dtype| Tensor::<1, Int>::from_data(data, (&device, dtype));
        let values = upload(TensorData::new(quantized.to_vec(), [quantized.len()]), DType::U16);
        let labels = upload(TensorData::new(in_boxes.to_vec(), [in_boxes.len()]), DType::U8);
        let on_device = CropBoxes::new(values, Some(labels), boxes, CROP_SIZE).unwrap();
        let crops = SyntheticStream { seed: 1, crop_size: [8; 3], crops: 24, steps_per_epoch: 3 }.batch(0).crops;
        let host =
            HostCrops { crop_size: CROP_SIZE, crops: &crops, labels: Some(&in_boxes[..]), boxes: Some(&on_device) };
        let space = LabelSpace::new(13).with_ignore(Some(13));
        let target = Labels { space }.make(&host, &device).unwrap();
        let labels: Vec<u8> = target.labels().into_data().convert::<u8>().try_to_vec().unwrap();
        assert_eq!(labels.len(), 24 * CROP_SIZE.iter().product::<usize>());
        assert_eq!(target.num_annotated(), space.num_annotated(&labels));
        // Some of the boxes are larger than their crops.
        assert_ne!(target.num_annotated(), space.num_annotated(in_boxes));
    }
}
