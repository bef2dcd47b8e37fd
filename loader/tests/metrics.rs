//! Metrics of a stream reach the process's recorder and agree with the stream's own counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hiend_cache::Cache;
use hiend_loader::convert::Conversion;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::stats::METRICS;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Counters and gauges by name, and the number of values recorded in each histogram.
#[derive(Clone, Default)]
struct Values(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

/// A histogram that only counts its values.
struct Records(Arc<AtomicU64>);

impl HistogramFn for Records {
    fn record(&self, value: f64) {
        assert!(value >= 0.0 && value.is_finite(), "{value} seconds");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Values {
    fn of(&self, name: &str) -> Arc<AtomicU64> {
        Arc::clone(self.0.lock().unwrap().entry(name.to_owned()).or_default())
    }

    fn get(&self, name: &str) -> u64 {
        self.of(&format!("hiend_loader_{name}")).load(Ordering::Relaxed)
    }
}

impl Recorder for Values {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key.name()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of(key.name()))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Records(self.of(key.name()))))
    }
}

/// This must be the only test of this binary, because the recorder receives the metrics of the whole process.
#[test]
fn a_recorder_receives_every_metric() {
    const BATCHES: u64 = 5;
    let values = Values::default();
    metrics::set_global_recorder(values.clone()).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let dataset = dir.path().join("raw/Dataset001_Phantom");
    write_dataset(&dataset, &PhantomConfig { cases: 2, seed: 3, spacing_mm: [6.0, 6.0] }).unwrap();
    let (raw, out) = (dir.path().join("raw"), dir.path().join("cache"));
    let config = PreprocessConfig { spacing: Some([4.0; 3]), ..PreprocessConfig::default() };
    let datasets = hiend_loader::dataset::find(&raw).unwrap();
    Conversion::new(&raw, &datasets, &out).config(config).run().unwrap();

    let config = StreamConfig {
        crop_size: [48; 3],
        crops_per_visit: 4,
        visits_per_batch: 2,
        labels: true,
        ..StreamConfig::default()
    };
    let options = LoaderOptions { threads: 2, memory_bytes: 256 << 20, ..LoaderOptions::default() };
    let loader = Loader::open(Arc::new(Cache::open(&out).unwrap()), config, 1, &options).unwrap();
    let mut stream = loader.stream(0);
    for _ in 0..BATCHES {
        stream.next().unwrap().unwrap();
    }
    drop(stream);

    // Batches are made ahead of those taken, and threads may still be working on one.
    assert!(values.get("batches_total") >= BATCHES);
    assert!(values.get("crops_total") >= 8 * BATCHES);
    assert!(values.get("visits_total") >= 2 * BATCHES);
    assert!(values.get("coded_bytes_total") > 0);
    assert_eq!(values.get("skipped_visits_total"), 0);
    for histogram in ["read_seconds", "decode_seconds", "augment_seconds"] {
        assert!(values.get(histogram) >= 2 * BATCHES, "{histogram}");
    }
    assert!(values.get("buffer_wait_seconds") >= BATCHES);
    assert_eq!((values.get("queue_seconds"), values.get("wait_seconds")), (BATCHES, BATCHES));
    assert!(f64::from_bits(values.get("memory_bytes")) > 0.0);

    // Every name is in the table, and only those. A visit that needs no memory beyond its share does not wait for it.
    let listed: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    let recorded = values.0.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(recorded.iter().all(|name| listed.contains(name.as_str())), "{recorded:?}");
    let optional = ["hiend_loader_spill_wait_seconds"];
    for name in listed {
        assert!(optional.contains(&name) || recorded.iter().any(|found| found == name), "{name}");
    }

    // Four crops of 48 voxels in a small volume share many chunks, in the image and in the labels.
    let (chunks, hits) = (values.get("chunks_total"), values.get("chunk_hits_total"));
    assert!(chunks > 0 && hits > 0, "{chunks} decoded, {hits} hits");
    let progress = loader.progress();
    assert!(progress.chunks >= chunks && progress.chunk_hits >= hits, "{progress:?}");
}
