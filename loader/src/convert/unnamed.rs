//! Label values in the label maps of a conversion that `dataset.json` gives no name.

use std::collections::BTreeSet;
use std::fmt;

use hiend_cache::{Cache, Case, VolumeReader};

use crate::dataset::Dataset;
use crate::plural::count;

/// Largest number of values that are listed.
const MOST_LISTED: usize = 10;

/// Label values of a dataset without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnnamedLabels {
    /// Name of the dataset.
    pub dataset: String,
    /// The values, in ascending order.
    pub values: Vec<u32>,
    /// Number of labelled cases that have one of them.
    pub num_cases: usize,
    /// Number of the dataset's labelled cases in the cache.
    pub num_labelled: usize,
    /// Example of a case with such a value, as `DATASET/CASE`.
    pub example: String,
}

impl fmt::Display for UnnamedLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dataset, values, num_cases, num_labelled, example } = self;
        let listed = values.iter().take(MOST_LISTED).map(u32::to_string).collect::<Vec<_>>().join(", ");
        let more = match values.len().saturating_sub(MOST_LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let [value, has, them] = if values.len() == 1 { ["value", "has", "it"] } else { ["values", "have", "them"] };
        write!(
            f,
            "{dataset}: label {value} {listed}{more} in {num_cases} of {}, such as {example}, {has} no name in dataset.json; name \
             {them} there, or correct the label maps: fine-tuning refuses {them}",
            count(*num_labelled, "labelled case")
        )
    }
}

/// Finds the unnamed labels of the datasets that name classes, by the indices of all their labelled cases in a cache. Datasets
/// with a damaged case are left to `hiend-shard verify`.
pub(super) fn find(cache: &Cache, datasets: &[Dataset]) -> Vec<UnnamedLabels> {
    datasets.iter().filter_map(|dataset| of_dataset(cache, dataset)).collect()
}

fn of_dataset(cache: &Cache, dataset: &Dataset) -> Option<UnnamedLabels> {
    let named = dataset.labels.keys().chain(dataset.regions.values().flatten()).chain(&dataset.ignore);
    let named: BTreeSet<u32> = named.map(|label| u32::from(*label)).collect();
    if named.is_empty() || dataset.cases.iter().all(|case| case.label.is_none()) {
        return None;
    }
    let is_labelled = |case: &&Case| case.record().dataset == dataset.name && case.record().label.is_some();
    let mut reader = VolumeReader::new();
    let mut values = BTreeSet::new();
    let (mut num_cases, mut num_labelled, mut example) = (0, 0, None);
    for case in cache.cases().iter().filter(is_labelled) {
        num_labelled += 1;
        let classes = &reader.index(case).ok()?.occupancy.classes;
        let is_unnamed = |value: &u32| *value > 0 && !named.contains(value);
        let unnamed: Vec<u32> = classes.iter().map(|(value, _)| *value).filter(is_unnamed).collect();
        if !unnamed.is_empty() {
            num_cases += 1;
            example.get_or_insert_with(|| case.key().to_owned());
            values.extend(unnamed);
        }
    }
    let values = values.into_iter().collect();
    Some(UnnamedLabels { dataset: dataset.name.clone(), values, num_cases, num_labelled, example: example? })
}
