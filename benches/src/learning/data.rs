//! Phantoms and their caches.

use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;
use hiend_cache::{Cache, lookup};
use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::preprocess::PreprocessConfig;

use super::phantom::{SPACING_MM, write_dataset};
use super::settings::{LABELLED, NUM_LABELLED, NUM_UNLABELLED, UNLABELLED};

/// The two caches of the experiment.
pub(super) struct Caches {
    /// Cases without labels, for pre-training.
    pub unlabelled: Arc<Cache>,
    /// Labelled cases for fine-tuning, probe and test.
    pub labelled: Arc<Cache>,
}

impl Caches {
    /// Writes the phantoms to `out` and converts them, except what is there already.
    ///
    /// # Errors
    /// If a file cannot be written or a case cannot be converted.
    pub(super) fn make(out: &Path) -> anyhow::Result<Self> {
        println!("phantoms: {NUM_UNLABELLED} cases without labels, {NUM_LABELLED} with labels");
        Ok(Self {
            unlabelled: make(out, UNLABELLED, "u", NUM_UNLABELLED, 1, false)?,
            labelled: make(out, LABELLED, "l", NUM_LABELLED, 2, true)?,
        })
    }
}

fn make(out: &Path, name: &str, prefix: &str, num_cases: usize, seed: u64, labels: bool) -> anyhow::Result<Arc<Cache>> {
    let data = out.join("data").join(name);
    // The description is written last, so its presence means that the dataset is complete.
    if !lookup::exists(&data.join("dataset.json"))? {
        write_dataset(&data, prefix, num_cases, seed, labels)?;
    }
    let shards = out.join("cache").join(name);
    let root = std::path::absolute(&data)?;
    let datasets = dataset::find(&root)?;
    let config = PreprocessConfig { spacing: Some([SPACING_MM; 3]), ..PreprocessConfig::default() };
    let summary = Conversion::new(&root, &datasets, &shards).config(config).run()?;
    let converted = summary.converted + summary.unchanged;
    ensure!(converted == num_cases, "{}: {converted} of {num_cases} cases were converted", data.display());
    Ok(Arc::new(Cache::open(&shards)?))
}
