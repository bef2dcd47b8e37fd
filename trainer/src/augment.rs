//! nnU-Net's augmentation on the training device: makes crops from boxes that the loader has only decoded, or that the
//! device also decodes ([`crate::ops::decode`]).
//!
//! The sampled parameters are those of the loader, a pure function of each crop's identity, and so are the rows,
//! kernels and noise derived from them. This module holds the arithmetic over voxels, composed of tensor operations,
//! crop by crop. DIFFERENCE: means and deviations, f64 in the loader, are f32 here, and a device may round a product
//! and a sum once instead of twice. Crops agree with those of the loader to 5e-6 of the window where gamma has not
//! stretched it; labels agree except for voxels half-way between two source voxels.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::kind::Basic;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hiend_loader::batch::{CropBox, CropChunks};
use hiend_loader::preprocess::window::Scale;
use hiend_loader::transform::{
    GammaParams, GaussianBlurParams, LowResolutionParams, MirrorParams, NnunetParams, Polarity, SpatialParams,
};

use crate::ops::decode::CodedCrops;
use crate::ops::fixed_order;
use crate::ops::noise::add_noise;

/// A box whose crop has the parameters of another chain than nnU-Net's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("crop {crop} is augmented by another chain than nnU-Net's; expected finished or quantized crops of that chain")]
pub struct OtherChain {
    /// Number of the crop among those of the boxes.
    pub crop: usize,
}

/// Boxes on the device, and the sampled parameters of the crop made from each box.
#[derive(Clone, Debug)]
pub struct CropBoxes {
    image: BoxVoxels,
    labels: Option<Tensor<1, Int>>,
    /// Box of each crop and the parameters of its augmentation.
    crops: Arc<[(CropBox, NnunetParams)]>,
    /// Index, in the batch, of the first voxel of the first box.
    start: usize,
    crop_size: [usize; 3],
}

/// Voxels of the boxes.
#[derive(Clone, Debug)]
enum BoxVoxels {
    /// Stored values of all boxes, `[voxels]`.
    Quantized(Box<Tensor<1, Int>>),
    /// Encoded chunks from which the boxes are decoded.
    Coded(Box<CodedCrops>),
}

impl CropBoxes {
    /// Creates the boxes of `crops`, which lie contiguously and in order in `quantized` and `labels` `[voxels]`.
    ///
    /// # Errors
    /// If a crop has the parameters of another chain than nnU-Net's.
    pub fn new(
        quantized: Tensor<1, Int>,
        labels: Option<Tensor<1, Int>>,
        crops: &[CropBox],
        crop_size: [usize; 3],
    ) -> Result<Self, OtherChain> {
        Self::of(BoxVoxels::Quantized(Box::new(quantized)), labels, crops, crop_size)
    }

    /// Creates the boxes of `crops`, which are decoded from `coded`; their labels lie in order in `labels` `[voxels]`.
    ///
    /// # Errors
    /// If a crop has the parameters of another chain than nnU-Net's.
    pub fn coded(
        coded: CodedCrops,
        labels: Option<Tensor<1, Int>>,
        crops: &[CropChunks],
        crop_size: [usize; 3],
    ) -> Result<Self, OtherChain> {
        let mut end = 0;
        let placed = |crop: &CropChunks| {
            let start = end;
            end += crop.num_decoded(crop_size);
            CropBox { start, shape: crop.box_shape, scale: crop.scale, params: crop.params }
        };
        let boxes: Vec<CropBox> = crops.iter().map(placed).collect();
        Self::of(BoxVoxels::Coded(Box::new(coded)), labels, &boxes, crop_size)
    }

    fn of(
        image: BoxVoxels,
        labels: Option<Tensor<1, Int>>,
        crops: &[CropBox],
        crop_size: [usize; 3],
    ) -> Result<Self, OtherChain> {
        let with_params = |(number, crop): (usize, &CropBox)| {
            crop.params.nnunet().map(|params| (*crop, *params)).ok_or(OtherChain { crop: number })
        };
        let start = crops.first().map_or(0, |crop| crop.start);
        let crops = crops.iter().enumerate().map(with_params).collect::<Result<_, OtherChain>>()?;
        Ok(Self { image, labels, crops, start, crop_size })
    }

    /// Number of crops.
    #[must_use]
    pub fn num_crops(&self) -> usize {
        self.crops.len()
    }

    /// Range of the voxels of box `number`.
    #[must_use]
    pub fn range(&self, number: usize) -> Range<usize> {
        let range = self.crops[number].0.range();
        range.start - self.start..range.end - self.start
    }

    /// Augmented images, `[n, 1, x, y, z]`.
    #[must_use]
    pub fn images(&self) -> Tensor<5> {
        let crops = match &self.image {
            BoxVoxels::Quantized(quantized) => self.each(|number, crop, params| {
                let source = units(quantized.as_ref().clone().slice([self.range(number)]), crop.scale);
                self.image(source, crop, params)
            }),
            BoxVoxels::Coded(coded) => {
                let decoded = coded.voxels();
                self.each(|number, crop, params| self.image(decoded.clone().slice([self.range(number)]), crop, params))
            }
        };
        Tensor::stack::<4>(crops, 0).unsqueeze_dim(1)
    }

    /// Augmented labels, `[n, 1, x, y, z]`, if the boxes have labels.
    #[must_use]
    pub fn labels(&self) -> Option<Tensor<5, Int>> {
        let labels = self.labels.as_ref()?;
        let crops =
            self.each(|number, crop, params| self.label(labels.clone().slice([self.range(number)]), crop, params));
        Some(Tensor::stack::<4>(crops, 0).unsqueeze_dim(1))
    }

    fn each<T>(&self, make: impl Fn(usize, &CropBox, &NnunetParams) -> T) -> Vec<T> {
        self.crops.iter().enumerate().map(|(number, (crop, params))| make(number, crop, params)).collect()
    }

    /// Makes the augmented crop from the box `source`, `[voxels]` in the units of the stream.
    fn image(&self, source: Tensor<1>, crop: &CropBox, sampled: &NnunetParams) -> Tensor<3> {
        let mut image = match &sampled.spatial {
            Some(params) => resample(source, params, crop.shape, self.crop_size),
            None => source.reshape(self.crop_size),
        };
        if let Some(params) = sampled.gaussian_noise {
            image = add_noise(image, params);
        }
        if let Some(params) = &sampled.gaussian_blur {
            image = blur(image, params);
        }
        if let Some(params) = &sampled.brightness {
            image = image * params.factor;
        }
        if let Some(params) = &sampled.contrast {
            let moments = Moments::of(image.clone());
            let spread = (image - moments.mean.clone()) * params.factor + moments.mean;
            image = spread.max_pair(moments.min).min_pair(moments.max);
        }
        if let Some(params) = &sampled.low_resolution {
            image = coarsen(image, params);
        }
        if let Some(params) = &sampled.gamma_inverted {
            image = gamma(image, params);
        }
        if let Some(params) = &sampled.gamma {
            image = gamma(image, params);
        }
        mirrored(image, sampled.mirror)
    }

    fn label(&self, source: Tensor<1, Int>, crop: &CropBox, sampled: &NnunetParams) -> Tensor<3, Int> {
        let labels = match &sampled.spatial {
            Some(params) => {
                let nearest =
                    positions(params, crop.shape, self.crop_size, &source.device()).map(|at| at.round().int());
                source.select(0, index(nearest, crop.shape))
            }
            None => source,
        };
        mirrored(labels.reshape(self.crop_size), sampled.mirror)
    }
}

/// Converts quantized values to the units of the stream.
fn units(quantized: Tensor<1, Int>, scale: Scale) -> Tensor<1> {
    (quantized.float() * scale.gain + scale.bias).clamp(scale.low, scale.high)
}

/// Position in the source box of each voxel of a crop: for each axis, `[voxels]`.
fn positions(
    params: &SpatialParams,
    source_shape: [usize; 3],
    crop_size: [usize; 3],
    device: &Device,
) -> [Tensor<1>; 3] {
    let [nx, ny, nz] = crop_size;
    let rows = params.rows(source_shape, crop_size);
    let along = Tensor::<1, Int>::arange(0..nz as i64, device).float().reshape([1, nz]);
    std::array::from_fn(|axis| {
        let starts: Vec<f32> = rows.starts.iter().map(|start| start[axis]).collect();
        let starts = Tensor::<2>::from_data(TensorData::new(starts, [nx * ny, 1]), device);
        // The loader makes the box so large that no voxel outside of it is read.
        let last = source_shape[axis] as f32 - 1.0;
        (starts + along.clone() * rows.increment[axis]).clamp(0.0, last).reshape([nx * ny * nz])
    })
}

/// Linear index of the voxels at `[x, y, z]` in a box of `shape`.
fn index([x, y, z]: [Tensor<1, Int>; 3], [_, sy, sz]: [usize; 3]) -> Tensor<1, Int> {
    (x * sy as i64 + y) * sz as i64 + z
}

/// Trilinear resampling of a box of `shape`, about the common centre of box and crop.
fn resample(source: Tensor<1>, params: &SpatialParams, shape: [usize; 3], crop_size: [usize; 3]) -> Tensor<3> {
    let at = positions(params, shape, crop_size, &source.device());
    let [_, sy, sz] = shape;
    // The voxel below; not the last one, which has no neighbour above.
    let below: [Tensor<1>; 3] =
        std::array::from_fn(|axis| at[axis].clone().floor().clamp(0.0, (shape[axis] as f32 - 2.0).max(0.0)));
    let [in_x, in_y, in_z] = std::array::from_fn(|axis| at[axis].clone() - below[axis].clone());
    let corner = index(below.map(Tensor::<1>::int), shape);
    let voxel = |offset: usize| source.clone().select(0, corner.clone() + offset as i64);
    let mix = |a: Tensor<1>, b: Tensor<1>, weight: &Tensor<1>| a.clone() + weight.clone() * (b - a);
    let pair = |z: usize| {
        let near = mix(voxel(z), voxel(sz + z), &in_y);
        let far = mix(voxel(sy * sz + z), voxel(sy * sz + sz + z), &in_y);
        mix(near, far, &in_x)
    };
    mix(pair(0), pair(1), &in_z).reshape(crop_size)
}

/// Gaussian blur with one kernel per axis. The crop is continued beyond its borders by its mirror image.
fn blur(image: Tensor<3>, params: &GaussianBlurParams) -> Tensor<3> {
    [2, 1, 0].into_iter().fold(image, |image, axis| {
        let n = image.dims()[axis];
        let neighbours = |offset: isize| {
            let voxels = (0..n).map(|at| GaussianBlurParams::read_at(at, offset, n) as i64).collect();
            image.clone().select(axis, indices(voxels, &image.device()))
        };
        let kernel = params.kernel(axis);
        let centre = image.clone() * kernel[0];
        kernel.iter().enumerate().skip(1).fold(centre, |sum, (away, &weight)| {
            sum + (neighbours(-(away as isize)) + neighbours(away as isize)) * weight
        })
    })
}

/// Simulated low resolution: linear interpolation between the two nearest coarse voxels, axis by axis.
fn coarsen(image: Tensor<3>, params: &LowResolutionParams) -> Tensor<3> {
    [2, 1, 0].into_iter().fold(image, |image, axis| {
        let n = image.dims()[axis];
        let device = image.device();
        let taps = params.taps(n);
        let mut shape = [1; 3];
        shape[axis] = n;
        let weights: Vec<f32> = taps.iter().map(|tap| tap.2).collect();
        let weights = Tensor::<3>::from_data(TensorData::new(weights, shape), &device);
        let voxels = |of: fn(&(usize, usize, f32)) -> usize| {
            let voxels = taps.iter().map(|tap| of(tap) as i64).collect();
            image.clone().select(axis, indices(voxels, &device))
        };
        let first = voxels(|tap| tap.0);
        first.clone() + weights * (voxels(|tap| tap.1) - first)
    })
}

/// Gamma transform `sign · t^g · range + base` with `t = sign · (x - base) / range`; `sign` is -1 for inverted
/// polarity.
fn gamma(image: Tensor<3>, params: &GammaParams) -> Tensor<3> {
    let before = Moments::of(image.clone());
    let range = before.max.clone() - before.min.clone();
    let flat = range.clone().lower_elem(GammaParams::FLAT);
    let safe = range.clone().clamp_min(GammaParams::FLAT);
    let (sign, base) = match params.polarity {
        Polarity::Plain => (1.0, before.min.clone()),
        Polarity::Inverted => (-1.0, before.max.clone()),
    };
    let t = ((image.clone() - base.clone()) * sign / safe.clone()).clamp(0.0, 1.0);
    let mut bent = t.powf_scalar(params.exponent) * sign * safe + base;
    if params.retain_stats {
        let after = Moments::of(bent.clone());
        let scale = before.std / after.std.clamp_min(GammaParams::FLAT);
        bent = (bent - after.mean) * scale + before.mean;
    }
    let shape = image.dims();
    bent.mask_where(flat.expand(shape), image)
}

/// Extremes, mean and standard deviation of a crop, `[1, 1, 1]` each, on the device.
struct Moments {
    min: Tensor<3>,
    max: Tensor<3>,
    mean: Tensor<3>,
    std: Tensor<3>,
}

impl Moments {
    fn of(image: Tensor<3>) -> Self {
        let scalar = |x: Tensor<1>| x.reshape([1, 1, 1]);
        let count = image.shape().num_elements() as f64;
        let mean = scalar(fixed_order::mean(image.clone()));
        let variance = scalar(fixed_order::sum((image.clone() - mean.clone()).square())) / (count - 1.0).max(1.0);
        Self { min: scalar(image.clone().min()), max: scalar(image.max()), mean, std: variance.sqrt() }
    }
}

fn indices(voxels: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let count = voxels.len();
    Tensor::from_data(TensorData::new(voxels, [count]), device)
}

fn mirrored<K: Basic>(crop: Tensor<3, K>, params: Option<MirrorParams>) -> Tensor<3, K> {
    let axes = params.map_or([false; 3], |params| params.axes);
    (0..3).filter(|&axis| axes[axis]).fold(crop, |crop, axis| crop.flip([axis]))
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::on_devices;
    use burn::tensor::DType;
    use hiend_loader::batch::{Batch, BatchTimes, Images, PooledBuffer};
    use hiend_loader::rng::DrawId;
    use hiend_loader::transform::{Nnunet, SampledParams};

    pub(crate) const CROP_SIZE: [usize; 3] = [12, 10, 14];

    /// Batch of boxes with unrelated voxels and labels.
    pub(crate) fn batch(crops: std::ops::Range<u32>) -> Batch {
        let (mut boxes, mut end) = (vec![], 0);
        for crop in crops {
            let params = Nnunet::default().sample_params(&DrawId { seed: 5, epoch: 1, case: 77, crop });
            let shape = params.source_box(CROP_SIZE);
            let scale = Scale::new(1.0, -175.0, [-175.0, 250.0]);
            boxes.push(CropBox { start: end, shape, scale, params: SampledParams::Nnunet(params) });
            end += shape.iter().product::<usize>();
        }
        let quantized: Vec<u16> = (0..end).map(|i| (i * 7919 % 426) as u16).collect();
        let labels: Vec<u8> = (0..end).map(|i| (i * 31 % 14) as u8).collect();
        let [x, y, z] = CROP_SIZE;
        Batch {
            step: 0,
            shape: [boxes.len(), 1, x, y, z],
            labels: Some(PooledBuffer::unpooled(labels)),
            images: Images::Boxes(PooledBuffer::unpooled(quantized), boxes),
            crops: vec![],
            times: BatchTimes::default(),
        }
    }

    #[allow(clippy::print_stdout, reason = "a device test, which is built outside cfg(test) too")]
    fn crops_are_those_of_the_loader(device: &Device) {
        let (mut largest, mut typical, mut differing, mut count) = (0f32, 0f64, 0, 0);
        for first in (0..192).step_by(6) {
            let batch = batch(first..first + 6);
            let Images::Boxes(quantized, crops) = &batch.images else { unreachable!("made as boxes") };
            let on_device = |values: TensorData, dtype| Tensor::<1, Int>::from_data(values, (device, dtype));
            let all = TensorData::new(quantized.to_vec(), [quantized.len()]);
            let labels = batch.labels.as_ref().unwrap().to_vec();
            let labels = TensorData::new(labels, [quantized.len()]);
            // As the second part of a batch: the voxels of the first crop do not begin at 0.
            let from = crops[1].start;
            let part = |all: TensorData, dtype| on_device(all, dtype).narrow(0, from, quantized.len() - from);
            let labels = Some(part(labels, DType::U8));
            let boxes = CropBoxes::new(part(all, DType::U16), labels, &crops[1..], CROP_SIZE).unwrap();
            let skip = CROP_SIZE.iter().product::<usize>();

            let images: Vec<f32> = boxes.images().into_data().try_to_vec().unwrap();
            let labels: Vec<u8> = boxes.labels().unwrap().into_data().convert::<u8>().try_to_vec().unwrap();
            let (expected, expected_labels) = (batch.to_floats(), batch.to_labels().unwrap());
            assert_eq!(images.len(), expected.len() - skip);
            for (a, b) in images.iter().zip(&expected[skip..]) {
                assert!(a.is_finite());
                largest = largest.max((a - b).abs());
                typical += f64::from((a - b).abs());
            }
            differing += labels.iter().zip(&expected_labels[skip..]).filter(|(a, b)| a != b).count();
            count += images.len();
        }
        println!(
            "{device:?}: largest difference {largest:.1e}, mean {:.1e}, labels {differing} of {count}",
            typical / count as f64
        );
        assert!(largest <= 5e-6 && differing * 100_000 <= count, "{device:?}");
    }

    #[test]
    fn boxes_of_another_chain_are_refused() {
        let mut batch = batch(0..3);
        let Images::Boxes(quantized, crops) = &mut batch.images else { unreachable!("made as boxes") };
        crops[1].params =
            hiend_loader::transform::Chain::recipe().sample_params(&DrawId { seed: 5, epoch: 1, case: 77, crop: 1 });
        let all = TensorData::new(quantized.to_vec(), [quantized.len()]);
        let all = Tensor::from_data(all, (&Device::flex(), DType::U16));
        assert_eq!(CropBoxes::new(all, None, crops, CROP_SIZE).err(), Some(OtherChain { crop: 1 }));
    }

    fn gamma_leaves_a_constant_crop_unchanged(device: &Device) {
        let params = GammaParams { exponent: 1.4, polarity: Polarity::Plain, retain_stats: true };
        let values: Vec<f32> = gamma(Tensor::full([4, 4, 4], 0.3, device), &params).into_data().try_to_vec().unwrap();
        assert!(values.iter().all(|value| value.to_bits() == 0.3f32.to_bits()), "{values:?}");
    }

    on_devices!(crops_are_those_of_the_loader, gamma_leaves_a_constant_crop_unchanged);
}
