//! Loading tensors, each file checked first.

use std::path::{Path, PathBuf};
use std::sync::Once;

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use hiend_cache::lookup;

use super::state::read_digests;
use super::{CheckpointError, Damage, EMA, MODEL, OPTIMIZER};

static UNCHECKED: Once = Once::new();

/// Returns `model` with the weights of a checkpoint.
///
/// # Errors
/// If the file cannot be read, is damaged, or does not hold exactly this model's parameters.
pub fn load_model<M: Module>(checkpoint: &Path, model: M) -> Result<M, CheckpointError> {
    load(&checked(checkpoint, MODEL)?, model)
}

/// Returns `model` with the averaged weights of a checkpoint, or nothing if the checkpoint has none.
///
/// # Errors
/// See [`load_model`].
pub fn load_ema<M: Module>(checkpoint: &Path, model: M) -> Result<Option<M>, CheckpointError> {
    if !has_ema(checkpoint)? {
        return Ok(None);
    }
    load(&checked(checkpoint, EMA)?, model).map(Some)
}

/// Returns `model` with the weights to predict with: the averaged ones if the checkpoint has them.
///
/// # Errors
/// See [`load_model`].
pub fn load_averaged<M: Module>(checkpoint: &Path, model: M) -> Result<M, CheckpointError> {
    let name = if has_ema(checkpoint)? { EMA } else { MODEL };
    load(&checked(checkpoint, name)?, model)
}

/// Returns `optimizer` with the moments of a checkpoint.
///
/// Burn reads them on `Device::default()`: see [`crate::device::settle_default`].
///
/// # Errors
/// If the file cannot be read or is damaged.
pub fn load_optimizer(checkpoint: &Path, optimizer: ModuleOptimizer) -> Result<ModuleOptimizer, CheckpointError> {
    let path = checked(checkpoint, OPTIMIZER)?;
    optimizer.load(&path).map_err(CheckpointError::record(&path))
}

fn load<M: Module>(path: &Path, model: M) -> Result<M, CheckpointError> {
    model.try_load_file(path).map_err(CheckpointError::record(path))
}

fn has_ema(checkpoint: &Path) -> Result<bool, CheckpointError> {
    if let Some(files) = read_digests(checkpoint)? {
        return Ok(files.contains_key(EMA));
    }
    Ok(lookup::exists(&checkpoint.join(EMA))?)
}

/// Path of a checkpoint's file, after a comparison with its digest.
fn checked(checkpoint: &Path, name: &str) -> Result<PathBuf, CheckpointError> {
    let path = checkpoint.join(name);
    match read_digests(checkpoint)? {
        Some(files) => match files.get(name) {
            Some(digest) => digest.check(&path)?,
            None => return Err(CheckpointError::damaged(&path, Damage::Unlisted)),
        },
        None => UNCHECKED.call_once(|| {
            tracing::warn!(
                "{} has no checksums (written by an earlier version): damage to its files would not be noticed",
                checkpoint.display()
            );
        }),
    }
    Ok(path)
}
