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
use std::path::Path;

use hiend_cache::{FileError, durable};

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

    /// Writes [`Self::to_csv`] to a file, which appears complete or not at all.
    ///
    /// Removes temporary files that killed processes left in its folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_csv(&self, path: &Path) -> Result<(), FileError> {
        durable::remove_stale_beside(path);
        durable::write(path, self.to_csv().as_bytes())
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
pub(super) mod tests;
