//! `hiend-train evaluate --labels DIR --predictions DIR`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use hiend_cache::{durable, lookup};
use hiend_loader::dataset::Dataset;
use hiend_loader::geometry::{largest_shift_mm, spacing};
use hiend_loader::nifti::{LabelVolume, NiftiInfo, read_labels};
use hiend_loader::program::{UsageError, check_extension};

use super::{note, print};
use crate::cli::EvaluateArgs;
use crate::inference::scan_files::label_maps;
use crate::label_space::LabelSpace;
use crate::metric::LabelMap;
use crate::metric::evaluation::{Evaluation, Region, evaluate_case, evaluate_regions};

/// Distance in mm that the corners of a prediction may lie from those of its label: more than the rounding of headers,
/// less than half a voxel.
const MAX_SHIFT_MM: f64 = 0.1;

/// Name by which nnU-Net's `dataset.json` marks the ignore label.
const IGNORE: &str = "ignore";

pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<ExitCode> {
    let labels = label_maps(&args.labels)?;
    let predictions = label_maps(&args.predictions)?;
    let missing: Vec<&str> = labels.keys().filter(|id| !predictions.contains_key(*id)).map(String::as_str).collect();
    ensure!(missing.is_empty(), "{}: no prediction of {}", args.predictions.display(), missing.join(", "));
    if let Some(csv) = &args.csv {
        refuse_input(csv, labels.values().chain(predictions.values()))?;
        check_extension(csv, "csv")?;
    }
    let named = args.dataset.as_deref().map(Named::read).transpose()?;
    let ignore = args.ignore_label.or(named.as_ref().and_then(|named| named.ignore));
    // Without names, every label up to the highest one is a class.
    let num_classes = named.as_ref().map_or(ignore.map_or(256, usize::from), |named| named.classes.len());
    if let Some(label) = ignore.filter(|&label| usize::from(label) < num_classes) {
        let message = format!("--ignore-label {label} is a class of the dataset; it must be above {}", num_classes - 1);
        return Err(UsageError::new(message).into());
    }
    let space = LabelSpace::new(num_classes).with_ignore(ignore);
    let regions = named.as_ref().and_then(|named| named.regions.clone());

    let mut cases = Vec::new();
    let mut highest = 1;
    for (case_id, label_path) in &labels {
        let label = LabelFile::read(label_path)?;
        let pred = LabelFile::read(&predictions[case_id])?;
        label.check_grid(&pred, case_id)?;
        let classes = label.voxels.iter().chain(&pred.voxels).filter(|label| Some(**label) != ignore);
        highest = classes.fold(highest, |top, &class| top.max(class));
        let (label, pred) = (label.map()?, pred.map()?);
        let metrics = match &regions {
            Some(regions) => evaluate_regions(case_id, &label, &pred, space, regions, args.tolerance_mm),
            None => evaluate_case(case_id, &label, &pred, space, args.tolerance_mm),
        };
        cases.push(metrics.with_context(|| format!("case {case_id}"))?);
        note(format_args!("{} of {}: {case_id}", cases.len(), labels.len()));
    }
    let class_names = match (named, regions) {
        (_, Some(regions)) => regions.into_iter().map(|region| region.name).collect(),
        (Some(named), None) => named.classes,
        (None, None) => (0..=highest).map(|class| format!("class {class}")).collect(),
    };
    for case in &mut cases {
        case.classes.truncate(class_names.len());
    }
    let evaluation = Evaluation { class_names, tolerance_mm: args.tolerance_mm, cases };
    if let Some(path) = &args.csv {
        durable::write(path, evaluation.to_csv().as_bytes())?;
    }
    if args.json {
        print(evaluation.to_json())?;
    } else {
        print(evaluation.to_table().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses to write over one of the files that are evaluated.
fn refuse_input<'a>(out: &Path, inputs: impl Iterator<Item = &'a PathBuf>) -> anyhow::Result<()> {
    if !lookup::exists(out)? {
        return Ok(());
    }
    let resolved = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
    let existing = resolved(out)?;
    for input in inputs {
        ensure!(resolved(input)? != existing, "{} would replace a label map; choose another --csv", out.display());
    }
    Ok(())
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

    /// The map with its axes reversed, since a [`LabelMap`] has its last axis fastest; no metric depends on their order.
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

/// Classes and ignore label as a dataset names them.
struct Named {
    /// Names from class 0 to the highest; a class without a name is called `class N`.
    classes: Vec<String>,
    ignore: Option<u8>,
    /// Regions to score in place of classes, the background first; `None` if the dataset has none.
    regions: Option<Vec<Region>>,
}

impl Named {
    fn read(dataset: &Path) -> anyhow::Result<Self> {
        let datasets = hiend_loader::dataset::find(dataset)?;
        let [dataset] = datasets.as_slice() else {
            bail!("{}: {} datasets, expected the folder of one", dataset.display(), datasets.len());
        };
        let ignore = dataset.labels.iter().find(|(_, name)| *name == IGNORE).map(|(&label, _)| label);
        let of_regions = dataset.regions.values().flatten();
        let highest = dataset.labels.keys().chain(of_regions).filter(|label| Some(**label) != ignore).max();
        let Some(&highest) = highest else { bail!("dataset {} names no classes", dataset.name) };
        let name = |class| dataset.labels.get(&class).cloned().unwrap_or_else(|| format!("class {class}"));
        let regions = (!dataset.regions.is_empty()).then(|| regions(dataset, ignore));
        Ok(Self { classes: (0..=highest).map(name).collect(), ignore, regions })
    }
}

/// Regions of a dataset as nnU-Net scores them: each entry of `labels` but background and ignore label, be it one label
/// or a list of several. The background, which belongs to no entry, comes first.
fn regions(dataset: &Dataset, ignore: Option<u8>) -> Vec<Region> {
    let single = dataset.labels.iter().filter(|(label, _)| **label > 0 && Some(**label) != ignore);
    let single = single.map(|(label, name)| Region { name: name.clone(), labels: vec![*label] });
    let united = dataset.regions.iter().filter(|(_, labels)| labels.iter().any(|&label| label > 0));
    let united = united.map(|(name, labels)| Region { name: name.clone(), labels: labels.clone() });
    let background = Region { name: "background".to_owned(), labels: vec![0] };
    std::iter::once(background).chain(single).chain(united).collect()
}
