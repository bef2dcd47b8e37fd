//! Soft Dice and cross entropy of logits, in one pass each way.
//!
//! Logits are `[N, C, voxels]`, labels `[N, voxels]`. With the softmax `p` and the one-hot labels `y` of a case's counted
//! voxels, `I = Σ p·y` and `D = Σ p² + Σ y + smooth` of each class, the Dice loss is the mean of `1 - 2I/D` over cases and
//! classes, and the cross entropy the mean of `-ln p` of the labels over all counted voxels. A voxel with the ignore label
//! is not counted; it has no gradient.
//!
//! A block of voxels is computed in the cache in f32; sums over blocks are in f64, in the order of the voxels.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "sums are taken in f64 and kept in f32"
)]

use rayon::prelude::*;

use crate::math::exp_of_negative;
use crate::output::Blank;

/// Number of voxels in a block: probabilities of 16 classes fill a quarter of a core's first-level cache.
const BLOCK: usize = 128;
/// Number of voxels in a task.
const TASK: usize = 128 * BLOCK;

/// Logits with the labels they are compared with.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// Logits, `[N, C, voxels]`.
    pub logits: &'a [f32],
    /// Labels, `[N, voxels]`, each a class or the ignore label.
    pub labels: &'a [u8],
    /// Number of cases, N.
    pub batch: usize,
    /// Number of classes, C.
    pub num_classes: usize,
    /// Ignore label, whose voxels are not counted.
    pub ignore: Option<u8>,
    /// Smoothing term in the denominator of the Dice.
    pub smooth: f64,
}

/// Both terms of the loss, and the sums that their gradient needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// One minus the soft Dice, averaged over cases and classes.
    pub dice: f32,
    /// Cross entropy in nats, averaged over the counted voxels; 0 if there are none.
    pub cross_entropy: f32,
    /// Intersection I of each case and class.
    intersections: Vec<f64>,
    /// Denominator D of each case and class.
    denominators: Vec<f64>,
    /// Number of counted voxels in the batch, at least 1.
    num_counted: f64,
}

/// Sums over some voxels of one case.
struct Sums {
    intersections: Vec<f64>,
    denominators: Vec<f64>,
    log_likelihood: f64,
    num_counted: usize,
}

impl Labelled<'_> {
    fn num_voxels(&self) -> usize {
        self.labels.len() / self.batch.max(1)
    }

    fn check(&self) {
        let num_voxels = self.num_voxels();
        assert_eq!(self.labels.len(), self.batch * num_voxels, "labels");
        assert_eq!(self.logits.len(), self.batch * self.num_classes * num_voxels, "logits");
    }

    /// Case and first voxel of each task, in order.
    fn tasks(&self) -> Vec<(usize, usize)> {
        (0..self.batch).flat_map(|n| (0..self.num_voxels()).step_by(TASK).map(move |start| (n, start))).collect()
    }

    /// Calls `function(first voxel, labels, probabilities of the block, log of the probabilities' denominators)` for each
    /// block of a task. Probabilities are `[C][BLOCK]`.
    fn for_each_block(
        &self,
        n: usize,
        start: usize,
        mut function: impl FnMut(usize, &[u8], &mut [f32], &[f32; BLOCK]),
    ) {
        let num_voxels = self.num_voxels();
        let mut probabilities = vec![0.0; self.num_classes * BLOCK];
        for at in (start..num_voxels.min(start + TASK)).step_by(BLOCK) {
            let len = BLOCK.min(num_voxels - at);
            let row = |class: usize| &self.logits[(n * self.num_classes + class) * num_voxels + at..][..len];
            let mut largest = [f32::NEG_INFINITY; BLOCK];
            for class in 0..self.num_classes {
                largest.iter_mut().zip(row(class)).for_each(|(largest, &logit)| *largest = largest.max(logit));
            }
            let mut sums = [0.0_f32; BLOCK];
            for (class, probabilities) in probabilities.chunks_exact_mut(BLOCK).enumerate() {
                let places = probabilities.iter_mut().zip(&mut sums).zip(&largest);
                for (((p, sum), &largest), &logit) in places.zip(row(class)) {
                    *p = exp_of_negative(logit - largest);
                    *sum += *p;
                }
            }
            let mut logs = [0.0; BLOCK];
            for ((log, &sum), &largest) in logs.iter_mut().zip(&sums).zip(&largest).take(len) {
                *log = largest + sum.ln();
            }
            let scales = sums.map(|sum| 1.0 / sum);
            for probabilities in probabilities.chunks_exact_mut(BLOCK) {
                probabilities[..len].iter_mut().zip(&scales).for_each(|(p, scale)| *p *= scale);
            }
            function(at, &self.labels[n * num_voxels + at..][..len], &mut probabilities, &logs);
        }
    }

    fn sums(&self, n: usize, start: usize) -> Sums {
        let num_voxels = self.num_voxels();
        let mut sums = Sums {
            intersections: vec![0.0; self.num_classes],
            denominators: vec![0.0; self.num_classes],
            log_likelihood: 0.0,
            num_counted: 0,
        };
        self.for_each_block(n, start, |at, labels, probabilities, logs| {
            let counts: [f32; BLOCK] =
                std::array::from_fn(|voxel| f32::from(labels.get(voxel).is_some_and(|&l| Some(l) != self.ignore)));
            for (denominator, probabilities) in sums.denominators.iter_mut().zip(probabilities.chunks_exact(BLOCK)) {
                let mut lanes = [0.0_f32; 8];
                for (p, counts) in probabilities[..labels.len()].chunks(8).zip(counts.chunks(8)) {
                    for ((lane, &p), &count) in lanes.iter_mut().zip(p).zip(counts) {
                        *lane += p * p * count;
                    }
                }
                *denominator += f64::from(lanes.iter().sum::<f32>());
            }
            for (voxel, &label) in labels.iter().enumerate() {
                if Some(label) == self.ignore {
                    continue;
                }
                let class = usize::from(label);
                sums.intersections[class] += f64::from(probabilities[class * BLOCK + voxel]);
                sums.denominators[class] += 1.0;
                let logit = self.logits[(n * self.num_classes + class) * num_voxels + at + voxel];
                sums.log_likelihood += f64::from(logit - logs[voxel]);
                sums.num_counted += 1;
            }
        });
        sums
    }
}

/// Computes the Dice loss and the cross entropy.
///
/// # Panics
/// If the lengths do not fit the numbers of cases and classes, or a label is neither a class nor the ignore label.
#[must_use]
pub fn dice_ce(labelled: Labelled<'_>) -> Terms {
    labelled.check();
    let Labelled { batch, num_classes, smooth, .. } = labelled;
    let tasks = labelled.tasks();
    let sums: Vec<Sums> = tasks.par_iter().map(|&(n, start)| labelled.sums(n, start)).collect();
    let mut intersections = vec![0.0; batch * num_classes];
    let mut denominators = vec![smooth; batch * num_classes];
    let (mut log_likelihood, mut num_counted) = (0.0, 0);
    for (&(n, _), sums) in tasks.iter().zip(&sums) {
        let classes = n * num_classes..(n + 1) * num_classes;
        intersections[classes.clone()].iter_mut().zip(&sums.intersections).for_each(|(all, part)| *all += part);
        denominators[classes].iter_mut().zip(&sums.denominators).for_each(|(all, part)| *all += part);
        log_likelihood += sums.log_likelihood;
        num_counted += sums.num_counted;
    }
    let losses = intersections.iter().zip(&denominators).map(|(i, d)| 1.0 - 2.0 * i / d);
    let num_counted = num_counted.max(1) as f64;
    Terms {
        dice: (losses.sum::<f64>() / (batch * num_classes).max(1) as f64) as f32,
        cross_entropy: (-log_likelihood / num_counted) as f32,
        intersections,
        denominators,
        num_counted,
    }
}

/// Computes the gradient of the logits, given the gradients of both terms.
///
/// # Panics
/// See [`dice_ce`].
#[must_use]
pub fn dice_ce_gradient(labelled: Labelled<'_>, terms: &Terms, d_dice: f32, d_cross_entropy: f32) -> Vec<f32> {
    labelled.check();
    let Labelled { batch, num_classes, ignore, .. } = labelled;
    let num_voxels = labelled.num_voxels();
    // The gradient of a probability is `of_square · p - of_label · y`.
    let share = f64::from(d_dice) / (batch * num_classes).max(1) as f64;
    let of_label: Vec<f32> = terms.denominators.iter().map(|d| (2.0 * share / d) as f32).collect();
    let both = terms.intersections.iter().zip(&terms.denominators);
    let of_square: Vec<f32> = both.map(|(i, d)| (4.0 * share * i / (d * d)) as f32).collect();
    let of_entropy = (f64::from(d_cross_entropy) / terms.num_counted) as f32;
    let gradient = Blank::new(labelled.logits.len());
    labelled.tasks().into_par_iter().for_each(|(n, start)| {
        let mut part = gradient.part();
        let classes = n * num_classes..(n + 1) * num_classes;
        let (of_label, of_square) = (&of_label[classes.clone()], &of_square[classes]);
        let mut row = [0.0; BLOCK];
        labelled.for_each_block(n, start, |at, labels, probabilities, _| {
            let len = labels.len();
            // Σ p · (gradient of p) over classes.
            let mut along = [0.0_f32; BLOCK];
            for (probabilities, &of_square) in probabilities.chunks_exact(BLOCK).zip(of_square) {
                along.iter_mut().zip(probabilities).for_each(|(along, p)| *along += of_square * p * p);
            }
            for (voxel, &label) in labels.iter().enumerate() {
                if Some(label) != ignore {
                    let class = usize::from(label);
                    along[voxel] -= of_label[class] * probabilities[class * BLOCK + voxel];
                }
            }
            for (class, probabilities) in probabilities.chunks_exact(BLOCK).enumerate() {
                let (of_label, of_square) = (of_label[class], of_square[class]);
                let values = row.iter_mut().zip(probabilities).zip(&along).zip(labels);
                for (((value, &p), &along), &label) in values {
                    let y = f32::from(usize::from(label) == class);
                    let of_dice = p * (of_square * p - of_label * y - along);
                    let of_all = of_dice + of_entropy * (p - y);
                    *value = if Some(label) == ignore { 0.0 } else { of_all };
                }
                #[allow(unsafe_code, reason = "rows of an output that threads share")]
                // SAFETY: tasks are disjoint ranges of a case's voxels, of which each class is written once.
                unsafe {
                    part.write((n * num_classes + class) * num_voxels + at, &row[..len]);
                }
            }
        });
    });
    gradient.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Computes both terms by their definition, in f64.
    fn by_definition(labelled: Labelled<'_>, logits: &[f64]) -> [f64; 2] {
        let Labelled { batch, num_classes, ignore, .. } = labelled;
        let num_voxels = labelled.num_voxels();
        let (mut dice, mut entropy, mut counted) = (0.0, 0.0, 0.0_f64);
        for n in 0..batch {
            let (mut i, mut d) = (vec![0.0; num_classes], vec![labelled.smooth; num_classes]);
            for voxel in 0..num_voxels {
                let label = labelled.labels[n * num_voxels + voxel];
                if Some(label) == ignore {
                    continue;
                }
                let exps: Vec<f64> =
                    (0..num_classes).map(|c| logits[(n * num_classes + c) * num_voxels + voxel].exp()).collect();
                let sum: f64 = exps.iter().sum();
                for (class, e) in exps.iter().enumerate() {
                    d[class] += (e / sum).powi(2);
                }
                let class = usize::from(label);
                i[class] += exps[class] / sum;
                d[class] += 1.0;
                entropy -= (exps[class] / sum).ln();
                counted += 1.0;
            }
            dice += i.iter().zip(&d).map(|(i, d)| 1.0 - 2.0 * i / d).sum::<f64>();
        }
        [dice / (batch * num_classes) as f64, entropy / counted.max(1.0)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn terms_and_gradients_are_the_definition(
            batch in 1_usize..3,
            num_classes in 2_usize..6,
            num_voxels in 1_usize..400,
            ignored in any::<bool>(),
            seed in any::<u32>(),
        ) {
            let value = |at: usize| ((at as f32 + seed as f32 % 977.0) * 0.7).sin() * 4.0;
            let logits: Vec<f32> = (0..batch * num_classes * num_voxels).map(value).collect();
            let ignore = ignored.then_some(num_classes as u8);
            let num_labels = num_classes + usize::from(ignored);
            let labels: Vec<u8> = (0..batch * num_voxels).map(|at| (at * 7 % num_labels) as u8).collect();
            let labelled = Labelled { logits: &logits, labels: &labels, batch, num_classes, ignore, smooth: 1e-6 };
            let terms = dice_ce(labelled);
            let exact: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
            let want = by_definition(labelled, &exact);
            // Probabilities are right to a few units of 2⁻²⁴, and the terms are means of them and of their logarithms.
            for (got, want) in [terms.dice, terms.cross_entropy].into_iter().zip(want) {
                prop_assert!((f64::from(got) - want).abs() < 2e-6 * want.abs().max(1.0), "{got}, expected {want}");
            }
            let gradient = dice_ce_gradient(labelled, &terms, 0.7, -1.3);
            for at in (0..logits.len()).step_by(logits.len() / 8 + 1) {
                let moved = |distance: f64| {
                    let mut moved = exact.clone();
                    moved[at] += distance;
                    let [dice, entropy] = by_definition(labelled, &moved);
                    0.7 * dice - 1.3 * entropy
                };
                let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                // The difference quotient is right to about 1e-9; gradients have a few roundings.
                let error = (f64::from(gradient[at]) - want).abs();
                prop_assert!(error < 2e-6 * want.abs() + 1e-7, "{}, expected {want}", gradient[at]);
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let logits: Vec<f32> = (0..2 * 3 * 40_000).map(|at| (at as f32 * 0.37).sin()).collect();
        let labels: Vec<u8> = (0..2 * 40_000).map(|at: u32| (at % 3) as u8).collect();
        let labelled =
            Labelled { logits: &logits, labels: &labels, batch: 2, num_classes: 3, ignore: None, smooth: 1e-6 };
        let [one, five] = [1, 5].map(|num_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            pool.install(|| {
                let terms = dice_ce(labelled);
                let gradient = dice_ce_gradient(labelled, &terms, 1.0, 1.0);
                (terms, gradient)
            })
        });
        assert!(one == five);
    }

    #[test]
    fn a_logit_that_is_not_a_number_makes_the_loss_one() {
        for bad in [f32::NAN, f32::INFINITY] {
            let logits = [0.0, bad, 0.0, 0.0];
            let labelled =
                Labelled { logits: &logits, labels: &[0, 1], batch: 1, num_classes: 2, ignore: None, smooth: 1e-6 };
            let terms = dice_ce(labelled);
            assert!(terms.dice.is_nan() && terms.cross_entropy.is_nan());
        }
    }
}
