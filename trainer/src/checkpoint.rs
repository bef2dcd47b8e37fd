//! What a run needs to go on as if it had never stopped.
//!
//! `RUN_DIR/checkpoints/step-00001234/` holds `model.bpk`, `optimizer.bpk`, `state.json`, and `ema.bpk` where weights are
//! averaged. A checkpoint is written under another name, synced, and renamed: one that bears its name is complete.
//! Older ones are removed only after that, so neither a full disk nor a kill loses what was there. Which one is the
//! best is part of each one's state, so that it can never point at nothing.
//!
//! The records are read back from the device while they are written, on the caller's thread and before its next
//! step: Burn's readback is lazy, and a later step would change what it reads.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::store::RecordError;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;

const MODEL: &str = "model.bpk";
const EMA: &str = "ema.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";
/// Start of the names of unfinished checkpoints.
const PARTIAL: &str = ".partial-";
/// Of the layout described here.
const FORMAT: u32 = 2;

/// What a run trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A Hi-End-MAE.
    Pretrain,
    /// A UNETR.
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
    /// Updates done before; also names its checkpoint.
    pub step: u64,
    /// What it was chosen by.
    pub mean_dice: f64,
}

/// Everything in a checkpoint but tensors. `C` is the run's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State<C> {
    /// Layout of the checkpoint.
    pub format: u32,
    /// What is trained.
    pub kind: Kind,
    /// Updates done; also the step of the next batch.
    pub step: u64,
    /// Loss of the last update, if there was one.
    pub loss: Option<f64>,
    /// The best validation so far, this step's included.
    pub best: Option<Best>,
    /// Whether a validation was due at this step and was cut short; it comes first when the run goes on.
    pub validation_due: bool,
    /// The run's configuration, seed included.
    pub config: C,
    /// Its digest.
    pub config_digest: String,
    /// Digest of the data.
    pub cache_digest: String,
    /// What wrote it.
    pub versions: Versions,
}

impl<C: RunConfig> State<C> {
    /// After `step` updates, nothing validated.
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
    /// A checkpoint of another kind of run.
    #[error("{} is a {found} checkpoint; expected a {expected} one", path.display())]
    Kind {
        /// The checkpoint.
        path: PathBuf,
        /// What it is.
        found: Kind,
        /// What it should be.
        expected: Kind,
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

    /// Where the checkpoint after `step` updates lies, if it exists.
    #[must_use]
    pub fn at(&self, step: u64) -> PathBuf {
        at(&self.dir, step)
    }

    /// Writes one, then removes those beyond the number to keep; the best one stays.
    ///
    /// # Errors
    /// The first failure; all earlier checkpoints are still there then.
    pub fn save<C: RunConfig, M: Module>(
        &self,
        state: &State<C>,
        model: &M,
        ema: Option<&M>,
        optimizer: &ModuleOptimizer,
    ) -> Result<PathBuf, CheckpointError> {
        let target = self.at(state.step);
        if target.exists() {
            // The same step of the same run, resumed and stopped at once: only a validation can be new.
            write_state(&target, state)?;
            return Ok(target);
        }
        let partial = self.dir.join(format!("{PARTIAL}step-{:08}", state.step));
        let written = write(&partial, state, model, ema, optimizer).and_then(|()| {
            fs::rename(&partial, &target).map_err(CheckpointError::io(&target))?;
            sync_dir(&self.dir)
        });
        if let Err(error) = written {
            // What matters is the first failure; a leftover is removed when the run goes on.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        self.remove_old(state.best)?;
        Ok(target)
    }

    fn remove_old(&self, best: Option<Best>) -> Result<(), CheckpointError> {
        let steps = steps(&self.dir)?;
        for (step, path) in &steps[..steps.len().saturating_sub(self.keep)] {
            if best.is_none_or(|best| best.step != *step) {
                fs::remove_dir_all(path).map_err(CheckpointError::io(path))?;
            }
        }
        Ok(())
    }
}

/// Where the checkpoint after `step` updates lies in a folder of checkpoints.
fn at(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}"))
}

/// The best checkpoint in a folder of checkpoints; the newest one if none was validated or the best was removed.
///
/// # Errors
/// If a state cannot be read.
pub fn best(dir: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let Some(latest) = latest(dir)? else { return Ok(None) };
    let best = read_head(&latest)?.best.map(|best| at(dir, best.step)).filter(|path| path.exists());
    Ok(Some(best.unwrap_or(latest)))
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

/// What every checkpoint's state says, whatever its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Head {
    /// Layout of the checkpoint.
    pub format: u32,
    /// What is trained.
    pub kind: Kind,
    /// Updates done.
    pub step: u64,
    /// The best validation so far.
    pub best: Option<Best>,
}

/// The part of a checkpoint's state that all kinds have.
///
/// # Errors
/// If it cannot be read, or is of another format.
pub fn read_head(checkpoint: &Path) -> Result<Head, CheckpointError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let path = checkpoint.join(STATE);
    let bytes = fs::read(&path).map_err(CheckpointError::io(&path))?;
    let state = |source| CheckpointError::State { path: path.clone(), source };
    // The format is looked at first: another one may differ in everything else.
    let Format { format } = serde_json::from_slice(&bytes).map_err(state)?;
    if format != FORMAT {
        return Err(CheckpointError::Format { path, found: format });
    }
    serde_json::from_slice(&bytes).map_err(state)
}

/// The state of a checkpoint of a kind.
///
/// # Errors
/// If it cannot be read, or is of another format or kind.
pub fn read_state<C: RunConfig>(checkpoint: &Path, kind: Kind) -> Result<State<C>, CheckpointError> {
    let head = read_head(checkpoint)?;
    if head.kind != kind {
        return Err(CheckpointError::Kind { path: checkpoint.to_owned(), found: head.kind, expected: kind });
    }
    let path = checkpoint.join(STATE);
    let bytes = fs::read(&path).map_err(CheckpointError::io(&path))?;
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

/// `model` with the averaged weights of a checkpoint, or nothing if it has none.
///
/// # Errors
/// As [`load_model`].
pub fn load_ema<M: Module>(checkpoint: &Path, model: M) -> Result<Option<M>, CheckpointError> {
    let path = checkpoint.join(EMA);
    if !path.exists() {
        return Ok(None);
    }
    model.try_load_file(&path).map(Some).map_err(CheckpointError::record(&path))
}

/// `model` with the weights of a checkpoint that are to be used: averaged ones where it has them.
///
/// # Errors
/// As [`load_model`].
pub fn load_averaged<M: Module>(checkpoint: &Path, model: M) -> Result<M, CheckpointError> {
    if checkpoint.join(EMA).exists() {
        let path = checkpoint.join(EMA);
        return model.try_load_file(&path).map_err(CheckpointError::record(&path));
    }
    load_model(checkpoint, model)
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

fn write<C: RunConfig, M: Module>(
    dir: &Path,
    state: &State<C>,
    model: &M,
    ema: Option<&M>,
    optimizer: &ModuleOptimizer,
) -> Result<(), CheckpointError> {
    fs::create_dir(dir).map_err(CheckpointError::io(dir))?;
    // Burn writes and syncs each file by itself.
    for (name, model) in [(MODEL, Some(model)), (EMA, ema)] {
        let Some(model) = model else { continue };
        let path = dir.join(name);
        model.clone().save_file(&path).map_err(CheckpointError::record(&path))?;
    }
    let path = dir.join(OPTIMIZER);
    optimizer.save(&path).map_err(CheckpointError::record(&path))?;
    write_state(dir, state)
}

/// Writes the state under another name and renames it.
fn write_state<C: RunConfig>(dir: &Path, state: &State<C>) -> Result<(), CheckpointError> {
    let path = dir.join(STATE);
    let json =
        serde_json::to_vec_pretty(state).map_err(|source| CheckpointError::State { path: path.clone(), source })?;
    let partial = path.with_extension("json.partial");
    write_synced(&partial, &json)?;
    fs::rename(&partial, &path).map_err(CheckpointError::io(&path))?;
    sync_dir(dir)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let write = || {
        let mut file = File::create(path)?;
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
    use crate::config::pretrain::{PretrainConfig, PretrainPreset};
    use crate::model::{block::Mlp, init::WeightInit};
    use burn::tensor::Device;

    fn mlp(seed: u64) -> Mlp {
        Mlp::init(4, 2, &mut WeightInit::new(seed, &Device::flex().autodiff()))
    }

    fn save(checkpoints: &Checkpoints, step: u64) -> Result<PathBuf, CheckpointError> {
        save_with(checkpoints, step, None)
    }

    fn save_with(checkpoints: &Checkpoints, step: u64, best: Option<Best>) -> Result<PathBuf, CheckpointError> {
        let config = PretrainPreset::Tiny.config();
        let model = mlp(step);
        let optimizer = config.optim.init(&model);
        let state = State { best, ..State::new(Kind::Pretrain, step, Some(0.5), &config, "digest") };
        checkpoints.save(&state, &model, None, &optimizer)
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
        assert_eq!(read_head(&latest).unwrap().step, 300);
        let loaded = load_model(&latest, mlp(0)).unwrap();
        assert_eq!(weights(&loaded), weights(&mlp(300)));
    }

    #[test]
    fn the_best_one_stays_and_is_found() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 1).unwrap();
        let dir = run.path().join("checkpoints");
        let best_step = |step| Some(Best { step, mean_dice: 0.5 });
        save_with(&checkpoints, 1, best_step(1)).unwrap();
        for step in [2, 3] {
            save_with(&checkpoints, step, best_step(1)).unwrap();
        }
        let mut left = names(&dir).unwrap();
        left.sort();
        assert_eq!(left, ["step-00000001", "step-00000003"]);
        assert_eq!(best(&dir).unwrap().unwrap(), checkpoints.at(1));
        save_with(&checkpoints, 4, best_step(4)).unwrap();
        assert_eq!(names(&dir).unwrap(), ["step-00000004"]);
        assert_eq!(best(&dir).unwrap().unwrap(), checkpoints.at(4));
    }

    #[test]
    fn another_kind_is_refused() {
        let run = tempfile::tempdir().unwrap();
        let path = save(&Checkpoints::open(run.path(), 1).unwrap(), 1).unwrap();
        let error = read_state::<PretrainConfig>(&path, Kind::Finetune).unwrap_err().to_string();
        assert!(error.ends_with("is a pre-training checkpoint; expected a fine-tuning one"), "{error}");
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
        assert!(matches!(
            read_state::<PretrainConfig>(&path, Kind::Pretrain),
            Err(CheckpointError::Format { found: 99, .. })
        ));
        fs::write(path.join(STATE), b"{").unwrap();
        assert!(matches!(read_state::<PretrainConfig>(&path, Kind::Pretrain), Err(CheckpointError::State { .. })));
    }
}
