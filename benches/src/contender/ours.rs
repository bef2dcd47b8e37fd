//! This project's store: one crop at a time as the peers cut it, and the whole way through the loader.

use std::path::Path;
use std::sync::Arc;

use hiend_cache::shard::reader::CaseIndex;
use hiend_cache::{Box3, Cache, VolumeReader};
use hiend_loader::batch::VoxelForm;
use hiend_loader::pipeline::{BatchStream, Loader, LoaderOptions, StreamConfig};
use hiend_loader::transform::Chain;

use super::{CROP_SIZE, Contender, Rates};
use crate::clock::{Stopwatch, settle};
use crate::volume::Voxels;

/// Cases in a batch, 8 crops each.
const VISITS: usize = 4;
/// Batches of a round.
const BATCHES: usize = 8;

/// One crop a visit, nothing drawn: decoded, converted to float and cut at a given origin.
pub struct CropByCrop {
    cache: Cache,
    index: CaseIndex,
    reader: VolumeReader,
    chunk: Vec<u16>,
    top: f32,
    bytes_per_voxel: f64,
}

impl CropByCrop {
    /// Opens the cache of one case in `dir`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn new(dir: &Path, voxels: &Voxels) -> anyhow::Result<Self> {
        let cache = Cache::open(dir)?;
        let mut reader = VolumeReader::new();
        let index = reader.index(&cache.cases()[0])?;
        let bytes_per_voxel = super::ratio(cache.shards()[0].len(), voxels);
        Ok(Self { cache, index, reader, chunk: Vec::new(), top: voxels.top(), bytes_per_voxel })
    }
}

impl Contender for CropByCrop {
    fn name(&self) -> &'static str {
        "decode_only"
    }

    fn label(&self) -> String {
        "this store, decoded crop by crop".into()
    }

    fn bytes_per_voxel(&self) -> f64 {
        self.bytes_per_voxel
    }

    fn cut(&mut self, start: [usize; 3], out: &mut [f32]) -> anyhow::Result<()> {
        let case = &self.cache.cases()[0];
        let region = Box3 { start, end: std::array::from_fn(|axis| start[axis] + CROP_SIZE[axis]) };
        let scale = 1.0 / self.top;
        for number in self.index.grid.chunks_meeting(&region) {
            self.reader.image_chunk(case, &self.index, number, &mut self.chunk)?;
            let chunk = self.index.grid.chunk_box(number);
            let [_, ny, nz] = chunk.shape();
            let Some(part) = region.intersection(&chunk) else { continue };
            let len = part.end[2] - part.start[2];
            for x in part.start[0]..part.end[0] {
                for y in part.start[1]..part.end[1] {
                    let from = ((x - chunk.start[0]) * ny + y - chunk.start[1]) * nz + part.start[2] - chunk.start[2];
                    let to = ((x - start[0]) * CROP_SIZE[1] + y - start[1]) * CROP_SIZE[2] + part.start[2] - start[2];
                    for (value, &sample) in out[to..to + len].iter_mut().zip(&self.chunk[from..from + len]) {
                        *value = f32::from(sample) * scale;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The loader as a training run uses it: recipe, 8 crops a visit, batches in reused buffers.
pub struct WholeWay {
    stream: BatchStream,
    num_buffers: usize,
    /// Threads at work.
    pub threads: usize,
    /// Crops a second.
    pub rates: Rates,
    /// Milliseconds a crop in reading and decoding, by round.
    pub decode_ms: Vec<f64>,
    /// Milliseconds a crop in cutting, normalising and augmenting, by round.
    pub augment_ms: Vec<f64>,
}

impl WholeWay {
    /// Opens the cache in `dir` for `threads` threads.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn new(dir: &Path, threads: usize, augment: Chain, form: VoxelForm) -> anyhow::Result<Self> {
        let config =
            StreamConfig { crop_size: CROP_SIZE, visits_per_batch: VISITS, augment, ..StreamConfig::default() };
        let options = LoaderOptions { threads, form, ..LoaderOptions::default() };
        let loader = Loader::open(Arc::new(Cache::open(dir)?), config, 1, &options)?;
        let num_buffers = 3 + threads.div_ceil(VISITS);
        Ok(Self {
            stream: loader.stream(0),
            num_buffers,
            threads,
            rates: Rates::default(),
            decode_ms: Vec::new(),
            augment_ms: Vec::new(),
        })
    }

    /// Some batches on the clock; waits before until nothing else runs, and after until the buffers are full again.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn round(&mut self) -> anyhow::Result<()> {
        settle();
        // What was made ahead of time does not count. With several threads there are several batches in work, too, none
        // of them far along just after the first was taken; so there are some more to wait for, until as much work is
        // in hand at the beginning as at the end.
        for batch in self.stream.by_ref().take(2 * self.num_buffers) {
            batch?;
        }
        let watch = Stopwatch::of_process();
        let (mut crops, mut decode, mut augment) = (0.0, 0.0, 0.0);
        for batch in self.stream.by_ref().take(BATCHES) {
            let batch = batch?;
            crops += f64::from(u32::try_from(batch.shape[0]).unwrap_or(u32::MAX));
            decode += batch.times.decode_secs;
            augment += batch.times.augment_secs;
        }
        self.rates.push(crops, watch.elapsed());
        self.decode_ms.push(1e3 * decode / crops);
        self.augment_ms.push(1e3 * augment / crops);
        settle();
        Ok(())
    }
}
