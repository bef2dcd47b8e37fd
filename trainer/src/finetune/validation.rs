//! Validation: whole volumes of the cache, predicted by sliding window and compared with their labels.

use std::io;
use std::sync::Arc;

use hiend_cache::Cache;
use hiend_cache::{StoredVolume, VolumeReader};
use hiend_loader::preprocess::normalize::Units;

use crate::apart;
use crate::config::finetune::ValidationConfig;
use crate::device::Compute;
use crate::inference::window_batch::WindowBatch;
use crate::inference::{InferenceError, label_volume};
use crate::label_space::LabelSpace;
use crate::metric::dice::dice_per_class;
use crate::metric::{LabelMap, MetricError};
use crate::model::unetr::Unetr;
use crate::sliding_window::{InputVolume, SlidingWindow, SlidingWindowError};
use crate::training::{CaseScores, TrainingError};

/// Cases held out for validation.
#[derive(Debug)]
pub(super) struct ValidationSet {
    /// Cache that holds the cases.
    pub cache: Arc<Cache>,
    /// Indices of the cases in the cache.
    pub cases: Vec<usize>,
    /// Units of the network's input.
    pub units: Units,
    /// Labels that the cases may hold.
    pub space: LabelSpace,
    /// Number of windows predicted at a time.
    pub batch: WindowBatch,
}

/// Errors from validating one case.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the validation is over")]
    Over,
    #[error("cannot start the thread that reads it; see the limit on processes (ulimit -u)")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] hiend_cache::Error),
    #[error(transparent)]
    Predict(#[from] InferenceError),
    #[error(transparent)]
    Metric(#[from] MetricError),
}

impl From<SlidingWindowError> for Fault {
    fn from(error: SlidingWindowError) -> Self {
        Self::Predict(error.into())
    }
}

impl ValidationSet {
    /// Measures Dice on a rank's share of the cases; `None` once `is_over` returns true, also while a file system or storage
    /// does not answer. `progress` receives the number of cases done and the number of all cases.
    #[expect(clippy::too_many_arguments, reason = "a struct would be built for one call")]
    pub(super) fn measure(
        &self,
        model: &Unetr,
        compute: &Compute,
        crop_size: [usize; 3],
        settings: &ValidationConfig,
        (rank, num_ranks): (usize, usize),
        is_over: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Vec<CaseScores>>, TrainingError> {
        let own: Vec<_> = self.cases.iter().copied().enumerate().skip(rank).step_by(num_ranks).collect();
        let mut scores = Vec::with_capacity(own.len());
        progress(0, own.len());
        for &(position, case) in &own {
            match self.dice_of(case, model, compute, crop_size, settings, is_over) {
                Ok(dice) => scores.push(CaseScores::new(position, &dice)),
                Err(Fault::Over) => return Ok(None),
                Err(fault) => {
                    let case = self.cache.cases()[case].key().to_owned();
                    return Err(TrainingError::Validation { case, source: Box::new(fault) });
                }
            }
            progress(scores.len(), own.len());
        }
        Ok(Some(scores))
    }

    fn dice_of(
        &self,
        case: usize,
        model: &Unetr,
        compute: &Compute,
        crop_size: [usize; 3],
        settings: &ValidationConfig,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Vec<f64>, Fault> {
        let cache = Arc::clone(&self.cache);
        let read = move || cache.cases()[case].read_whole(&mut VolumeReader::new());
        let ended = || is_over().then_some(Fault::Over);
        let stored = apart::unless("validation", read, ended).map_err(Fault::Thread)??;
        let StoredVolume { shape, image, label } = stored?;
        let case = &self.cache.cases()[case];
        let array = &case.record().image;
        let image = self.units.values(&image, array.offset, array.scale);
        let sliding = SlidingWindow::new(crop_size, settings.overlap, settings.sw_batch_size)?;
        let models = std::slice::from_ref(model);
        let sliding = self.batch.fit(models, compute, sliding.with_weighting(settings.weighting), shape)?;
        let before = |_: usize| if is_over() { Err(Fault::Over) } else { Ok(()) };
        let volume = InputVolume::new(&image, 1, shape)?;
        let pred = label_volume(models, compute.raw(), &sliding, volume, before)?;
        // Cases without labels are left out or refused when the cases are selected.
        let label = label.unwrap_or_default();
        let spacing = case.record().geometry.spacing;
        let [label, pred] = [&label, &pred].map(|voxels| LabelMap::new(voxels, shape, spacing));
        let (label, pred) = (label?, pred?);
        Ok(dice_per_class(&label, &pred, self.space)?)
    }
}
