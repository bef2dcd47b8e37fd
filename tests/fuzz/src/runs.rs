//! Targets that read files of training: configurations, checkpoints, journals, cases and weights.

use std::path::Path;

use hiend_trainer::checkpoint::{Kind, check, read_state};
use hiend_trainer::config::RunConfig;
use hiend_trainer::config::finetune::FinetuneConfig;
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::journal::{Entry, Follower, Journal, missing_steps, missing_text, read};
use hiend_trainer::report::history::History;
use hiend_trainer::report::mlflow::{LINK, Link};
use hiend_trainer::training::{CASES, RunCases};
use hiend_trainer::weights::{self, StateDict, WeightsError};

use crate::{check_error, check_line, write};

/// Reads a configuration of either task.
pub(crate) fn config(_: &Path, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    config_of::<PretrainConfig>(&text);
    config_of::<FinetuneConfig>(&text);
}

/// Reads a configuration, and reads it once more as a run saves it.
fn config_of<C: RunConfig + std::fmt::Debug>(text: &str) {
    match C::parse(text, "config.toml") {
        Ok(config) => {
            let saved = C::parse(&config.to_toml(), "config.toml");
            assert_eq!(saved.expect("a saved configuration is read"), config);
        }
        Err(err) => check_error(&err),
    }
}

/// Reads the state of a checkpoint, with and without the right checksum, next to empty files of weights and moments.
pub(crate) fn checkpoint(scratch: &Path, bytes: &[u8]) {
    state(scratch, bytes);
    if let Some(sealed) = sealed(bytes) {
        state(scratch, &sealed);
    }
}

/// Corrects the checksum at the end of a state; `None` if there is none.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    const START: &[u8] = b",\n  \"checksum\": \"";
    let content = &bytes[..bytes.windows(START.len()).rposition(|part| part == START)?];
    let digest = blake3::hash(content).to_hex();
    Some([content, START, digest.as_bytes(), b"\"\n}"].concat())
}

fn state(scratch: &Path, bytes: &[u8]) {
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
    match read(&path).and_then(|entries| missing_steps(entries, 8)) {
        Ok(steps) => check_line(&missing_text(&steps)),
        Err(err) => check_error(&err),
    }
    if let Err(err) = History::read(&path) {
        check_error(&err);
    }
    let mut follower = Follower::new(&path);
    loop {
        match follower.peek(3) {
            Ok(chunk) if chunk.is_last => break,
            Ok(chunk) => follower.advance(&chunk),
            Err(err) => {
                check_error(&err);
                break;
            }
        }
    }
    // A resumed run removes the remains of a power cut and goes on behind them.
    let stopped = Entry::Stopped { step: 8, interrupted: true };
    let mut resumed = Journal::open(&path, true).expect("the file can be opened");
    resumed.write(&stopped).expect("the file can be written");
    let last = read(&path).expect("the file can be opened").last();
    assert!(matches!(last, Some(Ok(entry)) if entry == stopped), "the line of a resumed run is not the last one");
}

/// Reads the cases with which a run began, and compares them with none.
pub(crate) fn run_cases(scratch: &Path, bytes: &[u8]) {
    write(&scratch.join(CASES), bytes);
    let none = RunCases::default();
    match RunCases::read(scratch) {
        Ok(cases) => check_line(&cases.unwrap_or_default().changes(&none).to_string()),
        Err(err) => check_error(&err),
    }
}

/// Reads the name of a run on an MLflow server.
pub(crate) fn mlflow(scratch: &Path, bytes: &[u8]) {
    write(&scratch.join(LINK), bytes);
    if let Err(err) = Link::read(scratch) {
        check_error(&err);
    }
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
            if let Err(err) = state.model_kind() {
                check_error(&err);
            }
            let _ = (state.position_grid(), state.num_blocks());
        }
        Err(err) => check_error(&err),
    }
}
