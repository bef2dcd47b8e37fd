//! Results as files: `runs.csv`, `summary.json`, `summary.md` and `learning.png`.

use std::fmt::Write as _;
use std::path::Path;

use hiend_cache::durable;
use serde::Serialize;

use super::arm_result::{ArmResult, Spread};
use super::phantom::CLASSES;
use super::probe::ProbeScore;
use super::runs::{Arm, FinetuneResult, Losses};
use super::{chart, probe};

/// Everything that `summary.json` holds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Number of runs per arm.
    pub seeds: usize,
    /// Optimizer steps of a run.
    pub steps: u64,
    /// Results of the arms: from pre-training, from scratch.
    pub arms: [ArmResult; 2],
    /// Difference of both arms after the last step, seed by seed.
    pub difference: Spread,
    /// Number of seeds for which pre-training is better after the last step.
    pub num_better: usize,
    /// First validated step at which the mean from pre-training reaches the final mean from scratch.
    pub caught_up_after: Option<u64>,
    /// Mean reconstruction loss of the first and last steps of pre-training.
    pub pretraining_loss: [f64; 2],
    /// Scores of the linear probe.
    pub probe: Vec<ProbeScore>,
}

impl Report {
    /// Summarises runs; there is at least one per arm, and all have the same validated steps.
    pub(super) fn new(results: &[FinetuneResult], probe: Vec<ProbeScore>, losses: Losses) -> Self {
        let arms = Arm::ALL.map(|arm| ArmResult::of(arm, results));
        let [pretrained, scratch] = arms.each_ref().map(|arm| arm.curve.last().expect("the end of a run is validated"));
        let differences: Vec<f64> = pretrained.by_seed.iter().zip(&scratch.by_seed).map(|(a, b)| a - b).collect();
        let caught_up = arms[0].curve.iter().find(|point| point.dice.mean >= scratch.dice.mean);
        Self {
            seeds: differences.len(),
            steps: scratch.step,
            difference: Spread::of(&differences),
            num_better: differences.iter().filter(|&&difference| difference > 0.0).count(),
            caught_up_after: caught_up.map(|point| point.step),
            pretraining_loss: [losses.first, losses.last],
            probe,
            arms,
        }
    }

    /// Writes all files to `out`.
    ///
    /// # Errors
    /// If a file cannot be written or the chart cannot be drawn.
    pub(super) fn write(&self, out: &Path, results: &[FinetuneResult]) -> anyhow::Result<()> {
        durable::write(&out.join("runs.csv"), csv(results).as_bytes())?;
        durable::write(&out.join("summary.json"), format!("{}\n", serde_json::to_string_pretty(self)?).as_bytes())?;
        durable::write(&out.join("summary.md"), self.markdown().as_bytes())?;
        chart::draw(&out.join("learning.png"), &self.arms)?;
        println!("written to {}: learning.png, summary.md, summary.json, runs.csv", out.display());
        Ok(())
    }

    /// Tables for a README.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        let [pretrained, scratch] = &self.arms;
        let spread = |Spread { mean, deviation }| format!("{mean:.3} ± {deviation:.3}");
        let cell = |value: Option<Spread>| value.map_or_else(|| "not measured".into(), spread);
        let mut row = |cells: [&str; 3]| writeln!(text, "| {} |", cells.join(" | ")).expect("strings take all text");
        row(["foreground Dice, mean ± SD over seeds", pretrained.arm, scratch.arm]);
        row(["---", "---", "---"]);
        for (a, b) in pretrained.curve.iter().zip(&scratch.curve) {
            row([&format!("after {} steps", a.step), &spread(a.dice), &spread(b.dice)]);
        }
        for (class, name) in CLASSES.iter().enumerate().skip(1) {
            let [a, b] = [pretrained, scratch].map(|arm| cell(arm.by_class.get(class).copied().flatten()));
            row([&format!("{name}, after {} steps", self.steps), &a, &b]);
        }
        let caught_up = match self.caught_up_after {
            Some(step) => format!("after {step} steps"),
            None => "not".into(),
        };
        let [first, last] = self.pretraining_loss;
        write!(
            text,
            "\nDifference after {} steps, seed by seed: {:+.3} ± {:.3}; better with pre-training for {} of {} seeds. The mean \
             from pre-training reaches the final one from scratch {caught_up}. Loss of pre-training: {first:.3} at its \
             beginning, {last:.3} at its end.\n\n",
            self.steps, self.difference.mean, self.difference.deviation, self.num_better, self.seeds
        )
        .expect("strings take all text");
        let [few, many] = probe::NUM_CASES;
        write!(
            text,
            "| linear probe of frozen features, balanced accuracy | features per patch | {few} training cases | {many} \
             training cases |\n|---|---|---|---|\n"
        )
        .expect("strings take all text");
        for score in &self.probe {
            let ProbeScore { features, width, balanced_accuracy: [few, many], .. } = score;
            writeln!(text, "| {features} | {width} | {few:.3} | {many:.3} |").expect("strings take all text");
        }
        text
    }
}

/// One line per validation of a run.
fn csv(results: &[FinetuneResult]) -> String {
    let mut text = format!("arm,seed,step,foreground_dice,{}\n", CLASSES.join(","));
    for FinetuneResult { arm, seed, validations } in results {
        for record in validations {
            let classes =
                record.dice_per_class.iter().map(|dice| dice.map_or(String::new(), |dice| format!("{dice:.5}")));
            let classes = classes.collect::<Vec<_>>().join(",");
            writeln!(text, "{},{seed},{},{:.5},{classes}", arm.name(), record.step, record.mean_fg_dice)
                .expect("strings take all text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hiend_trainer::journal::ValidationRecord;

    fn result(arm: Arm, seed: u64, dice: [f64; 2]) -> FinetuneResult {
        let record = |(step, mean_fg_dice): (u64, f64)| ValidationRecord {
            step,
            epoch: 0.0,
            mean_dice: mean_fg_dice,
            mean_fg_dice,
            dice_per_class: vec![Some(mean_fg_dice); CLASSES.len()],
            num_cases: 1,
            best: false,
            secs: 0.0,
        };
        FinetuneResult { arm, seed, validations: [50, 100].into_iter().zip(dice).map(record).collect() }
    }

    #[test]
    fn arms_are_compared_seed_by_seed() {
        let results = [
            result(Arm::Pretrained, 0, [0.5, 0.6]),
            result(Arm::Scratch, 0, [0.1, 0.4]),
            result(Arm::Pretrained, 1, [0.3, 0.5]),
            result(Arm::Scratch, 1, [0.2, 0.6]),
        ];
        let report = Report::new(&results, vec![], Losses { first: 1.0, last: 0.5 });
        assert_eq!((report.seeds, report.steps, report.num_better), (2, 100, 1));
        assert!((report.difference.mean - 0.05).abs() < 1e-12);
        assert!((report.arms[0].curve[1].dice.deviation - 0.005_f64.sqrt()).abs() < 1e-12);
        // 0.4 and 0.55 against 0.5.
        assert_eq!(report.caught_up_after, Some(100));
        assert!(
            report.markdown().contains("| after 100 steps | 0.550 ± 0.071 | 0.500 ± 0.141 |"),
            "{}",
            report.markdown()
        );
        assert_eq!(csv(&results).lines().count(), 9);
    }
}
