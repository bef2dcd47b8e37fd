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
        PytorchError::Io(error) => WeightsError::Io { path: path.to_owned(), source: escaped(error) },
        error => WeightsError::Torch { path: path.to_owned(), reason: error.to_string() },
    })?;
    let mut state = StateDict::default();
    for (name, tensor) in reader.tensors() {
        let tensor =
            floats(tensor).map_err(|error| WeightsError::Io { path: path.to_owned(), source: escaped(error) })?;
        state.add(path, name, tensor)?;
    }
    Ok(state)
}

/// The error with its message in one line: those of the reader may quote a name in the file.
fn escaped(error: io::Error) -> io::Error {
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
    use std::io::Write as _;

    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::pickle::{Value, pickle};
    use super::*;

    /// Writes an archive as `torch.save` does, with this pickle and a storage of four numbers.
    fn write_archive(path: &Path, pickle: &[u8]) {
        let storage: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].into_iter().flat_map(f32::to_ne_bytes).collect();
        let order: &[u8] = if cfg!(target_endian = "big") { b"big" } else { b"little" };
        let mut archive = ZipWriter::new(std::fs::File::create(path).unwrap());
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let files: [(&str, &[u8]); 4] =
            [("data.pkl", pickle), ("byteorder", order), ("data/0", &storage), ("version", b"3\n")];
        for (name, bytes) in files {
            archive.start_file(format!("archive/{name}"), stored).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap();
    }

    /// Pickled text.
    fn text(text: &str) -> Vec<u8> {
        let len = u32::try_from(text.len()).unwrap().to_le_bytes();
        [&b"X"[..], &len, text.as_bytes()].concat()
    }

    #[test]
    fn a_pickle_that_calls_a_function_is_data() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let command = text(&format!("touch {}", marker.display()));
        let calls: [Vec<u8>; 4] = [
            [&b"cposix\nsystem\n("[..], &command, b"tR"].concat(),
            [&b"\x8c\x05posix\x8c\x06system\x93"[..], &command, b"\x85R"].concat(),
            [&b"("[..], &command, b"iposix\nsystem\n"].concat(),
            [&b"c__builtin__\neval\n("[..], &text("__import__('os').getcwd()"), b"tR"].concat(),
        ];
        let path = dir.path().join("model.pth");
        for call in &calls {
            let root = [&b"\x80\x04"[..], call, b"."].concat();
            // As an archive, and as the bare pickle.
            write_archive(&path, &root);
            assert!(matches!(read(&path), Err(WeightsError::Torch { .. })), "{call:?}");
            std::fs::write(&path, &root).unwrap();
            assert!(matches!(read(&path), Err(WeightsError::Torch { .. })), "{call:?}");
        }
        // Next to weights, the call is an object of an unknown kind.
        let weights = Value::dict([("state_dict", Value::dict([("w", Value::Tensor { storage: 0, shape: vec![4] })]))]);
        let weights = pickle(&weights);
        let rest = weights.strip_suffix(b"u.").unwrap();
        write_archive(&path, &[rest, &text("hook"), &calls[0], b"u."].concat());
        let state = read(&path).unwrap();
        assert_eq!(state.tensors.len(), 1);
        assert_eq!(state.tensors["w"].values, [1.0, 2.0, 3.0, 4.0]);
        assert!(!marker.exists(), "the command was run");
    }

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
