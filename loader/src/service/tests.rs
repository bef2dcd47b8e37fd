//! A service and its clients in one process.

mod batches;
mod failures;
mod limits;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hiend_cache::{Cache, CodecPreset, Geometry, Manifest, NewCase, ShardWriter, SourceFiles, encode};
use prost::Message as _;

use super::*;
use crate::batch::VoxelForm;
use crate::pipeline::{Loader, LoaderOptions, OnCorrupt, StreamConfig};
use crate::preprocess::PreprocessConfig;
use crate::remote::{RemoteError, RemoteLoader, RemoteOptions, RemoteStream};
use crate::sampler::SampleBy;
use crate::split::{CaseSplit, Split};
use crate::transform::Chain;
use crate::wire::{self, FetchRequest, OpenRequest, ShareRequest, StreamSpec};

const SHAPE: [usize; 3] = [20, 18, 22];
const SEED: u64 = 5;

/// Cache of labelled cases; `offset` makes the voxels of one cache differ from those of another.
fn write_cache(dir: &Path, cases: usize, offset: usize) -> Arc<Cache> {
    let mut writer = ShardWriter::create(dir, 1, 0).unwrap();
    let len: usize = SHAPE.iter().product();
    for number in 0..cases {
        let image: Vec<u16> =
            (0..len).map(|at| u16::try_from((at * 7 + number * 13 + offset) % 426).unwrap()).collect();
        let label: Vec<u8> = (0..len).map(|at| u8::try_from(at * 3 / len).unwrap()).collect();
        let case_id = format!("case{number}");
        let mut case = NewCase::new("Dataset001_Test", &case_id, SHAPE, &image);
        case.image_bits = 9;
        case.image_offset = -175.0;
        case.label = Some(&label);
        case.geometry = Geometry::identity(SHAPE);
        case.source = SourceFiles { image_blake3: format!("{offset}-{number}"), ..SourceFiles::default() };
        writer.push(encode(&case, [8; 3], CodecPreset::Fast).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let preprocess = serde_json::to_value(PreprocessConfig::default()).unwrap();
    Manifest { preprocess, ..Manifest::default() }.write(dir).unwrap();
    Arc::new(Cache::open(dir).unwrap())
}

/// A folder with a cache, and room for sockets.
struct Setup {
    dir: tempfile::TempDir,
    cache: Arc<Cache>,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cache")).unwrap();
        let cache = write_cache(&dir.path().join("cache"), 5, 0);
        Self { dir, cache }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn config(&self) -> ServiceConfig {
        ServiceConfig {
            caches: vec![(Arc::clone(&self.cache), 1)],
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            threads: 2,
            memory_bytes: 64 << 20,
            client_memory_bytes: 4 << 20,
            ..ServiceConfig::default()
        }
    }

    fn unix(&self) -> ServiceConfig {
        ServiceConfig { listen: vec![Listen::Unix(self.socket())], ..self.config() }
    }

    /// Digests of the batches made by a loader in this process.
    fn digests(
        &self,
        config: &StreamConfig,
        form: VoxelForm,
        rank: (usize, usize),
        start: u64,
        n: usize,
    ) -> Vec<String> {
        let options = LoaderOptions { threads: 2, memory_bytes: 64 << 20, rank, form };
        let loader = Loader::open(Arc::clone(&self.cache), config.clone(), SEED, &options).unwrap();
        loader.stream(start).take(n).map(|batch| batch.unwrap().digest()).collect()
    }
}

fn stream_config(augment: Chain, labels: bool) -> StreamConfig {
    StreamConfig {
        crop_size: [12, 12, 10],
        crops_per_visit: 3,
        visits_per_batch: 4,
        sample_by: if labels { SampleBy::Class } else { SampleBy::Intensity },
        labels,
        augment,
        ..StreamConfig::default()
    }
}

fn small() -> StreamConfig {
    stream_config(Chain::recipe(), false)
}

fn options() -> RemoteOptions {
    RemoteOptions { memory_bytes: 64 << 20, ..RemoteOptions::default() }
}

fn connect(urls: &[String], config: &StreamConfig, options: RemoteOptions) -> Result<RemoteLoader, RemoteError> {
    RemoteLoader::connect(urls, config.clone(), SEED, options)
}

fn take(stream: &mut RemoteStream, n: usize) -> Vec<String> {
    stream.take(n).map(|batch| batch.unwrap().digest()).collect()
}

/// A certificate for 127.0.0.1, and its key.
fn certificate() -> (String, String) {
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    (certified.cert.pem(), certified.signing_key.serialize_pem())
}

/// Waits until another thread has made `condition` true.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_mins(2), "waited two minutes until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
