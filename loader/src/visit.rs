//! One visit: all crops of one case, cut in one go.
//!
//! Every chunk that any of the crops meets is decoded once, as far as they meet it, and handed to all of them. Chunks
//! come in columns along z, so that a crop's rows are put together from whole ones (`copy`). Undoing the codec leaves
//! a column in the core's own cache; from there one pass normalises, flips, turns and shifts the intensities on the way
//! into the batch. Nothing is allocated once the buffers have grown to their size.

use std::ops::Range;
use std::time::Instant;

use hiend_cache::index::Entry;
use hiend_cache::shard::reader::CaseIndex;
use hiend_cache::{Box3, Case, ChunkError, VolumeReader};

use crate::batch::{CropBox, CropRecord, VoxelForm};
use crate::preprocess::window::Scale;
use crate::rng::{DrawId, case_key};
use crate::sampler::{CentrePick, Kind, SampleBy, box_start};
use crate::transform::{AxisMap, Chain, CropMut, CropRef, SampledParams, Scratch};

mod copy;
mod streaming;

use copy::{ColumnCopy, Piece, Target};

/// What every visit of a stream has in common.
#[derive(Clone, Debug)]
pub struct VisitPlan {
    /// Voxels of a crop.
    pub crop_size: [usize; 3],
    /// Crops of a visit.
    pub num_crops: usize,
    /// Rate of foreground centres.
    pub foreground_rate: f64,
    /// What foreground is.
    pub sample_by: SampleBy,
    /// What is done to crops.
    pub augment: Chain,
    /// HU range that becomes [0, 1].
    pub window: [f64; 2],
    /// The run's seed.
    pub seed: u64,
}

/// Where a visit's crops go.
pub struct VisitSlot<'a> {
    /// Crops one after the other.
    pub images: ImagesMut<'a>,
    /// Their labels.
    pub labels: Option<&'a mut [u8]>,
}

/// A place for voxels, and what they are to be there; see [`crate::batch::Images`].
pub enum ImagesMut<'a> {
    /// Floats.
    Floats(&'a mut [f32]),
    /// Steps.
    Quantized(&'a mut [u16]),
    /// Steps of the boxes that crops are to be made of, one box after the other.
    Boxes(&'a mut [u16]),
}

impl ImagesMut<'_> {
    /// The floats, which every chain but the simplest works on.
    fn floats(&mut self) -> &mut [f32] {
        match self {
            Self::Floats(values) => values,
            Self::Quantized(_) | Self::Boxes(_) => unreachable!("steps are never worked on here"),
        }
    }
}

/// Crops that were cut.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Origin of each.
    pub records: Vec<CropRecord>,
    /// The box each was cut as; its start is that in the slot.
    pub sources: Vec<CropBox>,
    /// What they cost.
    pub times: VisitTimes,
}

/// Seconds a visit took.
#[derive(Clone, Copy, Debug, Default)]
pub struct VisitTimes {
    /// Reading, checking and decoding.
    pub decode_secs: f64,
    /// Cutting and augmenting.
    pub augment_secs: f64,
    /// Chunks decoded for the crops; those decoded to find their centres are not counted.
    pub chunks: u64,
    /// Bytes of those chunks on disk.
    pub coded_bytes: u64,
    /// How often a crop found a chunk that had been decoded for another crop of the visit.
    pub chunk_hits: u64,
}

impl VisitPlan {
    /// Voxels of the boxes that the crops of a visit are made of; `id` is that of its first crop.
    #[must_use]
    pub fn source_voxels(&self, id: &DrawId) -> usize {
        let shape = |crop: u32| self.augment.draw(&DrawId { crop, ..*id }).source_box(self.crop_size);
        (0..).take(self.num_crops).map(|crop| shape(crop).iter().product::<usize>()).sum()
    }

    /// Voxels of the crops of a visit.
    #[must_use]
    pub fn crop_voxels(&self) -> usize {
        self.num_crops * self.crop_size.iter().product::<usize>()
    }

    /// Bytes of the boxes that the crops of a visit are resampled from; `id` is that of its first crop.
    #[must_use]
    pub fn cut_bytes(&self, id: &DrawId, form: VoxelForm, labels: bool) -> u64 {
        if !matches!(self.augment, Chain::Nnunet(_)) || form == VoxelForm::Boxes {
            return 0;
        }
        let voxels = |crop: u32| match self.augment.draw(&DrawId { crop, ..*id }) {
            SampledParams::Nnunet(drawn) if drawn.spatial.is_some() => {
                drawn.source_box(self.crop_size).iter().product()
            }
            _ => 0usize,
        };
        let voxels: usize = (0..).take(self.num_crops).map(voxels).sum();
        voxels as u64 * if labels { 5 } else { 4 }
    }
}

/// The buffers of one thread.
#[derive(Default)]
pub struct Visitor {
    reader: VolumeReader,
    image: Vec<u16>,
    label: Vec<u8>,
    wanted: Vec<bool>,
    /// How many crops want each of the wanted chunks, added up.
    num_uses: u64,
    column_image: Vec<Vec<u16>>,
    column_label: Vec<Vec<u8>>,
    row: Vec<f32>,
    pieces: Vec<Piece>,
    cut_image: Vec<f32>,
    cut_label: Vec<u8>,
    scratch: Scratch,
}

/// One crop of the visit, decided but not cut.
struct CropPlan {
    drawn: SampledParams,
    /// First voxel of the box that is cut, and its size: the crop, or more where it will be resampled.
    cut_start: [i64; 3],
    cut_size: [usize; 3],
    /// First voxel of the crop.
    origin: [i64; 3],
}

impl CropPlan {
    /// Whether the crop goes through its own resampling, and so is not cut straight into its place.
    fn resamples(&self) -> bool {
        matches!(&self.drawn, SampledParams::Nnunet(drawn) if drawn.spatial.is_some())
    }

    /// The part of the volume that is cut.
    fn region(&self) -> Box3 {
        let at = |v: i64| usize::try_from(v.max(0)).expect("not negative");
        let end = |axis: usize| self.cut_start[axis] + i64::try_from(self.cut_size[axis]).expect("small");
        Box3 { start: self.cut_start.map(at), end: std::array::from_fn(|axis| at(end(axis))) }
    }
}

impl Visitor {
    /// Bytes of the buffers that depend on what is visited. The decoder and the scratch rows are not among them.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        let column = self.column_image.iter().map(Vec::capacity).sum::<usize>() * 2
            + self.column_label.iter().map(Vec::capacity).sum::<usize>();
        let halves = self.image.capacity() * 2 + self.label.capacity() + self.wanted.capacity();
        (column + halves + (self.cut_image.capacity() + self.row.capacity()) * 4 + self.cut_label.capacity()) as u64
    }

    /// Cuts all crops of one visit.
    ///
    /// # Errors
    /// If a chunk cannot be read or is corrupt.
    pub fn visit(
        &mut self,
        case: &Case,
        epoch: u64,
        plan: &VisitPlan,
        slot: &mut VisitSlot<'_>,
    ) -> Result<Visit, hiend_cache::Error> {
        let started = Instant::now();
        let index = self.reader.index(case)?;
        let key = case_key(case.key());
        let id =
            |crop: usize| DrawId { seed: plan.seed, epoch, case: key, crop: u32::try_from(crop).unwrap_or(u32::MAX) };
        let mut crops = Vec::with_capacity(plan.num_crops);
        for crop in 0..plan.num_crops {
            crops.push(self.plan_crop(case, &index, plan, &id(crop))?);
        }
        let cut = self.cut(case, &index, plan, &crops, slot);
        streaming::finish();
        let augment_secs = cut?;
        let decode_secs = started.elapsed().as_secs_f64() - augment_secs;
        let (chunks, coded_bytes) = self.decoded(&index, slot.labels.is_some());
        let chunk_hits = self.num_uses * if slot.labels.is_some() { 2 } else { 1 } - chunks;
        let finishing = Instant::now();
        let num_voxels: usize = plan.crop_size.iter().product();
        let here = !matches!(slot.images, ImagesMut::Boxes(_));
        for (number, crop) in crops.iter().enumerate().filter(|_| here) {
            if let (SampledParams::Nnunet(drawn), false) = (&crop.drawn, crop.resamples()) {
                let range = number * num_voxels..(number + 1) * num_voxels;
                let labels = slot.labels.as_deref_mut().map(|labels| &mut labels[range.clone()]);
                let mut crop = CropMut { image: &mut slot.images.floats()[range], labels, shape: plan.crop_size };
                drawn.apply_in_place(&mut crop, &mut self.scratch);
            }
        }
        let records = crops.iter().enumerate().map(|(number, crop)| CropRecord {
            case: case.key().to_owned(),
            epoch,
            crop: id(number).crop,
            origin: crop.origin,
            case_key: key,
            augmentation: crop.drawn.describe(),
        });
        let records = records.collect();
        let array = &case.record().image;
        let scale = Scale::new(array.scale, array.offset, plan.window);
        let mut start = 0;
        let source = |crop: &CropPlan| {
            let source = CropBox { start, shape: crop.cut_size, scale, drawn: crop.drawn };
            start = source.range().end;
            source
        };
        let sources = crops.iter().map(source).collect();
        let augment_secs = augment_secs + finishing.elapsed().as_secs_f64();
        let times = VisitTimes { decode_secs, augment_secs, chunks, coded_bytes, chunk_hits };
        Ok(Visit { records, sources, times })
    }

    /// Chunks that the crops of this visit met, and their bytes.
    fn decoded(&self, index: &CaseIndex, labels: bool) -> (u64, u64) {
        let arrays = [Some(&index.image), index.label.as_ref().filter(|_| labels)];
        let wanted = |(_, wanted): &(&Entry, &bool)| **wanted;
        let entries = arrays.into_iter().flatten().flat_map(|array| array.entries.iter().zip(&self.wanted));
        entries.filter(wanted).fold((0, 0), |(chunks, bytes), (entry, _)| match entry {
            Entry::Constant(_) => (chunks + 1, bytes),
            Entry::Coded { len, .. } => (chunks + 1, bytes + u64::from(*len)),
        })
    }

    fn plan_crop(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        plan: &VisitPlan,
        id: &DrawId,
    ) -> Result<CropPlan, hiend_cache::Error> {
        let pick = plan.sample_by.pick(id, plan.foreground_rate, &index.occupancy);
        let centre = self.locate(case, index, &pick)?;
        let shape = index.grid.shape();
        let origin: [i64; 3] = std::array::from_fn(|axis| box_start(centre[axis], shape[axis], plan.crop_size[axis]));
        let drawn = plan.augment.draw(id);
        let cut_size = drawn.source_box(plan.crop_size);
        let signed = |n: usize| i64::try_from(n).expect("an axis is shorter than 2^63");
        // A larger box has the same centre. A turned box of another shape is placed around its own centre.
        let cut_start: [i64; 3] = std::array::from_fn(|axis| {
            origin[axis] - (signed(cut_size[axis]) - signed(plan.crop_size[axis])).div_euclid(2)
        });
        Ok(CropPlan { drawn, cut_start, cut_size, origin })
    }

    /// The voxel that a pick names.
    fn locate(&mut self, case: &Case, index: &CaseIndex, pick: &CentrePick) -> Result<[usize; 3], hiend_cache::Error> {
        let threshold = case.record().foreground_above;
        let nth = pick.nth as usize;
        let at = match pick.kind {
            Kind::Foreground | Kind::Background => {
                self.reader.image_chunk(case, index, pick.chunk, &mut self.image)?;
                let foreground = pick.kind == Kind::Foreground;
                nth_matching(&self.image, nth, |&s| (s > threshold) == foreground)
            }
            Kind::Class(class) => {
                self.reader.label_chunk(case, index, pick.chunk, &mut self.label)?;
                nth_matching(&self.label, nth, |&s| u32::from(s) == class)
            }
        };
        let Some(at) = at else {
            return Err(hiend_cache::Error::CorruptChunk {
                path: case.shard().path().to_owned(),
                case: case.key().to_owned(),
                array: if matches!(pick.kind, Kind::Class(_)) { "label" } else { "image" },
                chunk: pick.chunk,
                reason: ChunkError::Occupancy { kind: format!("{:?}", pick.kind) },
            });
        };
        let region = index.grid.chunk_box(pick.chunk);
        let [_, ny, nz] = region.shape();
        let within = [at / (ny * nz), at / nz % ny, at % nz];
        Ok(std::array::from_fn(|axis| region.start[axis] + within[axis]))
    }

    /// Decodes every wanted chunk once and copies it into all crops, column by column; returns the seconds spent on copying.
    fn cut(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        plan: &VisitPlan,
        crops: &[CropPlan],
        slot: &mut VisitSlot<'_>,
    ) -> Result<f64, hiend_cache::Error> {
        let as_sources = matches!(slot.images, ImagesMut::Boxes(_));
        let resamples = |crop: &CropPlan| crop.resamples() && !as_sources;
        let places = places(crops, plan, as_sources);
        let volume = Box3 { start: [0; 3], end: index.grid.shape() };
        let regions: Vec<Option<Box3>> = crops.iter().map(|crop| crop.region().intersection(&volume)).collect();
        self.mark_wanted(index, &regions);
        let copying = Instant::now();
        let mut cut_len = 0;
        for ((crop, region), place) in crops.iter().zip(&regions).zip(&places) {
            if resamples(crop) {
                cut_len += crop.cut_size.iter().product::<usize>();
            } else if region.is_none_or(|region| region.shape() != crop.cut_size) {
                fill_outside(crop, place, slot);
            }
        }
        // Exactly: growing by half as much again would double the largest of all buffers.
        self.cut_image.clear();
        self.cut_image.reserve_exact(cut_len);
        self.cut_image.resize(cut_len, 0.0);
        let cut_labels = if slot.labels.is_some() { cut_len } else { 0 };
        self.cut_label.clear();
        self.cut_label.reserve_exact(cut_labels);
        self.cut_label.resize(cut_labels, 0);
        let mut copy_secs = copying.elapsed().as_secs_f64();

        let array = &case.record().image;
        let scale = Scale::new(array.scale, array.offset, plan.window);
        let column_len = index.grid.column_len();
        self.row.resize(plan.crop_size[2], 0.0);
        for column in (0..index.grid.num_chunks()).step_by(column_len) {
            if !self.wanted[column..column + column_len].contains(&true) {
                continue;
            }
            self.read_column(case, index, column, &regions, slot.labels.is_some())?;
            let copying = Instant::now();
            let column_box = index.grid.column_box(column);
            let mut cut_at = 0;
            for ((crop, region), place) in crops.iter().zip(&regions).zip(&places) {
                let len = crop.cut_size.iter().product::<usize>();
                let at = cut_at;
                cut_at += if resamples(crop) { len } else { 0 };
                let Some(part) = region.and_then(|region| region.intersection(&column_box)) else { continue };
                let copy = ColumnCopy { grid: &index.grid, column: column_box, part, cut_start: crop.cut_start };
                if resamples(crop) {
                    let target = Target { map: AxisMap::IDENTITY, size: crop.cut_size };
                    copy.image(
                        &self.column_image,
                        target,
                        (scale, (1.0, 0.0)),
                        None,
                        &mut self.pieces,
                        &mut self.cut_image[at..at + len],
                    );
                    if slot.labels.is_some() {
                        copy.rows(
                            &self.column_label,
                            target,
                            None,
                            &mut self.pieces,
                            &mut self.cut_label[at..at + len],
                            |s| s,
                        );
                    }
                } else {
                    let target = if as_sources {
                        Target { map: AxisMap::IDENTITY, size: crop.cut_size }
                    } else {
                        Target { map: axis_map(&crop.drawn), size: plan.crop_size }
                    };
                    match &mut slot.images {
                        ImagesMut::Floats(values) => {
                            // What the recipe has cut is finished; other chains go on with it and want it in the cache.
                            let row = matches!(crop.drawn, SampledParams::Recipe(_)).then_some(self.row.as_mut_slice());
                            let law = (scale, intensity(&crop.drawn));
                            let out = &mut values[place.clone()];
                            copy.image(&self.column_image, target, law, row, &mut self.pieces, out);
                        }
                        ImagesMut::Quantized(steps) | ImagesMut::Boxes(steps) => {
                            let out = &mut steps[place.clone()];
                            copy.rows(&self.column_image, target, None, &mut self.pieces, out, |step| step);
                        }
                    }
                    if let Some(labels) = slot.labels.as_deref_mut() {
                        copy.rows(
                            &self.column_label,
                            target,
                            None,
                            &mut self.pieces,
                            &mut labels[place.clone()],
                            |s| s,
                        );
                    }
                }
            }
            copy_secs += copying.elapsed().as_secs_f64();
        }

        let resampling = Instant::now();
        if !as_sources {
            self.resample(plan, crops, slot);
        }
        Ok(copy_secs + resampling.elapsed().as_secs_f64())
    }
}

/// Where each crop lies in the slot, unless it is resampled into it.
fn places(crops: &[CropPlan], plan: &VisitPlan, as_sources: bool) -> Vec<Range<usize>> {
    let mut end = 0;
    let place = |crop: &CropPlan| {
        let shape = if as_sources { crop.cut_size } else { plan.crop_size };
        let start = end;
        end += shape.iter().product::<usize>();
        start..end
    };
    crops.iter().map(place).collect()
}

/// Voxels of a crop that reaches beyond the volume: those that no chunk will write, and the others for a while.
fn fill_outside(crop: &CropPlan, place: &Range<usize>, slot: &mut VisitSlot<'_>) {
    let (factor, shift) = intensity(&crop.drawn);
    match &mut slot.images {
        ImagesMut::Floats(values) => values[place.clone()].fill(0.0 * factor + shift),
        // The least that a cache can hold is at or below the window's floor.
        ImagesMut::Quantized(steps) | ImagesMut::Boxes(steps) => steps[place.clone()].fill(0),
    }
    if let Some(labels) = slot.labels.as_deref_mut() {
        labels[place.clone()].fill(0);
    }
}

impl Visitor {
    /// Marks the chunks that any of the crops meets, and counts how often.
    fn mark_wanted(&mut self, index: &CaseIndex, regions: &[Option<Box3>]) {
        self.wanted.clear();
        self.wanted.resize(index.grid.num_chunks(), false);
        self.num_uses = 0;
        for region in regions.iter().flatten() {
            for chunk in index.grid.chunks_meeting(region) {
                self.wanted[chunk] = true;
                self.num_uses += 1;
            }
        }
    }

    /// Finishes the crops that were cut with more around them.
    fn resample(&mut self, plan: &VisitPlan, crops: &[CropPlan], slot: &mut VisitSlot<'_>) {
        let num_voxels: usize = plan.crop_size.iter().product();
        let mut cut_at = 0;
        for (number, crop) in crops.iter().enumerate().filter(|(_, crop)| crop.resamples()) {
            let range = number * num_voxels..(number + 1) * num_voxels;
            let cut = cut_at..cut_at + crop.cut_size.iter().product::<usize>();
            cut_at = cut.end;
            let labels = slot.labels.is_some().then(|| &self.cut_label[cut.clone()]);
            let source = CropRef { image: &self.cut_image[cut], labels, shape: crop.cut_size };
            let labels = slot.labels.as_deref_mut().map(|labels| &mut labels[range.clone()]);
            let mut target = CropMut { image: &mut slot.images.floats()[range], labels, shape: plan.crop_size };
            crop.drawn.apply(source, &mut target, &mut self.scratch);
        }
    }

    /// Decodes the wanted chunks of the column that begins with chunk `column`, each as far as it is wanted.
    fn read_column(
        &mut self,
        case: &Case,
        index: &CaseIndex,
        column: usize,
        regions: &[Option<Box3>],
        labels: bool,
    ) -> Result<(), hiend_cache::Error> {
        let column_len = index.grid.column_len();
        self.column_image.resize_with(self.column_image.len().max(column_len), Vec::new);
        self.column_label.resize_with(self.column_label.len().max(column_len), Vec::new);
        for number in 0..column_len {
            let chunk = column + number;
            if !self.wanted[chunk] {
                continue;
            }
            let part = wanted_part(&index.grid.chunk_box(chunk), regions);
            self.reader.image_part(case, index, chunk, &part, &mut self.column_image[number])?;
            if labels {
                self.reader.label_part(case, index, chunk, &part, &mut self.column_label[number])?;
            }
        }
        Ok(())
    }
}

/// The smallest box of a chunk's own voxels that holds all that the crops want of it.
///
/// A crop ends inside of the chunks at its faces: of what its chunks hold it takes two fifths.
fn wanted_part(chunk: &Box3, regions: &[Option<Box3>]) -> Box3 {
    let parts = regions.iter().flatten().filter_map(|region| region.intersection(chunk));
    let both = |a: Box3, b: Box3| Box3 {
        start: std::array::from_fn(|axis| a.start[axis].min(b.start[axis])),
        end: std::array::from_fn(|axis| a.end[axis].max(b.end[axis])),
    };
    let part = parts.reduce(both).unwrap_or(Box3 { start: chunk.start, end: chunk.start });
    let within = |voxel: [usize; 3]| std::array::from_fn(|axis| voxel[axis] - chunk.start[axis]);
    Box3 { start: within(part.start), end: within(part.end) }
}

/// The place of the nth sample that matches. Whole blocks are counted, which is vector code, before one is searched.
fn nth_matching<T>(samples: &[T], mut nth: usize, matches: impl Fn(&T) -> bool) -> Option<usize> {
    const BLOCK: usize = 256;
    for (number, block) in samples.chunks(BLOCK).enumerate() {
        let found = block.iter().map(|sample| u32::from(matches(sample))).sum::<u32>() as usize;
        if nth < found {
            let mut places = block.iter().enumerate().filter(|(_, sample)| matches(sample));
            return places.nth(nth).map(|(at, _)| number * BLOCK + at);
        }
        nth -= found;
    }
    None
}

fn axis_map(drawn: &SampledParams) -> AxisMap {
    if let SampledParams::Recipe(drawn) = drawn { drawn.axis_map() } else { AxisMap::IDENTITY }
}

/// Factor and summand of the intensities, of chains that do no more to them.
pub(crate) fn intensity(drawn: &SampledParams) -> (f32, f32) {
    if let SampledParams::Recipe(drawn) = drawn { drawn.intensity() } else { (1.0, 0.0) }
}

#[cfg(test)]
mod tests {
    use hiend_cache::{Cache, CodecPreset, Geometry, Manifest, NewCase, ShardWriter, SourceFiles, encode};

    use super::*;
    use crate::batch::Dequantize;
    use crate::transform::{MirrorParams, RecipeParams, Rotate90Params, ScaleIntensityParams, ShiftIntensityParams};

    const WINDOW: [f64; 2] = [-175.0, 250.0];

    #[expect(clippy::cast_possible_truncation, reason = "remainders fit")]
    fn cache_of(shape: [usize; 3], chunk: usize) -> (tempfile::TempDir, Cache) {
        let num_voxels: usize = shape.iter().product();
        let image: Vec<u16> = (0..num_voxels).map(|i| (i * 7919 % 426) as u16).collect();
        let label: Vec<u8> = (0..num_voxels).map(|i| (i * 31 % 251) as u8).collect();
        let case = NewCase {
            dataset: "Dataset001_Test".into(),
            case_id: "a".into(),
            shape,
            image: &image,
            image_bits: 9,
            image_offset: WINDOW[0],
            image_scale: 1.0,
            foreground_above: 0,
            label: Some(&label),
            geometry: Geometry::identity(shape),
            source: SourceFiles::default(),
            parameters: String::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
        writer.push(encode(&case, [chunk; 3], CodecPreset::Fast).unwrap()).unwrap();
        writer.finish().unwrap();
        Manifest::default().write(dir.path()).unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        (dir, cache)
    }

    /// Cuts one crop by the fused path and by [`RecipeParams::apply`] from the whole volume.
    fn check(case: &Case, crop_size: [usize; 3], origin: [i64; 3], drawn: RecipeParams) {
        let mut visitor = Visitor::default();
        let index = visitor.reader.index(case).unwrap();
        let num_voxels = crop_size.iter().product();
        let cut_size = drawn.axis_map().source_shape(crop_size);
        let crop = CropPlan { drawn: SampledParams::Recipe(drawn), cut_start: origin, cut_size, origin };
        let plan = VisitPlan {
            crop_size,
            num_crops: 1,
            foreground_rate: 0.75,
            sample_by: SampleBy::Intensity,
            augment: Chain::recipe(),
            window: WINDOW,
            seed: 0,
        };
        let (mut fused, mut fused_labels) = (vec![9f32; num_voxels], vec![9u8; num_voxels]);
        let law = Dequantize { scale: Scale::new(1.0, WINDOW[0], WINDOW), factor: 1.0, shift: 0.0 };
        let law = Dequantize { factor: drawn.intensity().0, shift: drawn.intensity().1, ..law };
        let mut slot = VisitSlot { images: ImagesMut::Floats(&mut fused), labels: Some(&mut fused_labels) };
        visitor.cut(case, &index, &plan, std::slice::from_ref(&crop), &mut slot).unwrap();
        let mut steps = vec![9u16; num_voxels];
        let mut slot = VisitSlot { images: ImagesMut::Quantized(&mut steps), labels: None };
        visitor.cut(case, &index, &plan, &[crop], &mut slot).unwrap();
        let by_law: Vec<f32> = steps.iter().map(|&step| law.apply(step)).collect();

        let volume = case.read_whole(&mut VolumeReader::new()).unwrap();
        let scale = Scale::new(1.0, WINDOW[0], WINDOW);
        let (mut image, mut labels) = (Vec::new(), Vec::new());
        for i in 0..num_voxels {
            let [_, ny, nz] = cut_size;
            let within = [i / (ny * nz), i / nz % ny, i % nz];
            let at: [Option<usize>; 3] = std::array::from_fn(|axis| {
                let at = usize::try_from(origin[axis] + i64::try_from(within[axis]).unwrap()).ok();
                at.filter(|at| *at < volume.shape[axis])
            });
            let at = if let [Some(x), Some(y), Some(z)] = at {
                Some((x * volume.shape[1] + y) * volume.shape[2] + z)
            } else {
                None
            };
            image.push(at.map_or(0.0, |at| scale.apply(volume.image[at])));
            labels.push(at.map_or(0, |at| volume.label.as_ref().unwrap()[at]));
        }
        let (mut expected, mut expected_labels) = (vec![8f32; num_voxels], vec![8u8; num_voxels]);
        let source = CropRef { image: &image, labels: Some(&labels), shape: cut_size };
        let mut to = CropMut { image: &mut expected, labels: Some(&mut expected_labels), shape: crop_size };
        drawn.apply(source, &mut to);
        let bits = |voxels: &[f32]| voxels.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(&fused) == bits(&expected), "{crop_size:?} at {origin:?}: {drawn:?}");
        assert!(bits(&by_law) == bits(&expected), "as steps, {crop_size:?} at {origin:?}: {drawn:?}");
        assert!(fused_labels == expected_labels, "labels, {crop_size:?} at {origin:?}: {drawn:?}");
    }

    #[test]
    fn the_fused_path_is_the_plain_path_bit_for_bit() {
        let volumes = [
            // Larger than the crop, smaller, and larger along one axis only.
            ([40, 37, 50], [24, 24, 21], [3, 5, 7]),
            ([20, 19, 10], [24, 24, 21], [-2, -3, -5]),
            ([50, 11, 12], [24, 24, 6], [20, -6, 5]),
        ];
        for (shape, crop_size, origin) in volumes {
            let (_dir, cache) = cache_of(shape, 16);
            for code in 0..32u8 {
                let axes = [code & 1 != 0, code & 2 != 0, code & 4 != 0];
                for shifted in [false, true] {
                    let drawn = RecipeParams {
                        flip: axes.contains(&true).then_some(MirrorParams { axes }),
                        rotate90: (code >> 3 != 0).then_some(Rotate90Params { turns: code >> 3 }),
                        scale_intensity: shifted.then_some(ScaleIntensityParams { factor: 1.07 }),
                        shift_intensity: shifted.then_some(ShiftIntensityParams { shift: -0.031 }),
                    };
                    check(&cache.cases()[0], crop_size, origin, drawn);
                }
            }
        }
    }

    #[test]
    fn the_nth_voxel_is_found_across_blocks() {
        let samples: Vec<u16> = (0..2000).map(|i| i % 3).collect();
        for nth in [0, 1, 85, 86, 400, 665] {
            assert_eq!(nth_matching(&samples, nth, |&s| s == 1), Some(3 * nth + 1));
        }
        assert_eq!(nth_matching(&samples, 667, |&s| s == 1), None);
    }
}
