//! Validation: whole volumes of the cache, predicted by sliding window, compared with their labels.

use std::sync::Arc;

use hiend_cache::Cache;
use hiend_cache::{StoredVolume, VolumeReader};
use hiend_loader::preprocess::window::window_units;

use crate::config::finetune::ValidationConfig;
use crate::device::Compute;
use crate::inference::sliding_window::{InputVolume, SlidingWindow, SlidingWindowError};
use crate::inference::{PredictError, predict_windows};
use crate::metric::dice::{dice_per_class, mean_dice, mean_dice_of_class, mean_fg_dice};
use crate::metric::{LabelMap, MetricError};
use crate::model::unetr::Unetr;
use crate::training::{Scores, Stop, TrainingError};

/// Cases that are not learned from.
#[derive(Debug)]
pub struct ValidationSet {
    /// Where they lie.
    pub cache: Arc<Cache>,
    /// Which ones.
    pub cases: Vec<usize>,
    /// HU range that becomes [0, 1].
    pub window: [f64; 2],
}

/// Why there is no prediction.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("asked to stop")]
    Stopped,
    #[error(transparent)]
    Store(#[from] hiend_cache::Error),
    #[error(transparent)]
    Predict(#[from] PredictError),
    #[error(transparent)]
    Metric(#[from] MetricError),
}

impl From<SlidingWindowError> for Fault {
    fn from(error: SlidingWindowError) -> Self {
        Self::Predict(error.into())
    }
}

impl ValidationSet {
    /// Dice over all cases; nothing if it was asked to stop on the way.
    pub fn measure(
        &self,
        model: &Unetr,
        compute: &Compute,
        crop_size: [usize; 3],
        settings: &ValidationConfig,
        stop: &Stop,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Scores>, TrainingError> {
        let mut reader = VolumeReader::new();
        let mut per_case = Vec::with_capacity(self.cases.len());
        progress(0, self.cases.len());
        for &case in &self.cases {
            match self.dice_of(case, &mut reader, model, compute, crop_size, settings, stop) {
                Ok(dice) => per_case.push(dice),
                Err(Fault::Stopped) => return Ok(None),
                Err(fault) => {
                    let case = self.cache.cases()[case].key().to_owned();
                    return Err(TrainingError::Validation { case, source: Box::new(fault) });
                }
            }
            progress(per_case.len(), self.cases.len());
        }
        let num_classes = per_case.first().map_or(0, Vec::len);
        let known = |value: f64| (!value.is_nan()).then_some(value);
        Ok(Some(Scores {
            mean_dice: mean_dice(&per_case),
            mean_fg_dice: mean_fg_dice(&per_case),
            dice_per_class: (0..num_classes).map(|class| known(mean_dice_of_class(&per_case, class))).collect(),
            num_cases: per_case.len(),
        }))
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are one case's circumstances")]
    fn dice_of(
        &self,
        case: usize,
        reader: &mut VolumeReader,
        model: &Unetr,
        compute: &Compute,
        crop_size: [usize; 3],
        settings: &ValidationConfig,
        stop: &Stop,
    ) -> Result<Vec<f64>, Fault> {
        let case = &self.cache.cases()[case];
        let StoredVolume { shape, image, label } = case.read_whole(reader)?;
        let array = &case.record().image;
        let image = window_units(&image, array.offset, array.scale, self.window);
        let sliding =
            SlidingWindow::new(crop_size, settings.overlap, settings.sw_batch_size)?.with_weighting(settings.weighting);
        let pred = sliding.argmax(InputVolume::new(&image, 1, shape)?, |windows, num_windows| {
            if stop.is_requested() {
                return Err(Fault::Stopped);
            }
            Ok(predict_windows(model, compute.raw(), crop_size, windows, num_windows)?)
        })?;
        // The selection of cases made sure that there is one.
        let label = label.unwrap_or_default();
        let spacing = case.record().geometry.spacing;
        let [label, pred] = [&label, &pred].map(|voxels| LabelMap::new(voxels, shape, spacing));
        let (label, pred) = (label?, pred?);
        let num_classes = model.num_classes();
        Ok(dice_per_class(&label, &pred, num_classes)?)
    }
}
