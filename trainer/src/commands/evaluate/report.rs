//! `hiend-train evaluate --report DIR`: an evaluation as one HTML page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hiend_loader::geometry::spacing;
use hiend_loader::picture::{Canvas, IGNORED, LETTER, Plane, Slice, TEXT, label_colour};
use hiend_loader::report::{Group, MOST_DOTS, Page, box_plots};

use super::LabelFile;
use super::classes::Classes;
use crate::metric::evaluation::{ClassMetrics, Evaluation, Tolerances};
use crate::metric::overlap::Absent;
use crate::metric::surface::Surface;

/// Largest number of cases for which slices are drawn.
const MOST_DRAWN: usize = 8;
/// Longest side of a slice, in pixels.
const SLICE: f64 = 264.0;
/// Distance between parts of a picture, in pixels.
const MARGIN: usize = 8;
/// Largest number of rows of the table of cases.
const MOST_ROWS: usize = 2000;

/// Files of an evaluation, by case.
pub(super) struct Files<'a> {
    /// True label maps.
    pub labels: &'a BTreeMap<String, PathBuf>,
    /// Predicted label maps.
    pub predictions: &'a BTreeMap<String, PathBuf>,
    /// Number of label maps that have no prediction and are not scored.
    pub num_unpredicted: usize,
}

/// Writes the page and returns its path.
pub(super) fn write(
    evaluation: &Evaluation,
    classes: &Classes,
    files: &Files<'_>,
    folder: &Path,
) -> anyhow::Result<PathBuf> {
    let mut page = Page::new("Evaluation of predicted label maps");
    let folder_of = |files: &BTreeMap<String, PathBuf>| {
        let first = files.values().next().and_then(|path| path.parent());
        first.map_or_else(String::new, |folder| folder.display().to_string())
    };
    let ignored = classes.space.ignore();
    let facts = [
        ("labels", folder_of(files.labels)),
        ("predictions", folder_of(files.predictions)),
        ("cases", evaluation.cases.len().to_string()),
        ("labels without a prediction", files.num_unpredicted.to_string()),
        ("surfaces", surfaces(evaluation.conventions.surface).to_owned()),
        ("classes that a label lacks", absent_classes(evaluation.conventions.absent).to_owned()),
        ("tolerance of surface Dice", tolerances(evaluation)),
    ];
    page.facts(
        facts.into_iter().chain(ignored.map(|label| ("ignore label, whose voxels are not scored", label.to_string()))),
    );
    page.heading("Means over cases");
    let mut rows = evaluation.table_rows().into_iter();
    let header = rows.next().unwrap_or_default();
    page.table(&header.iter().map(String::as_str).collect::<Vec<_>>(), 1.., rows);
    page.paragraph(
        "cases: those in which the Dice is measured; missed: those in which the prediction lacks a class of the label; only \
         predicted: those in which it has a class that the label lacks. A dash stands for no measured value.",
    );
    page.heading("Classes");
    let absent = match evaluation.conventions.absent {
        Absent::Monai => {
            "A class that the label lacks has no Dice in that case; if it is predicted there, its surface Dice is 0."
        }
        Absent::NnUnet => "A class found in the prediction only has a Dice and a surface Dice of 0 in that case.",
    };
    page.paragraph(&format!(
        "Quartiles, whiskers to the last case within 1.5 times their distance, and dots for cases (of more than \
         {MOST_DOTS}, for an even share and all beyond the whiskers). {absent} A class found in only one of \
         the two maps has no distance.",
    ));
    let hd95 = groups(evaluation, |metrics| metrics.hd95_mm);
    let finite = hd95.iter().flat_map(|group| &group.values).copied().filter(|value| value.is_finite());
    let highest = finite.fold(1.0, f64::max);
    page.charts([
        box_plots("Dice", &groups(evaluation, |metrics| metrics.dice), Some((0.0, 1.0)))?,
        box_plots("HD95, mm", &hd95, Some((0.0, highest)))?,
    ]);
    worst(&mut page, evaluation, classes, files)?;
    cases(&mut page, evaluation);
    Ok(page.write(folder)?)
}

/// Description of the surface metrics' convention.
fn surfaces(surface: Surface) -> &'static str {
    match surface {
        Surface::Voxels => "voxels that touch the outside, all of equal weight, as in MONAI",
        Surface::Area => "surface elements weighted by area, as in DeepMind's surface-distance",
    }
}

/// Description of the Dice of classes that a label lacks.
fn absent_classes(absent: Absent) -> &'static str {
    match absent {
        Absent::Monai => "Dice not measured, as in MONAI",
        Absent::NnUnet => "Dice 0 where the class is predicted, as in nnU-Net",
    }
}

/// Text with the tolerance of the surface Dice, including those of individual classes.
fn tolerances(evaluation: &Evaluation) -> String {
    let Tolerances { default_mm, by_class } = &evaluation.conventions.tolerances;
    let of_class = |(class, mm): (&usize, &f64)| Some(format!(", {} {mm} mm", evaluation.class_names.get(class)?));
    std::iter::once(format!("{default_mm} mm")).chain(by_class.iter().filter_map(of_class)).collect()
}

/// Number and name of each foreground class that any case has.
fn listed(evaluation: &Evaluation) -> impl Iterator<Item = (usize, &String)> {
    let foreground = evaluation.class_names.iter().skip(1).map(|(&class, name)| (class, name));
    foreground.filter(move |(class, _)| evaluation.occurs(*class))
}

/// Values of a metric for each foreground class that occurs in any case.
fn groups(evaluation: &Evaluation, metric: fn(&ClassMetrics) -> f64) -> Vec<Group> {
    listed(evaluation)
        .map(|(class, name)| Group { name: name.clone(), values: evaluation.values(class, metric).collect() })
        .collect()
}

/// Adds slices of the cases with the lowest Dice, where most voxels differ.
fn worst(page: &mut Page, evaluation: &Evaluation, classes: &Classes, files: &Files<'_>) -> anyhow::Result<()> {
    let mut ranked: Vec<(f64, &str)> = evaluation
        .fg_dice_of_cases()
        .zip(&evaluation.cases)
        .map(|(dice, case)| (dice, case.case_id.as_str()))
        .collect();
    ranked.retain(|(dice, _)| *dice < 1.0);
    ranked.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    ranked.truncate(MOST_DRAWN);
    if ranked.is_empty() {
        return Ok(());
    }
    page.heading("Cases with the lowest Dice");
    page.paragraph(
        "The axial slice in which most voxels differ, counted upwards from 0 at the feet: label on the left, prediction on \
         the right. The patient's right is on the left of each.",
    );
    let ignored = classes.space.ignore();
    let colour = |class: usize| label_colour(u8::try_from(class).ok()?);
    let named = listed(evaluation).filter(|_| classes.regions.is_none());
    let entries = named.filter_map(|(class, name)| Some((colour(class)?, name.clone())));
    let legend: Vec<_> = entries.chain(ignored.map(|_| (IGNORED, "ignored (hatched)".to_owned()))).collect();
    if !legend.is_empty() {
        page.legend(legend);
    }
    let mut pictures = Vec::new();
    for (dice, case_id) in ranked {
        let label = LabelFile::read(&files.labels[case_id])?;
        let (pred, _) = LabelFile::read(&files.predictions[case_id])?.on_grid_of(&label, case_id)?;
        let (canvas, height) = compared(&label, &pred, ignored);
        pictures.push((canvas, format!("{case_id}: mean foreground Dice {dice:.4}, slice {height}")));
    }
    page.pictures(pictures)?;
    Ok(())
}

/// Draws the axial slice in which two maps on one grid differ in most voxels, side by side; also returns its number.
fn compared(label: &LabelFile, pred: &LabelFile, ignore: Option<u8>) -> (Canvas, usize) {
    let shape = label.info.orientation.shape(label.info.shape);
    let [truth, guess] = [label, pred].map(in_ras);
    let [nx, ny, nz] = shape;
    let differs = |voxel: usize| truth[voxel] != guess[voxel] && Some(truth[voxel]) != ignore;
    let num_different = |z: usize| (0..nx * ny).filter(|row| differs(row * nz + z)).count();
    // The lowest of equal slices.
    let at = (0..nz).rev().max_by_key(|&z| num_different(z)).unwrap_or(0);
    let source_spacing = spacing(&label.info.affine);
    let length_mm = |axis: usize| shape[axis] as f64 * source_spacing[label.info.orientation.source_axis[axis]];
    let scale = SLICE / length_mm(0).max(length_mm(1)).max(1e-6);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most SLICE")]
    let size = [0, 1].map(|axis| ((length_mm(axis) * scale).round() as usize).max(1));
    let top = LETTER + 2 * MARGIN;
    let mut canvas = Canvas::new(2 * size[0] + MARGIN, top + size[1]);
    for (number, (name, map)) in [("label", &truth), ("prediction", &guess)].into_iter().enumerate() {
        let left = number * (size[0] + MARGIN);
        canvas.text([left + MARGIN, MARGIN], 1, TEXT, name);
        let slice = Plane::Axial.cut(shape, at, true, |voxel| (0.1, map[voxel]));
        canvas.slice([left, top], size, &Slice { ignored: ignore, ..slice });
    }
    (canvas, at)
}

/// Labels of a file in RAS+ order, z fastest.
fn in_ras(file: &LabelFile) -> Vec<u8> {
    let orientation = file.info.orientation;
    let [nx, ny, nz] = orientation.shape(file.info.shape);
    let strides = [1, file.info.shape[0], file.info.shape[0] * file.info.shape[1]];
    let offset = |axis: usize, at: usize, len: usize| {
        let at = if orientation.flipped[axis] { len - 1 - at } else { at };
        at * strides[orientation.source_axis[axis]]
    };
    let mut labels = Vec::with_capacity(file.voxels.len());
    for x in 0..nx {
        for y in 0..ny {
            let row = offset(0, x, nx) + offset(1, y, ny);
            labels.extend((0..nz).map(|z| file.voxels[row + offset(2, z, nz)]));
        }
    }
    labels
}

fn cases(page: &mut Page, evaluation: &Evaluation) {
    page.heading("All cases, the lowest mean Dice first");
    let listed: Vec<(usize, &String)> = listed(evaluation).collect();
    let mut header = vec!["case", "mean Dice"];
    header.extend(listed.iter().map(|(_, name)| name.as_str()));
    let shown = |value: f64| if value.is_nan() { "-".to_owned() } else { format!("{value:.4}") };
    let mut rows: Vec<(f64, Vec<String>)> = Vec::new();
    for (dice, case) in evaluation.fg_dice_of_cases().zip(&evaluation.cases) {
        let mut row = vec![case.case_id.clone(), shown(dice)];
        row.extend(listed.iter().map(|(class, _)| shown(case.classes.get(*class).map_or(f64::NAN, |m| m.dice))));
        rows.push((dice, row));
    }
    rows.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let skipped = rows.len().saturating_sub(MOST_ROWS);
    page.table(&header, 1.., rows.into_iter().take(MOST_ROWS).map(|(_, row)| row));
    if skipped > 0 {
        page.paragraph(&format!("{skipped} more; --csv writes all."));
    }
}
