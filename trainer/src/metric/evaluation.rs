//! Metrics of a set of predictions by class and case, as CSV and as a table.
//!
//! Dice covers all classes, the background too; surface metrics leave the background out, whose surface is that of
//! everything else. A metric that was not measured (see [`super::dice`] and [`super::surface`]) is an empty field.
//! Voxels with the ignore label count as background in both maps for the surface metrics and not at all for Dice.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::dice::dice_per_class;
use super::surface::{SurfaceMetrics, surface_metrics};
use super::{LabelMap, MetricError, nan_mean};
use crate::label_space::LabelSpace;

/// Metrics of one class in one case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassMetrics {
    /// Dice, in [0, 1]; NaN if the label lacks the class.
    pub dice: f64,
    /// Surface Dice at the evaluation's tolerance, in [0, 1]; NaN for the background and if both maps lack the class.
    pub surface_dice: f64,
    /// 95th percentile Hausdorff distance, mm; infinite if one map lacks the class, NaN for the background and if both
    /// do.
    pub hd95_mm: f64,
    /// Average symmetric surface distance, mm; infinite and NaN as the Hausdorff distance.
    pub assd_mm: f64,
    /// Volume of the prediction less that of the label, ml; NaN for the background and if both maps lack the class.
    pub volume_diff_ml: f64,
}

impl ClassMetrics {
    /// Metrics without those that leave the background out.
    fn without_surface(dice: f64) -> Self {
        Self { dice, surface_dice: f64::NAN, hd95_mm: f64::NAN, assd_mm: f64::NAN, volume_diff_ml: f64::NAN }
    }
}

/// Metrics of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseMetrics {
    /// Name of the case.
    pub case_id: String,
    /// Metrics by class, background first.
    pub classes: Vec<ClassMetrics>,
}

/// Compares one prediction with its label.
///
/// # Errors
/// If the grids differ in size, a label is out of range (see [`dice_per_class`]), or the tolerance is negative or not
/// finite.
pub fn evaluate_case(
    case_id: &str,
    label: &LabelMap<'_>,
    pred: &LabelMap<'_>,
    space: LabelSpace,
    tolerance_mm: f64,
) -> Result<CaseMetrics, MetricError> {
    let dice = dice_per_class(label, pred, space)?;
    let (label_voxels, pred_voxels) = without_ignored(label.voxels(), pred.voxels(), space);
    let label = LabelMap::new(&label_voxels, label.dims(), label.spacing_mm())?;
    let pred = LabelMap::new(&pred_voxels, pred.dims(), pred.spacing_mm())?;
    let counts = |map: &LabelMap<'_>| {
        let mut counts = [0_u64; 256];
        for &class in map.voxels() {
            counts[usize::from(class)] += 1;
        }
        counts
    };
    let (in_label, in_pred) = (counts(&label), counts(&pred));
    let voxel_ml = label.spacing_mm().iter().product::<f64>() / 1000.0;
    let classes = (0..=u8::MAX).zip(dice).map(|(class, dice)| {
        let (label_voxels, pred_voxels) = (in_label[usize::from(class)], in_pred[usize::from(class)]);
        if class == 0 || label_voxels + pred_voxels == 0 {
            return Ok(ClassMetrics::without_surface(dice));
        }
        let SurfaceMetrics { surface_dice, hd95_mm, assd_mm } = surface_metrics(&label, &pred, class, tolerance_mm)?;
        let volume_diff_ml = (pred_voxels as f64 - label_voxels as f64) * voxel_ml;
        Ok(ClassMetrics { dice, surface_dice, hd95_mm, assd_mm, volume_diff_ml })
    });
    Ok(CaseMetrics { case_id: case_id.to_owned(), classes: classes.collect::<Result<_, _>>()? })
}

/// Ignore label of a map of one region: 0 is outside of the region, 1 inside.
const IGNORED: u8 = 2;

/// Labels that are scored as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Name of the region.
    pub name: String,
    /// Labels that it unites.
    pub labels: Vec<u8>,
}

/// Compares one prediction with its label by regions, which may overlap, as nnU-Net does: a region is what any of its
/// labels is. The first region is the background; its surface is not measured.
///
/// # Errors
/// As [`evaluate_case`]; `space` has the labels, not the regions.
pub fn evaluate_regions(
    case_id: &str,
    label: &LabelMap<'_>,
    pred: &LabelMap<'_>,
    space: LabelSpace,
    regions: &[Region],
    tolerance_mm: f64,
) -> Result<CaseMetrics, MetricError> {
    // Labels out of range are errors, not parts of no region.
    dice_per_class(label, pred, space)?;
    let of_region = LabelSpace::new(2).with_ignore(space.ignore().map(|_| IGNORED));
    let mut classes = Vec::with_capacity(regions.len());
    for (number, region) in regions.iter().enumerate() {
        let is_in = |value: u8| u8::from(region.labels.contains(&value));
        let to_ignore = |value: u8| Some(value) == space.ignore();
        let truth = |&value: &u8| if to_ignore(value) { IGNORED } else { is_in(value) };
        let truth: Vec<u8> = label.voxels().iter().map(truth).collect();
        let guess: Vec<u8> = pred.voxels().iter().map(|&value| is_in(value)).collect();
        let truth = LabelMap::new(&truth, label.dims(), label.spacing_mm())?;
        let guess = LabelMap::new(&guess, pred.dims(), pred.spacing_mm())?;
        let measured = evaluate_case(case_id, &truth, &guess, of_region, tolerance_mm)?.classes[1];
        classes.push(if number == 0 { ClassMetrics::without_surface(measured.dice) } else { measured });
    }
    Ok(CaseMetrics { case_id: case_id.to_owned(), classes })
}

/// Both maps with background where the label is the ignore label.
fn without_ignored<'a>(label: &'a [u8], pred: &'a [u8], space: LabelSpace) -> (Cow<'a, [u8]>, Cow<'a, [u8]>) {
    let Some(ignore) = space.ignore().filter(|ignore| label.contains(ignore)) else {
        return (label.into(), pred.into());
    };
    let pairs = label.iter().zip(pred).map(|(&l, &p)| if l == ignore { (0, 0) } else { (l, p) });
    let (label, pred): (Vec<u8>, Vec<u8>) = pairs.unzip();
    (label.into(), pred.into())
}

/// Metrics of all cases.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Names of the classes, background first; as many as each case has metrics.
    pub class_names: Vec<String>,
    /// Tolerance of the surface Dice, mm.
    pub tolerance_mm: f64,
    /// Cases in the order in which they were evaluated.
    pub cases: Vec<CaseMetrics>,
}

impl Evaluation {
    /// Mean over cases of each case's mean Dice over the foreground classes it has; NaN if no case has any.
    #[must_use]
    pub fn mean_fg_dice(&self) -> f64 {
        nan_mean(self.cases.iter().map(|case| nan_mean(case.classes.iter().skip(1).map(|class| class.dice))))
    }

    /// CSV with one line per case and class: `case_id,class,name,dice,surface_dice,hd95_mm,assd_mm,volume_diff_ml`, after a header line.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut csv = String::from("case_id,class,name,dice,surface_dice,hd95_mm,assd_mm,volume_diff_ml\n");
        for case in &self.cases {
            for (class, (metrics, name)) in case.classes.iter().zip(&self.class_names).enumerate() {
                let ClassMetrics { dice, surface_dice, hd95_mm, assd_mm, volume_diff_ml } = *metrics;
                let figures = [dice, surface_dice, hd95_mm, assd_mm, volume_diff_ml].map(number);
                let line = format!("{},{class},{},{}\n", quoted(&case.case_id), quoted(name), figures.join(","));
                csv.push_str(&line);
            }
        }
        csv
    }

    /// JSON with the same figures. One that was not measured is `null`; so are the distances of a class that one of the
    /// two maps lacks, which is `missed`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let class = |metrics: &ClassMetrics| {
            serde_json::json!({
                "dice": finite(metrics.dice),
                "surface_dice": finite(metrics.surface_dice),
                "hd95_mm": finite(metrics.hd95_mm),
                "assd_mm": finite(metrics.assd_mm),
                "volume_diff_ml": finite(metrics.volume_diff_ml),
                "missed": metrics.hd95_mm.is_infinite(),
            })
        };
        let case = |case: &CaseMetrics| {
            let classes: Vec<serde_json::Value> = case.classes.iter().map(class).collect();
            serde_json::json!({ "case_id": case.case_id, "classes": classes })
        };
        serde_json::json!({
            "tolerance_mm": self.tolerance_mm,
            "mean_fg_dice": finite(self.mean_fg_dice()),
            "classes": self.class_names,
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
        })
    }

    /// Means over cases by class, as aligned text.
    ///
    /// The mean HD95 is over the cases where both maps have the class; `missed` counts those where only one has it.
    #[must_use]
    pub fn to_table(&self) -> String {
        let width = self.class_names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("class".len());
        let surface = format!("surface Dice {} mm", self.tolerance_mm);
        let mut table = format!("{:width$}  cases    Dice  {surface}  HD95 mm  missed\n", "class");
        for (class, name) in self.class_names.iter().enumerate() {
            let of = |metric: fn(&ClassMetrics) -> f64| -> Vec<f64> {
                self.cases.iter().filter_map(|case| case.classes.get(class)).map(metric).collect()
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

/// A value for JSON, which has no other numbers.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// A value for the CSV: all digits, `inf`, or empty for NaN.
fn number(value: f64) -> String {
    if value.is_nan() { String::new() } else { value.to_string() }
}

/// A value for the table: rounded, or `-` for NaN.
fn cell(value: f64, digits: usize) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.digits$}") }
}

/// A CSV field, quoted where its characters require it (RFC 4180).
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
        let space = LabelSpace::new(3);
        let case =
            |id: &str, label: &[u8], pred: &[u8]| evaluate_case(id, &map(label), &map(pred), space, 1.0).unwrap();
        Evaluation {
            class_names: names.map(str::to_owned).to_vec(),
            tolerance_mm: 1.0,
            cases: vec![case("a", &[0, 1, 1, 0], &[0, 1, 1, 0]), case("b", &[0, 1, 0, 2], &[0, 0, 1, 0])],
        }
    }

    #[test]
    fn csv_has_a_line_for_every_case_and_class() {
        let csv = evaluation().to_csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 1 + 2 * 3);
        assert_eq!(lines[1], "a,0,background,1,,,,");
        assert_eq!(lines[2], "a,1,\"liver, whole\",1,1,0,0,0");
        assert_eq!(lines[3], "a,2,spleen,,,,,");
        assert_eq!(lines[5], "b,1,\"liver, whole\",0,0,2,2,0");
        // One voxel of 2 mm³ is missed.
        assert_eq!(lines[6], "b,2,spleen,0,0,inf,inf,-0.002");
    }

    #[test]
    fn json_has_null_where_nothing_was_measured() {
        let json = evaluation().to_json();
        assert_eq!(json["classes"], serde_json::json!(["background", "liver, whole", "spleen"]));
        assert_eq!((&json["mean_fg_dice"], &json["tolerance_mm"]), (&0.5.into(), &1.0.into()));
        let class = |case: usize, class: usize| json["cases"][case]["classes"][class].clone();
        let expected = serde_json::json!({
            "dice": 0.0, "surface_dice": 0.0, "hd95_mm": null, "assd_mm": null, "volume_diff_ml": -0.002, "missed": true
        });
        assert_eq!(class(1, 2), expected);
        assert_eq!((&class(0, 2)["dice"], &class(0, 2)["missed"]), (&serde_json::Value::Null, &false.into()));
        assert_eq!(class(0, 1)["hd95_mm"], serde_json::json!(0.0));
    }

    #[test]
    fn table_has_means_and_counts_missed_classes() {
        let table = evaluation().to_table();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["liver,", "whole", "2", "0.5000", "0.5000", "1.00", "0"]);
        assert_eq!(lines[3], ["spleen", "1", "0.0000", "0.0000", "-", "1"]);
        assert!((evaluation().mean_fg_dice() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn regions_unite_their_labels() {
        let region = |name: &str, labels: &[u8]| Region { name: name.to_owned(), labels: labels.to_vec() };
        let regions = [region("background", &[0]), region("core", &[2]), region("whole", &[1, 2])];
        let space = LabelSpace::new(3).with_ignore(Some(3));
        let (label, pred) = ([0, 1, 2, 2, 3, 0], [0, 2, 2, 1, 2, 1]);
        let case = evaluate_regions("a", &map(&label), &map(&pred), space, &regions, 1.0).unwrap();
        let dice: Vec<f64> = case.classes.iter().map(|class| class.dice).collect();
        // Without the ignored voxel: core 1 of 2 and 2, whole 3 of 3 and 4, background 1 of 2 and 1.
        let expected = [2.0 / 3.0, 0.5, 6.0 / 7.0];
        assert!(dice.iter().zip(expected).all(|(got, want)| (got - want).abs() < 1e-12), "{dice:?}");
        assert!(case.classes[0].hd95_mm.is_nan() && case.classes[2].hd95_mm.is_finite());
        let error = evaluate_regions("a", &map(&[0, 4]), &map(&[0, 0]), space, &regions, 1.0).unwrap_err();
        assert!(error.to_string().contains("label 4 is out of range"), "{error}");
    }

    #[test]
    fn ignored_voxels_count_for_no_metric() {
        let space = LabelSpace::new(3).with_ignore(Some(7));
        let with = evaluate_case("a", &map(&[0, 1, 1, 7, 7]), &map(&[0, 1, 0, 2, 1]), space, 1.0).unwrap();
        // Class 2 is predicted at an ignored voxel only, so neither map has it.
        let without = evaluate_case("a", &map(&[0, 1, 1, 0, 0]), &map(&[0, 1, 0, 0, 0]), space, 1.0).unwrap();
        for class in [1, 2] {
            let (with, without) = (with.classes[class], without.classes[class]);
            let values = |m: ClassMetrics| [m.dice, m.surface_dice, m.hd95_mm].map(f64::to_bits);
            assert_eq!(values(with), values(without), "class {class}: {with:?} and {without:?}");
        }
        assert!((with.classes[0].dice - 2.0 / 3.0).abs() < 1e-12, "{:?}", with.classes[0]);
    }
}
