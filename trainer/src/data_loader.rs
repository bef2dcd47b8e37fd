//! The stream as a Burn [`DataLoader`], for training loops other than this crate's.
//!
//! Burn asks a loader for an iterator once per epoch. The first iterator yields the batches of the loader's range, the
//! second as many batches after them, and so on: every epoch has new crops. [`CropLoader::repeating`] yields the same
//! batches each time, as validation needs it. Burn's items are crops.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use burn::data::dataloader::DataLoader as _;
//! use burn::tensor::Device;
//! use hiend_cache::Cache;
//! use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
//! use hiend_trainer::data_loader::CropLoader;
//!
//! let cache = Arc::new(Cache::open("cache")?);
//! let loader = Loader::open(cache, StreamConfig::default(), 0, &LoaderOptions::default())?;
//! let crops = CropLoader::new(Arc::new(loader), &Device::flex());
//! for epoch in 0..2 {
//!     for batch in crops.iter() {
//!         let batch = batch?;
//!         println!("epoch {epoch}, step {}: {:?}", batch.step, batch.images.dims());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hiend_loader::batch::{Batch, CropRecord};
use hiend_loader::pipeline::{BatchStream, Loader};

/// A batch of crops on a device.
#[derive(Clone, Debug)]
pub struct CropBatch {
    /// Step of the batch in the stream.
    pub step: u64,
    /// Images, `[n, 1, x, y, z]`.
    pub images: Tensor<5>,
    /// Labels, `[n, 1, x, y, z]`, if the stream carries labels.
    pub labels: Option<Tensor<5, Int>>,
    /// Origin of each crop.
    pub crops: Vec<CropRecord>,
}

/// A range of a stream's steps as a data loader.
pub struct CropLoader {
    loader: Arc<Loader>,
    steps: Range<u64>,
    device: Device,
    repeats: bool,
    /// Number of iterators made so far.
    rounds: AtomicU64,
    /// Steps from one iterator to the next: the length of the range from which this loader was sliced.
    round_len: u64,
}

impl CropLoader {
    /// Creates a loader with one epoch of the stream per iterator.
    #[must_use]
    pub fn new(loader: Arc<Loader>, device: &Device) -> Self {
        let steps = 0..loader.steps_per_epoch();
        Self::of_steps(loader, steps, device)
    }

    /// Creates a loader of `steps`; each further iterator continues with as many steps.
    #[must_use]
    pub fn of_steps(loader: Arc<Loader>, steps: Range<u64>, device: &Device) -> Self {
        let round_len = steps.end.saturating_sub(steps.start);
        Self { loader, steps, device: device.clone(), repeats: false, rounds: AtomicU64::new(0), round_len }
    }

    /// Makes the loader yield the same steps with each iterator.
    #[must_use]
    pub fn repeating(self) -> Self {
        Self { repeats: true, ..self }
    }

    fn with(&self, steps: Range<u64>, device: &Device) -> Self {
        Self {
            loader: Arc::clone(&self.loader),
            steps,
            device: device.clone(),
            repeats: self.repeats,
            rounds: AtomicU64::new(self.rounds.load(Ordering::Relaxed)),
            round_len: self.round_len,
        }
    }

    fn num_steps(&self) -> u64 {
        self.steps.end.saturating_sub(self.steps.start)
    }
}

impl DataLoader<CropBatch> for CropLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<CropBatch> + 'a> {
        let round = if self.repeats { 0 } else { self.rounds.fetch_add(1, Ordering::Relaxed) };
        let stream = self.loader.stream(self.steps.start + round * self.round_len);
        Box::new(Crops { loader: self, stream, steps_done: 0 })
    }

    fn num_items(&self) -> usize {
        self.num_steps() as usize * self.loader.crops_per_batch()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<CropBatch>> {
        Arc::new(self.with(self.steps.clone(), device))
    }

    /// Loader of the batches that begin within the items `start..end`. Adjacent slices of items give adjacent batches;
    /// no batch is divided.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<CropBatch>> {
        let step = |item: usize| {
            let step = self.steps.start + item.div_ceil(self.loader.crops_per_batch()) as u64;
            step.min(self.steps.end)
        };
        Arc::new(self.with(step(start)..step(end), &self.device))
    }
}

/// Iterator over the batches of one range of steps.
struct Crops<'a> {
    loader: &'a CropLoader,
    stream: BatchStream,
    steps_done: u64,
}

impl Iterator for Crops<'_> {
    type Item = Result<CropBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.steps_done < self.loader.num_steps() {
            self.steps_done += 1;
            match self.stream.next()? {
                // All its cases are corrupt, and the stream skips corrupt cases.
                Ok(batch) if batch.shape[0] == 0 => {}
                Ok(batch) => return Some(Ok(upload(batch, &self.loader.device))),
                Err(err) => {
                    self.steps_done = self.loader.num_steps();
                    return Some(Err(DatasetError::new(err)));
                }
            }
        }
        None
    }
}

impl DataLoaderIterator<CropBatch> for Crops<'_> {
    fn progress(&self) -> Progress {
        let done = self.steps_done as usize * self.loader.loader.crops_per_batch();
        Progress::new(done, self.loader.num_items(), Some("crops".into()))
    }
}

fn upload(batch: Batch, device: &Device) -> CropBatch {
    let images = Tensor::from_data(TensorData::new(batch.to_floats().into_owned(), batch.shape), device);
    let labels = batch.to_labels();
    let labels = labels.map(|labels| Tensor::from_data(TensorData::new(labels.into_owned(), batch.shape), device));
    CropBatch { step: batch.step, images, labels, crops: batch.crops }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hiend_cache::{Cache, CodecPreset, Geometry, Manifest, NewCase, ShardWriter, SourceFiles, encode};
    use hiend_loader::pipeline::{LoaderOptions, StreamConfig};
    use hiend_loader::preprocess::PreprocessConfig;

    /// Loader of six cases, with batches of two crops from each of two cases.
    fn loader(dir: &std::path::Path) -> Arc<Loader> {
        let mut writer = ShardWriter::create(dir, 1, 0).unwrap();
        for case in 0..6u16 {
            let image: Vec<u16> = (0..1000).map(|at| at % 400 + case).collect();
            let new = NewCase {
                dataset: "D".into(),
                case_id: case.to_string(),
                shape: [10; 3],
                image: &image,
                image_bits: 9,
                image_offset: -175.0,
                image_scale: 1.0,
                foreground_above: 0,
                label: Some(&[1; 1000]),
                geometry: Geometry::identity([10; 3]),
                source: SourceFiles::default(),
                parameters: "test".into(),
            };
            writer.push(encode(&new, [8; 3], CodecPreset::Fast).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
        Manifest { preprocess, ..Manifest::default() }.write(dir).unwrap();
        let config = StreamConfig {
            crop_size: [4; 3],
            crops_per_visit: 2,
            visits_per_batch: 2,
            labels: true,
            ..StreamConfig::default()
        };
        let options = LoaderOptions { threads: 2, memory_bytes: 64 << 20, ..LoaderOptions::default() };
        Arc::new(Loader::open(Arc::new(Cache::open(dir).unwrap()), config, 1, &options).unwrap())
    }

    fn steps(loader: &dyn DataLoader<CropBatch>) -> Vec<u64> {
        loader.iter().map(|batch| batch.unwrap().step).collect()
    }

    #[test]
    fn batches_are_those_of_the_stream() {
        let dir = tempfile::tempdir().unwrap();
        let loader = loader(dir.path());
        let crops = CropLoader::new(Arc::clone(&loader), &Device::flex());
        assert_eq!(crops.num_items(), 12);
        let mut batches = crops.iter();
        let batch = batches.next().unwrap().unwrap();
        let progress = batches.progress();
        assert_eq!((progress.items_processed, progress.items_total), (4, 12));
        let expected = loader.stream(0).next().unwrap().unwrap();
        assert_eq!(batch.images.dims(), [4, 1, 4, 4, 4]);
        assert_eq!(batch.images.into_data().try_to_vec::<f32>().unwrap(), expected.to_floats().into_owned());
        assert_eq!(batch.labels.unwrap().sum().into_scalar::<i64>(), 4 * 64);
        assert_eq!(batch.crops, expected.crops);
    }

    #[test]
    fn iterators_continue_the_stream_and_slices_tile_it() {
        let dir = tempfile::tempdir().unwrap();
        let crops = CropLoader::new(loader(dir.path()), &Device::flex());
        assert_eq!(steps(&crops), [0, 1, 2]);
        assert_eq!(steps(&crops), [3, 4, 5]);
        let halves = [crops.slice(0, 6), crops.slice(6, 12)];
        assert_eq!(halves.iter().map(|half| half.num_items()).collect::<Vec<_>>(), [8, 4]);
        assert_eq!((steps(&*halves[0]), steps(&*halves[1])), (vec![6, 7], vec![8]));
        assert_eq!(steps(&*halves[0].to_device(&Device::flex())), [9, 10]);
        let same = crops.repeating();
        assert_eq!((steps(&same), steps(&same)), (vec![0, 1, 2], vec![0, 1, 2]));
    }
}
