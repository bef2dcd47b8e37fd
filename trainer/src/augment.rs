//! nnU-Net's chain on the training device: crops made of the boxes that the loader has only decoded.
//!
//! The parameters are the loader's own, a pure function of each crop's identity, and so are the rows, kernels and
//! noise that follow from them; here is only the arithmetic over voxels, composed of tensor operations, crop by crop.
//! What the loader computes in f64 (means and deviations) is f32 here, and a device may round a product and a sum once
//! instead of twice: crops agree with the loader's to 5e-6 of the window where gamma has not stretched that, labels but
//! for voxels that lie half-way between two.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::kind::Basic;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hiend_loader::batch::CropBox;
use hiend_loader::preprocess::window::Scale;
use hiend_loader::transform::{
    GammaParams, GaussianBlurParams, LowResolutionParams, MirrorParams, NnunetParams, Polarity, SampledParams,
    SpatialParams,
};

use crate::ops::noise::add_noise;

/// Boxes on the device, and what is to be made of each.
#[derive(Clone, Debug)]
pub struct CropBoxes {
    steps: Tensor<1, Int>,
    labels: Option<Tensor<1, Int>>,
    crops: Arc<[CropBox]>,
    /// First voxel of the first box, among those of the batch.
    start: usize,
    crop_size: [usize; 3],
}

impl CropBoxes {
    /// Of `crops`, whose boxes lie one behind the other in `steps` and `labels` `[voxels]`.
    ///
    /// # Panics
    /// If a chain other than nnU-Net's was drawn: others come as steps or floats.
    #[must_use]
    pub fn new(
        steps: Tensor<1, Int>,
        labels: Option<Tensor<1, Int>>,
        crops: &[CropBox],
        crop_size: [usize; 3],
    ) -> Self {
        assert!(
            crops.iter().all(|crop| matches!(crop.drawn, SampledParams::Nnunet(_))),
            "only nnU-Net's chain is made here"
        );
        let start = crops.first().map_or(0, |crop| crop.start);
        Self { steps, labels, crops: crops.into(), start, crop_size }
    }

    /// How many crops.
    #[must_use]
    pub fn num_crops(&self) -> usize {
        self.crops.len()
    }

    /// Voxels of a box, among those of all.
    #[must_use]
    pub fn range(&self, number: usize) -> Range<usize> {
        let range = self.crops[number].range();
        range.start - self.start..range.end - self.start
    }

    /// `[n, 1, x, y, z]`.
    #[must_use]
    pub fn images(&self) -> Tensor<5> {
        let crops =
            self.each(|number, crop, drawn| self.image(self.steps.clone().slice([self.range(number)]), crop, drawn));
        Tensor::stack::<4>(crops, 0).unsqueeze_dim(1)
    }

    /// `[n, 1, x, y, z]`, if there are labels.
    #[must_use]
    pub fn labels(&self) -> Option<Tensor<5, Int>> {
        let labels = self.labels.as_ref()?;
        let crops =
            self.each(|number, crop, drawn| self.label(labels.clone().slice([self.range(number)]), crop, drawn));
        Some(Tensor::stack::<4>(crops, 0).unsqueeze_dim(1))
    }

    fn each<T>(&self, make: impl Fn(usize, &CropBox, &NnunetParams) -> T) -> Vec<T> {
        let make = |(number, crop): (usize, &CropBox)| match &crop.drawn {
            SampledParams::Nnunet(drawn) => make(number, crop, drawn),
            SampledParams::Plain(_) | SampledParams::Recipe(_) => unreachable!("checked when made"),
        };
        self.crops.iter().enumerate().map(make).collect()
    }

    fn image(&self, steps: Tensor<1, Int>, crop: &CropBox, drawn: &NnunetParams) -> Tensor<3> {
        let source = units(steps, crop.scale);
        let mut image = match &drawn.spatial {
            Some(params) => resample(source, params, crop.shape, self.crop_size),
            None => source.reshape(self.crop_size),
        };
        if let Some(params) = drawn.gaussian_noise {
            image = add_noise(image, params);
        }
        if let Some(params) = &drawn.gaussian_blur {
            image = blur(image, params);
        }
        if let Some(params) = &drawn.brightness {
            image = image * params.factor;
        }
        if let Some(params) = &drawn.contrast {
            let of = Moments::of(image.clone());
            let spread = (image - of.mean.clone()) * params.factor + of.mean;
            image = spread.max_pair(of.min).min_pair(of.max);
        }
        if let Some(params) = &drawn.low_resolution {
            image = coarsen(image, params);
        }
        if let Some(params) = &drawn.gamma_inverted {
            image = gamma(image, params);
        }
        if let Some(params) = &drawn.gamma {
            image = gamma(image, params);
        }
        mirrored(image, drawn.mirror)
    }

    fn label(&self, source: Tensor<1, Int>, crop: &CropBox, drawn: &NnunetParams) -> Tensor<3, Int> {
        let labels = match &drawn.spatial {
            Some(params) => {
                let nearest =
                    positions(params, crop.shape, self.crop_size, &source.device()).map(|at| at.round().int());
                source.select(0, index(nearest, crop.shape))
            }
            None => source,
        };
        mirrored(labels.reshape(self.crop_size), drawn.mirror)
    }
}

/// Stored steps in units of the window.
fn units(steps: Tensor<1, Int>, scale: Scale) -> Tensor<1> {
    (steps.float() * scale.gain + scale.bias).clamp(0.0, 1.0)
}

/// Where each voxel of a crop lies in its source, `[voxels]` along each axis.
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
        // The box is made so that nothing outside of it is read.
        let last = source_shape[axis] as f32 - 1.0;
        (starts + along.clone() * rows.step[axis]).clamp(0.0, last).reshape([nx * ny * nz])
    })
}

/// The number of voxels `[x, y, z]` in a box of `shape`.
fn index([x, y, z]: [Tensor<1, Int>; 3], [_, sy, sz]: [usize; 3]) -> Tensor<1, Int> {
    (x * sy as i64 + y) * sz as i64 + z
}

/// Trilinear, about the common centre.
fn resample(source: Tensor<1>, params: &SpatialParams, shape: [usize; 3], crop_size: [usize; 3]) -> Tensor<3> {
    let at = positions(params, shape, crop_size, &source.device());
    let [_, sy, sz] = shape;
    // The voxel below, but never the last one, which has none after it.
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

/// A kernel along each axis; beyond its borders a crop goes on as its mirror image.
fn blur(image: Tensor<3>, params: &GaussianBlurParams) -> Tensor<3> {
    [2, 1, 0].into_iter().fold(image, |image, axis| {
        let n = image.dims()[axis];
        let beside = |offset: isize| {
            let voxels = (0..n).map(|at| GaussianBlurParams::read_at(at, offset, n) as i64).collect();
            image.clone().select(axis, indices(voxels, &image.device()))
        };
        let kernel = params.kernel(axis);
        let centre = image.clone() * kernel[0];
        kernel
            .iter()
            .enumerate()
            .skip(1)
            .fold(centre, |sum, (away, &weight)| sum + (beside(-(away as isize)) + beside(away as isize)) * weight)
    })
}

/// Each voxel between the two coarse ones about it, axis by axis.
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

/// Gamma, with the sign folded in: `sign (t^g range) + base` for `t = sign (x - base)/range`.
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

/// Extremes, mean and deviation of a crop, `[1, 1, 1]` each; they stay on the device.
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
        let mean = scalar(image.clone().mean());
        let variance = scalar((image.clone() - mean.clone()).square().sum()) / (count - 1.0).max(1.0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::devices;
    use burn::tensor::DType;
    use hiend_loader::batch::{Batch, BatchTimes, Images, PooledBuffer};
    use hiend_loader::rng::DrawId;
    use hiend_loader::transform::Nnunet;

    const CROP_SIZE: [usize; 3] = [12, 10, 14];

    /// Boxes of steps and labels whose neighbours have nothing to do with each other.
    fn batch(crops: std::ops::Range<u32>) -> Batch {
        let (mut sources, mut end) = (vec![], 0);
        for crop in crops {
            let drawn = Nnunet::default().draw(&DrawId { seed: 5, epoch: 1, case: 77, crop });
            let shape = drawn.source_box(CROP_SIZE);
            let scale = Scale::new(1.0, -175.0, [-175.0, 250.0]);
            sources.push(CropBox { start: end, shape, scale, drawn: SampledParams::Nnunet(drawn) });
            end += shape.iter().product::<usize>();
        }
        let steps: Vec<u16> = (0..end).map(|i| (i * 7919 % 426) as u16).collect();
        let labels: Vec<u8> = (0..end).map(|i| (i * 31 % 14) as u8).collect();
        let [x, y, z] = CROP_SIZE;
        Batch {
            step: 0,
            shape: [sources.len(), 1, x, y, z],
            labels: Some(PooledBuffer::unpooled(labels)),
            images: Images::Boxes(PooledBuffer::unpooled(steps), sources),
            crops: vec![],
            times: BatchTimes::default(),
        }
    }

    #[test]
    fn crops_are_those_of_the_loader() {
        for device in devices() {
            let (mut largest, mut typical, mut differing, mut count) = (0f32, 0f64, 0, 0);
            for first in (0..192).step_by(6) {
                let batch = batch(first..first + 6);
                let Images::Boxes(steps, crops) = &batch.images else { unreachable!("made as sources") };
                let on_device = |values: TensorData, dtype| Tensor::<1, Int>::from_data(values, (&device, dtype));
                let all = TensorData::new(steps.to_vec(), [steps.len()]);
                let labels = batch.labels.as_ref().unwrap().to_vec();
                let labels = TensorData::new(labels, [steps.len()]);
                // As the second part of a batch: the first crop's voxels do not begin at 0.
                let from = crops[1].start;
                let part = |all: TensorData, dtype| on_device(all, dtype).narrow(0, from, steps.len() - from);
                let sources =
                    CropBoxes::new(part(all, DType::U16), Some(part(labels, DType::U8)), &crops[1..], CROP_SIZE);
                let skip = CROP_SIZE.iter().product::<usize>();

                let images: Vec<f32> = sources.images().into_data().try_to_vec().unwrap();
                let labels: Vec<u8> = sources.labels().unwrap().into_data().convert::<u8>().try_to_vec().unwrap();
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
    }

    #[test]
    fn a_constant_crop_stays_one() {
        let params = GammaParams { exponent: 1.4, polarity: Polarity::Plain, retain_stats: true };
        for device in devices() {
            let values: Vec<f32> =
                gamma(Tensor::full([4, 4, 4], 0.3, &device), &params).into_data().try_to_vec().unwrap();
            assert!(values.iter().all(|value| value.to_bits() == 0.3f32.to_bits()), "{values:?}");
        }
    }
}
