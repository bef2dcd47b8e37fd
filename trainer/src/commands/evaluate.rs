//! `hiend-train evaluate --labels DIR --predictions DIR`, and `--compare DIR DIR`.

mod classes;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use hiend_cache::{durable, lookup};
use hiend_loader::geometry::spacing;
use hiend_loader::program::check_extension;
use hiend_loader::volume::{LabelVolume, VolumeInfo, read_labels};

use super::{note, outputs, print_text};
use crate::cli::EvaluateArgs;
use crate::inference::scan_files::grid::{GridMismatch, check_same_grid};
use crate::inference::scan_files::label_maps;
use crate::metric::LabelMap;
use crate::metric::bootstrap::Bootstrap;
use crate::metric::comparison::Comparison;
use crate::metric::evaluation::{
    CaseMetrics, Conventions, Evaluation, evaluate_case, evaluate_regions, nnunet_summary,
};
use classes::Classes;

pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<ExitCode> {
    let classes = Classes::of(args)?;
    let conventions = Conventions { surface: args.surface, tolerances: classes.tolerances(args)?, absent: args.absent };
    let labels = label_maps(&args.labels)?;
    let folders = args.predictions.iter().chain(&args.compare);
    let predictions: Vec<BTreeMap<String, PathBuf>> =
        folders.map(|folder| predictions_in(folder, &labels)).collect::<Result<_, _>>()?;
    for (flag, out, extension) in [("--csv", &args.csv, "csv"), ("--summary", &args.summary, "json")] {
        if let Some(out) = out {
            outputs::check_file(out)?;
            refuse_input(flag, out, labels.values().chain(predictions.iter().flat_map(BTreeMap::values)))?;
            check_extension(out, extension)?;
        }
    }
    if let Some(folder) = &args.report {
        outputs::check_folder(folder)?;
    }

    let mut cases: Vec<Vec<CaseMetrics>> = vec![Vec::new(); predictions.len()];
    let mut highest = 1;
    for (number, (case_id, label_path)) in labels.iter().enumerate() {
        let label = LabelFile::read(label_path)?;
        for (cases, predictions) in cases.iter_mut().zip(&predictions) {
            let pred = LabelFile::read(&predictions[case_id])?;
            label.check_grid(&pred, case_id)?;
            let found = label.voxels.iter().chain(&pred.voxels).filter(|label| Some(**label) != classes.space.ignore());
            highest = found.fold(highest, |top, &class| top.max(class));
            let (label, pred) = (label.map()?, pred.map()?);
            let metrics = match &classes.regions {
                Some(regions) => evaluate_regions(case_id, &label, &pred, classes.space, regions, &conventions),
                None => evaluate_case(case_id, &label, &pred, classes.space, &conventions),
            };
            cases.push(metrics.with_context(|| format!("case {case_id}"))?);
        }
        note(format_args!("{} of {}: {case_id}", number + 1, labels.len()));
    }
    let class_names = classes.names(highest);
    let evaluation = |mut cases: Vec<CaseMetrics>| {
        for case in &mut cases {
            case.classes.truncate(class_names.len());
        }
        let bootstrap = Bootstrap { resamples: args.bootstrap as usize, seed: args.seed };
        Evaluation { class_names: class_names.clone(), conventions: conventions.clone(), bootstrap, cases }
    };
    let evaluations: Vec<Evaluation> = cases.into_iter().map(evaluation).collect();
    if let [a, b] = evaluations.as_slice() {
        let comparison = Comparison::of(a, b);
        if args.json {
            print_text(comparison.to_json())?;
        } else {
            print_text(comparison.to_table().trim_end())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (evaluation, predictions) = (&evaluations[0], &predictions[0]);
    // Shown before files are written, which may fail.
    if args.json {
        print_text(evaluation.to_json())?;
    } else {
        print_text(evaluation.to_table().trim_end())?;
    }
    // A file that cannot be written keeps none of the others from being written.
    let csv = args.csv.as_ref().map(|path| durable::write(path, evaluation.to_csv().as_bytes()));
    let summary = args.summary.as_ref().map(|path| {
        let files: Vec<(&Path, &Path)> =
            labels.iter().map(|(case_id, label)| (label.as_path(), predictions[case_id].as_path())).collect();
        let keys = classes.nnunet_keys(evaluation.class_names.len());
        durable::write(path, nnunet_summary(evaluation, &keys, &files).as_bytes())
    });
    let report = args.report.as_ref().map(|folder| -> anyhow::Result<()> {
        durable::create_dir_all(folder)?;
        let files = report::Files { labels: &labels, predictions };
        note(format_args!("report: {}", report::write(evaluation, &classes, &files, folder)?.display()));
        Ok(())
    });
    csv.transpose()?;
    summary.transpose()?;
    report.transpose()?;
    Ok(ExitCode::SUCCESS)
}

/// Predicted label maps of a folder, of which each label has one.
fn predictions_in(folder: &Path, labels: &BTreeMap<String, PathBuf>) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let predictions = label_maps(folder)?;
    let missing: Vec<&str> = labels.keys().filter(|id| !predictions.contains_key(*id)).map(String::as_str).collect();
    ensure!(missing.is_empty(), "{}: no prediction of {}", folder.display(), missing.join(", "));
    Ok(predictions)
}

/// Refuses to write over one of the files that are evaluated.
fn refuse_input<'a>(flag: &str, out: &Path, inputs: impl Iterator<Item = &'a PathBuf>) -> anyhow::Result<()> {
    if !lookup::exists(out)? {
        return Ok(());
    }
    let resolved = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
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

    /// The map with its axes reversed, since a [`LabelMap`] has its last axis fastest; no metric depends on their order.
    fn map(&self) -> anyhow::Result<LabelMap<'_>> {
        let ([x, y, z], [sx, sy, sz]) = (self.info.shape, spacing(&self.info.affine));
        Ok(LabelMap::new(&self.voxels, [z, y, x], [sz, sy, sx])?)
    }

    fn check_grid(&self, pred: &Self, case_id: &str) -> anyhow::Result<()> {
        match check_same_grid(&self.info, &pred.info) {
            Ok(()) => Ok(()),
            Err(GridMismatch::Shape { found, scan }) => {
                anyhow::bail!("case {case_id}: the label has {scan:?} voxels, the prediction {found:?}")
            }
            Err(GridMismatch::Place { shift_mm }) => {
                anyhow::bail!("case {case_id}: label and prediction lie {shift_mm:.2} mm apart")
            }
        }
    }
}
