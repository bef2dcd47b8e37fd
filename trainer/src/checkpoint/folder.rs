//! `RUN_DIR/checkpoints`: finds, adds and removes checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::DType;
use burn_store::burn_pack;
use hiend_cache::{durable, lookup};

use super::state::{self, read_digests, read_head};
use super::{Best, CheckpointError, EMA, FileDigest, MODEL, OPTIMIZER, State, check};
use crate::config::RunConfig;
use crate::weights::is_usable;

/// Prefix of unfinished checkpoints.
const PARTIAL: &str = ".partial-";
/// Prefix of checkpoints that were superseded when the run resumed from an earlier one.
const SET_ASIDE: &str = "set-aside-";

/// Checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// Opens `RUN_DIR/checkpoints`, creating it if needed; the newest `keep` checkpoints are kept, at least one.
    ///
    /// Unfinished checkpoints of a killed run are removed.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(run_dir: &Path, keep: usize) -> Result<Self, CheckpointError> {
        let dir = run_dir.join("checkpoints");
        durable::create_dir_all(&dir)?;
        for name in names(&dir)?.iter().filter(|name| name.starts_with(PARTIAL)) {
            let path = dir.join(name);
            durable::remove_dir_all(&path)?;
        }
        Ok(Self { dir, keep: keep.max(1) })
    }

    /// Finds the newest checkpoint.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn latest(&self) -> Result<Option<PathBuf>, CheckpointError> {
        latest(&self.dir)
    }

    /// Path of the checkpoint after `step` optimizer steps, whether or not it exists.
    #[must_use]
    pub fn at(&self, step: u64) -> PathBuf {
        at(&self.dir, step)
    }

    /// Renames every checkpoint after `step` to `set-aside-…`, so that a run that repeats these steps neither resumes
    /// from them nor overwrites them. Returns their steps and new paths.
    ///
    /// # Errors
    /// If one cannot be renamed.
    pub fn set_aside_after(&self, step: u64) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let later = all(&self.dir)?.into_iter().filter(|(later, _)| *later > step);
        later.map(|(step, path)| self.set_aside(step, &path).map(|path| (step, path))).collect()
    }

    fn set_aside(&self, step: u64, path: &Path) -> Result<PathBuf, CheckpointError> {
        let base = format!("{SET_ASIDE}step-{step:08}");
        let taken = names(&self.dir)?;
        let mut names = std::iter::once(base.clone()).chain((2u64..).map(|number| format!("{base}-{number}")));
        let name = names.find(|name| !taken.contains(name)).expect("an unbounded range");
        let target = self.dir.join(name);
        durable::rename(path, &target)?;
        Ok(target)
    }

    /// Writes a checkpoint, then removes those beyond the number to keep; the best checkpoint is kept.
    ///
    /// # Errors
    /// The first failure. All earlier checkpoints are intact then.
    pub fn save<C: RunConfig, M: Module>(
        &self,
        state: &State<C>,
        model: &M,
        ema: Option<&M>,
        optimizer: &ModuleOptimizer,
    ) -> Result<PathBuf, CheckpointError> {
        let target = self.at(state.step);
        if lookup::exists(&target)? {
            // A run that was resumed here and stopped before its next step: only a validation can be new.
            if check(&target).is_ok() {
                let files = read_digests(&target)?.unwrap_or_default();
                state::write(&target, &State { files, ..state.clone() })?;
                return Ok(target);
            }
            self.set_aside(state.step, &target)?;
        }
        let partial = self.dir.join(format!("{PARTIAL}step-{:08}", state.step));
        let written = write(&partial, state, model, ema, optimizer)
            .and_then(|()| durable::rename(&partial, &target).map_err(CheckpointError::from));
        if let Err(error) = written {
            // The first failure is reported; a remainder is removed when the run is resumed.
            let _ = durable::remove_dir_all(&partial);
            return Err(error);
        }
        self.remove_old(state.best)?;
        Ok(target)
    }

    fn remove_old(&self, best: Option<Best>) -> Result<(), CheckpointError> {
        let steps = all(&self.dir)?;
        for (step, path) in &steps[..steps.len().saturating_sub(self.keep)] {
            if best.is_none_or(|best| best.step != *step) {
                // Under its own name, a checkpoint that a killed run had removed in part would look like a damaged one.
                let removed = self.dir.join(format!("{PARTIAL}removed-{step:08}"));
                durable::rename(path, &removed)?;
                durable::remove_dir_all(&removed)?;
            }
        }
        Ok(())
    }
}

/// Finds the best checkpoint in a folder of checkpoints; the newest one if no validation had any foreground, or the
/// best one was removed.
///
/// # Errors
/// If a state cannot be read.
pub fn best(dir: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let Some(latest) = latest(dir)? else { return Ok(None) };
    let Some(best) = read_head(&latest)?.best.map(|best| at(dir, best.step)) else { return Ok(Some(latest)) };
    Ok(Some(if lookup::exists(&best)? { best } else { latest }))
}

/// Finds the best validation of a run if the checkpoint of its step no longer exists.
///
/// # Errors
/// If a state cannot be read.
pub fn lost_best(dir: &Path) -> Result<Option<Best>, CheckpointError> {
    let Some(latest) = latest(dir)? else { return Ok(None) };
    let Some(best) = read_head(&latest)?.best else { return Ok(None) };
    Ok(if lookup::exists(&at(dir, best.step))? { None } else { Some(best) })
}

/// Finds the newest checkpoint in a folder of checkpoints.
///
/// # Errors
/// If the folder cannot be read.
pub fn latest(dir: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    Ok(all(dir)?.pop().map(|(_, path)| path))
}

/// Finds the newest checkpoint before the step `before` that [`check`] accepts, and its step. Reads every file of the
/// candidates.
///
/// # Errors
/// If the folder of checkpoints cannot be read.
pub fn newest_whole(dir: &Path, before: u64) -> Result<Option<(u64, PathBuf)>, CheckpointError> {
    let mut newest_first = all(dir)?.into_iter().rev();
    Ok(newest_first.find(|(step, path)| *step < before && check(path).is_ok()))
}

/// Lists the checkpoints in a folder with their steps, ascending; the list is empty if the folder does not exist.
///
/// # Errors
/// If the folder cannot be read.
pub fn all(dir: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let mut steps: Vec<(u64, PathBuf)> = names(dir)?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix("step-")?.parse().ok()?, dir.join(name))))
        .collect();
    steps.sort();
    Ok(steps)
}

fn at(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}"))
}

fn write<C: RunConfig, M: Module>(
    dir: &Path,
    state: &State<C>,
    model: &M,
    ema: Option<&M>,
    optimizer: &ModuleOptimizer,
) -> Result<(), CheckpointError> {
    durable::create_dir(dir)?;
    let mut files = BTreeMap::new();
    // Burn writes the files; syncing them is not left to it.
    for (name, model) in [(MODEL, Some(model)), (EMA, ema)] {
        let Some(model) = model else { continue };
        let path = dir.join(name);
        model.clone().save_file(&path).map_err(CheckpointError::record(&path))?;
        durable::sync_file(&path)?;
        check_weights(&path)?;
        files.insert(name.to_owned(), FileDigest::of(&path)?);
    }
    let path = dir.join(OPTIMIZER);
    optimizer.save(&path).map_err(CheckpointError::record(&path))?;
    durable::sync_file(&path)?;
    files.insert(OPTIMIZER.to_owned(), FileDigest::of(&path)?);
    state::write(dir, &State { files, ..state.clone() })
}

/// Checks that a network can compute with the weights in a file just written, because a checkpoint is a state to go
/// back to. The loss does not show this, because it was measured before the step that produced the weights.
fn check_weights(path: &Path) -> Result<(), CheckpointError> {
    let record = |error: burn_pack::Error| CheckpointError::record(path)(error.into());
    let tensors = burn_pack::Reader::from_file(path).and_then(burn_pack::Reader::into_tensors).map_err(record)?;
    tensors.into_iter().try_for_each(|tensor| check_tensor(path, tensor))
}

/// Checks the values of one tensor, which are read from its file at `path` only here.
fn check_tensor(path: &Path, tensor: burn_pack::Tensor) -> Result<(), CheckpointError> {
    if tensor.dtype != DType::F32 {
        return Ok(());
    }
    let (tensor, _, _, _, bytes) = tensor.into_parts().map_err(|error| CheckpointError::record(path)(error.into()))?;
    // Dereferenced bytes would panic if their file could not be read.
    #[allow(clippy::default_trait_access, reason = "Burn exports no name of the type")]
    let bytes = bytes.read(Default::default());
    let bytes = bytes.map_err(|error| CheckpointError::io(path, "read")(io::Error::other(error.to_string())))?;
    let (values, _) = bytes.as_chunks::<4>();
    let value = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).find(|&value| !is_usable(value));
    match value {
        Some(value) => Err(CheckpointError::Unusable { path: path.to_owned(), tensor, value }),
        None => Ok(()),
    }
}

fn names(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(CheckpointError::io(dir, "list")(error)),
    };
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(CheckpointError::io(dir, "list"))?;
        // All names that this program writes are valid UTF-8.
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::load_model;
    use crate::checkpoint::testing::{mlp, save, save_with, weights};

    fn sorted_names(dir: &Path) -> Vec<String> {
        let mut names = names(dir).unwrap();
        names.sort();
        names
    }

    #[test]
    fn newest_checkpoints_are_kept_and_the_last_is_found() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 2).unwrap();
        assert_eq!(checkpoints.latest().unwrap(), None);
        for step in [1, 2, 10, 300] {
            save(&checkpoints, step).unwrap();
        }
        assert_eq!(sorted_names(&run.path().join("checkpoints")), ["step-00000010", "step-00000300"]);
        let latest = checkpoints.latest().unwrap().unwrap();
        assert_eq!(read_head(&latest).unwrap().step, 300);
        let loaded = load_model(&latest, mlp(0)).unwrap();
        assert_eq!(weights(&loaded), weights(&mlp(300)));
    }

    #[test]
    fn weights_that_cannot_be_read_again_are_an_error() {
        let run = tempfile::tempdir().unwrap();
        let path = save(&Checkpoints::open(run.path(), 1).unwrap(), 1).unwrap().join(MODEL);
        check_weights(&path).unwrap();
        let tensors = burn_pack::Reader::from_file(&path).unwrap().into_tensors().unwrap();
        fs::remove_file(&path).unwrap();
        for tensor in tensors {
            let error = check_tensor(&path, tensor).unwrap_err();
            assert!(error.to_string().contains(MODEL), "{error}");
        }
    }

    #[test]
    fn best_checkpoint_is_kept_and_found() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 1).unwrap();
        let dir = run.path().join("checkpoints");
        let best_step = |step| Some(Best { step, mean_dice: 0.5 });
        save_with(&checkpoints, 1, best_step(1)).unwrap();
        for step in [2, 3] {
            save_with(&checkpoints, step, best_step(1)).unwrap();
        }
        assert_eq!(sorted_names(&dir), ["step-00000001", "step-00000003"]);
        assert_eq!(best(&dir).unwrap().unwrap(), checkpoints.at(1));
        save_with(&checkpoints, 4, best_step(4)).unwrap();
        assert_eq!(sorted_names(&dir), ["step-00000004"]);
        assert_eq!(best(&dir).unwrap().unwrap(), checkpoints.at(4));
        assert_eq!(lost_best(&dir).unwrap(), None);
        // As after a resume from a state whose best checkpoint a better one had replaced.
        save_with(&checkpoints, 5, best_step(2)).unwrap();
        assert_eq!(best(&dir).unwrap().unwrap(), checkpoints.at(5));
        assert_eq!(lost_best(&dir).unwrap(), best_step(2));
    }

    #[test]
    fn unfinished_checkpoint_of_a_killed_run_is_removed() {
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
    fn failed_write_leaves_earlier_checkpoints() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 1).unwrap();
        save(&checkpoints, 1).unwrap();
        // A file in the place of the folder fails like a full disk.
        let blocker = run.path().join("checkpoints/.partial-step-00000002");
        fs::write(&blocker, b"").unwrap();
        let error = save(&checkpoints, 2).unwrap_err();
        assert!(error.to_string().contains("step-00000002"), "{error}");
        assert!(checkpoints.latest().unwrap().unwrap().ends_with("step-00000001"));
    }

    #[test]
    fn saving_a_step_again_replaces_the_state_alone() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 3).unwrap();
        let path = save(&checkpoints, 1).unwrap();
        let before = fs::read(path.join(MODEL)).unwrap();
        let best = Some(Best { step: 1, mean_dice: 0.5 });
        assert_eq!(save_with(&checkpoints, 1, best).unwrap(), path);
        assert_eq!(read_head(&path).unwrap().best, best);
        assert_eq!(fs::read(path.join(MODEL)).unwrap(), before);
        check(&path).unwrap();
    }

    #[test]
    fn damaged_checkpoint_is_set_aside_when_its_step_is_reached_again() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 3).unwrap();
        for _ in 0..2 {
            let path = save(&checkpoints, 1).unwrap();
            fs::write(path.join(MODEL), b"nonsense").unwrap();
        }
        let path = save(&checkpoints, 1).unwrap();
        check(&path).unwrap();
        let names = sorted_names(&run.path().join("checkpoints"));
        assert_eq!(names, ["set-aside-step-00000001", "set-aside-step-00000001-2", "step-00000001"]);
    }

    #[test]
    fn later_checkpoints_are_set_aside_and_no_longer_found() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 5).unwrap();
        for step in [1, 2, 3] {
            save(&checkpoints, step).unwrap();
        }
        let moved = checkpoints.set_aside_after(1).unwrap();
        assert_eq!(moved.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 3]);
        assert!(checkpoints.latest().unwrap().unwrap().ends_with("step-00000001"));
        check(&moved[0].1).unwrap();
    }
}
