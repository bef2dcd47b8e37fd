//! Phantoms and their caches.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use hiend_cache::{Cache, durable, lookup};
use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::preprocess::PreprocessConfig;
use serde_json::{Value, json};

use super::phantom::{SPACING_MM, write_dataset};
use super::settings::{LABELLED, NUM_LABELLED, NUM_UNLABELLED, UNLABELLED};

/// Version of the phantoms, which increases whenever equal settings give other phantoms.
const VERSION: u32 = 1;
/// File with the settings of the phantoms and the sizes of their files; written last.
const RECORD: &str = "phantoms.json";

/// Both caches of the experiment.
pub(super) struct Caches {
    /// Cases without labels, for pre-training.
    pub unlabelled: Arc<Cache>,
    /// Labelled cases for fine-tuning, probe and test.
    pub labelled: Arc<Cache>,
}

impl Caches {
    /// Writes the phantoms to `out` and converts them, except those that already exist.
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

/// Writes a dataset of phantoms, unless `data` already holds it.
///
/// # Errors
/// If a file cannot be read or written, or the folder holds phantoms of other settings, which runs may have been made with.
fn phantoms(data: &Path, prefix: &str, num_cases: usize, seed: u64, labels: bool) -> anyhow::Result<()> {
    let settings =
        json!({"version": VERSION, "prefix": prefix, "num_cases": num_cases, "seed": seed, "labels": labels});
    let record = data.join(RECORD);
    // The record is written last: if it cannot be parsed, the run that wrote it did not finish.
    let known: Option<Value> = if lookup::exists(&record)? {
        serde_json::from_slice(&std::fs::read(&record).with_context(|| record.display().to_string())?).ok()
    } else {
        None
    };
    if let Some(known) = known {
        ensure!(
            known["settings"] == settings,
            "{}: phantoms of other settings: {}, expected {settings}; choose another --out",
            data.display(),
            known["settings"]
        );
        if known["bytes"] == sizes(data)? {
            return Ok(());
        }
        println!("{}: incomplete, written again", data.display());
    }
    write_dataset(data, prefix, num_cases, seed, labels)?;
    let written = json!({"settings": settings, "bytes": sizes(data)?});
    Ok(durable::write(&record, format!("{written:#}\n").as_bytes())?)
}

/// Sizes in bytes of a dataset's files, by name.
fn sizes(data: &Path) -> anyhow::Result<Value> {
    let mut sizes = BTreeMap::new();
    for folder in ["", "imagesTr", "labelsTr"] {
        let folder = data.join(folder);
        if !lookup::exists(&folder)? {
            continue;
        }
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let (name, of_file) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
            if of_file.is_file() && name != RECORD {
                sizes.insert(format!("{}/{name}", folder.file_name().unwrap_or_default().display()), of_file.len());
            }
        }
    }
    Ok(json!(sizes))
}

fn make(out: &Path, name: &str, prefix: &str, num_cases: usize, seed: u64, labels: bool) -> anyhow::Result<Arc<Cache>> {
    let data = out.join("data").join(name);
    phantoms(&data, prefix, num_cases, seed, labels)?;
    let shards = out.join("cache").join(name);
    let root = std::path::absolute(&data)?;
    let datasets = dataset::find(&root)?;
    let config = PreprocessConfig { spacing: Some([SPACING_MM; 3]), ..PreprocessConfig::default() };
    let summary = Conversion::new(&root, &datasets, &shards).config(config).run()?;
    let converted = summary.converted + summary.unchanged;
    ensure!(converted == num_cases, "{}: {converted} of {num_cases} cases were converted", data.display());
    Ok(Arc::new(Cache::open(&shards)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phantoms_are_kept_only_if_they_are_whole_and_of_equal_settings() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("Dataset001_A");
        let image = data.join("imagesTr/p_001_0000.nii.gz");
        phantoms(&data, "p", 2, 1, true).unwrap();
        let whole = std::fs::read(&image).unwrap();
        // Other content of the same size: it survives only if the second call writes nothing.
        let other = vec![0; whole.len()];
        std::fs::write(&image, &other).unwrap();
        phantoms(&data, "p", 2, 1, true).unwrap();
        assert_eq!(std::fs::read(&image).unwrap(), other);
        let error = phantoms(&data, "p", 2, 7, true).unwrap_err().to_string();
        assert!(error.contains("\"seed\":1") && error.contains("choose another --out"), "{error}");
        // An image cut short, a missing image, and a missing record, which is written last.
        std::fs::write(&image, &whole[..100]).unwrap();
        phantoms(&data, "p", 2, 1, true).unwrap();
        assert_eq!(std::fs::read(&image).unwrap(), whole);
        std::fs::remove_file(&image).unwrap();
        phantoms(&data, "p", 2, 1, true).unwrap();
        assert_eq!(std::fs::read(&image).unwrap(), whole);
        std::fs::write(&image, &other).unwrap();
        std::fs::remove_file(data.join(RECORD)).unwrap();
        phantoms(&data, "p", 2, 1, true).unwrap();
        assert_eq!(std::fs::read(&image).unwrap(), whole);
    }
}
