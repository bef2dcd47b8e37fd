//! Comparison of servers: all servers of a stream must have the same cases, classes and preprocessing.

use std::collections::BTreeSet;

use super::{Facts, RemoteError};
use crate::dataset::Difference;
use crate::preprocess::PreprocessConfig;

impl Facts {
    /// Compares the facts of a server with those of the first server.
    pub(super) fn compare(&self, found: &Self, url: &str, first: &str) -> Result<(), RemoteError> {
        let pairs = [
            ("digest", self.digest.clone(), found.digest.clone()),
            ("number of cases", self.num_cases.to_string(), found.num_cases.to_string()),
            ("steps per epoch", self.steps_per_epoch.to_string(), found.steps_per_epoch.to_string()),
            ("crops per batch", self.crops_per_batch.to_string(), found.crops_per_batch.to_string()),
            ("bytes of voxels", self.voxel_bytes.to_string(), found.voxel_bytes.to_string()),
            ("bytes of labels", self.label_bytes.to_string(), found.label_bytes.to_string()),
            ("preprocessing", self.preprocess(), found.preprocess()),
        ];
        match pairs.into_iter().find(|(_, expected, found)| expected != found) {
            Some((key, expected, found)) => {
                Err(RemoteError::Differs { url: url.to_owned(), other: first.to_owned(), key, found, expected })
            }
            None => Ok(()),
        }
    }

    /// Preprocessing of the cases as JSON, in one spelling for manifests of all versions.
    fn preprocess(&self) -> String {
        let stated = &self.manifest.preprocess;
        let parsed: Result<PreprocessConfig, _> = serde_json::from_value(stated.clone());
        parsed.and_then(|parsed| serde_json::to_string(&parsed)).unwrap_or_else(|_| stated.to_string())
    }

    /// Returns `true` if both servers describe the same datasets by name.
    pub(super) fn has_datasets_of(&self, found: &Self) -> bool {
        self.manifest.datasets.keys().eq(found.manifest.datasets.keys())
    }

    /// Compares a server's description of the stream's datasets with that of the first server.
    pub(super) fn compare_classes(&self, found: &Self, url: &str, first: &str) -> Result<(), RemoteError> {
        let (ours, theirs) = (&self.manifest.datasets, &found.manifest.datasets);
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for name in names {
            let [ours, theirs] = [ours, theirs].map(|datasets| datasets.get(name).cloned().unwrap_or_default());
            if let Some(difference) = Difference::between(&ours, &theirs) {
                return Err(RemoteError::OtherClasses {
                    url: url.to_owned(),
                    other: first.to_owned(),
                    dataset: name.clone(),
                    difference: difference.described(&format!("at {first}"), &format!("at {url}")),
                });
            }
        }
        Ok(())
    }
}
