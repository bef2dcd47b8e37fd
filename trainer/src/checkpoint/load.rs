//! Loads tensors, after checking each file.

use std::path::{Path, PathBuf};
use std::sync::Once;

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device};
use burn_store::burn_pack;
use hiend_cache::{lookup, regular};

use super::state::read_digests;
use super::{CheckpointError, Damage, EMA, MODEL, MomentMismatch, OPTIMIZER};
use crate::optim::parameter_shapes;

static UNCHECKED: Once = Once::new();

/// Returns `model` with the weights of a checkpoint.
///
/// # Errors
/// If the file cannot be read, is damaged, or does not hold exactly this model's parameters.
pub fn load_model<M: Module>(checkpoint: &Path, model: M) -> Result<M, CheckpointError> {
    load(&checked(checkpoint, MODEL)?, model)
}

/// Returns `model` with the averaged weights of a checkpoint; `None` if the checkpoint has none.
///
/// # Errors
/// See [`load_model`].
pub fn load_ema<M: Module>(checkpoint: &Path, model: M) -> Result<Option<M>, CheckpointError> {
    if !has_ema(checkpoint)? {
        return Ok(None);
    }
    load(&checked(checkpoint, EMA)?, model).map(Some)
}

/// Returns `model` with the weights for prediction: the averaged weights if the checkpoint has them.
///
/// # Errors
/// See [`load_model`].
pub fn load_averaged<M: Module>(checkpoint: &Path, model: M) -> Result<M, CheckpointError> {
    let name = if has_ema(checkpoint)? { EMA } else { MODEL };
    load(&checked(checkpoint, name)?, model)
}

/// Returns `optimizer` with the moments of a checkpoint; `model` must be loaded from the same checkpoint.
///
/// Burn reads them on `Device::default()`: see [`crate::device::settle_default`].
///
/// # Errors
/// If the file cannot be read, is damaged, or holds moments that are not of the model's parameters.
pub fn load_optimizer<M: Module>(
    checkpoint: &Path,
    model: &M,
    optimizer: ModuleOptimizer,
) -> Result<ModuleOptimizer, CheckpointError> {
    let path = checked(checkpoint, OPTIMIZER)?;
    check_moments(&path, model)?;
    let optimizer = optimizer.from_bytes(read(&path)?).map_err(CheckpointError::record(&path))?;
    if !is_on_cpu(model) {
        return Ok(optimizer);
    }
    let own_bytes = optimizer.to_record();
    Ok(optimizer.load_record(own_bytes))
}

/// Compares the shapes of moments with those of the parameters, because the first step would panic on a difference.
fn check_moments<M: Module>(path: &Path, model: &M) -> Result<(), CheckpointError> {
    let record = |error: burn_pack::Error| CheckpointError::record(path)(error.into());
    let parameters = parameter_shapes(model);
    // Reads no values: the tensors are windows into the file.
    for moment in burn_pack::Reader::from_file(path).and_then(burn_pack::Reader::into_tensors).map_err(record)? {
        let path = path.to_owned();
        let Some((parameter, expected)) = moment.param_id.and_then(|id| parameters.get(&id)) else {
            return Err(CheckpointError::StrayMoment { path, moment: moment.name });
        };
        let found = moment.shape.to_vec();
        if found != *expected {
            let (parameter, expected) = (parameter.clone(), expected.clone());
            let mismatch = MomentMismatch { moment: moment.name, parameter, found, expected };
            return Err(CheckpointError::MomentShape { path, mismatch: Box::new(mismatch) });
        }
    }
    Ok(())
}

fn load<M: Module>(path: &Path, model: M) -> Result<M, CheckpointError> {
    let record = ModuleRecord::from_bytes(read(path)?).map_err(CheckpointError::record(path))?;
    let model = model.try_load_record(record).map_err(CheckpointError::record(path))?;
    if !is_on_cpu(&model) {
        return Ok(model);
    }
    let own_bytes = model.clone().into_record();
    model.try_load_record(own_bytes).map_err(CheckpointError::record(path))
}

/// Returns true if tensors of a model are on the CPU. A tensor loaded there is a view of the whole file and keeps it in
/// memory; a record copies each tensor.
fn is_on_cpu<M: Module>(model: &M) -> bool {
    model.devices().contains(&Device::flex())
}

/// Reads a whole file: Burn would open it again for each tensor, and panic if that failed.
fn read(path: &Path) -> Result<Bytes, CheckpointError> {
    Ok(Bytes::from_bytes_vec(regular::read(path).map_err(CheckpointError::io(path, "read"))?))
}

fn has_ema(checkpoint: &Path) -> Result<bool, CheckpointError> {
    if let Some(files) = read_digests(checkpoint)? {
        return Ok(files.contains_key(EMA));
    }
    Ok(lookup::exists(&checkpoint.join(EMA))?)
}

/// Path of a checkpoint's file, once its digest has been checked.
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

#[cfg(test)]
mod tests {
    use burn::optim::GradientsParams;
    use burn::tensor::Tensor;

    use super::*;
    use crate::checkpoint::testing::mlp;
    use crate::checkpoint::{Checkpoints, Kind, State};
    use crate::config::pretrain::PretrainPreset;
    use crate::model::block::Mlp;
    use crate::model::init::WeightInit;

    /// Saves a model, and the moments of another model after a step.
    fn save(model: &Mlp, trained: Mlp) -> (tempfile::TempDir, PathBuf) {
        let config = PretrainPreset::Tiny.config();
        let mut optimizer = config.optim.init(&trained);
        let _ = step(&mut optimizer, trained);
        let run = tempfile::tempdir().unwrap();
        let state = State::new(Kind::Pretrain, 1, Some(0.5), &config, "digest");
        let path = Checkpoints::open(run.path(), 1).unwrap().save(&state, model, None, &optimizer).unwrap();
        (run, path)
    }

    fn step(optimizer: &mut ModuleOptimizer, model: Mlp) -> Mlp {
        let width = model.fc1.weight.val().dims()[0];
        let x = Tensor::ones([1, 3, width], &Device::flex().autodiff());
        let loss = model.add_to(x.clone(), x).square().sum();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        optimizer.step(1e-3, model, grads)
    }

    fn load(path: &Path, like: Mlp) -> Result<(), CheckpointError> {
        let model = load_model(path, like)?;
        let optimizer = PretrainPreset::Tiny.config().optim.init(&model);
        load_optimizer(path, &model, optimizer).map(|_| ())
    }

    #[test]
    fn moments_of_the_model_are_loaded() {
        let model = mlp(1);
        let (_run, path) = save(&model, model.clone());
        load(&path, mlp(2)).unwrap();
    }

    /// A separate process loads 48 MiB and trains one step. A view of a file would keep the file next to its own copy.
    #[test]
    #[cfg(target_os = "linux")]
    fn loaded_tensors_do_not_keep_the_files_in_memory() {
        /// Environment variable, set in the measured process, with the path of the checkpoint.
        const CHILD: &str = "HIEND_TEST_LOADED_CHECKPOINT";
        const WIDTH: usize = 1024;
        /// Two matrices of `WIDTH` x 2 `WIDTH` numbers, with two moments each.
        const LOADED: u64 = 3 * 2 * 2 * (WIDTH * WIDTH * size_of::<f32>()) as u64;
        let wide = |seed| Mlp::init(WIDTH, 2, &mut WeightInit::new(seed, &Device::flex().autodiff()));
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
        };
        if let Some(path) = std::env::var_os(CHILD) {
            let before = resident();
            let model = load_model(path.as_ref(), wide(2)).unwrap();
            let optimizer = PretrainPreset::Tiny.config().optim.init(&model);
            let mut optimizer = load_optimizer(path.as_ref(), &model, optimizer).unwrap();
            let _model = step(&mut optimizer, model);
            println!("TOOK {}", resident() - before);
            return;
        }
        let model = wide(1);
        let (_run, path) = save(&model, model.clone());
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checkpoint::load::tests::loaded_tensors_do_not_keep_the_files_in_memory", "--nocapture"])
            .env(CHILD, path)
            // The allocator returns freed matrices to the system at once.
            .env("MALLOC_MMAP_THRESHOLD_", "1048576")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let took = text.split("TOOK ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        let took: u64 = took.parse().unwrap();
        println!("{took} bytes after loading {LOADED}");
        assert!((LOADED..LOADED * 3 / 2).contains(&took), "{took} bytes after loading {LOADED}");
    }

    #[test]
    fn moments_of_another_model_are_refused_and_named() {
        let (_run, path) = save(&mlp(1), mlp(2));
        let error = load(&path, mlp(3)).unwrap_err();
        assert!(matches!(&error, CheckpointError::StrayMoment { .. }), "{error}");
        // Parameters of the same ids and another width.
        let model = mlp(1);
        let mut wide = Mlp::init(6, 2, &mut WeightInit::new(1, &Device::flex().autodiff()));
        wide.fc1.weight.id = model.fc1.weight.id;
        wide.fc2.weight.id = model.fc2.weight.id;
        for (theirs, ours) in [(&mut wide.fc1.bias, &model.fc1.bias), (&mut wide.fc2.bias, &model.fc2.bias)] {
            if let (Some(theirs), Some(ours)) = (theirs, ours) {
                theirs.id = ours.id;
            }
        }
        let (_run, path) = save(&model, wide);
        let error = load(&path, mlp(3)).unwrap_err();
        assert!(error.to_string().contains("optimizer.bpk: moment "), "{error}");
        assert!(matches!(&error, CheckpointError::MomentShape { .. }), "{error}");
    }
}
