//! Inference: label maps, reconstructions and attention maps of whole scans.

pub mod attention_map;
pub mod export;
pub mod predict;
pub mod reconstruct;
pub mod scan_files;

use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

use crate::device::Compute;
use crate::model::unetr::Unetr;
use crate::sliding_window::SlidingWindowError;
use export::ExportError;

/// Errors from running a model over a volume.
#[derive(Debug, Error)]
pub enum InferenceError {
    /// Windows that do not fit the volume or the model.
    #[error(transparent)]
    SlidingWindow(#[from] SlidingWindowError),
    /// A prediction that does not fit the scan.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A failure of the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Logits from which no label follows. The largest of them would be background without a word.
    #[error("{count} of {all} logits are NaN or infinite: the weights are damaged or have diverged")]
    NotFinite {
        /// Number of such logits.
        count: usize,
        /// Number of all logits of the windows.
        all: usize,
    },
}

/// A failure of the device while its results were read back.
#[derive(Debug, Error)]
#[error("the device failed: {message}")]
pub struct DeviceError {
    /// Message of the backend.
    pub message: String,
}

/// Reads a tensor back, the last axis fastest.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, DeviceError> {
    let failed = |message| DeviceError { message };
    let data = tensor.try_into_data().map_err(|error| failed(format!("{error:?}")))?;
    data.try_to_vec().map_err(|error| failed(format!("{error:?}")))
}

/// Number of windows to predict at a time where `wanted` are allowed: one on a CPU, whose caches hold none of the activations
/// of a second one and whose cores one window keeps busy.
#[must_use]
pub fn windows_at_a_time(compute: &Compute, wanted: usize) -> usize {
    if compute.is_cpu() { wanted.min(1) } else { wanted }
}

/// Logits `[n, classes, X, Y, Z]` of `num_windows` windows `[n, C, X, Y, Z]` of size `crop_size`, both on the host: the
/// predictor of a [`crate::sliding_window::SlidingWindow`].
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

/// The logits if all are finite numbers.
fn finite(logits: Vec<f32>) -> Result<Vec<f32>, InferenceError> {
    match logits.iter().filter(|logit| !logit.is_finite()).count() {
        0 => Ok(logits),
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
