//! One visit: all crops of one case, cut together.
//!
//! ```text
//!   plan      parameters, centre and box of each crop         plan, locate
//!   decode    each chunk once, no further than crops reach    decode
//!   cut       decoded columns into all crops that meet them   cut, copy, crate::streaming
//!   finish    resampling and transforms that need neighbours  cut
//! ```
//! In the form [`Chunks`] the second stage is the last: it verifies and copies chunks for a device to decode (`chunks`).
//! Labels are decoded and cut in every form.
//!
//! Chunks come in columns along z, so that a crop is written in whole rows. Decoding leaves a column in the core's own
//! cache; from there one pass normalises, flips, turns and shifts the intensities on the way into the batch. Nothing
//! is allocated once the buffers have grown to their size.

use std::time::Instant;

use hiend_cache::shard::reader::CaseIndex;
use hiend_cache::{Case, VolumeReader};

use crate::batch::{CropBox, CropRecord};
use crate::rng::{DrawId, case_key};
use crate::streaming;

mod ahead;
mod chunks;
mod copy;
mod cut;
mod decode;
mod form;
mod locate;
mod plan;

use chunks::ChunkCopier;
pub(crate) use chunks::most_words;
use cut::{Cut, Cutter};
use decode::{Arrays, ColumnDecoder};
pub use form::{Boxes, Chunks, Floats, Form, Quantized};
use form::{CutForm, Planned};
use locate::Locator;
use plan::CropPlan;
pub use plan::VisitPlan;

/// Destination of a visit's crops, in the form `F`.
pub struct VisitSlot<'a, F: Form> {
    /// Voxels, crop after crop, [`VisitPlan::held_voxels`] in total; for coded chunks, as many words as the case's
    /// chunks may take.
    pub images: &'a mut [F::Voxel],
    /// Labels, crop after crop, [`VisitPlan::held_voxels`] in total, if the stream carries labels.
    pub labels: Option<&'a mut [u8]>,
}

/// Result of a visit whose crops are in the slot.
#[derive(Clone, Debug)]
pub struct Visit<F: Form> {
    /// Origin and augmentation of each crop.
    pub records: Vec<CropRecord>,
    /// Source and parameters of each crop. Positions are relative to the beginning of the slot.
    pub crops: Vec<F::Crop>,
    /// Time and work spent.
    pub times: VisitTimes,
}

/// Time and work of a visit.
#[derive(Clone, Copy, Debug, Default)]
pub struct VisitTimes {
    /// Seconds spent reading, verifying and decoding.
    pub decode_secs: f64,
    /// Seconds spent cutting and augmenting.
    pub augment_secs: f64,
    /// Number of chunks decoded for the crops, not counting those decoded to find the crops' centres.
    pub chunks: u64,
    /// Size on disk of the decoded chunks, in bytes.
    pub coded_bytes: u64,
    /// Number of uses of a chunk already decoded for another crop of the visit.
    pub chunk_hits: u64,
}

/// Buffers of one thread, reused from visit to visit.
#[derive(Default)]
pub struct Visitor {
    reader: VolumeReader,
    locator: Locator,
    decoder: ColumnDecoder,
    cutter: Cutter,
    chunks: ChunkCopier,
}

impl Visitor {
    /// Size in bytes of the buffers that depend on the case and the crops; excludes the decoder's state and the rows of
    /// the transforms.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        self.locator.buffer_bytes()
            + self.decoder.buffer_bytes()
            + self.cutter.buffer_bytes()
            + self.chunks.buffer_bytes()
    }

    /// Cuts all crops of one visit into `slot`. `ignore` is the label of the case's voxels without annotation, on which
    /// no crop is centred.
    ///
    /// # Errors
    /// If a chunk cannot be read or is corrupt.
    ///
    /// # Panics
    /// If the slot does not have the size that the plan needs.
    pub fn visit<F: Form>(
        &mut self,
        (case, ignore): (&Case, Option<u8>),
        epoch: u64,
        plan: &VisitPlan,
        slot: &mut VisitSlot<'_, F>,
    ) -> Result<Visit<F>, hiend_cache::Error> {
        let started = Instant::now();
        let index = self.reader.index(case)?;
        let case_key = case_key(case.key());
        let mut crops = Vec::with_capacity(plan.num_crops);
        for crop in (0..).take(plan.num_crops) {
            let id = DrawId { seed: plan.seed, epoch, case: case_key, crop };
            crops.push(self.plan_crop((case, ignore), &index, plan, &id)?);
        }
        let array = &case.record().image;
        let scale = plan.units.scale(array.scale, array.offset);
        let record = |(number, crop): (u32, &CropPlan)| CropRecord {
            case: case.key().to_owned(),
            epoch,
            crop: number,
            origin: crop.origin,
            case_key,
            augmentation: crop.params.describe(),
        };
        let records = (0..).zip(&crops).map(record).collect();
        let planned = Planned { case, index: &index, crops, scale, crop_size: plan.crop_size, started };
        let (crops, times) = F::make(self, planned, slot)?;
        Ok(Visit { records, crops, times })
    }

    /// Decodes, cuts and finishes the planned crops in `slot`.
    fn cut<F: CutForm>(
        &mut self,
        planned: Planned<'_>,
        slot: &mut VisitSlot<'_, F>,
    ) -> Result<(Vec<CropBox>, VisitTimes), hiend_cache::Error> {
        let Planned { case, index, crops, scale, crop_size, started } = planned;
        let cuts = Cut::all::<F>(crops, scale, index.grid.shape(), crop_size);
        let copied = self.copy_columns(case, index, &cuts, slot);
        // Runs after an error too: the stores so far must be visible before the buffer is used again.
        streaming::finish();
        let copy_secs = copied?;
        let decode_secs = started.elapsed().as_secs_f64() - copy_secs;
        let finishing = Instant::now();
        self.cutter.finish(&cuts, slot);
        let augment_secs = copy_secs + finishing.elapsed().as_secs_f64();
        let work = self.decoder.work(index, slot.labels.is_some());
        Ok((cuts.iter().map(Cut::crop_box).collect(), VisitTimes { decode_secs, augment_secs, ..work }))
    }

    /// Samples the parameters and the centre of one crop, and plans its box.
    fn plan_crop(
        &mut self,
        (case, ignore): (&Case, Option<u8>),
        index: &CaseIndex,
        plan: &VisitPlan,
        id: &DrawId,
    ) -> Result<CropPlan, hiend_cache::Error> {
        let pick = plan.sample_by.pick(id, plan.foreground_rate, &index.occupancy, ignore);
        let centre = self.locator.locate(&mut self.reader, case, index, &pick)?;
        Ok(CropPlan::new(plan, id, centre, index.grid.shape()))
    }

    /// Decodes each column that crops intersect and copies it into all of these crops; returns the seconds spent on
    /// copying.
    fn copy_columns<F: CutForm>(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        cuts: &[Cut],
        slot: &mut VisitSlot<'_, F>,
    ) -> Result<f64, hiend_cache::Error> {
        self.decoder.want(&index.grid, cuts.iter().filter_map(|cut| cut.region));
        let preparing = Instant::now();
        self.cutter.prepare(cuts, slot);
        let mut copy_secs = preparing.elapsed().as_secs_f64();
        for column in (0..index.grid.num_chunks()).step_by(index.grid.column_len()) {
            let arrays = Arrays { image: true, label: slot.labels.is_some() };
            if self.decoder.read(&mut self.reader, case, index, column, arrays)? {
                let copying = Instant::now();
                self.cutter.copy(&self.decoder, &index.grid, column, cuts, slot);
                copy_secs += copying.elapsed().as_secs_f64();
            }
        }
        Ok(copy_secs)
    }
}

#[cfg(test)]
mod tests;
