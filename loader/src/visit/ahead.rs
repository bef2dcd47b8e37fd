//! Fetching the chunks of a visit before it is made, for cases in object storage.

use std::collections::BTreeSet;

use hiend_cache::{Box3, Case};

use super::{VisitPlan, Visitor};
use crate::rng::{DrawId, case_key};
use crate::sampler::Kind;

impl Visitor {
    /// Fetches the chunks that a visit will read, and waits until they are available locally. `ignore` is the ignore
    /// label passed to the visit.
    ///
    /// Takes three round trips: the index, then the chunks that hold the centres, then those of the crops.
    ///
    /// # Errors
    /// If a chunk cannot be fetched or is corrupt. The visit meets the same error.
    pub fn fetch_ahead(
        &mut self,
        (case, ignore): (&Case, Option<u8>),
        epoch: u64,
        plan: &VisitPlan,
        labels: bool,
    ) -> Result<(), hiend_cache::Error> {
        let index = self.reader.index(case)?;
        let case_key = case_key(case.key());
        let ids: Vec<DrawId> =
            (0..).take(plan.num_crops).map(|crop| DrawId { seed: plan.seed, epoch, case: case_key, crop }).collect();
        let mut centres = Vec::with_capacity(ids.len());
        let mut by_class = false;
        for id in &ids {
            let pick = plan.sample_by.pick(id, plan.foreground_rate, &index.occupancy, ignore);
            by_class |= matches!(pick.kind, Kind::Class(_));
            centres.push(pick.chunk);
        }
        case.fetch(&index, &centres, by_class, &mut self.reader)?;
        let shape = index.grid.shape();
        let mut regions: Vec<Box3> = Vec::with_capacity(ids.len());
        for id in &ids {
            regions.extend(self.plan_crop((case, ignore), &index, plan, id)?.region(shape));
        }
        let wanted: BTreeSet<usize> = regions.iter().flat_map(|region| index.grid.chunks_meeting(region)).collect();
        let wanted: Vec<usize> = wanted.into_iter().collect();
        case.fetch(&index, &wanted, labels, &mut self.reader)
    }
}
