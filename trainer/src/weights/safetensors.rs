//! Safetensors files with the reference's names: a header of names, types and offsets, then the bytes.
//!
//! Specification: <https://huggingface.co/docs/safetensors>. The header is validated by the format's own crate, with
//! its limits on size and its check that the tensors cover the file without gaps.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use burn::tensor::{bf16, f16};

use super::{HostTensor, StateDict, WeightsError};

/// Reads all floating point tensors as f32; the prefix `module.` is dropped.
///
/// # Errors
/// If the file cannot be read or is no safetensors file.
pub fn read(path: &Path) -> Result<StateDict, WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|source| WeightsError::Safetensors { path: path.to_owned(), source })?;
    let mut state = StateDict::default();
    for (name, view) in file.iter() {
        state.add(path, name, floats(&view))?;
    }
    Ok(state)
}

/// Writes a state dict as f32, whole or not at all: into a file beside `path`, then renamed onto it.
///
/// The metadata says `format: pt`, by which Python's readers know that the layouts are `PyTorch`'s.
///
/// # Errors
/// If the file cannot be written; what was at `path` is then untouched.
pub fn write(path: &Path, state: &StateDict) -> Result<(), WeightsError> {
    let io = |source| WeightsError::Io { path: path.to_owned(), source };
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new();
    // A temporary file is private to its owner; exported weights are not.
    #[cfg(unix)]
    temporary.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = temporary.tempfile_in(folder).map_err(io)?;
    ::safetensors::serialize_to_file(&state.tensors, Some(metadata), file.path()).map_err(|source| match source {
        SafeTensorError::IoError(source) => io(source),
        source => WeightsError::Safetensors { path: path.to_owned(), source },
    })?;
    // Through a handle of our own: the writer above opened the path, and its data may still be on the way to disk.
    std::fs::File::open(file.path()).and_then(|written| written.sync_all()).map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}

fn floats(view: &TensorView<'_>) -> Option<HostTensor> {
    let (size, convert): (usize, fn(&[u8]) -> f32) = match view.dtype() {
        Dtype::F32 => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Dtype::F64 => (8, |b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32),
        Dtype::F16 => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
        Dtype::BF16 => (2, |b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        _ => return None,
    };
    Some(HostTensor { shape: view.shape().to_vec(), values: view.data().chunks_exact(size).map(convert).collect() })
}
