//! Fine-tuning: trains a network to segment scans.

mod classes;
mod init;
mod picture;
mod validation;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Tensor;
use hiend_cache::{Cache, Manifest};
use hiend_loader::pipeline::{self, StreamConfig, Unsuitable, cases_of, digest_of};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::program::escape_name;
use hiend_loader::split::SelectError;

use crate::checkpoint::Kind;
use crate::config::MicroBatch;
use crate::config::finetune::FinetuneConfig;
use crate::device::Compute;
use crate::feed::{DeviceBatch, Labels, Part};
use crate::inference::window_batch::WindowBatch;
use crate::initial_weights::Init;
use crate::loss::class_map::ClassMap;
use crate::loss::dice_ce::{DiceCe, dice_ce};
use crate::model::init::WeightInit;
use crate::model::unetr::Unetr;
use crate::trained_on::{OtherPreprocess, settle_preprocess};
use crate::training::{Beginning, CaseScores, Counts, KeptValues, PictureError, Share, Task, TrainingError};

use classes::Given;
pub use classes::{ClassesError, name_fault};
use validation::ValidationSet;

/// Errors from setting up a fine-tuning.
#[derive(Debug, thiserror::Error)]
pub enum FinetuneError {
    /// Training cases that do not suit the configuration.
    #[error("cases to train on{}", split_hint(.0))]
    Cases(#[source] pipeline::Error),
    /// Validation cases that do not suit the configuration, or none at all.
    #[error("cases to validate on{}", split_hint(.0))]
    ValidationCases(#[source] pipeline::Error),
    /// A case selected for both training and validation.
    #[error("case {} is in both stream.split and validation.split", escape_name(case))]
    InBoth {
        /// Case, as `DATASET/CASE`.
        case: String,
    },
    /// Classes that are unknown, contradict each other or do not match the labels of the cases.
    #[error(transparent)]
    Classes(#[from] ClassesError),
    /// Validation with loader servers, which send only crops while validation needs whole cases.
    #[error(
        "validation needs whole cases, and the servers of --loader send crops: name the same shards with --shards as well, \
         or pass --no-validation"
    )]
    NoCases,
    /// Servers whose cache does not state its preprocessing.
    #[error("the servers' manifest.json: invalid preprocess")]
    ServedPreprocess(#[source] serde_json::Error),
    /// A cache whose preprocessing differs from the configuration.
    #[error(transparent)]
    Preprocess(#[from] OtherPreprocess),
}

/// Hint at the flags that divide the cases differently, for an error that the division causes; empty for other errors,
/// such as that of a list of cases.
fn split_hint(error: &pipeline::Error) -> String {
    let pipeline::Error::Unsuitable { reason, .. } = error else { return String::new() };
    match reason {
        Unsuitable::Select(SelectError::TooManyFolds { cases, .. } | SelectError::TooManyShots { cases, .. }) => {
            match *cases {
                0 | 1 => " (use --no-validation)".to_owned(),
                cases => format!(" (use --fold 0/{cases}, --shots 1 or --no-validation)"),
            }
        }
        Unsuitable::NothingSelected { by_split: true, .. } => {
            " (--fold, --shots and --no-validation split otherwise)".to_owned()
        }
        _ => String::new(),
    }
}

/// Warning about validation cases whose label maps hold the background only.
const NO_FOREGROUND: &str = "no foreground in the validation cases: Dice without background is not measured, and the newest \
     checkpoint takes the place of the best; --fold and --shots hold out other cases";

/// A fine-tuning task: resolved configuration, initial weights and validation cases.
#[derive(Debug)]
pub struct Finetuning {
    config: FinetuneConfig,
    init: Init,
    validation: Option<ValidationSet>,
    /// Digest of the validation cases.
    validation_digest: Option<String>,
    /// Warnings to show to the user before the run begins.
    pub warnings: Vec<String>,
}

impl Finetuning {
    /// Fills in the settings that `config` leaves to the cache, and checks that the two match.
    ///
    /// # Errors
    /// [`FinetuneError`].
    pub fn new(mut config: FinetuneConfig, cache: &Arc<Cache>, init: Init) -> Result<Self, FinetuneError> {
        let (cases, preprocess) = cases_of(cache, &config.stream).map_err(FinetuneError::Cases)?;
        let mut validation_digest = None;
        let held_out = match &config.validation {
            Some(validation) => {
                let stream = StreamConfig { split: validation.split.clone(), ..config.stream.clone() };
                let (held_out, _) = cases_of(cache, &stream).map_err(FinetuneError::ValidationCases)?;
                if let Some(both) = held_out.iter().find(|case| cases.contains(case)) {
                    return Err(FinetuneError::InBoth { case: cache.cases()[*both].key().to_owned() });
                }
                validation_digest = Some(digest_of(cache, &stream).map_err(FinetuneError::ValidationCases)?);
                Some(held_out)
            }
            None => None,
        };
        let given = Given::of(&config);
        let all = cases.iter().chain(held_out.iter().flatten());
        let names: BTreeSet<&str> = all.map(|&case| cache.cases()[case].record().dataset.as_str()).collect();
        let mut warnings = classes::settle(&mut config, cache.manifest(), &names)?;
        let space = config.label_space();
        let found = classes::check_labels(space, given, cache, &cases)?;
        warnings.extend(classes::never_seen(&config, given, cache.manifest(), &names, &found));
        settle_preprocess(&mut config.preprocess, &preprocess)?;
        warnings.extend(remarks_on_weights(&init, &config, &preprocess));
        let validation = match held_out {
            Some(cases) => {
                let found = classes::check_labels(space, given, cache, &cases)?;
                if !found.iter().any(|&label| label > 0 && space.ignore() != Some(label)) {
                    warnings.push(NO_FOREGROUND.to_owned());
                }
                let units = preprocess.units(config.stream.window);
                let batch =
                    WindowBatch::new(config.validation.as_ref().map_or(1, |validation| validation.sw_batch_size));
                Some(ValidationSet { cache: Arc::clone(cache), cases, units, space, batch })
            }
            None => None,
        };
        Ok(Self { config, init, validation, validation_digest, warnings })
    }

    /// Fills in the settings that `config` leaves to the data, when only loader servers have the cases. `manifest`
    /// describes the datasets of the stream; the labels `unseen` occur in none of its label maps. Validation is not
    /// possible, and the labels of each batch are checked when it arrives.
    ///
    /// # Errors
    /// [`FinetuneError`].
    pub fn of_servers(
        mut config: FinetuneConfig,
        manifest: &Manifest,
        unseen: &BTreeSet<u8>,
        init: Init,
    ) -> Result<Self, FinetuneError> {
        if config.validation.is_some() {
            return Err(FinetuneError::NoCases);
        }
        let names: BTreeSet<&str> = manifest.datasets.keys().map(String::as_str).collect();
        let given = Given::of(&config);
        let mut warnings = classes::settle(&mut config, manifest, &names)?;
        let found = (0..=u8::MAX).filter(|label| !unseen.contains(label)).collect();
        warnings.extend(classes::never_seen(&config, given, manifest, &names, &found));
        let preprocess: Result<PreprocessConfig, _> = serde_json::from_value(manifest.preprocess.clone());
        let preprocess = preprocess.map_err(FinetuneError::ServedPreprocess)?;
        settle_preprocess(&mut config.preprocess, &preprocess)?;
        warnings.extend(remarks_on_weights(&init, &config, &preprocess));
        Ok(Self { config, init, validation: None, validation_digest: None, warnings })
    }

    /// Replaces the number of crops on the device at a time.
    pub fn set_micro_batch(&mut self, micro_batch: Option<MicroBatch>) {
        self.config.train.micro_batch = micro_batch;
    }

    /// Number of validation cases.
    #[must_use]
    pub fn num_validation_cases(&self) -> usize {
        self.validation.as_ref().map_or(0, |set| set.cases.len())
    }
}

/// Warnings about weights trained on other kinds of scans than the cache holds, or for other classes.
fn remarks_on_weights(init: &Init, config: &FinetuneConfig, cache: &PreprocessConfig) -> Vec<String> {
    let Init::Given { origin, facts, .. } = init else { return Vec::new() };
    let mut remarks = init.remarks_on_scans(cache, config.stream.window);
    // Another number of them is an error of its own.
    if facts.classes.len() == config.classes.len() && facts.classes != config.classes {
        let [theirs, ours] = [&facts.classes, &config.classes].map(|classes| classes.join(", "));
        remarks.push(format!(
            "the weights of {} are for the classes {theirs}, and this run's are {ours}: each class begins with the output \
             weights of the class of its number",
            origin.display()
        ));
    }
    remarks
}

/// Contribution of a micro-batch with these `labels` to a step's loss.
fn weighted(terms: DiceCe, labels: &ClassMap, share: Share) -> Tensor<1> {
    if labels.num_annotated().is_some() {
        share.of_crops(terms.dice) + share.of_annotated(terms.cross_entropy)
    } else {
        // All crops have the same number of voxels, so that both terms have one weight: their sum is weighted once.
        share.of_crops(terms.total())
    }
}

impl Task for Finetuning {
    const KIND: Kind = Kind::Finetune;
    type Config = FinetuneConfig;
    type Model = Unetr;
    type Targets = Labels;

    fn config(&self) -> &FinetuneConfig {
        &self.config
    }

    fn kept_values(&self, gradient_checkpointing: bool) -> KeptValues {
        let unetr = self.config.unetr();
        let per_crop = unetr.kept_values(gradient_checkpointing);
        // More than was measured: see the description of `memory_need`.
        KeptValues { params: unetr.num_encoder_params(), per_crop, expected_percent: 300 }
    }

    fn init(&self, weights: &mut WeightInit) -> Unetr {
        self.config.unetr().init(weights)
    }

    fn begin(&self, model: Unetr) -> Result<(Unetr, Option<Beginning>), TrainingError> {
        init::apply(&self.init, model, &self.config.unetr()).map_err(|error| TrainingError::Init(Box::new(error)))
    }

    fn targets(&self) -> Labels {
        Labels { space: self.config.label_space() }
    }

    fn counts(&self, part: &Part<ClassMap>) -> Counts {
        Counts { crops: part.num_crops(), annotated: part.target.num_annotated().unwrap_or(0) }
    }

    fn loss(&self, model: &Unetr, part: &Part<ClassMap>, share: Share) -> Tensor<1> {
        weighted(dice_ce(model.forward(part.images()), &part.target), &part.target, share)
    }

    fn picture(
        &self,
        model: &Unetr,
        batch: &DeviceBatch<ClassMap>,
        _: &Compute,
        path: &Path,
    ) -> Result<(), PictureError> {
        // Filled in when the task was set up.
        let preprocess = self.config.preprocess.clone().unwrap_or_default();
        let units = preprocess.units(self.config.stream.window);
        picture::draw(model, batch, &self.config.classes, units, path)
    }

    fn class_names(&self) -> &[String] {
        &self.config.classes
    }

    fn validation_digest(&self) -> Option<&str> {
        self.validation_digest.as_deref()
    }

    fn validation_every(&self, steps_per_epoch: u64) -> Option<u64> {
        let every = self.config.validation.as_ref()?.every;
        Some(self.config.schedule.steps(every, steps_per_epoch))
    }

    fn validate(
        &self,
        model: &Unetr,
        compute: &Compute,
        share: (usize, usize),
        is_over: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Vec<CaseScores>>, TrainingError> {
        match (&self.validation, &self.config.validation) {
            (Some(set), Some(settings)) => {
                set.measure(model, compute, self.config.stream.crop_size, settings, share, is_over, progress)
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use hiend_cache::DatasetInfo;

    use super::*;
    use crate::config::finetune::FinetunePreset;
    use crate::label_space::LabelSpace;

    /// Loss of a step of four crops with 4³ voxels and three classes, in micro-batches of `sizes` crops, and the
    /// gradient of the logits.
    fn step(labels: &[u8], space: LabelSpace, sizes: &[usize]) -> (f32, Vec<f32>) {
        let device = Device::flex();
        let values: Vec<f32> = (0..4 * 3 * 64).map(|at| (at as f32 * 0.37).sin() * 3.0).collect();
        let logits = Tensor::<5>::from_data(TensorData::new(values, [4, 3, 4, 4, 4]), &device.clone().autodiff());
        let logits = logits.require_grad();
        let mut start = 0;
        let parts: Vec<_> = sizes
            .iter()
            .map(|&crops| {
                let own = &labels[start * 64..(start + crops) * 64];
                let map = ClassMap::upload(own, crops, [4; 3], space, &device).unwrap();
                let counts = Counts { crops, annotated: map.num_annotated().unwrap_or(0) };
                let part = (logits.clone().narrow(0, start, crops), map, counts);
                start += crops;
                part
            })
            .collect();
        let all: Counts = parts.iter().map(|(_, _, counts)| *counts).sum();
        let losses = parts
            .iter()
            .map(|(logits, map, own)| weighted(dice_ce(logits.clone(), map), map, Share { own: *own, all }));
        let loss = losses.reduce(|sum, loss| sum + loss).unwrap();
        let gradients = loss.backward();
        let gradient = logits.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        (loss.inner().into_scalar::<f32>(), gradient)
    }

    #[test]
    fn loss_of_a_step_does_not_depend_on_its_division() {
        // One voxel of the first crop is annotated, all of the second, none of the third, and half of the fourth.
        let sparse = |at: usize| match (at / 64, at % 64) {
            (0, 5) => 0,
            (1, voxel) => voxel as u8 % 3,
            (3, voxel) if voxel % 2 == 0 => voxel as u8 % 3,
            _ => 3,
        };
        let sparse: Vec<u8> = (0..4 * 64).map(sparse).collect();
        let dense: Vec<u8> = (0..4 * 64).map(|at| at as u8 % 3).collect();
        let with_ignore = LabelSpace::new(3).with_ignore(Some(3));
        for (labels, space) in [(sparse, with_ignore), (dense.clone(), with_ignore), (dense, LabelSpace::new(3))] {
            let (loss, gradient) = step(&labels, space, &[4]);
            let largest = gradient.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            for sizes in [&[1, 1, 1, 1][..], &[2, 2], &[3, 1]] {
                let (parted, parted_gradient) = step(&labels, space, sizes);
                // Each mean is rounded to a few units of 2⁻²⁴, and so is its weight. Weights by crops alone would change the
                // loss of the sparse labels by 1.1, 0.014 and 0.006.
                assert!((parted - loss).abs() < 2e-6 * loss, "{space}, {sizes:?}: {parted}, expected {loss}");
                for (value, expected) in parted_gradient.iter().zip(&gradient) {
                    assert!((value - expected).abs() < 1e-5 * largest, "{sizes:?}: {value}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn classes_that_servers_have_not_seen_are_named() {
        let labels = ["background", "liver", "spleen"].map(str::to_owned);
        let info = DatasetInfo { labels: (0..).zip(labels).collect(), ..DatasetInfo::default() };
        let manifest = Manifest {
            preprocess: serde_json::to_value(PreprocessConfig::default()).unwrap(),
            datasets: [("D".to_owned(), info)].into(),
            ..Manifest::default()
        };
        let warnings = |unseen: &[u8]| {
            let config = FinetuneConfig { classes: Vec::new(), validation: None, ..FinetunePreset::Tiny.config() };
            let unseen = unseen.iter().copied().collect();
            Finetuning::of_servers(config, &manifest, &unseen, Init::Random).unwrap().warnings
        };
        let text = "class 2 (spleen) occurs in no label map of the training cases and is not learned";
        assert_eq!(warnings(&[2]), [text]);
        assert!(warnings(&[]).is_empty());
    }
}
