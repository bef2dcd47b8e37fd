//! Comparison of two sets of predictions for the same cases.
//!
//! Differences are paired by case: the mean difference has a bootstrap interval over cases, and the hypothesis of no
//! difference is tested by Wilcoxon's signed-rank test. The p values are not corrected for the number of classes and
//! metrics. A pair in which one value is not finite is left out, for example if one of the models misses a class.

use super::bootstrap::{Bootstrap, Interval};
use super::evaluation::{ClassMetrics, Evaluation, aligned, cell, ends, finite};
use super::{nan_mean, wilcoxon};

/// Paired differences of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct PairedDifference {
    /// Number of pairs.
    pub num_pairs: usize,
    /// Number of cases in which only one of the two sets has a finite value.
    pub num_unpaired: usize,
    /// Mean of the first set over the pairs; NaN without pairs.
    pub mean_a: f64,
    /// Mean of the second set over the pairs; NaN without pairs.
    pub mean_b: f64,
    /// 95% interval of the mean difference, second minus first; `None` for fewer than two pairs.
    pub interval: Option<Interval>,
    /// p value of Wilcoxon's signed-rank test; `None` if all differences are zero.
    pub p_value: Option<f64>,
}

impl PairedDifference {
    /// Computes the differences `b - a` of values, given by case.
    #[must_use]
    pub fn of(values: impl Iterator<Item = (f64, f64)>, bootstrap: Bootstrap) -> Self {
        let (mut pairs, mut num_unpaired) = (Vec::new(), 0);
        for (a, b) in values {
            match (a.is_finite(), b.is_finite()) {
                (true, true) => pairs.push((a, b)),
                (false, false) => {}
                _ => num_unpaired += 1,
            }
        }
        let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
        Self {
            num_pairs: pairs.len(),
            num_unpaired,
            mean_a: nan_mean(pairs.iter().map(|pair| pair.0)),
            mean_b: nan_mean(pairs.iter().map(|pair| pair.1)),
            interval: bootstrap.interval_of_mean(differences.iter().copied()),
            p_value: wilcoxon::signed_rank(&differences),
        }
    }

    /// Mean of the differences.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean_b - self.mean_a
    }
}

/// Metric in a comparison: key in files, heading, digits in the table, value.
type ComparedMetric = (&'static str, &'static str, usize, fn(&ClassMetrics) -> f64);

/// Metrics in a comparison.
const METRICS: [ComparedMetric; 4] = [
    ("dice", "Dice", 4, |m| m.dice),
    ("surface_dice", "surface Dice", 4, |m| m.surface_dice),
    ("hd95_mm", "HD95 mm", 2, |m| m.hd95_mm),
    ("assd_mm", "ASSD mm", 2, |m| m.assd_mm),
];

/// One line of a comparison.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    class: String,
    /// Index in [`METRICS`].
    metric: usize,
    difference: PairedDifference,
}

/// Comparison of two evaluations.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    lines: Vec<Line>,
    /// Mean foreground Dice by case.
    overall: PairedDifference,
}

impl Comparison {
    /// Compares two evaluations of the same cases and classes, in the same order.
    ///
    /// # Panics
    /// If the evaluations are not of the same cases.
    #[must_use]
    pub fn of(a: &Evaluation, b: &Evaluation) -> Self {
        let ids = |evaluation: &Evaluation| -> Vec<String> {
            evaluation.cases.iter().map(|case| case.case_id.clone()).collect()
        };
        assert_eq!(ids(a), ids(b), "both evaluations are of the same cases");
        let mut lines = Vec::new();
        for (&class, name) in a.class_names.iter().skip(1) {
            for (metric, (.., of)) in METRICS.iter().enumerate() {
                let pairs = a.values(class, *of).zip(b.values(class, *of));
                lines.push(Line { class: name.clone(), metric, difference: PairedDifference::of(pairs, a.bootstrap) });
            }
        }
        let overall = PairedDifference::of(a.fg_dice_of_cases().zip(b.fg_dice_of_cases()), a.bootstrap);
        Self { lines, overall }
    }

    /// Aligned text, one row per class and metric, that fits into `width` characters, if it is given.
    #[must_use]
    pub fn to_table(&self, width: Option<u16>) -> String {
        let headings = ["class", "metric", "cases", "A", "B", "B - A", "95% interval", "p", "unpaired"];
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        let row = |class: &str, metric: usize, of: &PairedDifference| {
            let (_, name, digits, _) = METRICS[metric];
            let interval = of.interval.map_or_else(
                || "-".to_owned(),
                |Interval { low, high }| format!("{low:+.digits$} to {high:+.digits$}"),
            );
            let difference = of.mean();
            let difference = if difference.is_nan() { "-".into() } else { format!("{difference:+.digits$}") };
            vec![
                class.to_owned(),
                name.to_owned(),
                of.num_pairs.to_string(),
                cell(of.mean_a, digits),
                cell(of.mean_b, digits),
                difference,
                interval,
                of.p_value.map_or_else(|| "-".to_owned(), p_value),
                of.num_unpaired.to_string(),
            ]
        };
        rows.extend(self.lines.iter().map(|line| row(&line.class, line.metric, &line.difference)));
        rows.push(row("mean fg", 0, &self.overall));
        aligned(&rows, &[1, 6], width)
    }

    /// JSON with the same values.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let difference = |of: &PairedDifference| {
            serde_json::json!({
                "num_pairs": of.num_pairs,
                "num_unpaired": of.num_unpaired,
                "mean_a": finite(of.mean_a),
                "mean_b": finite(of.mean_b),
                "mean_difference": finite(of.mean()),
                "interval": of.interval.map(ends),
                "p_value": of.p_value,
            })
        };
        let line = |line: &Line| {
            let mut json = difference(&line.difference);
            json["class"] = line.class.clone().into();
            json["metric"] = METRICS[line.metric].0.into();
            json
        };
        serde_json::json!({
            "mean_fg_dice": difference(&self.overall),
            "classes": self.lines.iter().map(line).collect::<Vec<_>>(),
        })
    }
}

/// Formats a p value for the table.
fn p_value(p: f64) -> String {
    if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }
}

#[cfg(test)]
mod tests {
    use super::super::evaluation::tests::evaluation;
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 200, seed: 0 };

    #[test]
    fn differences_are_paired_by_case() {
        let values = [(0.5, 0.6), (0.7, 0.9), (f64::NAN, 0.1), (f64::INFINITY, 1.0), (f64::NAN, f64::NAN), (0.2, 0.5)];
        let difference = PairedDifference::of(values.into_iter(), BOOTSTRAP);
        assert_eq!((difference.num_pairs, difference.num_unpaired), (3, 2));
        assert!((difference.mean() - 0.2).abs() < 1e-12, "{difference:?}");
        assert_eq!(difference.p_value, Some(0.25));
        let interval = difference.interval.unwrap();
        assert!(interval.low >= 0.1 - 1e-12 && interval.high <= 0.3 + 1e-12, "{interval:?}");
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let comparison = Comparison::of(&evaluation(), &evaluation());
        let json = comparison.to_json();
        assert_eq!(json["mean_fg_dice"]["mean_difference"], serde_json::json!(0.0));
        assert_eq!(json["mean_fg_dice"]["p_value"], serde_json::Value::Null);
        assert_eq!(
            (&json["classes"][0]["class"], &json["classes"][0]["metric"]),
            (&"liver, whole".into(), &"dice".into())
        );
        let table = comparison.to_table(None);
        assert_eq!(table.lines().count(), 1 + 2 * METRICS.len() + 1);
        assert!(table.lines().last().unwrap().starts_with("mean fg"), "{table}");
        let narrow = comparison.to_table(Some(80));
        assert!(table.lines().any(|line| line.chars().count() > 80), "{table}");
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    }
}
