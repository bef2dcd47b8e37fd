//! Classes of an evaluation: their names, the ignore label, regions, and the tolerance of each class.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{bail, ensure};
use hiend_cache::lookup;
use hiend_loader::case::shown;
use hiend_loader::dataset::{self, Dataset, DatasetError};
use hiend_loader::nearest::nearest;
use hiend_loader::program::UsageError;

use crate::cli::EvaluateArgs;
use crate::commands::class_names::class_named;
use crate::commands::note;
use crate::label_space::LabelSpace;
use crate::metric::evaluation::{Evaluation, Region, Tolerances};

/// Name by which nnU-Net's `dataset.json` marks the ignore label.
const IGNORE: &str = "ignore";

/// Classes or regions to score.
pub(super) struct Classes {
    /// Labels that may occur.
    pub space: LabelSpace,
    /// Regions to score in place of classes.
    pub regions: Option<Vec<Region>>,
    /// Keys of the regions in nnU-Net's `summary.json`, in the order of `regions`; empty without any.
    region_keys: Vec<String>,
    /// Names of the dataset's classes or regions by number, background first; `None` without a dataset.
    names: Option<BTreeMap<usize, String>>,
}

impl Classes {
    /// Returns the classes of the dataset that a flag names; every label without one.
    ///
    /// # Errors
    /// If the dataset cannot be read, or the ignore label is one of its classes.
    pub(super) fn of(args: &EvaluateArgs) -> anyhow::Result<Self> {
        let dataset = args.dataset.as_deref().map(Named::read).transpose()?;
        let ignore = args.ignore_label.or(dataset.as_ref().and_then(|named| named.ignore));
        // Without names, every label up to the highest one is a class.
        let num_classes =
            dataset.as_ref().map_or(ignore.map_or(256, usize::from), |named| usize::from(named.highest) + 1);
        if dataset.is_none() && num_classes < 2 {
            let message = format!("--ignore-label {num_classes} leaves no class to score; it must be above 1");
            return Err(UsageError::new(message).into());
        }
        if let Some(label) = ignore.filter(|&label| usize::from(label) < num_classes) {
            let message = format!(
                "--ignore-label {label} is not above the classes of the dataset, which go up to {}",
                num_classes - 1
            );
            return Err(UsageError::new(message).into());
        }
        let (names, regions, region_keys) = match dataset {
            Some(Named { regions: Some(regions), .. }) => {
                let (regions, keys): (Vec<Region>, Vec<String>) = regions.into_iter().unzip();
                let names = regions.iter().map(|region| region.name.clone()).enumerate().collect();
                (Some(names), Some(regions), keys)
            }
            Some(Named { classes, .. }) => (Some(classes), None, Vec::new()),
            None => (None, None, Vec::new()),
        };
        Ok(Self { space: LabelSpace::new(num_classes).with_ignore(ignore), regions, region_keys, names })
    }

    /// Names of the classes or regions by number, background first. Labels in `unnamed`, which maps hold and the dataset does
    /// not name, are classes by their numbers; without a dataset, all labels up to `highest` are, the highest one of any map.
    pub(super) fn names(&self, highest: u8, unnamed: impl Iterator<Item = u8>) -> BTreeMap<usize, String> {
        let by_number = |label: u8| (usize::from(label), format!("class {label}"));
        match &self.names {
            Some(names) if self.regions.is_some() => names.clone(),
            Some(names) => names.clone().into_iter().chain(unnamed.map(by_number)).collect(),
            None => (0..=highest).map(by_number).collect(),
        }
    }

    /// Returns true for a label that the dataset names, for the background and the ignore label; for every label without a
    /// dataset.
    pub(super) fn is_named(&self, label: u8) -> bool {
        let is_known = match (&self.regions, &self.names) {
            (Some(regions), _) => regions.iter().any(|region| region.labels.contains(&label)),
            (None, Some(names)) => names.contains_key(&usize::from(label)),
            (None, None) => true,
        };
        is_known || label == 0 || self.space.ignore() == Some(label)
    }

    /// Classes or regions of nnU-Net's `summary.json` but the background, with their keys there: the number of a class, or the
    /// tuple of a region's labels.
    ///
    /// Without a dataset, a number that no map has is not a class: nnU-Net knows those of `dataset.json` only, and its mean
    /// over all of them is NaN if one is.
    pub(super) fn nnunet_keys(&self, evaluation: &Evaluation) -> Vec<(usize, String)> {
        match &self.regions {
            Some(_) => self.region_keys.iter().cloned().enumerate().skip(1).collect(),
            None => evaluation
                .class_names
                .keys()
                .skip(1)
                .filter(|class| self.names.is_some() || evaluation.occurs(**class))
                .map(|&class| (class, class.to_string()))
                .collect(),
        }
    }

    /// Reads the tolerances of `--tolerance-mm` and `--tolerance`.
    ///
    /// # Errors
    /// If a name is not one of a class, or is the background's, whose surface is not measured.
    pub(super) fn tolerances(&self, args: &EvaluateArgs) -> anyhow::Result<Tolerances> {
        let names = self.names(u8::MAX, std::iter::empty());
        let numbered = || names.iter().map(|(&class, name)| (class, name.as_str()));
        let mut by_class = BTreeMap::new();
        for (name, tolerance_mm) in &args.tolerance {
            let class = match &self.regions {
                Some(regions) => region_named(regions, name)?,
                None => class_named("--tolerance", numbered(), name)?,
            };
            let usage = |problem: &str| UsageError::new(format!("--tolerance {name}={tolerance_mm}: {problem}"));
            if class == 0 {
                return Err(usage("the surface of the background is not measured").into());
            }
            if by_class.insert(class, *tolerance_mm).is_some() {
                return Err(usage("the class has a tolerance already").into());
            }
        }
        Ok(Tolerances { default_mm: args.tolerance_mm, by_class })
    }
}

/// Returns the index of the region with a name. Numbers are not accepted, because a label may belong to several regions.
fn region_named(regions: &[Region], wanted: &str) -> Result<usize, UsageError> {
    regions.iter().position(|region| region.name == wanted).ok_or_else(|| {
        let names: Vec<&str> = regions.iter().skip(1).map(|region| region.name.as_str()).collect();
        let hint = nearest(wanted, names.iter().copied()).map(|name| format!("; did you mean `{name}`?"));
        let (hint, names) = (hint.unwrap_or_default(), names.join(", "));
        UsageError::new(format!("--tolerance: no region is named `{wanted}`{hint} (the regions are {names})"))
    })
}

/// Classes and ignore label named by a dataset.
struct Named {
    /// Names by class; the background has one even if the dataset does not name it.
    classes: BTreeMap<usize, String>,
    /// The highest class.
    highest: u8,
    /// Ignore label, if the dataset has one.
    ignore: Option<u8>,
    /// Regions to score in place of classes, with their keys, the background first; `None` if the dataset has none.
    regions: Option<Vec<(Region, String)>>,
}

impl Named {
    /// Reads `dataset.json`, given its path or its folder; without one, finds the dataset of label maps or masks.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let described = dataset::names_in(path)?.filter(|named| !(named.labels.is_empty() && named.regions.is_empty()));
        let info = match described {
            Some(named) => named,
            None => found(path)?,
        };
        if let Some((label, name)) = dataset::misspelt_ignore(&info.labels) {
            note(format_args!(
                "warning: {}: label {label} is called {name:?} and scored as a class; if its voxels have no annotation, name it \
                 \"{IGNORE}\" there",
                shown(path)
            ));
        }
        let ignore = info.labels.iter().find(|(_, name)| *name == IGNORE).map(|(&label, _)| label);
        let of_regions = info.regions.values().flatten();
        let highest = info.labels.keys().chain(of_regions).filter(|label| Some(**label) != ignore).max();
        let Some(&highest) = highest else { bail!("{}: names no classes", shown(path)) };
        let regions = (!info.regions.is_empty()).then(|| regions(&info, ignore));
        let named = info.labels.iter().filter(|(label, _)| Some(**label) != ignore);
        let mut classes: BTreeMap<usize, String> =
            named.map(|(&label, name)| (usize::from(label), name.clone())).collect();
        classes.entry(0).or_insert_with(|| "class 0".to_owned());
        Ok(Self { classes, highest, ignore, regions })
    }
}

/// The only dataset in a folder, with names derived from its files.
fn found(path: &Path) -> anyhow::Result<Dataset> {
    let expected = "--dataset takes a dataset.json with \"labels\", or the folder of a dataset";
    let Some(metadata) = lookup::metadata(path)? else { bail!("{}: no such file or folder; {expected}", shown(path)) };
    ensure!(metadata.is_dir(), "{}: names no classes; {expected}", shown(path));
    let mut datasets = match dataset::find(path) {
        Ok(datasets) => datasets,
        Err(DatasetError::Empty { .. }) => bail!("{}: no dataset.json that names classes; {expected}", shown(path)),
        Err(error) => return Err(error.into()),
    };
    ensure!(datasets.len() == 1, "{}: {} datasets, expected the folder of one", shown(path), datasets.len());
    Ok(datasets.remove(0))
}

/// Regions of a dataset as nnU-Net scores them, with their keys in its `summary.json`: each entry of `labels` except
/// background and ignore label, whether a single label or a list, in the order of `dataset.json`. The background, which
/// belongs to no entry, comes first.
///
/// The key is the entry in Python's form: `3`, or a tuple for a list, `(1, 2)` and `(3,)`.
fn regions(dataset: &Dataset, ignore: Option<u8>) -> Vec<(Region, String)> {
    let region = |name: &str, labels: &[u8]| Region { name: name.to_owned(), labels: labels.to_vec() };
    let single = dataset.labels.iter().filter(|(label, _)| **label > 0 && Some(**label) != ignore);
    let single = single.map(|(label, name)| (region(name, &[*label]), label.to_string()));
    let united = dataset.regions.iter().filter(|(_, labels)| labels.iter().any(|&label| label > 0));
    let united = united.map(|(name, labels)| (region(name, labels), tuple(labels)));
    let mut regions: Vec<(Region, String)> = single.chain(united).collect();
    regions.sort_by_key(|(region, _)| dataset.order.iter().position(|name| *name == region.name));
    regions.insert(0, (region("background", &[0]), "0".to_owned()));
    regions
}

/// Writes labels as a tuple in Python's form.
fn tuple(labels: &[u8]) -> String {
    match labels {
        [label] => format!("({label},)"),
        labels => format!("({})", labels.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")),
    }
}
