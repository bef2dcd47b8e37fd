//! `state.json`: everything in a checkpoint except the tensors.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use hiend_cache::{durable, lookup, regular};
use serde::{Deserialize, Serialize};

use super::digest::{Seal, seal, seal_of};
use super::{CheckpointError, Damage, FileDigest, STATE};
use crate::config::RunConfig;

/// Format number of the layout described in [the module](super).
pub(super) const FORMAT: u32 = 2;

/// Kind of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Pre-training of a Hi-End-MAE.
    Pretrain,
    /// Fine-tuning of a UNETR.
    Finetune,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretrain => "pre-training",
            Self::Finetune => "fine-tuning",
        })
    }
}

/// The best validation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Number of optimizer steps done before the validation; also identifies its checkpoint.
    pub step: u64,
    /// Mean Dice over cases and classes, background included.
    pub mean_dice: f64,
}

/// Everything in a checkpoint except the tensors. `C` is the run's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State<C> {
    /// Format number of the checkpoint.
    pub format: u32,
    /// Kind of the run.
    pub kind: Kind,
    /// Number of optimizer steps done; also the index of the next batch.
    pub step: u64,
    /// Loss of the last step, if there was one.
    pub loss: Option<f64>,
    /// Best validation so far, including one at this step.
    pub best: Option<Best>,
    /// True if a validation was due at this step but did not finish; a resumed run does it first.
    pub validation_due: bool,
    /// The run's configuration, seed included.
    pub config: C,
    /// Digest of the configuration.
    pub config_digest: String,
    /// Digest of the data.
    pub cache_digest: String,
    /// Digest of the validation cases. Absent if there are none, and in checkpoints of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_digest: Option<String>,
    /// Versions of the software that wrote the checkpoint.
    pub versions: Versions,
    /// Digests of the checkpoint's other files, by name. Empty in checkpoints of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileDigest>,
}

impl<C: RunConfig> State<C> {
    /// Creates a state after `step` optimizer steps, without a validation.
    #[must_use]
    pub fn new(kind: Kind, step: u64, loss: Option<f64>, config: &C, cache_digest: &str) -> Self {
        Self {
            format: FORMAT,
            kind,
            step,
            loss,
            best: None,
            validation_due: false,
            config: config.clone(),
            config_digest: config.digest(),
            cache_digest: cache_digest.to_owned(),
            validation_digest: None,
            versions: Versions { trainer: env!("CARGO_PKG_VERSION").to_owned(), burn: "0.22.1".to_owned() },
            files: BTreeMap::new(),
        }
    }
}

/// Versions of the software that results depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Version of this crate.
    pub trainer: String,
    /// Version of Burn.
    pub burn: String,
}

/// Part of a state that is common to all configurations.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Head {
    /// Format number of the checkpoint.
    pub format: u32,
    /// Kind of the run.
    pub kind: Kind,
    /// Number of optimizer steps done.
    pub step: u64,
    /// Best validation so far.
    pub best: Option<Best>,
}

/// Returns whether a folder holds a checkpoint.
///
/// # Errors
/// If the folder cannot be searched.
pub fn is_checkpoint(dir: &Path) -> Result<bool, CheckpointError> {
    Ok(lookup::exists(&dir.join(STATE))?)
}

/// Reads the common part of a checkpoint's state.
///
/// # Errors
/// If the state cannot be read, is damaged, or has another format.
pub fn read_head(checkpoint: &Path) -> Result<Head, CheckpointError> {
    let head = parse(checkpoint, &read(checkpoint)?)?;
    check_name(checkpoint, &head)?;
    Ok(head)
}

/// Compares the step in the name of a run's checkpoint with that of its state. A copy elsewhere may have any name.
fn check_name(checkpoint: &Path, head: &Head) -> Result<(), CheckpointError> {
    if checkpoint.parent().is_none_or(|parent| !parent.ends_with("checkpoints")) {
        return Ok(());
    }
    let name = checkpoint.file_name().and_then(|name| name.to_str());
    let named: Option<u64> = name.and_then(|name| name.strip_prefix("step-")?.parse().ok());
    match named {
        Some(named) if named != head.step => {
            Err(CheckpointError::Renamed { path: checkpoint.to_owned(), step: head.step })
        }
        _ => Ok(()),
    }
}

/// Reads the state of a checkpoint of the given kind.
///
/// # Errors
/// If the state cannot be read, is damaged, or has another format or kind.
pub fn read_state<C: RunConfig>(checkpoint: &Path, kind: Kind) -> Result<State<C>, CheckpointError> {
    let bytes = read(checkpoint)?;
    let head: Head = parse(checkpoint, &bytes)?;
    if head.kind != kind {
        return Err(CheckpointError::Kind { path: checkpoint.to_owned(), found: head.kind, expected: kind });
    }
    check_name(checkpoint, &head)?;
    parse(checkpoint, &bytes)
}

/// Digest of the file that holds a checkpoint's state, which lists the digests of its other files.
///
/// # Errors
/// If the file cannot be read.
pub fn state_digest(checkpoint: &Path) -> Result<String, CheckpointError> {
    Ok(FileDigest::of(&checkpoint.join(STATE))?.blake3)
}

/// Reads the digests of a checkpoint's files; `None` in checkpoints of earlier versions.
pub(super) fn read_digests(checkpoint: &Path) -> Result<Option<BTreeMap<String, FileDigest>>, CheckpointError> {
    #[derive(Deserialize)]
    struct Files {
        #[serde(default)]
        files: BTreeMap<String, FileDigest>,
    }
    let Files { files } = parse(checkpoint, &read(checkpoint)?)?;
    Ok(Some(files).filter(|files| !files.is_empty()))
}

/// Writes the state of a checkpoint durably, replacing an existing one atomically.
pub(super) fn write<C: RunConfig>(checkpoint: &Path, state: &State<C>) -> Result<(), CheckpointError> {
    let path = checkpoint.join(STATE);
    let json = serde_json::to_vec_pretty(state)
        .map_err(|error| CheckpointError::State { path: path.clone(), source: error.into() })?;
    Ok(durable::write(&path, &seal(json))?)
}

/// Reads the bytes of a state and checks its seal.
fn read(checkpoint: &Path) -> Result<Vec<u8>, CheckpointError> {
    #[derive(Deserialize)]
    struct Sealed {
        files: Option<serde::de::IgnoredAny>,
        checksum: Option<serde::de::IgnoredAny>,
    }
    let path = checkpoint.join(STATE);
    let bytes = regular::read(&path).map_err(CheckpointError::io(&path, "read"))?;
    match seal_of(&bytes) {
        Seal::Intact => Ok(bytes),
        Seal::Broken => Err(CheckpointError::damaged(&path, Damage::Seal)),
        Seal::Absent => {
            let sealed: Sealed = serde_json::from_slice(&bytes)
                .map_err(|error| CheckpointError::State { path: path.clone(), source: error.into() })?;
            // Earlier versions wrote neither: a file with one of them has lost its seal.
            if sealed.files.is_some() || sealed.checksum.is_some() {
                return Err(CheckpointError::damaged(&path, Damage::Seal));
            }
            Ok(bytes)
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(checkpoint: &Path, bytes: &[u8]) -> Result<T, CheckpointError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let path = checkpoint.join(STATE);
    let state = |error: serde_json::Error| CheckpointError::State { path: path.clone(), source: error.into() };
    // The format comes first: another one may differ in everything else.
    let Format { format } = serde_json::from_slice(bytes).map_err(state)?;
    if format != FORMAT {
        return Err(CheckpointError::Format { path, found: format });
    }
    serde_json::from_slice(bytes).map_err(state)
}
