//! `hiend-train evaluate --labels DIR --predictions DIR`, and `--compare DIR DIR`.

mod classes;
mod report;
mod unnamed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use hiend_cache::{FileError, durable, lookup};
use hiend_loader::case::shown;
use hiend_loader::geometry::{skew_degrees, spacing};
use hiend_loader::preprocess::label_place::Shift;
use hiend_loader::program::{check_extension, terminal_width};
use hiend_loader::volume::{LabelVolume, VolumeInfo, read_labels};

use super::{note, outputs, print_text};
use crate::cli::EvaluateArgs;
use crate::inference::scan_files::grid::{GridMismatch, SameVoxels};
use crate::inference::scan_files::label_maps;
use crate::metric::LabelMap;
use crate::metric::bootstrap::Bootstrap;
use crate::metric::comparison::Comparison;
use crate::metric::evaluation::{
    CaseMetrics, Conventions, Evaluation, evaluate_case, evaluate_regions, nnunet_summary,
};
use classes::Classes;
use unnamed::Unnamed;

/// Largest number of cases that a warning names.
const MOST_NAMED: usize = 10;

/// Smallest reported deviation of a label map's axes from right angles, in degrees, as in a conversion.
const NOTED_SKEW_DEGREES: f64 = 0.1;

pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<ExitCode> {
    let classes = Classes::of(args)?;
    let conventions = Conventions { surface: args.surface, tolerances: classes.tolerances(args)?, absent: args.absent };
    let all_labels = label_maps(&args.labels)?;
    let folders = args.predictions.iter().chain(&args.compare);
    let predictions: Vec<BTreeMap<String, PathBuf>> =
        folders.clone().map(|folder| label_maps(folder)).collect::<Result<_, _>>()?;
    let labels = with_predictions(&all_labels, folders.clone().zip(&predictions), args.partial)?;
    let num_unpredicted = all_labels.len() - labels.len();
    let inputs: Vec<&PathBuf> = all_labels.values().chain(predictions.iter().flat_map(BTreeMap::values)).collect();
    check_outputs(args, &inputs)?;

    let num_unlabelled: Vec<usize> = folders
        .zip(&predictions)
        .map(|(folder, predictions)| warn_of_unlabelled(folder, predictions, &all_labels))
        .collect();

    let scored = score(&labels, &predictions, &classes, &conventions)?;
    let Scored { cases, highest, has_ignored, in_labels, in_predictions } = scored;
    if let Some(label) = args.ignore_label.filter(|_| !has_ignored) {
        note(format_args!("warning: --ignore-label {label} has no effect: no scored label map holds it"));
    }
    warn_of_unnamed(args, &classes, &in_labels, &in_predictions);
    let unnamed = in_labels.labels().chain(in_predictions.iter().flat_map(Unnamed::labels));
    let class_names = classes.names(highest, unnamed);
    for class in conventions.tolerances.by_class.keys().filter(|class| !class_names.contains_key(class)) {
        note(format_args!("warning: --tolerance of class {class} has no effect: no map holds a label above {highest}"));
    }
    let evaluation = |cases: Vec<CaseMetrics>| {
        let bootstrap = Bootstrap { resamples: args.bootstrap as usize, seed: args.seed };
        Evaluation { class_names: class_names.clone(), conventions: conventions.clone(), bootstrap, cases }
    };
    let evaluations: Vec<Evaluation> = cases.into_iter().map(evaluation).collect();
    if let [a, b] = evaluations.as_slice() {
        let comparison = Comparison::of(a, b);
        if args.json {
            let mut json = comparison.to_json();
            json["num_unlabelled_predictions"] = num_unlabelled.into();
            json["num_unpredicted_labels"] = num_unpredicted.into();
            print_text(json)?;
        } else {
            print_text(comparison.to_table(terminal_width()).trim_end())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (evaluation, predictions) = (&evaluations[0], &predictions[0]);
    // Shown before files are written, which may fail.
    if args.json {
        let mut json = evaluation.to_json();
        json["num_unlabelled_predictions"] = num_unlabelled[0].into();
        json["num_unpredicted_labels"] = num_unpredicted.into();
        print_text(json)?;
    } else {
        print_text(evaluation.to_table(terminal_width()).trim_end())?;
    }
    write_files(args, &classes, evaluation, &report::Files { labels: &labels, predictions, num_unpredicted })?;
    Ok(ExitCode::SUCCESS)
}

/// Checks that the files and folders named for results can be written, and that none of the `inputs` would be replaced.
fn check_outputs(args: &EvaluateArgs, inputs: &[&PathBuf]) -> anyhow::Result<()> {
    for (flag, out, extension) in [("--csv", &args.csv, "csv"), ("--summary", &args.summary, "json")] {
        if let Some(out) = out {
            outputs::check_file(out)?;
            refuse_input(flag, out, inputs)?;
            check_extension(out, extension)?;
        }
    }
    if let Some(folder) = &args.report {
        outputs::check_folder(folder)?;
    }
    Ok(())
}

/// Warns of the predictions in a folder that have no label; returns their number.
fn warn_of_unlabelled(
    folder: &Path,
    predictions: &BTreeMap<String, PathBuf>,
    labels: &BTreeMap<String, PathBuf>,
) -> usize {
    let without: Vec<&str> = predictions.keys().filter(|id| !labels.contains_key(*id)).map(String::as_str).collect();
    if !without.is_empty() {
        let (folder, names) = (folder.display(), named(&without));
        note(format_args!("warning: {folder}: not scored, no label: {names}"));
    }
    without.len()
}

/// Writes the wanted files of an evaluation. One that cannot be written keeps none of the others from being written.
///
/// # Errors
/// The first file that cannot be written.
fn write_files(
    args: &EvaluateArgs,
    classes: &Classes,
    evaluation: &Evaluation,
    inputs: &report::Files<'_>,
) -> anyhow::Result<()> {
    let csv = args.csv.as_ref().map(|path| evaluation.write_csv(path));
    let summary = args.summary.as_ref().map(|path| {
        let &report::Files { labels, predictions, .. } = inputs;
        let files: Vec<(&Path, &Path)> =
            labels.iter().map(|(case_id, label)| (label.as_path(), predictions[case_id].as_path())).collect();
        let keys = classes.nnunet_keys(evaluation);
        durable::remove_stale_beside(path);
        durable::write(path, nnunet_summary(evaluation, &keys, &files).as_bytes())
    });
    let report = args.report.as_ref().map(|folder| -> anyhow::Result<()> {
        note(format_args!("report: {}", report::write(evaluation, classes, inputs, folder)?.display()));
        Ok(())
    });
    csv.transpose()?;
    summary.transpose()?;
    report.transpose()?;
    Ok(())
}

/// Metrics of all cases, and labels found in their maps.
struct Scored {
    /// Metrics of each folder of predictions, by case.
    cases: Vec<Vec<CaseMetrics>>,
    /// The highest label of any map, at least 1; the ignore label does not count.
    highest: u8,
    /// True if a true label map holds the ignore label.
    has_ignored: bool,
    /// Labels of the true label maps that have no name.
    in_labels: Unnamed,
    /// Labels of each folder of predictions that have no name.
    in_predictions: Vec<Unnamed>,
}

/// Compares the predictions of each folder with the labels.
///
/// # Errors
/// If a map cannot be read or holds a label out of range, or the two maps of a case do not have the same voxels.
fn score(
    labels: &BTreeMap<String, PathBuf>,
    predictions: &[BTreeMap<String, PathBuf>],
    classes: &Classes,
    conventions: &Conventions,
) -> anyhow::Result<Scored> {
    let mut cases: Vec<Vec<CaseMetrics>> = vec![Vec::new(); predictions.len()];
    let (mut highest, mut has_ignored) = (1, false);
    let (mut in_labels, mut in_predictions) = (Unnamed::default(), vec![Unnamed::default(); predictions.len()]);
    for (number, (case_id, label_path)) in labels.iter().enumerate() {
        let label = LabelFile::read(label_path)?;
        warn_of_skew(label_path, case_id, &label.info);
        in_labels.add(classes, label.voxels.iter().copied());
        has_ignored |= classes.space.ignore().is_some_and(|ignore| label.voxels.contains(&ignore));
        for ((cases, predictions), in_predictions) in cases.iter_mut().zip(predictions).zip(&mut in_predictions) {
            let path = predictions[case_id].display();
            let pred = LabelFile::read(&predictions[case_id])?.on_grid_of(&label, case_id);
            let (pred, shift) = pred.with_context(|| path.to_string())?;
            if let Some(shift) = shift {
                note(format_args!(
                    "warning: {path}: case {case_id}: label and prediction lie {shift} apart by their headers; \
                     compared voxel by voxel"
                ));
            }
            let found = label.voxels.iter().chain(&pred.voxels).filter(|label| Some(**label) != classes.space.ignore());
            highest = found.fold(highest, |top, &class| top.max(class));
            let scored =
                label.voxels.iter().zip(&pred.voxels).filter(|(label, _)| Some(**label) != classes.space.ignore());
            in_predictions.add(classes, scored.map(|(_, &pred)| pred));
            let (label, pred) = (label.map()?, pred.map()?);
            let metrics = match &classes.regions {
                Some(regions) => evaluate_regions(case_id, &label, &pred, classes.space, regions, conventions),
                None => evaluate_case(case_id, &label, &pred, classes.space, conventions),
            };
            cases.push(metrics.with_context(|| format!("case {case_id}"))?);
        }
        note(format_args!("{} of {}: {case_id}", number + 1, labels.len()));
    }
    Ok(Scored { cases, highest, has_ignored, in_labels, in_predictions })
}

/// Warns of a label map with axes that are not perpendicular, because distances and volumes are those of the sides.
fn warn_of_skew(path: &Path, case_id: &str, info: &VolumeInfo) {
    let degrees = skew_degrees(&info.affine);
    if degrees >= NOTED_SKEW_DEGREES {
        note(format_args!(
            "warning: {}: case {case_id}: axes up to {degrees:.1} degrees from perpendicular (gantry tilt?); distances and \
             volumes are measured as if they were perpendicular",
            path.display()
        ));
    }
}

/// Warns of labels that maps hold but the dataset does not name, with one line per folder.
fn warn_of_unnamed(args: &EvaluateArgs, classes: &Classes, in_labels: &Unnamed, in_predictions: &[Unnamed]) {
    let Some(dataset) = args.dataset.as_deref().map(shown) else { return };
    let consequence = match classes.regions {
        Some(_) => "they belong to no region and are not scored",
        None => "each is scored as a class of its number",
    };
    let predictions = args.predictions.iter().chain(&args.compare).zip(in_predictions);
    let sides = predictions.map(|(folder, unnamed)| (folder, "predictions hold", unnamed));
    for (folder, hold, unnamed) in std::iter::once((&args.labels, "true label maps hold", in_labels)).chain(sides) {
        if let Some(labels) = unnamed.listed() {
            note(format_args!(
                "warning: {}: the {hold} labels that {dataset} does not name: {labels}; {consequence}",
                folder.display()
            ));
        }
    }
}

/// Selects the labels to score: each must have a prediction in every folder, unless `is_partial` allows labels without
/// one to be left out.
fn with_predictions<'a>(
    labels: &BTreeMap<String, PathBuf>,
    folders: impl Iterator<Item = (&'a PathBuf, &'a BTreeMap<String, PathBuf>)>,
    is_partial: bool,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut scored = labels.clone();
    for (folder, predictions) in folders {
        let missing: Vec<&str> =
            labels.keys().filter(|id| !predictions.contains_key(*id)).map(String::as_str).collect();
        if missing.is_empty() {
            continue;
        }
        let (folder, names) = (folder.display(), named(&missing));
        ensure!(
            missing.len() < labels.len(),
            "{folder}: no prediction of {names}; expected files with the labels' names"
        );
        ensure!(
            is_partial,
            "{folder}: no prediction of {names}; predict them too, or score only the others by --partial"
        );
        note(format_args!("warning: {folder}: not scored, no prediction: {names}"));
        scored.retain(|id, _| predictions.contains_key(id));
    }
    ensure!(!scored.is_empty(), "no label has a prediction in both folders; expected common cases");
    Ok(scored)
}

/// Lists names separated by commas; of many, the first ones and the number of the others.
fn named(cases: &[&str]) -> String {
    match cases.split_at_checked(MOST_NAMED) {
        Some((first, others @ [_, ..])) => format!("{} and {} more", first.join(", "), others.len()),
        _ => cases.join(", "),
    }
}

/// Refuses to overwrite one of the evaluated files.
fn refuse_input(flag: &str, out: &Path, inputs: &[&PathBuf]) -> anyhow::Result<()> {
    if !lookup::exists(out)? {
        return Ok(());
    }
    let resolved = |path: &Path| path.canonicalize().map_err(FileError::at(path, "look up"));
    let existing = resolved(out)?;
    for input in inputs {
        ensure!(resolved(input)? != existing, "{} would replace a label map; choose another {flag}", out.display());
    }
    Ok(())
}

/// A label map in its file's order, x fastest.
struct LabelFile {
    info: VolumeInfo,
    voxels: Vec<u8>,
}

impl LabelFile {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let LabelVolume { info, voxels, .. } = read_labels(path)?;
        Ok(Self { info, voxels })
    }

    /// Label map with its axes reversed, because [`LabelMap`] has its last axis fastest; no metric depends on their
    /// order.
    fn map(&self) -> anyhow::Result<LabelMap<'_>> {
        let ([x, y, z], [sx, sy, sz]) = (self.info.shape, spacing(&self.info.affine));
        Ok(LabelMap::new(&self.voxels, [z, y, x], [sz, sy, sx])?)
    }

    /// The prediction with its voxels in the order of the label's file; axes of another order and direction are those of
    /// the same voxels. Returns also their distance if it exceeds 0.1 mm. Up to half a voxel along each axis or the shortest
    /// voxel side is accepted, as by `hiend-shard` between an image and its label map.
    ///
    /// # Errors
    /// If the two do not have the same voxels.
    fn on_grid_of(self, label: &Self, case_id: &str) -> anyhow::Result<(Self, Option<Shift>)> {
        let expected = "expected the same voxels, axes in any order and direction; predict the scan that the label was made \
                        on, or resample one of the two onto the other (nearest neighbour)";
        match SameVoxels::between(&label.info, &self.info) {
            Ok(same) => {
                let voxels = same.in_order(self.voxels);
                Ok((Self { info: label.info.clone(), voxels }, same.place.notable_shift()))
            }
            Err(GridMismatch::Shape { found, scan }) => {
                bail!("case {case_id}: the label has {scan:?} voxels, the prediction {found:?}; {expected}")
            }
            Err(GridMismatch::Place { shift }) => {
                bail!("case {case_id}: label and prediction lie {shift} apart; {expected}")
            }
        }
    }
}
