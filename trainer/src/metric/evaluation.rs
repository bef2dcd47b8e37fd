//! The figures of a set of predictions: class by class and case by case, as CSV and as a table.
//!
//! Dice covers all classes, the background too; surface figures leave the background out, whose surface is that of
//! everything else. What was not measured (see [`super::dice`] and [`super::surface`]) is an empty field.

use std::fmt::Write as _;

use super::dice::dice_per_class;
use super::surface::surface_metrics;
use super::{LabelMap, MetricError, nan_mean};

/// The figures of one class in one case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassMetrics {
    /// Dice, in [0, 1]; NaN if the label lacks the class.
    pub dice: f64,
    /// Surface Dice at the evaluation's tolerance, in [0, 1]; NaN for the background and if both maps lack the class.
    pub surface_dice: f64,
    /// 95th percentile Hausdorff distance, mm; infinite if one map lacks the class, NaN as for the surface Dice.
    pub hd95_mm: f64,
}

/// The figures of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseMetrics {
    /// Which case.
    pub case_id: String,
    /// By class, background first.
    pub classes: Vec<ClassMetrics>,
}

/// Compares one prediction with its label.
///
/// # Errors
/// If the grids differ in size, a class is `num_classes` or more, or the tolerance is no distance.
pub fn evaluate_case(
    case_id: &str,
    label: &LabelMap<'_>,
    pred: &LabelMap<'_>,
    num_classes: usize,
    tolerance_mm: f64,
) -> Result<CaseMetrics, MetricError> {
    let mut in_either = [false; 256];
    for &class in label.voxels().iter().chain(pred.voxels()) {
        in_either[usize::from(class)] = true;
    }
    let dice = dice_per_class(label, pred, num_classes)?;
    let classes = (0..=u8::MAX).zip(dice).map(|(class, dice)| {
        let nothing = ClassMetrics { dice, surface_dice: f64::NAN, hd95_mm: f64::NAN };
        if class == 0 || !in_either[usize::from(class)] {
            return Ok(nothing);
        }
        let surface = surface_metrics(label, pred, class, tolerance_mm)?;
        Ok(ClassMetrics { surface_dice: surface.surface_dice, hd95_mm: surface.hd95_mm, ..nothing })
    });
    Ok(CaseMetrics { case_id: case_id.to_owned(), classes: classes.collect::<Result<_, _>>()? })
}

/// The figures of all cases.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Names of the classes, background first; as many as every case has.
    pub class_names: Vec<String>,
    /// Tolerance of the surface Dice, mm.
    pub tolerance_mm: f64,
    /// In the order in which they were evaluated.
    pub cases: Vec<CaseMetrics>,
}

impl Evaluation {
    /// Mean over cases of each case's mean Dice over the foreground classes it has; NaN if there is none.
    #[must_use]
    pub fn mean_fg_dice(&self) -> f64 {
        nan_mean(self.cases.iter().map(|case| nan_mean(case.classes.iter().skip(1).map(|class| class.dice))))
    }

    /// One line a case and class: `case_id,class,name,dice,surface_dice,hd95_mm`, with a header line.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut csv = String::from("case_id,class,name,dice,surface_dice,hd95_mm\n");
        for case in &self.cases {
            for (class, (metrics, name)) in case.classes.iter().zip(&self.class_names).enumerate() {
                let figures = [metrics.dice, metrics.surface_dice, metrics.hd95_mm].map(number);
                let line = format!("{},{class},{},{}\n", quoted(&case.case_id), quoted(name), figures.join(","));
                csv.push_str(&line);
            }
        }
        csv
    }

    /// Means over cases by class, for people.
    ///
    /// The mean HD95 is over the cases where both maps have the class; `missed` counts those where only one has it.
    #[must_use]
    pub fn to_table(&self) -> String {
        let width = self.class_names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("class".len());
        let surface = format!("surface Dice {} mm", self.tolerance_mm);
        let mut table = format!("{:width$}  cases    Dice  {surface}  HD95 mm  missed\n", "class");
        for (class, name) in self.class_names.iter().enumerate() {
            let of = |figure: fn(&ClassMetrics) -> f64| -> Vec<f64> {
                self.cases.iter().filter_map(|case| case.classes.get(class)).map(figure).collect()
            };
            let (dice, hd95) = (of(|m| m.dice), of(|m| m.hd95_mm));
            let num_cases = dice.iter().filter(|value| !value.is_nan()).count();
            let num_missed = hd95.iter().filter(|value| value.is_infinite()).count();
            let mean_hd95 = nan_mean(hd95.into_iter().filter(|value| value.is_finite()));
            let padded = format!("{:>1$}", cell(nan_mean(of(|m| m.surface_dice)), 4), surface.len());
            let (dice, hd95) = (cell(nan_mean(dice), 4), cell(mean_hd95, 2));
            let _ = writeln!(table, "{name:width$}  {num_cases:5}  {dice:>6}  {padded}  {hd95:>7}  {num_missed:6}");
        }
        let _ = writeln!(table, "{:width$}  {:5}  {:>6}", "mean fg", self.cases.len(), cell(self.mean_fg_dice(), 4));
        table
    }
}

/// A figure of the CSV: all digits, `inf`, or nothing.
fn number(value: f64) -> String {
    if value.is_nan() { String::new() } else { value.to_string() }
}

/// A figure of the table.
fn cell(value: f64, digits: usize) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.digits$}") }
}

/// A CSV field, in quotes where its characters need them (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(voxels: &[u8]) -> LabelMap<'_> {
        LabelMap::new(voxels, [1, 1, voxels.len()], [1.0, 1.0, 2.0]).unwrap()
    }

    fn evaluation() -> Evaluation {
        let names = ["background", "liver, whole", "spleen"];
        let case = |id: &str, label: &[u8], pred: &[u8]| evaluate_case(id, &map(label), &map(pred), 3, 1.0).unwrap();
        Evaluation {
            class_names: names.map(str::to_owned).to_vec(),
            tolerance_mm: 1.0,
            cases: vec![case("a", &[0, 1, 1, 0], &[0, 1, 1, 0]), case("b", &[0, 1, 0, 2], &[0, 0, 1, 0])],
        }
    }

    #[test]
    fn every_case_and_class_is_a_line() {
        let csv = evaluation().to_csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 1 + 2 * 3);
        assert_eq!(lines[1], "a,0,background,1,,");
        assert_eq!(lines[2], "a,1,\"liver, whole\",1,1,0");
        assert_eq!(lines[3], "a,2,spleen,,,");
        assert_eq!(lines[5], "b,1,\"liver, whole\",0,0,2");
        assert_eq!(lines[6], "b,2,spleen,0,0,inf");
    }

    #[test]
    fn the_table_has_means_and_counts_what_was_missed() {
        let table = evaluation().to_table();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["liver,", "whole", "2", "0.5000", "0.5000", "1.00", "0"]);
        assert_eq!(lines[3], ["spleen", "1", "0.0000", "0.0000", "-", "1"]);
        assert!((evaluation().mean_fg_dice() - 0.5).abs() < 1e-12);
    }
}
