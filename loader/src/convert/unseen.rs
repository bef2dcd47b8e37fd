//! Classes that a dataset of a conversion names but no label map contains.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use hiend_cache::{Cache, Case};

use crate::case::{CaseFiles, LabelFiles};
use crate::dataset::Dataset;
use crate::plural;
use crate::unseen::{foreground, unseen};

/// Largest number of classes that are listed.
const MOST_LISTED: usize = 10;

/// Classes of a dataset that occur in none of its label maps in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnseenClasses {
    /// Name of the dataset.
    pub dataset: String,
    /// Label and name of each class.
    pub classes: Vec<(u8, String)>,
    /// Number of the dataset's label maps.
    pub num_labelled: usize,
    /// True if each class has voxels in a file, which resampling or the crop to the foreground removed.
    pub are_lost: bool,
}

impl fmt::Display for UnseenClasses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dataset, classes, num_labelled, are_lost } = self;
        let listed = classes.iter().take(MOST_LISTED).map(|(label, name)| format!("{label} ({name})"));
        let listed = listed.collect::<Vec<_>>().join(", ");
        let more = match classes.len().saturating_sub(MOST_LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let [class, has, number] = if classes.len() == 1 {
            ["class", "has", "it the number"]
        } else {
            ["classes", "have", "them the numbers"]
        };
        let cases = plural::count(*num_labelled, "labelled case");
        write!(f, "{dataset}: {class} {listed}{more} of dataset.json {has} ")?;
        if *are_lost {
            return write!(
                f,
                "voxels in the label maps, and none left after resampling and the crop in its {cases}; a smaller --spacing keeps \
                 small structures"
            );
        }
        write!(
            f,
            "no voxel in its {cases}; check whether dataset.json gives {number} that the label maps use, and whether label maps \
             are missing"
        )
    }
}

/// Finds the unseen classes of the datasets whose labelled cases are all in the cache, except the `skipped` ones.
/// Datasets with a damaged case are left to `hiend-shard verify`. Datasets of one mask per class are not examined:
/// existing files name their classes, and a mask may be empty everywhere.
pub(super) fn find(cache: &Cache, datasets: &[Dataset], skipped: &HashSet<&str>) -> Vec<UnseenClasses> {
    datasets.iter().flat_map(|dataset| of_dataset(cache, dataset, skipped)).collect()
}

/// Unseen classes of a dataset, those that preprocessing removed apart.
fn of_dataset(cache: &Cache, dataset: &Dataset, skipped: &HashSet<&str>) -> Vec<UnseenClasses> {
    let is_there = |case: &CaseFiles| {
        let key = case.key();
        cache.case(&key).is_some_and(|case| case.record().label.is_some()) || skipped.contains(key.as_str())
    };
    let named = named(dataset);
    let mut labelled = dataset.cases.iter().filter(|case| case.label.is_some());
    let has_masks = dataset.cases.iter().any(|case| matches!(case.label, Some(LabelFiles::Masks { .. })));
    if has_masks || named.is_empty() || !labelled.all(is_there) {
        return Vec::new();
    }
    let is_labelled = |case: &&Case| case.record().dataset == dataset.name && case.record().label.is_some();
    let cases: Vec<&Case> = cache.cases().iter().filter(is_labelled).collect();
    let Ok(unseen) = unseen(named.keys().copied().collect(), cases.iter().copied()) else { return Vec::new() };
    let values = cases.iter().filter_map(|case| case.record().values.as_ref());
    let lost: BTreeSet<u8> = values.flat_map(|values| values.lost_labels.iter().copied()).collect();
    let classes = |are_lost: bool| -> Vec<(u8, String)> {
        let labels = unseen.iter().filter(|label| lost.contains(*label) == are_lost);
        labels.map(|label| (*label, named[label].clone())).collect()
    };
    let told = |are_lost: bool| UnseenClasses {
        dataset: dataset.name.clone(),
        classes: classes(are_lost),
        num_labelled: cases.len(),
        are_lost,
    };
    let told = [false, true].map(told).into_iter().filter(|told| !told.classes.is_empty() && told.num_labelled > 0);
    told.collect()
}

/// Names of a dataset's classes by label value, and of the regions for values that only they have; neither the background
/// nor the ignore label.
fn named(dataset: &Dataset) -> BTreeMap<u8, String> {
    let of_regions = dataset.regions.iter().flat_map(|(name, values)| values.iter().map(move |value| (*value, name)));
    let of_regions = of_regions.filter(|(value, _)| *value > 0 && dataset.ignore != Some(*value));
    let mut named: BTreeMap<u8, String> =
        of_regions.map(|(value, name)| (value, format!("of region {name}"))).collect();
    named.extend(foreground(&dataset.info()).map(|label| (label, dataset.labels[&label].clone())));
    named
}
