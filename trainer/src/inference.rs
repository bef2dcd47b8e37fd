//! Inference over whole volumes.

pub mod attention_map;
pub mod export;
pub mod predict;
pub mod reconstruct;
pub mod sliding_window;

use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

use crate::model::unetr::Unetr;
use export::ExportError;
use sliding_window::SlidingWindowError;

/// Why a scan could not be predicted.
#[derive(Debug, Error)]
pub enum PredictError {
    /// The windows do not fit the volume or the model.
    #[error(transparent)]
    SlidingWindow(#[from] SlidingWindowError),
    /// The prediction does not fit the scan.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The device failed; its message is what there is to know.
    #[error("the device could not compute a batch of windows: {0}")]
    Device(String),
}

/// Logits `[n, classes, X, Y, Z]` of `num_windows` windows `[n, C, X, Y, Z]` of size `crop_size`, host to host: the
/// predictor that a [`sliding_window::SlidingWindow`] asks for.
///
/// # Errors
/// If the device fails.
///
/// # Panics
/// If the windows are not of the size that the model was made for.
pub fn predict_windows(
    model: &Unetr,
    device: &Device,
    crop_size: [usize; 3],
    windows: &[f32],
    num_windows: usize,
) -> Result<Vec<f32>, PredictError> {
    let [x, y, z] = crop_size;
    let data = TensorData::new(windows.to_vec(), [num_windows, model.in_channels(), x, y, z]);
    let logits = model.forward(Tensor::from_data(data, device));
    let data = logits.try_into_data().map_err(|error| PredictError::Device(format!("{error:?}")))?;
    data.try_to_vec().map_err(|error| PredictError::Device(format!("{error:?}")))
}

#[cfg(test)]
mod tests {
    use super::export::LabelExport;
    use super::sliding_window::{InputVolume, SlidingWindow};
    use super::*;
    use crate::model::hi_end_mae::HiEndMaeConfig;
    use crate::model::init::WeightInit;
    use crate::model::unetr::UnetrConfig;

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
        sliding.run(volume, predict, |slab| Ok::<_, PredictError>(export.push(slab)?)).unwrap();
        let in_file_order = export.finish().unwrap().labels;
        // The file has x fastest, the volume z.
        for (place, label) in in_file_order.iter().enumerate() {
            let [x, y, z] = [place % 13, place / 13 % 10, place / 130];
            assert_eq!(*label, whole[(x * 10 + y) * 20 + z]);
        }
    }
}
