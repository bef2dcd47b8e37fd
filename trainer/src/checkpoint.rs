//! What a run needs to go on as if it had never stopped.
//!
//! `RUN_DIR/checkpoints/step-00001234/` holds `model.bpk`, `optimizer.bpk` and `state.json`. A checkpoint is written
//! under another name, synced, and renamed: one that bears its name is complete. Older ones are removed only after
//! that, so neither a full disk nor a kill loses what was there.
//!
//! The records are read back from the device while they are written, on the caller's thread and before its next
//! step: Burn's readback is lazy, and a later step would change what it reads.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::store::RecordError;
use serde::{Deserialize, Serialize};

use crate::config::PretrainConfig;

const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";
/// Start of the names of unfinished checkpoints.
const PARTIAL: &str = ".partial-";
/// Of the layout described here.
const FORMAT: u32 = 1;

/// Everything in a checkpoint but tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Layout of the checkpoint.
    pub format: u32,
    /// Updates done; also the step of the next batch.
    pub step: u64,
    /// Loss of the last update.
    pub loss: f64,
    /// The run's configuration, seed included.
    pub config: PretrainConfig,
    /// Its digest.
    pub config_digest: String,
    /// Digest of the data.
    pub cache_digest: String,
    /// What wrote it.
    pub versions: Versions,
}

impl State {
    /// After `step` updates.
    #[must_use]
    pub fn new(step: u64, loss: f64, config: &PretrainConfig, cache_digest: &str) -> Self {
        Self {
            format: FORMAT,
            step,
            loss,
            config: config.clone(),
            config_digest: config.digest(),
            cache_digest: cache_digest.to_owned(),
            versions: Versions { trainer: env!("CARGO_PKG_VERSION").to_owned(), burn: "0.22.1".to_owned() },
        }
    }
}

/// Versions of what the numbers depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of this crate.
    pub trainer: String,
    /// Of Burn.
    pub burn: String,
}

/// What went wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system.
    #[error("{}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Tensors that cannot be written or read, or are not this model's.
    #[error("{}: {message}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// A state that cannot be read.
    #[error("{}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A checkpoint of another version.
    #[error("{} has the format {found}; this version reads format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl CheckpointError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn record(path: &Path) -> impl FnOnce(RecordError) -> Self {
        let path = path.to_owned();
        move |error| Self::Record { path, message: error.to_string().replace('\n', " ") }
    }
}

/// The checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// In `RUN_DIR/checkpoints`, made if need be; the last `keep` stay, at least one.
    ///
    /// What a killed run left unfinished is removed.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(run_dir: &Path, keep: usize) -> Result<Self, CheckpointError> {
        let dir = run_dir.join("checkpoints");
        fs::create_dir_all(&dir).map_err(CheckpointError::io(&dir))?;
        for name in names(&dir)?.iter().filter(|name| name.starts_with(PARTIAL)) {
            let path = dir.join(name);
            fs::remove_dir_all(&path).map_err(CheckpointError::io(&path))?;
        }
        Ok(Self { dir, keep: keep.max(1) })
    }

    /// The newest complete checkpoint.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn latest(&self) -> Result<Option<PathBuf>, CheckpointError> {
        latest(&self.dir)
    }

    /// Writes one, then removes those beyond the number to keep.
    ///
    /// # Errors
    /// The first failure; all earlier checkpoints are still there then.
    pub fn save<M: Module>(
        &self,
        state: &State,
        model: &M,
        optimizer: &ModuleOptimizer,
    ) -> Result<PathBuf, CheckpointError> {
        let name = format!("step-{:08}", state.step);
        let target = self.dir.join(&name);
        if target.exists() {
            // The same step of the same run: a run that was resumed and stopped at once.
            return Ok(target);
        }
        let partial = self.dir.join(format!("{PARTIAL}{name}"));
        let written = write(&partial, state, model, optimizer).and_then(|()| {
            fs::rename(&partial, &target).map_err(CheckpointError::io(&target))?;
            sync_dir(&self.dir)
        });
        if let Err(error) = written {
            // What matters is the first failure; a leftover is removed when the run goes on.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        self.remove_old()?;
        Ok(target)
    }

    fn remove_old(&self) -> Result<(), CheckpointError> {
        let steps = steps(&self.dir)?;
        for (_, path) in &steps[..steps.len().saturating_sub(self.keep)] {
            fs::remove_dir_all(path).map_err(CheckpointError::io(path))?;
        }
        Ok(())
    }
}

/// The newest complete checkpoint in a folder of checkpoints.
///
/// # Errors
/// If the folder cannot be read.
pub fn latest(dir: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    Ok(steps(dir)?.pop().map(|(_, path)| path))
}

/// Whether a folder is that of a checkpoint.
#[must_use]
pub fn is_checkpoint(dir: &Path) -> bool {
    dir.join(STATE).is_file()
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// The state of a checkpoint.
///
/// # Errors
/// If it cannot be read, or is of another format.
pub fn read_state(checkpoint: &Path) -> Result<State, CheckpointError> {
    let path = checkpoint.join(STATE);
    let bytes = fs::read(&path).map_err(CheckpointError::io(&path))?;
    // The format is looked at first: another one may differ in everything else.
    let head: Head =
        serde_json::from_slice(&bytes).map_err(|source| CheckpointError::State { path: path.clone(), source })?;
    if head.format != FORMAT {
        return Err(CheckpointError::Format { path, found: head.format });
    }
    serde_json::from_slice(&bytes).map_err(|source| CheckpointError::State { path, source })
}

/// `model` with the weights of a checkpoint.
///
/// # Errors
/// If they cannot be read, or are not all of this model's and nothing else.
pub fn load_model<M: Module>(checkpoint: &Path, model: M) -> Result<M, CheckpointError> {
    let path = checkpoint.join(MODEL);
    model.try_load_file(&path).map_err(CheckpointError::record(&path))
}

/// `optimizer` with the state of a checkpoint.
///
/// Burn reads it on `Device::default()`: see [`crate::device::settle_default`].
///
/// # Errors
/// If it cannot be read.
pub fn load_optimizer(checkpoint: &Path, optimizer: ModuleOptimizer) -> Result<ModuleOptimizer, CheckpointError> {
    let path = checkpoint.join(OPTIMIZER);
    optimizer.load(&path).map_err(CheckpointError::record(&path))
}

fn write<M: Module>(dir: &Path, state: &State, model: &M, optimizer: &ModuleOptimizer) -> Result<(), CheckpointError> {
    fs::create_dir(dir).map_err(CheckpointError::io(dir))?;
    // Burn writes and syncs each file by itself.
    let path = dir.join(MODEL);
    model.clone().save_file(&path).map_err(CheckpointError::record(&path))?;
    let path = dir.join(OPTIMIZER);
    optimizer.save(&path).map_err(CheckpointError::record(&path))?;
    let path = dir.join(STATE);
    let json =
        serde_json::to_vec_pretty(state).map_err(|source| CheckpointError::State { path: path.clone(), source })?;
    write_synced(&path, &json)?;
    sync_dir(dir)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(CheckpointError::io(path))
}

/// Makes names in a folder last. Folders cannot be opened for that on every system; then it is left to the system.
fn sync_dir(dir: &Path) -> Result<(), CheckpointError> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(CheckpointError::io(dir))?;
    }
    Ok(())
}

/// Complete checkpoints with their steps, ascending.
fn steps(dir: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let mut steps: Vec<(u64, PathBuf)> = names(dir)?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix("step-")?.parse().ok()?, dir.join(name))))
        .collect();
    steps.sort();
    Ok(steps)
}

fn names(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(CheckpointError::io(dir)(error)),
    };
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(CheckpointError::io(dir))?;
        // Names that are no text are not ours.
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::model::{block::Mlp, init::WeightInit};
    use burn::tensor::Device;

    fn mlp(seed: u64) -> Mlp {
        Mlp::init(4, 2, &mut WeightInit::new(seed, &Device::flex().autodiff()))
    }

    fn save(checkpoints: &Checkpoints, step: u64) -> Result<PathBuf, CheckpointError> {
        let config = Preset::Tiny.config();
        let model = mlp(step);
        let optimizer = config.optim.init(&model);
        checkpoints.save(&State::new(step, 0.5, &config, "digest"), &model, &optimizer)
    }

    fn weights(model: &Mlp) -> Vec<f32> {
        model.fc1.weight.val().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn the_last_ones_are_kept_and_the_newest_is_found() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 2).unwrap();
        assert_eq!(checkpoints.latest().unwrap(), None);
        for step in [1, 2, 10, 300] {
            save(&checkpoints, step).unwrap();
        }
        let mut left = names(&run.path().join("checkpoints")).unwrap();
        left.sort();
        assert_eq!(left, ["step-00000010", "step-00000300"]);
        let latest = checkpoints.latest().unwrap().unwrap();
        assert_eq!(read_state(&latest).unwrap().step, 300);
        let loaded = load_model(&latest, mlp(0)).unwrap();
        assert_eq!(weights(&loaded), weights(&mlp(300)));
    }

    #[test]
    fn what_a_killed_run_left_is_no_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 3).unwrap();
        save(&checkpoints, 1).unwrap();
        let partial = run.path().join("checkpoints/.partial-step-00000002");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join(MODEL), b"half").unwrap();
        let again = Checkpoints::open(run.path(), 3).unwrap();
        assert!(!partial.exists());
        assert!(again.latest().unwrap().unwrap().ends_with("step-00000001"));
    }

    #[test]
    fn a_write_that_fails_leaves_the_earlier_ones() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 1).unwrap();
        save(&checkpoints, 1).unwrap();
        // A file where the folder should go, as good as a disk that takes nothing more.
        let blocker = run.path().join("checkpoints/.partial-step-00000002");
        fs::write(&blocker, b"").unwrap();
        let error = save(&checkpoints, 2).unwrap_err();
        assert!(error.to_string().contains("step-00000002"), "{error}");
        assert!(checkpoints.latest().unwrap().unwrap().ends_with("step-00000001"));
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 1).unwrap();
        let path = save(&checkpoints, 1).unwrap();
        fs::write(path.join(MODEL), b"nonsense").unwrap();
        assert!(load_model(&path, mlp(0)).unwrap_err().to_string().contains(MODEL));
        fs::write(path.join(STATE), br#"{"format": 99}"#).unwrap();
        assert!(matches!(read_state(&path), Err(CheckpointError::Format { found: 99, .. })));
        fs::write(path.join(STATE), b"{").unwrap();
        assert!(matches!(read_state(&path), Err(CheckpointError::State { .. })));
    }
}
