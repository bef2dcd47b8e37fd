//! `hiend-train evaluate --labels DIR --predictions DIR`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use hiend_loader::geometry::{largest_shift_mm, spacing};
use hiend_loader::nifti::{LabelVolume, NiftiInfo, read_labels};

use crate::cli::EvaluateArgs;
use crate::metric::LabelMap;
use crate::metric::evaluation::{Evaluation, evaluate_case};

/// How far the corners of a prediction may lie from those of its label: headers are rounded, half a voxel is not.
const MAX_SHIFT_MM: f64 = 0.1;

pub fn run(args: &EvaluateArgs) -> anyhow::Result<ExitCode> {
    let labels = cases_in(&args.labels)?;
    let predictions = cases_in(&args.predictions)?;
    let missing: Vec<&str> = labels.keys().filter(|id| !predictions.contains_key(*id)).map(String::as_str).collect();
    ensure!(missing.is_empty(), "{}: no prediction of {}", args.predictions.display(), missing.join(", "));
    let mut names = args.dataset.as_deref().map(class_names).transpose()?;

    let mut cases = Vec::new();
    let mut highest = 1;
    for (case_id, label_path) in &labels {
        let label = LabelFile::read(label_path)?;
        let pred = LabelFile::read(&predictions[case_id])?;
        label.check_grid(&pred, case_id)?;
        highest = label.voxels.iter().chain(&pred.voxels).fold(highest, |top, &class| top.max(class));
        let num_classes = names.as_ref().map_or(256, Vec::len);
        let metrics = evaluate_case(case_id, &label.map()?, &pred.map()?, num_classes, args.tolerance_mm);
        cases.push(metrics.with_context(|| format!("case {case_id}"))?);
        eprintln!("{} of {}: {case_id}", cases.len(), labels.len());
    }
    let class_names = names.take().unwrap_or_else(|| (0..=highest).map(|class| format!("class {class}")).collect());
    for case in &mut cases {
        case.classes.truncate(class_names.len());
    }
    let evaluation = Evaluation { class_names, tolerance_mm: args.tolerance_mm, cases };
    if let Some(path) = &args.csv {
        std::fs::write(path, evaluation.to_csv()).with_context(|| path.display().to_string())?;
    }
    print!("{}", evaluation.to_table());
    Ok(ExitCode::SUCCESS)
}

/// A label map in its file's order, x fastest.
struct LabelFile {
    info: NiftiInfo,
    voxels: Vec<u8>,
}

impl LabelFile {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let LabelVolume { info, voxels, .. } = read_labels(path)?;
        Ok(Self { info, voxels })
    }

    /// Axes in reverse, since a map has its last axis fastest: no figure depends on their names.
    fn map(&self) -> anyhow::Result<LabelMap<'_>> {
        let ([x, y, z], [sx, sy, sz]) = (self.info.shape, spacing(&self.info.affine));
        Ok(LabelMap::new(&self.voxels, [z, y, x], [sz, sy, sx])?)
    }

    fn check_grid(&self, pred: &Self, case_id: &str) -> anyhow::Result<()> {
        let (label, pred) = (&self.info, &pred.info);
        let (a, b) = (label.shape, pred.shape);
        ensure!(a == b, "case {case_id}: the label has {a:?} voxels, the prediction {b:?}");
        let shift = largest_shift_mm(&label.affine, &pred.affine, label.shape);
        ensure!(shift <= MAX_SHIFT_MM, "case {case_id}: label and prediction lie {shift:.2} mm apart");
        Ok(())
    }
}

/// The label files of a folder by case.
fn cases_in(folder: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut cases = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(case_id) = name.strip_suffix(".nii.gz").or_else(|| name.strip_suffix(".nii")) else { continue };
        if let Some(other) = cases.insert(case_id.to_owned(), path.clone()) {
            bail!("case {case_id} is in both {} and {}", other.display(), path.display());
        }
    }
    ensure!(!cases.is_empty(), "{}: no .nii or .nii.gz file in this folder", folder.display());
    Ok(cases)
}

/// Class names by label value, from a dataset's description; values without a name get one.
fn class_names(dataset: &Path) -> anyhow::Result<Vec<String>> {
    let datasets = hiend_loader::dataset::find(dataset)?;
    let [dataset] = datasets.as_slice() else {
        bail!("{}: {} datasets, expected the folder of one", dataset.display(), datasets.len());
    };
    let Some((&highest, _)) = dataset.labels.last_key_value() else {
        bail!("dataset {} names no classes", dataset.name);
    };
    let name = |class| dataset.labels.get(&class).cloned().unwrap_or_else(|| format!("class {class}"));
    Ok((0..=highest).map(name).collect())
}
