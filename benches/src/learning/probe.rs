//! Linear probe: predicts the class of a patch from frozen features by ridge regression.
//!
//! A patch belongs to the structure that fills most of it, if that is at least an eighth, and to the background otherwise.
//! Every class has the same weight, in the regression and in the score (balanced accuracy: the mean over classes of the
//! share of their patches that are found; guessing gives 1/9). The first two or eight labelled cases train the probe, two
//! others select the strength of its penalty, and the test cases are scored.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use burn::tensor::{Device, Tensor, TensorData};
use hiend_cache::Cache;
use hiend_loader::sampler::SampleBy;
use hiend_loader::split::{CaseSplit, Split};
use hiend_loader::transform::{Chain, Plain};
use hiend_loader::{Loader, LoaderOptions, StreamConfig};
use hiend_trainer::device::Compute;
use hiend_trainer::model::encoder::Encoder;
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::model::patch_embed::patchify;
use hiend_trainer::model_source::Pretrained;
use nalgebra::{Cholesky, DMatrix};
use serde::Serialize;

use super::data::Caches;
use super::phantom::CLASSES;
use super::settings::{FIRST_TEST, NUM_LABELLED, SHOTS, labelled_case};

/// Crops per case.
const CROPS_PER_CASE: usize = 16;
/// Numbers of labelled cases that train the probe: as few as in fine-tuning, and more.
pub(super) const NUM_CASES: [usize; 2] = [SHOTS, 8];
/// Labelled cases that select the penalty.
const SELECTION: Range<usize> = 8..FIRST_TEST;
/// Penalties tried, relative to the mean variance of a feature.
const PENALTIES: [f64; 5] = [1e-4, 1e-3, 1e-2, 1e-1, 1.0];
/// Reciprocal of the smallest share of a patch that a structure must fill.
const LEAST_SHARE: usize = 8;

/// Score of one kind of features.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ProbeScore {
    /// Kind of features.
    pub features: &'static str,
    /// Number of features of a patch.
    pub width: usize,
    /// Selected penalty, for each number of training cases.
    pub penalty: [f64; 2],
    /// Balanced accuracy on the patches of the test cases, for each number of training cases.
    pub balanced_accuracy: [f64; 2],
}

/// Patches of some cases.
struct Patches {
    /// Voxels of all crops, `[n, 1, x, y, z]`.
    images: Tensor<5>,
    /// Class of each patch, crop by crop.
    classes: Vec<usize>,
}

/// Scores the pre-trained encoder, the same encoder before training, and the patches' voxels.
///
/// # Errors
/// If the model or the cases cannot be read.
pub(super) fn run(caches: &Caches, pretrained: &Path) -> anyhow::Result<Vec<ProbeScore>> {
    let device = Compute::cpu().raw().clone();
    let Pretrained { model, config, .. } = Pretrained::load(pretrained, None, &device)?;
    let (crop_size, patch_size) = (config.stream.crop_size, config.model.patch_size);
    let untrained = config.model.init(crop_size, &mut WeightInit::new(config.train.seed, &device));
    let read = |cases| Patches::read(&caches.labelled, cases, crop_size, patch_size, &device);
    let training = [read(0..NUM_CASES[0])?, read(0..NUM_CASES[1])?];
    let [selection, test] = [read(SELECTION)?, read(FIRST_TEST..NUM_LABELLED)?];

    let mut scores = Vec::new();
    for (features, encoder) in [
        ("pre-trained encoder", Some(&model.encoder)),
        ("untrained encoder", Some(&untrained.encoder)),
        ("voxels", None),
    ] {
        let table = |patches: &Patches| patches.features(encoder, patch_size);
        let [selection_table, test_table] = [table(&selection)?, table(&test)?];
        let (mut penalty, mut balanced_accuracy) = ([0.0; 2], [0.0; 2]);
        for (idx, training) in training.iter().enumerate() {
            let problem = Problem::new(&table(training)?, &training.classes);
            let mut highest = f64::NEG_INFINITY;
            for tried in PENALTIES {
                let solution = problem.solve(tried).context("features that are not finite")?;
                let accuracy = solution.balanced_accuracy(&selection_table, &selection.classes);
                if accuracy > highest {
                    highest = accuracy;
                    penalty[idx] = tried;
                    balanced_accuracy[idx] = solution.balanced_accuracy(&test_table, &test.classes);
                }
            }
        }
        let [few, many] = balanced_accuracy;
        println!("  {features}: balanced accuracy {few:.3} and {many:.3} with {NUM_CASES:?} training cases");
        scores.push(ProbeScore { features, width: test_table.ncols(), penalty, balanced_accuracy });
    }
    Ok(scores)
}

impl Patches {
    /// Cuts crops around the structures of labelled cases, without augmentation.
    fn read(
        cache: &Arc<Cache>,
        cases: Range<usize>,
        crop_size: [usize; 3],
        patch_size: usize,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let config = StreamConfig {
            crop_size,
            crops_per_visit: CROPS_PER_CASE,
            visits_per_batch: 1,
            foreground_rate: 1.0,
            sample_by: SampleBy::Class,
            labels: true,
            split: Split::Cases(CaseSplit { cases: cases.map(labelled_case).collect() }),
            augment: Chain::Plain(Plain {}),
            ..StreamConfig::default()
        };
        let loader = Loader::open(Arc::clone(cache), config, 0, &LoaderOptions::default())?;
        let (mut voxels, mut classes, mut num_crops) = (Vec::new(), Vec::new(), 0);
        for batch in loader.stream_range(0..loader.steps_per_epoch()) {
            let batch = batch?;
            voxels.extend_from_slice(&batch.to_floats());
            let labels = batch.labels.as_deref().context("the labelled cache has no labels")?;
            for labels in labels.chunks_exact(crop_size.iter().product()) {
                classes.extend(classes_of(labels, crop_size, patch_size));
            }
            num_crops += batch.shape[0];
        }
        let [x, y, z] = crop_size;
        let images = Tensor::from_data(TensorData::new(voxels, [num_crops, 1, x, y, z]), device);
        Ok(Self { images, classes })
    }

    /// Features of each patch as a row: the encoder outputs that UNETR's decoder receives, or the patch's own voxels.
    fn features(&self, encoder: Option<&Encoder>, patch_size: usize) -> anyhow::Result<DMatrix<f64>> {
        let patches = patchify(self.images.clone(), patch_size);
        let [n, num_patches, _] = patches.dims();
        let tokens = match encoder {
            Some(encoder) => {
                let output = encoder.forward(patches);
                let layers = output.taps.into_iter().chain([output.norm]);
                // The class token stands for no patch: it is left out.
                Tensor::cat(layers.map(|layer| layer.narrow(1, 1, num_patches)).collect(), 2)
            }
            None => patches,
        };
        let [_, _, width] = tokens.dims();
        let values: Vec<f32> = tokens.into_data().try_to_vec().map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(DMatrix::from_row_iterator(n * num_patches, width, values.into_iter().map(f64::from)))
    }
}

/// Class of each patch of a crop's labels, z fastest, in the order of [`patchify`].
fn classes_of(labels: &[u8], [sx, sy, sz]: [usize; 3], patch_size: usize) -> Vec<usize> {
    let grid = [sx, sy, sz].map(|side| side / patch_size);
    let mut counts = vec![[0; CLASSES.len()]; grid.iter().product()];
    for (voxel, &label) in labels.iter().enumerate() {
        let [x, y, z] = [voxel / (sy * sz), voxel / sz % sy, voxel % sz].map(|at| at / patch_size);
        counts[(x * grid[1] + y) * grid[2] + z][usize::from(label)] += 1;
    }
    let least = patch_size.pow(3) / LEAST_SHARE;
    let class_of = |counts: &[usize; CLASSES.len()]| {
        let largest = (1..CLASSES.len()).max_by_key(|&class| counts[class]).unwrap_or(0);
        if counts[largest] >= least { largest } else { 0 }
    };
    counts.iter().map(class_of).collect()
}

/// Ridge regression of class indicators on standardised features, with equal weight for every class.
struct Problem {
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// Weighted covariance of the features.
    covariance: DMatrix<f64>,
    /// Weighted covariance of features and indicators.
    covariance_with_classes: DMatrix<f64>,
}

/// Coefficients of a [`Problem`] under one penalty. The weighted mean of every indicator is the same, so no intercept is
/// needed to compare them.
struct Solution {
    mean: Vec<f64>,
    scale: Vec<f64>,
    coefficients: DMatrix<f64>,
}

impl Problem {
    fn new(features: &DMatrix<f64>, classes: &[usize]) -> Self {
        let mut counts = [0_usize; CLASSES.len()];
        for &class in classes {
            counts[class] += 1;
        }
        let num_present = counts.iter().filter(|&&count| count > 0).count();
        let weight = |class: usize| 1.0 / (counts[class] * num_present) as f64;
        let weights: Vec<f64> = classes.iter().map(|&class| weight(class)).collect();
        let moment = |column: usize, power: i32, mean: f64| -> f64 {
            features.column(column).iter().zip(&weights).map(|(x, w)| w * (x - mean).powi(power)).sum()
        };
        let mean: Vec<f64> = (0..features.ncols()).map(|column| moment(column, 1, 0.0)).collect();
        let deviation = |(column, &mean): (usize, &f64)| moment(column, 2, mean).sqrt().max(1e-9);
        let scale: Vec<f64> = mean.iter().enumerate().map(deviation).collect();
        let x = standardised(features, &mean, &scale);
        let mut weighted = x.clone();
        for (mut row, weight) in weighted.row_iter_mut().zip(&weights) {
            row *= *weight;
        }
        let share = 1.0 / num_present as f64;
        let indicators = DMatrix::from_fn(classes.len(), CLASSES.len(), |row, class| {
            f64::from(u8::from(classes[row] == class)) - if counts[class] > 0 { share } else { 0.0 }
        });
        Self { mean, scale, covariance: weighted.tr_mul(&x), covariance_with_classes: weighted.tr_mul(&indicators) }
    }

    /// Computes the coefficients under a penalty; `None` if the covariance has values that are not finite.
    fn solve(&self, penalty: f64) -> Option<Solution> {
        let size = self.covariance.nrows();
        let penalised = &self.covariance + DMatrix::identity(size, size) * penalty;
        let coefficients = Cholesky::new(penalised)?.solve(&self.covariance_with_classes);
        Some(Solution { mean: self.mean.clone(), scale: self.scale.clone(), coefficients })
    }
}

impl Solution {
    /// Mean, over the classes that occur, of the share of their patches that are classified correctly.
    fn balanced_accuracy(&self, features: &DMatrix<f64>, classes: &[usize]) -> f64 {
        let scores = standardised(features, &self.mean, &self.scale) * &self.coefficients;
        let mut found = [[0_usize; 2]; CLASSES.len()];
        for (row, &class) in scores.row_iter().zip(classes) {
            let (best, _) = row.iter().enumerate().fold((0, f64::NEG_INFINITY), |highest, (class, &score)| {
                if score > highest.1 { (class, score) } else { highest }
            });
            found[class][usize::from(best == class)] += 1;
        }
        let shares: Vec<f64> = found
            .iter()
            .filter(|[wrong, right]| wrong + right > 0)
            .map(|[wrong, right]| *right as f64 / (wrong + right) as f64)
            .collect();
        shares.iter().sum::<f64>() / shares.len().max(1) as f64
    }
}

fn standardised(features: &DMatrix<f64>, mean: &[f64], scale: &[f64]) -> DMatrix<f64> {
    DMatrix::from_fn(features.nrows(), features.ncols(), |row, column| {
        (features[(row, column)] - mean[column]) / scale[column]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_has_the_class_of_the_structure_that_fills_most_of_it() {
        // Two patches of 2³ along z: the first has one voxel of class 3, the second consists of class 5.
        let mut labels = vec![0; 2 * 2 * 4];
        labels[1] = 3;
        for (voxel, label) in labels.iter_mut().enumerate() {
            if voxel % 4 >= 2 {
                *label = 5;
            }
        }
        assert_eq!(classes_of(&labels, [2, 2, 4], 2), [3, 5]);
        assert_eq!(classes_of(&[0, 0, 0, 0, 0, 0, 0, 0], [2, 2, 2], 2), [0]);
    }

    #[test]
    fn the_probe_finds_classes_that_a_feature_determines() {
        // Feature 0 is the class, feature 1 the row's parity; classes are not equally frequent.
        let classes: Vec<usize> = (0..90).map(|row| usize::from(row % 10 == 0)).collect();
        let features =
            DMatrix::from_fn(90, 2, |row, column| if column == 0 { classes[row] as f64 } else { (row % 2) as f64 });
        let solution = Problem::new(&features, &classes).solve(1e-3).unwrap();
        assert!((solution.balanced_accuracy(&features, &classes) - 1.0).abs() < 1e-12);
        let parity = features.columns(1, 1).into_owned();
        let solution = Problem::new(&parity, &classes).solve(1e-3).unwrap();
        // Even rows count as class 1. All rows of class 1 are even; of the 81 others, 45 are odd.
        assert!((solution.balanced_accuracy(&parity, &classes) - f64::midpoint(1.0, 45.0 / 81.0)).abs() < 1e-12);
    }
}
