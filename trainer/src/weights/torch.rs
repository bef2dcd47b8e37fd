//! `PyTorch` checkpoints: `{"epoch", "state_dict": {"module.…": tensor}}` as released, or a bare state dict.
//!
//! Nothing in the file is executed: the parser of the pickle supports tensors and containers only.

pub mod pickle;
pub mod write;

use std::borrow::Cow;
use std::io;
use std::path::Path;

use burn::tensor::{bf16, f16};
use burn_store::pytorch::{PytorchError, PytorchReader};
use burn_store::pytorch_reader::{DType, Tensor};
use hiend_loader::program::escape_name;

use super::{HostTensor, StateDict, WeightsError};

/// Keys under which a checkpoint may hold its state dict, in the order of preference.
const TOP_LEVEL_KEYS: [&str; 4] = ["state_dict", "model_state_dict", "model", "network_weights"];

/// Reads all floating point tensors of a checkpoint as f32; the prefix `module.` is dropped.
///
/// # Errors
/// If the file cannot be read or is not a `PyTorch` checkpoint.
pub fn read(path: &Path) -> Result<StateDict, WeightsError> {
    let reader = open(path).map_err(|source| match source {
        PytorchError::Io(error) => WeightsError::Io { path: path.to_owned(), source: one_line(error) },
        error => WeightsError::Torch { path: path.to_owned(), reason: error.to_string() },
    })?;
    let mut state = StateDict::default();
    for (name, tensor) in reader.tensors() {
        let tensor =
            floats(tensor).map_err(|error| WeightsError::Io { path: path.to_owned(), source: one_line(error) })?;
        state.add(path, name, tensor)?;
    }
    Ok(state)
}

/// The error with its message in one line: those of the reader may quote a name in the file.
fn one_line(error: io::Error) -> io::Error {
    let message = error.to_string();
    match escape_name(&message) {
        Cow::Borrowed(_) => error,
        Cow::Owned(escaped) => io::Error::new(error.kind(), escaped),
    }
}

fn open(path: &Path) -> Result<PytorchReader, PytorchError> {
    for key in TOP_LEVEL_KEYS {
        match PytorchReader::with_top_level_key(path, key) {
            Err(PytorchError::KeyNotFound(_)) => {}
            done => return done,
        }
    }
    PytorchReader::new(path)
}

/// Values of a tensor as f32; `None` if its type is not floating point.
fn floats(tensor: &Tensor) -> std::io::Result<Option<HostTensor>> {
    let convert: fn(&[u8]) -> f32 = match tensor.dtype() {
        DType::F32 => |b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
        DType::F64 => |b| f64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
        DType::F16 => |b| f16::from_ne_bytes([b[0], b[1]]).to_f32(),
        DType::BF16 => |b| bf16::from_ne_bytes([b[0], b[1]]).to_f32(),
        _ => return Ok(None),
    };
    let values = tensor.read()?.chunks_exact(tensor.dtype().size()).map(convert).collect();
    Ok(Some(HostTensor { shape: tensor.shape().to_vec(), values }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_whatever_a_file_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // The name of an entry of the archive has a line break.
        std::fs::write(file.path(), include_bytes!("../../../tests/fuzz/corpus/pth/pth-21562")).unwrap();
        let error = read(file.path()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(r"\n") && !source.contains('\n'), "{source}");
    }
}
