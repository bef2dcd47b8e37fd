//! `summary.json` in the form of nnU-Net's evaluation.
//!
//! Its values follow nnU-Net, whatever the conventions of the evaluation: Dice and `IoU` of a class are NaN if neither
//! map has it, and 0 if only one does; means are taken over cases first, then over the foreground classes. NaN is
//! written as in nnU-Net, which not every JSON reader accepts.

use std::path::Path;

use super::{Evaluation, Overlap};
use crate::metric::nan_mean;
use crate::metric::overlap::Absent;

/// Names of the metrics in nnU-Net's order, which is alphabetical.
const FIGURES: [&str; 8] = ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"];

fn figures(of: Overlap) -> [f64; 8] {
    let counts =
        [of.false_negative, of.false_positive, of.true_negative, of.true_positive, of.in_pred(), of.in_label()];
    let [false_negative, false_positive, true_negative, true_positive, in_pred, in_label] = counts.map(|n| n as f64);
    let dice = of.dice(Absent::NnUnet);
    [dice, false_negative, false_positive, of.iou(), true_negative, true_positive, in_pred, in_label]
}

/// Text of the file. `keys` lists the classes or regions, without the background, each with its name in nnU-Net's form:
/// `1`, or `(1, 2)` for a region. `files` holds label and prediction of each case, in the order of the cases.
#[must_use]
pub fn nnunet_summary(evaluation: &Evaluation, keys: &[(usize, String)], files: &[(&Path, &Path)]) -> String {
    let means: Vec<(&str, [f64; 8])> =
        keys.iter().map(|(class, key)| (key.as_str(), class_means(evaluation, *class))).collect();
    // A mean over classes of which one was never measured is NaN, as NumPy's.
    let foreground: [f64; 8] =
        std::array::from_fn(|i| means.iter().map(|(_, mean)| mean[i]).sum::<f64>() / means.len() as f64);
    let case = |(case, (reference, prediction)): (&super::CaseMetrics, &(&Path, &Path))| {
        let metrics = keys.iter().map(|(class, key)| {
            let figures = figures(case.classes[*class].overlap);
            (text(key), object(&figures, 4, true))
        });
        let fields = [
            ("\"metrics\"".to_owned(), block(metrics.collect(), 3)),
            ("\"prediction_file\"".to_owned(), text(&prediction.display().to_string())),
            ("\"reference_file\"".to_owned(), text(&reference.display().to_string())),
        ];
        block(fields.to_vec(), 2)
    };
    let cases: Vec<String> = evaluation.cases.iter().zip(files).map(case).collect();
    let cases = cases.iter().map(|case| format!("        {case}")).collect::<Vec<_>>().join(",\n");
    let means = means.iter().map(|(key, mean)| (text(key), object(mean, 2, false)));
    let fields = [
        ("\"foreground_mean\"".to_owned(), object(&foreground, 1, false)),
        ("\"mean\"".to_owned(), block(means.collect(), 1)),
        ("\"metric_per_case\"".to_owned(), format!("[\n{cases}\n    ]")),
    ];
    block(fields.to_vec(), 0) + "\n"
}

/// Means over the cases in which a metric is a number.
fn class_means(evaluation: &Evaluation, class: usize) -> [f64; 8] {
    let of_cases: Vec<[f64; 8]> = evaluation.cases.iter().map(|case| figures(case.classes[class].overlap)).collect();
    std::array::from_fn(|i| nan_mean(of_cases.iter().map(|figures| figures[i])))
}

/// Formats a JSON object at a given indentation, from names and JSON values.
fn block(fields: Vec<(String, String)>, depth: usize) -> String {
    let indent = "    ".repeat(depth + 1);
    let lines: Vec<String> = fields.into_iter().map(|(name, value)| format!("{indent}{name}: {value}")).collect();
    format!("{{\n{}\n{}}}", lines.join(",\n"), "    ".repeat(depth))
}

/// Formats the eight metrics as a JSON object; counts are whole numbers for a single case.
fn object(figures: &[f64; 8], depth: usize, of_case: bool) -> String {
    let value = |name: &str, figure: f64| {
        let is_count = of_case && !matches!(name, "Dice" | "IoU");
        if figure.is_nan() {
            "NaN".to_owned()
        } else if is_count {
            format!("{figure:.0}")
        } else {
            format!("{figure:?}")
        }
    };
    let fields = FIGURES.iter().zip(figures).map(|(name, &figure)| (text(name), value(name, figure)));
    block(fields.collect(), depth)
}

/// Formats a JSON string.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tests::evaluation;
    use super::*;

    #[test]
    fn figures_follow_nnunet() {
        let evaluation = evaluation();
        let keys = [(1, "1".to_owned()), (2, "(2, 3)".to_owned())];
        let (label, pred) = ([Path::new("l/a"), Path::new("l/b")], [Path::new("p/\"a"), Path::new("p/b")]);
        let summary = nnunet_summary(&evaluation, &keys, &[(label[0], pred[0]), (label[1], pred[1])]);
        let json: serde_json::Value = serde_json::from_str(&summary.replace("NaN", "\"NaN\"")).unwrap();
        let spleen = |case: usize| &json["metric_per_case"][case]["metrics"]["(2, 3)"];
        assert_eq!((&spleen(0)["Dice"], &spleen(0)["TN"]), (&"NaN".into(), &4.into()));
        assert_eq!((&spleen(1)["Dice"], &spleen(1)["FN"], &spleen(1)["n_ref"]), (&0.0.into(), &1.into(), &1.into()));
        assert_eq!(json["metric_per_case"][0]["prediction_file"], "p/\"a");
        // Means over cases, then over the two classes.
        assert_eq!((&json["mean"]["1"]["Dice"], &json["mean"]["(2, 3)"]["Dice"]), (&0.5.into(), &0.0.into()));
        assert_eq!((&json["foreground_mean"]["Dice"], &json["foreground_mean"]["TP"]), (&0.25.into(), &0.5.into()));
        assert!(json["mean"].get("0").is_none(), "the background is not scored");
    }

    #[test]
    fn classes_without_a_key_are_in_no_figure() {
        let (evaluation, path) = (evaluation(), Path::new("a"));
        let summary = nnunet_summary(&evaluation, &[(1, "1".to_owned())], &[(path, path); 2]);
        let json: serde_json::Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(json["foreground_mean"], json["mean"]["1"]);
        assert_eq!(json["metric_per_case"][1]["metrics"].as_object().unwrap().len(), 1);
    }
}
