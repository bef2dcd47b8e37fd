//! Inference: label maps, reconstructions and attention maps of whole scans.

pub mod attention_map;
pub mod components;
pub mod export;
pub mod predict;
pub mod reconstruct;
pub mod scan_files;
pub mod window_batch;

use std::fmt::Debug;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

use crate::device::{failure, take_panic};
use crate::model::unetr::Unetr;
use crate::sliding_window::{InputVolume, Labels, LargestClasses, Region, Slab, SlidingWindow, SlidingWindowError};
use export::ExportError;

/// Errors from running a model over a volume.
#[derive(Debug, Error)]
pub enum InferenceError {
    /// Windows that do not match the volume or the model.
    #[error(transparent)]
    SlidingWindow(#[from] SlidingWindowError),
    /// A prediction that does not match the scan.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A failure of the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Logits that are not finite, so that no label can be derived. Replacing them by background would hide the error.
    #[error("{count} of {all} logits are NaN or infinite: the weights are damaged or have diverged")]
    NotFinite {
        /// Number of logits that are not finite.
        count: usize,
        /// Number of all logits of the windows.
        all: usize,
    },
}

/// A failure of the device while its results were read back.
#[derive(Debug, Error)]
#[error("the device failed: {message}")]
pub struct DeviceError {
    /// Reason given by the backend, with the message of a panic on the device's own threads, if there was one.
    pub message: String,
}

impl DeviceError {
    /// Converts a backend's error, adding the panic message kept by
    /// [`remember_panics`](crate::device::remember_panics).
    fn of(error: impl Debug) -> Self {
        let panic = take_panic().map(|panic| format!(" ({panic})")).unwrap_or_default();
        Self { message: format!("{}{panic}", failure::reason_of(error)) }
    }

    /// Returns true if the device ran out of memory, so that a smaller computation may succeed.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        failure::is_out_of_memory(&self.message)
    }
}

/// Reads a tensor back to the host, last axis fastest.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, DeviceError> {
    let data = tensor.try_into_data().map_err(DeviceError::of)?;
    data.try_to_vec().map_err(DeviceError::of)
}

/// Predicts the logits `[n, classes, X, Y, Z]` of `num_windows` windows `[n, C, X, Y, Z]` of size `crop_size`, all on
/// the host. It is the predictor of a [`crate::sliding_window::SlidingWindow`].
///
/// # Errors
/// If the device fails, or a logit is NaN or infinite.
///
/// # Panics
/// If the windows have another size than the model's crops.
pub fn predict_windows(
    model: &Unetr,
    device: &Device,
    crop_size: [usize; 3],
    windows: &[f32],
    num_windows: usize,
) -> Result<Vec<f32>, InferenceError> {
    let [x, y, z] = crop_size;
    let data = TensorData::new(windows.to_vec(), [num_windows, model.in_channels(), x, y, z]);
    finite(host(model.forward(Tensor::from_data(data, device)))?)
}

/// Predicts the logarithms of the mean probabilities of several models, `[n, classes, X, Y, Z]`, which are used like
/// logits; with one model, its logits. Windows are as for [`predict_windows`].
///
/// # Errors
/// If the device fails, or a logit of any model is NaN or infinite.
///
/// # Panics
/// If `models` is empty, or a window's size is not that of the models' crops.
pub fn predict_windows_of_all(
    models: &[Unetr],
    device: &Device,
    crop_size: [usize; 3],
    windows: &[f32],
    num_windows: usize,
) -> Result<Vec<f32>, InferenceError> {
    let [x, y, z] = crop_size;
    let data = TensorData::new(windows.to_vec(), [num_windows, models[0].in_channels(), x, y, z]);
    finite(host(logits_of_all(models, Tensor::from_data(data, device)))?)
}

/// Predicts as [`predict_windows_of_all`] does, from windows on the device and without a check for values that are not
/// finite.
fn logits_of_all(models: &[Unetr], windows: Tensor<5>) -> Tensor<5> {
    match models {
        [model] => model.forward(windows),
        _ => log_mean_probability(models.iter().map(|model| model.forward(windows.clone())).collect()),
    }
}

/// Predicts `volume` by the windows of `sliding`, whose ROI is the models' crop, as [`predict_windows_of_all`] does,
/// and hands each finished slab to `sink`. `before` is called before each batch with the number of windows that precede
/// it. With a GPU, windows are averaged on the device, and batches are queued ahead of the slabs by up to one ROI.
///
/// # Errors
/// Errors of `before` and `sink`; if the device fails, or a logit is NaN or infinite.
///
/// # Panics
/// If `models` is empty, or a window's size is not that of the models' crops.
pub fn predict_volume<E>(
    models: &[Unetr],
    device: &Device,
    sliding: &SlidingWindow,
    volume: InputVolume<'_>,
    mut before: impl FnMut(usize) -> Result<(), E>,
    mut sink: impl FnMut(Slab<'_>) -> Result<(), E> + Send,
) -> Result<(), E>
where
    E: From<InferenceError> + From<SlidingWindowError> + Send,
{
    if *device == Device::flex() {
        let roi = sliding.roi_size();
        let predict = |windows: &[f32], num_windows: usize| {
            before(num_windows)?;
            Ok(predict_windows_of_all(models, device, roi, windows, num_windows)?)
        };
        return sliding.run(volume, predict, sink);
    }
    let predict = |windows: Tensor<5>| {
        let [num_windows, ..] = windows.dims();
        before(num_windows)?;
        Ok(logits_of_all(models, windows))
    };
    let hand = |Region { start, dims }, averages: Tensor<4>| {
        let values = host(averages).map_err(InferenceError::from)?;
        // An average is finite only if all its terms are.
        all_finite(&values)?;
        sink(Slab { start, dims, values: &values })
    };
    sliding.run_on_device(volume, device, predict, |averages| averages, hand)
}

/// Selects the class with the largest averaged logit at each voxel of `volume`, `[X, Y, Z]`; among equals, the lowest
/// class. Otherwise like [`predict_volume`]. With a GPU, classes are selected on the device, and one byte per voxel is
/// transferred to the host.
///
/// # Errors
/// Errors of `before`; if the models have more than 256 classes, the device fails, or a logit is NaN or infinite.
///
/// # Panics
/// If `models` is empty, or a window's size is not that of the models' crops.
pub fn label_volume<E>(
    models: &[Unetr],
    device: &Device,
    sliding: &SlidingWindow,
    volume: InputVolume<'_>,
    mut before: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<u8>, E>
where
    E: From<InferenceError> + From<SlidingWindowError> + Send,
{
    let mut labels = Labels::new(volume.dims());
    if *device == Device::flex() {
        predict_volume(models, device, sliding, volume, before, |slab| Ok(labels.push(slab)?))?;
        return Ok(labels.finish());
    }
    let predict = |windows: Tensor<5>| {
        let [num_windows, ..] = windows.dims();
        before(num_windows)?;
        let logits = logits_of_all(models, windows);
        match logits.dims()[1] {
            0..=256 => Ok(logits),
            num_classes => Err(E::from(SlidingWindowError::TooManyClasses { num_classes })),
        }
    };
    let hand = |region: Region, largest: LargestClasses| {
        labels.place(region, &chosen(largest)?);
        Ok::<_, E>(())
    };
    sliding.run_on_device(volume, device, predict, LargestClasses::of, hand)?;
    Ok(labels.finish())
}

/// Reads the selected classes back, after checking that all values were finite.
fn chosen(LargestClasses { classes, not_finite, num_values }: LargestClasses) -> Result<Vec<u8>, InferenceError> {
    let not_finite = not_finite.try_into_data().map_err(DeviceError::of)?;
    let count = not_finite.iter::<i64>().sum::<i64>();
    if count != 0 {
        let count = usize::try_from(count).unwrap_or(num_values);
        return Err(InferenceError::NotFinite { count, all: num_values });
    }
    let classes = classes.try_into_data().map_err(DeviceError::of)?;
    Ok(classes.try_to_vec().map_err(DeviceError::of)?)
}

/// Logarithm of the mean, over models, of the probabilities given by their logits `[n, classes, X, Y, Z]`.
///
/// Computed from logarithms, so that classes with vanishing probability keep their order.
fn log_mean_probability(logits: Vec<Tensor<5>>) -> Tensor<5> {
    let num_models = logits.len() as f64;
    // Zero; NaN where a logit of any model is not finite, which the mean could hide.
    let check = logits.iter().cloned().map(|logits| logits * 0.0).reduce(|sum, next| sum + next);
    let logs: Vec<Tensor<5>> = logits.into_iter().map(|logits| log_softmax(logits, 1)).collect();
    let top = logs.iter().cloned().reduce(Tensor::max_pair).expect("at least one model");
    let sum = logs.into_iter().map(|log| (log - top.clone()).exp()).reduce(|sum, next| sum + next);
    top + sum.expect("at least one model").log() - num_models.ln() + check.expect("at least one model")
}

/// Returns the logits if all are finite; an error otherwise.
fn finite(logits: Vec<f32>) -> Result<Vec<f32>, InferenceError> {
    all_finite(&logits)?;
    Ok(logits)
}

fn all_finite(logits: &[f32]) -> Result<(), InferenceError> {
    match logits.iter().filter(|logit| !logit.is_finite()).count() {
        0 => Ok(()),
        count => Err(InferenceError::NotFinite { count, all: logits.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::export::LabelExport;
    use super::*;
    use crate::model::hi_end_mae::HiEndMaeConfig;
    use crate::model::init::WeightInit;
    use crate::model::unetr::UnetrConfig;
    use crate::sliding_window::{InputVolume, SlidingWindow};

    #[test]
    fn logits_that_are_not_finite_are_refused() {
        assert_eq!(finite(vec![1.0, -2.0]).unwrap(), [1.0, -2.0]);
        for value in [f32::NAN, f32::INFINITY] {
            let error = finite(vec![0.5, value, value]).unwrap_err().to_string();
            assert!(error.starts_with("2 of 3 logits are NaN or infinite"), "{error}");
        }
    }

    #[test]
    fn probabilities_of_several_models_are_averaged() {
        let device = Device::flex();
        // Two models, three classes, two voxels.
        let logits = [[1.0_f32, -200.0, 0.0, 3.0, 2.0, -1.0], [0.0, 0.0, 4.0, -300.0, 1.0, 2.0]];
        let tensors =
            logits.map(|logits| Tensor::<5>::from_data(TensorData::new(logits.to_vec(), [1, 3, 1, 1, 2]), &device));
        let got = host(log_mean_probability(tensors.to_vec())).unwrap();
        for voxel in 0..2 {
            let probability = |logits: &[f32; 6], class: usize| {
                let exp = |class: usize| f64::from(logits[2 * class + voxel]).exp();
                exp(class) / (exp(0) + exp(1) + exp(2))
            };
            for class in 0..3 {
                let mean = f64::midpoint(probability(&logits[0], class), probability(&logits[1], class));
                let got = f64::from(got[2 * class + voxel]);
                // Sums and exponentials in f32.
                assert!((got.exp() - mean).abs() < 1e-6, "voxel {voxel}, class {class}: {got}, expected {}", mean.ln());
            }
        }
        for damaged in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut broken = logits[0].to_vec();
            broken[2] = damaged;
            let broken = Tensor::<5>::from_data(TensorData::new(broken, [1, 3, 1, 1, 2]), &device);
            let mean = host(log_mean_probability(vec![broken, tensors[1].clone()])).unwrap();
            assert!(finite(mean).is_err(), "{damaged}");
        }
    }

    #[test]
    fn a_scan_is_predicted_on_its_own_grid() {
        let crop_size = [12; 3];
        let config = UnetrConfig {
            embed_dim: 12,
            num_heads: 2,
            feature_size: 2,
            ..UnetrConfig::for_encoder_of(&HiEndMaeConfig::tiny(), crop_size, 3).unwrap()
        };
        let device = Device::flex();
        let model = config.init(&mut WeightInit::new(0, &device));
        let dims = [13, 10, 20];
        let image: Vec<f32> = (0..13 * 10 * 20).map(|i| (i as f32 * 0.01).sin()).collect();
        let volume = InputVolume::new(&image, 1, dims).unwrap();
        let sliding = SlidingWindow::new(crop_size, 0.5, 2).unwrap();
        let predict = |windows: &[f32], n: usize| predict_windows(&model, &device, crop_size, windows, n);

        let whole = sliding.argmax(volume, predict).unwrap();
        let same = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let mut export = LabelExport::new(dims, &same, dims, &same, sliding.slab_axis(dims)).unwrap();
        sliding.run(volume, predict, |slab| Ok::<_, InferenceError>(export.push(slab)?)).unwrap();
        let in_file_order = export.finish().unwrap().labels;
        // The file has x fastest, the volume z.
        for (place, label) in in_file_order.iter().enumerate() {
            let [x, y, z] = [place % 13, place / 13 % 10, place / 130];
            assert_eq!(*label, whole[(x * 10 + y) * 20 + z]);
        }
    }
}
