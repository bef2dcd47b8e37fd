//! Label values in the label maps of a conversion that `dataset.json` gives no name.

use std::collections::BTreeSet;
use std::fmt;

use hiend_cache::{Cache, Case, VolumeReader};
use rayon::prelude::*;

use super::share::is_in_share;
use crate::dataset::Dataset;
use crate::plural::count;
use crate::stop::Stop;

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
    /// Number of the dataset's labelled cases in the cache, those of other workers apart.
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

/// Finds the unnamed labels of the datasets that name classes, by the indices of their labelled cases in a cache that belong
/// to `worker`. Datasets with a damaged case are left to `hiend-shard verify`, and those not read before `stop` to later runs.
pub(super) fn find(cache: &Cache, datasets: &[Dataset], worker: (usize, usize), stop: &Stop) -> Vec<UnnamedLabels> {
    datasets.iter().filter_map(|dataset| of_dataset(cache, dataset, worker, stop)).collect()
}

fn of_dataset(cache: &Cache, dataset: &Dataset, worker: (usize, usize), stop: &Stop) -> Option<UnnamedLabels> {
    let named = dataset.labels.keys().chain(dataset.regions.values().flatten()).chain(&dataset.ignore);
    let named: BTreeSet<u32> = named.map(|label| u32::from(*label)).collect();
    if named.is_empty() || dataset.cases.iter().all(|case| case.label.is_none()) {
        return None;
    }
    let is_labelled = |case: &&Case| case.record().dataset == dataset.name && case.record().label.is_some();
    let is_own = |case: &&Case| is_in_share(case.key(), worker);
    let cases: Vec<&Case> = cache.cases().iter().filter(is_labelled).filter(is_own).collect();
    let unnamed = |reader: &mut VolumeReader, case: &&Case| -> Option<Vec<u32>> {
        if stop.is_requested() {
            return None;
        }
        let index = reader.index(case).ok()?;
        let values = index.occupancy.classes.iter().map(|(value, _)| *value);
        Some(values.filter(|value| *value > 0 && !named.contains(value)).collect())
    };
    let unnamed: Option<Vec<Vec<u32>>> = cases.par_iter().map_init(VolumeReader::new, unnamed).collect();
    let mut with_some = cases.iter().zip(unnamed?).filter(|(_, values)| !values.is_empty()).peekable();
    let example = with_some.peek()?.0.key().to_owned();
    let values: Vec<Vec<u32>> = with_some.map(|(_, values)| values).collect();
    let (num_cases, num_labelled) = (values.len(), cases.len());
    let values = values.into_iter().flatten().collect::<BTreeSet<u32>>().into_iter().collect();
    Some(UnnamedLabels { dataset: dataset.name.clone(), values, num_cases, num_labelled, example })
}
