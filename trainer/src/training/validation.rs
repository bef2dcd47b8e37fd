//! Scores of a validation, gathered case by case.

use serde::{Deserialize, Serialize};

use crate::metric::dice::{mean_dice, mean_dice_of_class, mean_fg_dice};

/// Dice of one validation case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseScores {
    /// Position of the case among the validation cases.
    pub case: usize,
    /// Dice of each class, background first; absent for a class that the case lacks.
    pub dice_per_class: Vec<Option<f64>>,
}

impl CaseScores {
    /// Creates the scores of a case from Dice values with NaN for each class that it lacks.
    #[must_use]
    pub fn new(case: usize, dice: &[f64]) -> Self {
        Self { case, dice_per_class: dice.iter().map(|&dice| (!dice.is_nan()).then_some(dice)).collect() }
    }
}

/// Results of a validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Mean Dice over cases and classes, background included.
    pub mean_dice: f64,
    /// Mean Dice over cases and classes, without background.
    pub mean_fg_dice: f64,
    /// Mean Dice over cases for each class, background first; absent for a class that occurs in no case.
    pub dice_per_class: Vec<Option<f64>>,
    /// Number of cases predicted.
    pub num_cases: usize,
}

impl Scores {
    /// Averages over cases, in the order of the cases, independent of the rank that measured them.
    #[must_use]
    pub fn of(mut cases: Vec<CaseScores>) -> Self {
        cases.sort_by_key(|case| case.case);
        let number = |dice: Option<f64>| dice.unwrap_or(f64::NAN);
        let per_case: Vec<Vec<f64>> =
            cases.into_iter().map(|case| case.dice_per_class.into_iter().map(number).collect()).collect();
        let num_classes = per_case.first().map_or(0, Vec::len);
        let known = |value: f64| (!value.is_nan()).then_some(value);
        Self {
            mean_dice: mean_dice(&per_case),
            mean_fg_dice: mean_fg_dice(&per_case),
            dice_per_class: (0..num_classes).map(|class| known(mean_dice_of_class(&per_case, class))).collect(),
            num_cases: per_case.len(),
        }
    }

    /// Returns true if the validation is better than the best one so far, whose mean Dice is `best`. The mean has the
    /// background in it, as in the recipe and in the reference.
    ///
    /// Without any foreground in the cases it is never better: the Dice of the background alone is highest if the
    /// network predicts nothing.
    #[must_use]
    pub fn is_better_than(&self, best: Option<f64>) -> bool {
        self.mean_fg_dice.is_finite() && best.is_none_or(|best| self.mean_dice > best)
    }
}

/// Returns true if a validation follows `step`: every `every` steps and after the last one, `end_step`; never if `every` is
/// absent. All ranks decide by it, because they wait for each other's scores.
pub(super) fn is_due(every: Option<u64>, step: u64, end_step: u64) -> bool {
    every.is_some_and(|every| step == end_step || (every > 0 && step.is_multiple_of(every)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validations_follow_every_so_many_steps_and_the_last_one() {
        let due = |every: Option<u64>| (1..=7).filter(|&step| is_due(every, step, 7)).collect::<Vec<u64>>();
        assert_eq!(due(Some(3)), [3, 6, 7]);
        assert_eq!(due(Some(7)), [7]);
        assert_eq!(due(Some(0)), [7]);
        assert!(due(None).is_empty());
    }

    #[test]
    fn scores_do_not_depend_on_the_order_of_arrival() {
        let cases = [[0.9, 0.1], [0.8, f64::NAN], [0.7, 0.3]];
        let scores = |order: [usize; 3]| Scores::of(order.map(|case| CaseScores::new(case, &cases[case])).to_vec());
        let ordered = scores([0, 1, 2]);
        assert_eq!(scores([2, 0, 1]), ordered);
        assert_eq!(ordered.num_cases, 3);
        assert!((ordered.dice_per_class[1].unwrap() - 0.2).abs() < 1e-12, "{ordered:?}");
    }

    #[test]
    fn validation_without_foreground_is_never_the_best() {
        let scores = |dice: [f64; 2]| Scores::of(vec![CaseScores::new(0, &dice)]);
        let measured = scores([0.9, 0.1]);
        assert!(measured.is_better_than(None) && measured.is_better_than(Some(0.4)));
        assert!(!measured.is_better_than(Some(0.6)));
        for dice in [[1.0, f64::NAN], [f64::NAN; 2]] {
            let unmeasured = scores(dice);
            assert!(!unmeasured.is_better_than(None) && !unmeasured.is_better_than(Some(0.4)), "{dice:?}");
        }
    }
}
