//! Classes that a dataset of a conversion names but no label map contains.

use std::collections::{BTreeSet, HashSet};
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
}

impl fmt::Display for UnseenClasses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dataset, classes, num_labelled } = self;
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
        write!(
            f,
            "{dataset}: {class} {listed}{more} of dataset.json {has} no voxel in its {cases}; check whether dataset.json gives \
             {number} that the label maps use, and whether label maps are missing"
        )
    }
}

/// Finds the unseen classes of the datasets whose labelled cases are all in the cache, except the `skipped` ones.
/// Datasets with a damaged case are left to `hiend-shard verify`. Datasets of one mask per class are not examined:
/// existing files name their classes, and a mask may be empty everywhere.
pub(super) fn find(cache: &Cache, datasets: &[Dataset], skipped: &HashSet<&str>) -> Vec<UnseenClasses> {
    let of_dataset = |dataset: &Dataset| {
        let is_there = |case: &CaseFiles| {
            let key = case.key();
            cache.case(&key).is_some_and(|case| case.record().label.is_some()) || skipped.contains(key.as_str())
        };
        let named: BTreeSet<u8> = foreground(&dataset.info()).collect();
        let mut labelled = dataset.cases.iter().filter(|case| case.label.is_some());
        let has_masks = dataset.cases.iter().any(|case| matches!(case.label, Some(LabelFiles::Masks { .. })));
        if has_masks || named.is_empty() || !labelled.all(is_there) {
            return None;
        }
        let is_labelled = |case: &&Case| case.record().dataset == dataset.name && case.record().label.is_some();
        let cases: Vec<&Case> = cache.cases().iter().filter(is_labelled).collect();
        let unseen = unseen(named, cases.iter().copied()).ok().filter(|unseen| !unseen.is_empty())?;
        let classes = unseen.into_iter().map(|label| (label, dataset.labels[&label].clone())).collect();
        (!cases.is_empty()).then(|| UnseenClasses { dataset: dataset.name.clone(), classes, num_labelled: cases.len() })
    };
    datasets.iter().filter_map(of_dataset).collect()
}
