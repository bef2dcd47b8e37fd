//! Store of this project: single crops, read in the same way as from the peers, and the complete loader.

use std::path::Path;
use std::sync::Arc;

use hiend_cache::{Box3, Cache, CaseIndex, VolumeReader};
use hiend_loader::batch::VoxelForm;
use hiend_loader::pipeline::{BatchStream, Loader, LoaderOptions, StreamConfig};
use hiend_loader::transform::Chain;

use super::{CROP_LEN, CROP_SIZE, Contender, Rates};
use crate::clock::{Stopwatch, settle};
use crate::volume::Voxels;

/// Number of visits in a batch, 8 crops each.
const VISITS: usize = 4;
/// Number of batches in a round.
const BATCHES: usize = 8;

/// Reads one crop at a given origin: decodes, cuts and converts to float, without sampling.
pub struct CropByCrop {
    cache: Cache,
    index: CaseIndex,
    reader: VolumeReader,
    stored: Vec<u16>,
    top: f32,
    bytes_per_voxel: f64,
}

impl CropByCrop {
    /// Opens the cache in `dir`, which holds one case.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn new(dir: &Path, voxels: &Voxels) -> anyhow::Result<Self> {
        let cache = Cache::open(dir)?;
        let mut reader = VolumeReader::new();
        let index = reader.index(&cache.cases()[0])?;
        let bytes_per_voxel = super::ratio(cache.shards()[0].len(), voxels);
        Ok(Self { cache, index, reader, stored: vec![0; CROP_LEN], top: voxels.top(), bytes_per_voxel })
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
        self.reader.image_box(case, &self.index, &region, &mut self.stored)?;
        let scale = 1.0 / self.top;
        for (value, &stored) in out.iter_mut().zip(&self.stored) {
            *value = f32::from(stored) * scale;
        }
        Ok(())
    }
}

/// Complete loader as in a training run: augmentation, 8 crops per visit, batches in reused buffers.
pub struct WholeWay {
    stream: BatchStream,
    num_buffers: usize,
    /// Number of loader threads.
    pub threads: usize,
    /// Crops per second.
    pub rates: Rates,
    /// Milliseconds per crop for reading and decoding, by round.
    pub decode_ms: Vec<f64>,
    /// Milliseconds per crop for cutting, normalizing and augmenting, by round.
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

    /// Measures one round of batches.
    ///
    /// Waits for idle threads before it, and afterwards until the buffers are full again.
    ///
    /// # Errors
    /// If the stream fails.
    pub fn round(&mut self) -> anyhow::Result<()> {
        settle();
        // Batches prepared in advance do not count. Several threads also have several batches in progress, none of them
        // near completion just after the first was taken. Taking more batches first makes the work in progress at the
        // beginning equal to that at the end.
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
