//! Targets that read files of training: configurations, checkpoints, journals and weights.

use std::path::Path;

use hiend_trainer::checkpoint::{Kind, check, read_state};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::FinetuneConfig;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::journal::{Entry, read};
use hiend_trainer::weights::{self, StateDict, WeightsError};

use crate::{check_error, write};

/// Reads a configuration of either task.
pub(crate) fn config(_: &Path, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(err) = PretrainConfig::parse(&text, "config.toml") {
        check_error(&err);
    }
    if let Err(err) = FinetuneConfig::parse(&text, "config.toml") {
        check_error(&err);
    }
}

/// Reads the state of a checkpoint, next to empty files of weights and moments.
pub(crate) fn checkpoint(scratch: &Path, bytes: &[u8]) {
    let dir = scratch.join("step-00000001");
    if !dir.exists() {
        std::fs::create_dir(&dir).expect("the scratch folder is writable");
        write(&dir.join("model.bpk"), b"");
        write(&dir.join("optimizer.bpk"), b"");
    }
    write(&dir.join("state.json"), bytes);
    if let Err(err) = check(&dir) {
        check_error(&err);
    }
    if let Err(err) = read_state::<PretrainConfig>(&dir, Kind::Pretrain) {
        check_error(&err);
    }
    if let Err(err) = read_state::<FinetuneConfig>(&dir, Kind::Finetune) {
        check_error(&err);
    }
}

/// Reads the journal of a run.
pub(crate) fn journal(scratch: &Path, bytes: &[u8]) {
    let path = scratch.join("journal.jsonl");
    write(&path, bytes);
    let entries = read(&path).expect("the file can be opened");
    let entries: Vec<Result<Entry, _>> = entries.take(1 + bytes.len()).collect();
    assert!(entries.len() <= bytes.len(), "more entries than bytes");
    entries.iter().filter_map(|entry| entry.as_ref().err()).for_each(|err| check_error(err));
}

/// Reads weights saved by `PyTorch`.
pub(crate) fn pth(scratch: &Path, bytes: &[u8]) {
    weights(scratch, "weights.pth", bytes, weights::torch::read);
}

/// Reads weights as safetensors.
pub(crate) fn safetensors(scratch: &Path, bytes: &[u8]) {
    weights(scratch, "weights.safetensors", bytes, weights::safetensors::read);
}

fn weights(scratch: &Path, name: &str, bytes: &[u8], read: fn(&Path) -> Result<StateDict, WeightsError>) {
    let path = scratch.join(name);
    write(&path, bytes);
    match read(&path) {
        Ok(state) => {
            for (name, tensor) in &state.tensors {
                assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>(), "{name}");
            }
        }
        Err(err) => check_error(&err),
    }
}
