//! Metrics of a set of predictions by class and case, as CSV, JSON and a table.
//!
//! Dice covers all classes, background included; surface metrics exclude the background, whose surface is that of all
//! other classes. A metric that was not measured (see [`super::overlap`] and [`super::surface`]) is an empty field.
//! Voxels with the ignore label count as background in both maps for the surface metrics and not at all for Dice.

mod nnunet_summary;
mod table;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::bootstrap::{Bootstrap, Interval};
use super::overlap::{Absent, Overlap, overlaps};
use super::surface::{Surface, SurfaceMetrics, surface_metrics};
use super::{LabelMap, MetricError, nan_mean};
use crate::label_space::LabelSpace;

pub use nnunet_summary::nnunet_summary;
pub(super) use table::{aligned, cell};

/// Choices that determine the meaning of a metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conventions {
    /// Surface and weights of the surface metrics.
    pub surface: Surface,
    /// Tolerances of the surface Dice.
    pub tolerances: Tolerances,
    /// Dice of classes that a label lacks.
    pub absent: Absent,
}

/// Distances in mm within which two surfaces agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Tolerances {
    /// Tolerance of classes without their own, in mm.
    pub default_mm: f64,
    /// Tolerances by class, or by region if regions are scored, in mm.
    pub by_class: BTreeMap<usize, f64>,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self { default_mm: 1.0, by_class: BTreeMap::new() }
    }
}

impl Tolerances {
    /// Tolerance of a class, in mm.
    #[must_use]
    pub fn of(&self, class: usize) -> f64 {
        self.by_class.get(&class).copied().unwrap_or(self.default_mm)
    }
}

/// Metrics of one class in one case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassMetrics {
    /// Numbers of voxels.
    pub overlap: Overlap,
    /// Dice, in [0, 1]; NaN if it is not measured.
    pub dice: f64,
    /// Surface Dice at the class's tolerance, in [0, 1], independent of the convention for Dice: 0 if one map lacks the
    /// class, NaN for the background and if both maps lack it.
    pub surface_dice: f64,
    /// 95th percentile Hausdorff distance, in mm; infinite if one map lacks the class, NaN for the background and if
    /// both maps lack it.
    pub hd95_mm: f64,
    /// Average symmetric surface distance, in mm; infinite or NaN in the same cases as `hd95_mm`.
    pub assd_mm: f64,
    /// Volume of the prediction minus that of the label, in ml; NaN for the background and if both maps lack the class.
    pub volume_diff_ml: f64,
    /// Difference in volume as a percentage of the label's volume; infinite if the label lacks the class.
    pub volume_diff_percent: f64,
}

impl ClassMetrics {
    /// Metrics of the background, whose surface and volume are not measured.
    fn without_surface(overlap: Overlap, absent: Absent) -> Self {
        Self {
            overlap,
            dice: overlap.dice(absent),
            surface_dice: f64::NAN,
            hd95_mm: f64::NAN,
            assd_mm: f64::NAN,
            volume_diff_ml: f64::NAN,
            volume_diff_percent: f64::NAN,
        }
    }

    /// Returns true if the label has the class and the prediction does not. Always false for the background.
    fn is_missed(&self) -> bool {
        self.hd95_mm.is_infinite() && self.overlap.in_label() > 0
    }

    /// Returns true if the prediction has the class and the label does not. Always false for the background.
    fn is_only_predicted(&self) -> bool {
        self.hd95_mm.is_infinite() && self.overlap.in_label() == 0
    }
}

/// Metrics of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseMetrics {
    /// Name of the case.
    pub case_id: String,
    /// Metrics by class number, background first; numbers without a class are included.
    pub classes: Vec<ClassMetrics>,
}

impl CaseMetrics {
    /// Mean Dice over the foreground classes that were measured; NaN if none was.
    #[must_use]
    pub fn mean_fg_dice(&self) -> f64 {
        nan_mean(self.classes.iter().skip(1).map(|class| class.dice))
    }
}

/// Compares one prediction with its label.
///
/// # Errors
/// If the grids differ in size, a label is out of range (see [`overlaps`]), or a tolerance is negative or not finite.
pub fn evaluate_case(
    case_id: &str,
    label: &LabelMap<'_>,
    pred: &LabelMap<'_>,
    space: LabelSpace,
    conventions: &Conventions,
) -> Result<CaseMetrics, MetricError> {
    let overlaps = overlaps(label, pred, space)?;
    let (label_voxels, pred_voxels) = without_ignored(label.voxels(), pred.voxels(), space);
    let label = LabelMap::new(&label_voxels, label.dims(), label.spacing_mm())?;
    let pred = LabelMap::new(&pred_voxels, pred.dims(), pred.spacing_mm())?;
    let classes = (0..=u8::MAX).zip(overlaps).map(|(class, overlap)| {
        if class == 0 || overlap.in_label() + overlap.in_pred() == 0 {
            return Ok(ClassMetrics::without_surface(overlap, conventions.absent));
        }
        let tolerance_mm = conventions.tolerances.of(class.into());
        measure(&label, &pred, class, overlap, tolerance_mm, conventions)
    });
    Ok(CaseMetrics { case_id: case_id.to_owned(), classes: classes.collect::<Result<_, _>>()? })
}

/// Computes all metrics of a class that at least one of the maps has.
fn measure(
    label: &LabelMap<'_>,
    pred: &LabelMap<'_>,
    class: u8,
    overlap: Overlap,
    tolerance_mm: f64,
    conventions: &Conventions,
) -> Result<ClassMetrics, MetricError> {
    let surface = surface_metrics(label, pred, class, tolerance_mm, conventions.surface)?;
    let SurfaceMetrics { surface_dice, hd95_mm, assd_mm } = surface;
    let voxel_ml = label.spacing_mm().iter().product::<f64>() / 1000.0;
    let voxels = overlap.in_pred() as f64 - overlap.in_label() as f64;
    Ok(ClassMetrics {
        overlap,
        dice: overlap.dice(conventions.absent),
        surface_dice,
        hd95_mm,
        assd_mm,
        volume_diff_ml: voxels * voxel_ml,
        volume_diff_percent: 100.0 * voxels / overlap.in_label() as f64,
    })
}

/// Ignore label in the map of a single region, in which 0 is outside the region and 1 inside.
const IGNORED: u8 = 2;

/// Labels that are scored as one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Name of the region.
    pub name: String,
    /// Labels that the region unites.
    pub labels: Vec<u8>,
}

/// Compares one prediction with its label by regions, as nnU-Net does. A region is the union of its labels; regions may
/// overlap. The first region is the background, whose surface is not measured.
///
/// # Errors
/// The errors of [`evaluate_case`]. Labels are compared with `space`, which holds the labels, not the regions.
pub fn evaluate_regions(
    case_id: &str,
    label: &LabelMap<'_>,
    pred: &LabelMap<'_>,
    space: LabelSpace,
    regions: &[Region],
    conventions: &Conventions,
) -> Result<CaseMetrics, MetricError> {
    // Labels out of range are errors, not parts of no region.
    overlaps(label, pred, space)?;
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
        if number == 0 {
            let overlap = overlaps(&truth, &guess, of_region)?[1];
            classes.push(ClassMetrics::without_surface(overlap, conventions.absent));
            continue;
        }
        let tolerances = Tolerances { default_mm: conventions.tolerances.of(number), by_class: BTreeMap::new() };
        let conventions = Conventions { tolerances, ..conventions.clone() };
        classes.push(evaluate_case(case_id, &truth, &guess, of_region, &conventions)?.classes[1]);
    }
    Ok(CaseMetrics { case_id: case_id.to_owned(), classes })
}

/// Replaces voxels by background in both maps where the label is the ignore label.
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
    /// Names of the classes by number, background first. Numbers in between without a class have no entry.
    pub class_names: BTreeMap<usize, String>,
    /// Conventions of the metrics.
    pub conventions: Conventions,
    /// Resampling for the intervals of the means.
    pub bootstrap: Bootstrap,
    /// Cases in the order in which they were evaluated.
    pub cases: Vec<CaseMetrics>,
}

impl Evaluation {
    /// Mean over cases of each case's mean Dice over the foreground classes it has; NaN if no case has any.
    #[must_use]
    pub fn mean_fg_dice(&self) -> f64 {
        nan_mean(self.fg_dice_of_cases())
    }

    /// Mean foreground Dice of each case; NaN for a case in which nothing was measured.
    pub fn fg_dice_of_cases(&self) -> impl Iterator<Item = f64> {
        self.cases.iter().map(CaseMetrics::mean_fg_dice)
    }

    /// A metric of one class in each case.
    pub fn values(&self, class: usize, metric: fn(&ClassMetrics) -> f64) -> impl Iterator<Item = f64> {
        self.cases.iter().map(move |case| case.classes.get(class).map_or(f64::NAN, metric))
    }

    /// Number, name and metrics of each class in a case.
    fn classes_of<'a>(&'a self, case: &'a CaseMetrics) -> impl Iterator<Item = (usize, &'a str, &'a ClassMetrics)> {
        self.class_names.iter().filter_map(move |(&class, name)| Some((class, name.as_str(), case.classes.get(class)?)))
    }

    /// CSV with one line per case and class after a header line. A figure that is `null` in [`Self::to_json`] is an empty
    /// cell.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut csv = String::from(
            "case_id,class,name,dice,surface_dice,hd95_mm,assd_mm,volume_diff_ml,volume_diff_percent,tolerance_mm\n",
        );
        for case in &self.cases {
            for (class, name, m) in self.classes_of(case) {
                let figures =
                    [m.dice, m.surface_dice, m.hd95_mm, m.assd_mm, m.volume_diff_ml, m.volume_diff_percent].map(number);
                let tolerance_mm =
                    if class == 0 { String::new() } else { number(self.conventions.tolerances.of(class)) };
                let (case_id, name) = (quoted(&case.case_id), quoted(name));
                let _ = writeln!(csv, "{case_id},{class},{name},{},{tolerance_mm}", figures.join(","));
            }
        }
        csv
    }

    /// JSON with the same figures, and their means with 95% confidence intervals. A figure that was not measured is
    /// `null`; so are the distances of a class that one of the two maps lacks: `missed` by the prediction, or
    /// `only_predicted`. All lists of classes have one order; figures of a class have its number.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let class = |class: usize, metrics: &ClassMetrics| {
            serde_json::json!({
                "class": class,
                "dice": finite(metrics.dice),
                "surface_dice": finite(metrics.surface_dice),
                "hd95_mm": finite(metrics.hd95_mm),
                "assd_mm": finite(metrics.assd_mm),
                "volume_diff_ml": finite(metrics.volume_diff_ml),
                "volume_diff_percent": finite(metrics.volume_diff_percent),
                "missed": metrics.is_missed(),
                "only_predicted": metrics.is_only_predicted(),
            })
        };
        let case = |case: &CaseMetrics| {
            let classes: Vec<serde_json::Value> =
                self.classes_of(case).map(|(at, _, metrics)| class(at, metrics)).collect();
            serde_json::json!({ "case_id": case.case_id, "mean_fg_dice": finite(case.mean_fg_dice()), "classes": classes })
        };
        let mean =
            |class: usize, metric: fn(&ClassMetrics) -> f64| self.mean_json(self.values(class, metric).collect());
        let means = |(&class, name): (&usize, &String)| {
            serde_json::json!({
                "class": class,
                "name": name,
                "tolerance_mm": (class > 0).then(|| self.conventions.tolerances.of(class)),
                "dice": mean(class, |m| m.dice),
                "surface_dice": mean(class, |m| m.surface_dice),
                "hd95_mm": mean(class, |m| m.hd95_mm),
                "assd_mm": mean(class, |m| m.assd_mm),
                "volume_diff_ml": mean(class, |m| m.volume_diff_ml),
                "volume_diff_percent": mean(class, |m| m.volume_diff_percent),
                "num_missed": self.count(class, ClassMetrics::is_missed),
                "num_only_predicted": self.count(class, ClassMetrics::is_only_predicted),
            })
        };
        serde_json::json!({
            "surface": self.conventions.surface.name(),
            "absent": self.conventions.absent.name(),
            "tolerance_mm": self.conventions.tolerances.default_mm,
            "bootstrap": { "resamples": self.bootstrap.resamples, "seed": self.bootstrap.seed },
            "mean_fg_dice": finite(self.mean_fg_dice()),
            "mean_fg_dice_interval": self.bootstrap.interval_of_mean(self.fg_dice_of_cases()).map(ends),
            "classes": self.class_names.values().collect::<Vec<_>>(),
            "means": self.class_names.iter().map(means).collect::<Vec<_>>(),
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
        })
    }

    fn mean_json(&self, values: Vec<f64>) -> serde_json::Value {
        let finite: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        serde_json::json!({
            "mean": (!finite.is_empty()).then(|| nan_mean(finite.iter().copied())),
            "interval": self.bootstrap.interval_of_mean(finite.iter().copied()).map(ends),
            "num_cases": finite.len(),
        })
    }

    /// Number of cases in which `what` holds for the class.
    fn count(&self, class: usize, what: fn(&ClassMetrics) -> bool) -> usize {
        self.cases.iter().filter_map(|case| case.classes.get(class)).filter(|metrics| what(metrics)).count()
    }
}

/// Ends of an interval, for JSON.
pub(super) fn ends(interval: Interval) -> [f64; 2] {
    [interval.low, interval.high]
}

/// Returns a finite value; `None` otherwise, because JSON has no other numbers.
pub(super) fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Formats a value for the CSV: all digits, or empty if it is not finite.
fn number(value: f64) -> String {
    finite(value).map_or_else(String::new, |value| value.to_string())
}

/// Quotes a CSV field if its characters require it (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn map(voxels: &[u8]) -> LabelMap<'_> {
        LabelMap::new(voxels, [1, 1, voxels.len()], [1.0, 1.0, 2.0]).unwrap()
    }

    /// Evaluation of two cases of 1 x 1 x 4 voxels; in the second, one class is missed and the other shifted.
    pub(in crate::metric) fn evaluation() -> Evaluation {
        let names = ["background", "liver, whole", "spleen"];
        let space = LabelSpace::new(3);
        let case = |id: &str, label: &[u8], pred: &[u8]| {
            evaluate_case(id, &map(label), &map(pred), space, &Conventions::default()).unwrap()
        };
        Evaluation {
            class_names: (0..).zip(names.map(str::to_owned)).collect(),
            conventions: Conventions::default(),
            bootstrap: Bootstrap { resamples: 100, seed: 0 },
            cases: vec![case("a", &[0, 1, 1, 0], &[0, 1, 1, 0]), case("b", &[0, 1, 0, 2], &[0, 0, 1, 0])],
        }
    }

    #[test]
    fn csv_has_a_line_for_every_case_and_class() {
        let csv = evaluation().to_csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 1 + 2 * 3);
        assert_eq!(lines[1], "a,0,background,1,,,,,,");
        assert_eq!(lines[2], "a,1,\"liver, whole\",1,1,0,0,0,0,1");
        assert_eq!(lines[3], "a,2,spleen,,,,,,,1");
        assert_eq!(lines[5], "b,1,\"liver, whole\",0,0,2,2,0,0,1");
        // One voxel of 2 mm³ is missed.
        assert_eq!(lines[6], "b,2,spleen,0,0,,,-0.002,-100,1");
    }

    #[test]
    fn numbers_between_classes_are_in_no_list() {
        let mut evaluation = evaluation();
        evaluation.class_names.remove(&1);
        assert!(evaluation.to_csv().lines().skip(1).all(|line| line.split(',').nth(1) != Some("1")));
        let json = evaluation.to_json();
        assert_eq!(json["classes"], serde_json::json!(["background", "spleen"]));
        assert_eq!((&json["means"][1]["class"], &json["means"][1]["num_missed"]), (&2.into(), &1.into()));
        let classes = json["cases"][1]["classes"].as_array().unwrap();
        assert_eq!((classes.len(), &classes[1]["class"], &classes[1]["missed"]), (2, &2.into(), &true.into()));
    }

    #[test]
    fn json_has_null_where_nothing_was_measured() {
        let json = evaluation().to_json();
        assert_eq!(json["classes"], serde_json::json!(["background", "liver, whole", "spleen"]));
        assert_eq!((&json["mean_fg_dice"], &json["tolerance_mm"]), (&0.5.into(), &1.0.into()));
        let class = |case: usize, class: usize| json["cases"][case]["classes"][class].clone();
        let expected = serde_json::json!({
            "class": 2, "dice": 0.0, "surface_dice": 0.0, "hd95_mm": null, "assd_mm": null, "volume_diff_ml": -0.002,
            "volume_diff_percent": -100.0, "missed": true, "only_predicted": false
        });
        assert_eq!(class(1, 2), expected);
        assert_eq!((&class(0, 2)["dice"], &class(0, 2)["missed"]), (&serde_json::Value::Null, &false.into()));
        assert_eq!(class(0, 1)["hd95_mm"], serde_json::json!(0.0));
        let means = &json["means"][1];
        assert_eq!(means["dice"], serde_json::json!({ "mean": 0.5, "interval": [0.0, 1.0], "num_cases": 2 }));
        assert_eq!(
            (&json["means"][2]["num_missed"], &json["means"][2]["hd95_mm"]["mean"]),
            (&1.into(), &serde_json::Value::Null)
        );
    }

    #[test]
    fn each_class_has_its_tolerance() {
        let tolerances = Tolerances { default_mm: 1.0, by_class: [(2, 2.0)].into() };
        let conventions = Conventions { tolerances, ..Conventions::default() };
        // Both classes lie one voxel of 2 mm off.
        let case = evaluate_case("a", &map(&[0, 1, 0, 2, 0]), &map(&[1, 0, 0, 0, 2]), LabelSpace::new(3), &conventions);
        let surface_dice: Vec<String> =
            case.unwrap().classes.iter().skip(1).map(|class| format!("{:.3}", class.surface_dice)).collect();
        assert_eq!(surface_dice, ["0.000", "1.000"]);
    }

    #[test]
    fn a_class_that_only_the_prediction_has_counts_by_the_convention() {
        let of = |absent| {
            let conventions = Conventions { absent, ..Conventions::default() };
            let case = evaluate_case("a", &map(&[0, 0, 1]), &map(&[0, 2, 1]), LabelSpace::new(3), &conventions);
            format!("{:.3}", case.unwrap().mean_fg_dice())
        };
        assert_eq!([of(Absent::Monai), of(Absent::NnUnet)], ["1.000", "0.500"]);
    }

    #[test]
    fn a_class_that_only_the_prediction_has_is_not_missed() {
        let conventions = Conventions::default();
        let case = evaluate_case("c", &map(&[0, 1, 0, 0]), &map(&[0, 1, 2, 0]), LabelSpace::new(3), &conventions);
        let evaluation = Evaluation { cases: vec![case.unwrap()], ..evaluation() };
        let json = evaluation.to_json();
        let means = &json["means"][2];
        assert_eq!((&means["num_missed"], &means["num_only_predicted"]), (&0.into(), &1.into()));
        let class = &json["cases"][0]["classes"][2];
        assert_eq!((&class["missed"], &class["only_predicted"]), (&false.into(), &true.into()));
        let table = evaluation.to_table();
        let row: Vec<&str> = table.lines().nth(3).unwrap().split_whitespace().collect();
        assert_eq!((row[0], row[1], &row[row.len() - 2..]), ("spleen", "0", &["0", "1"][..]), "{table}");
        // The case has a surface Dice for the class, but no Dice.
        assert_eq!((&means["dice"]["num_cases"], &means["surface_dice"]["num_cases"]), (&0.into(), &1.into()));
        assert_eq!(row[4..8], ["0.0000", "of", "1", "case"], "{table}");
        let of_nnunet = Conventions { absent: Absent::NnUnet, ..Conventions::default() };
        let case = evaluate_case("c", &map(&[0, 1, 0, 0]), &map(&[0, 1, 2, 0]), LabelSpace::new(3), &of_nnunet);
        let table = Evaluation { cases: vec![case.unwrap()], ..evaluation }.to_table();
        let row: Vec<&str> = table.lines().nth(3).unwrap().split_whitespace().collect();
        assert_eq!((row[1], row[2], row[4]), ("1", "0.0000", "0.0000"), "{table}");
    }

    #[test]
    fn regions_unite_their_labels() {
        let region = |name: &str, labels: &[u8]| Region { name: name.to_owned(), labels: labels.to_vec() };
        let regions = [region("background", &[0]), region("core", &[2]), region("whole", &[1, 2])];
        let space = LabelSpace::new(3).with_ignore(Some(3));
        let (label, pred) = ([0, 1, 2, 2, 3, 0], [0, 2, 2, 1, 2, 1]);
        let case = evaluate_regions("a", &map(&label), &map(&pred), space, &regions, &Conventions::default()).unwrap();
        let dice: Vec<f64> = case.classes.iter().map(|class| class.dice).collect();
        // Without the ignored voxel: core 1 of 2 and 2, whole 3 of 3 and 4, background 1 of 2 and 1.
        let expected = [2.0 / 3.0, 0.5, 6.0 / 7.0];
        assert!(dice.iter().zip(expected).all(|(got, want)| (got - want).abs() < 1e-12), "{dice:?}");
        assert!(case.classes[0].hd95_mm.is_nan() && case.classes[2].hd95_mm.is_finite());
        let error =
            evaluate_regions("a", &map(&[0, 4]), &map(&[0, 0]), space, &regions, &Conventions::default()).unwrap_err();
        assert!(error.to_string().contains("label 4 is out of range"), "{error}");
    }

    #[test]
    fn ignored_voxels_count_for_no_metric() {
        let space = LabelSpace::new(3).with_ignore(Some(7));
        let with =
            evaluate_case("a", &map(&[0, 1, 1, 7, 7]), &map(&[0, 1, 0, 2, 1]), space, &Conventions::default()).unwrap();
        // Class 2 is predicted at an ignored voxel only, so neither map has it.
        let without =
            evaluate_case("a", &map(&[0, 1, 1, 0, 0]), &map(&[0, 1, 0, 0, 0]), space, &Conventions::default()).unwrap();
        for class in [1, 2] {
            let (with, without) = (with.classes[class], without.classes[class]);
            let values = |m: ClassMetrics| [m.dice, m.surface_dice, m.hd95_mm].map(f64::to_bits);
            assert_eq!(values(with), values(without), "class {class}: {with:?} and {without:?}");
        }
        assert!((with.classes[0].dice - 2.0 / 3.0).abs() < 1e-12, "{:?}", with.classes[0]);
    }
}
