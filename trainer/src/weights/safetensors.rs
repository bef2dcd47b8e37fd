//! Safetensors files under the reference's names: a header of names, types and offsets, followed by the values.
//!
//! Specification: <https://huggingface.co/docs/safetensors>. The header is validated by the format's own crate, with
//! its limits on size and its check that the tensors cover the file without gaps.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use burn::tensor::{bf16, f16};
use hiend_cache::durable;

use super::{HostTensor, StateDict, WeightsError};

/// Reads all floating point tensors as f32; the prefix `module.` is dropped.
///
/// # Errors
/// If the file cannot be read or is not a safetensors file.
pub fn read(path: &Path) -> Result<StateDict, WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| WeightsError::Safetensors { path: path.to_owned(), reason: error.to_string() })?;
    let mut state = StateDict::default();
    for (name, view) in file.iter() {
        state.add(path, name, floats(&view))?;
    }
    Ok(state)
}

/// Writes a state dict as f32 to a temporary file, which replaces `path` once it is on disk.
///
/// The metadata `format: pt` informs Python's readers that the layouts are `PyTorch`'s. The file has the mode of any new
/// file (0666 without the umask).
///
/// Removes temporary files that killed processes left in its folder.
///
/// # Errors
/// If the file cannot be written; `path` is then unchanged.
pub fn write(path: &Path, state: &StateDict) -> Result<(), WeightsError> {
    durable::remove_stale_beside(path);
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    durable::write_path(path, |temporary| {
        let permissions = std::fs::File::create(temporary)?.metadata()?.permissions();
        ::safetensors::serialize_to_file(&state.tensors, Some(metadata), temporary).map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            error => std::io::Error::other(error),
        })?;
        // The crate replaced the file by one of its own, with mode 0600.
        std::fs::set_permissions(temporary, permissions)
    })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_whatever_a_file_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let tensor = |name: &str, kind: &str, offsets: &str| {
            format!(r#""{name}":{{"dtype":"{kind}","shape":[1],"data_offsets":{offsets}}}"#)
        };
        let error = |tensors: &[String]| {
            let header = format!("{{{}}}", tensors.join(","));
            std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat()).unwrap();
            let state = read(&path);
            let error = state.and_then(|state| state.model_kind().map(drop)).unwrap_err().to_string();
            assert!(error.contains(r"\n") && !error.contains('\n'), "{error}");
        };
        error(&[tensor("a", r"F\n32", "[0,4]"), tensor("b", "F32", "[4,8]")]);
        error(&[tensor("a", "F32", "[0,4]"), tensor(r"b\nc", "F32", "[5,8]")]);
        error(&[tensor(r"a\nb", "F32", "[0,4]"), tensor("b", "F32", "[4,8]")]);
        error(&[tensor(r"module.a\nb", "F32", "[0,4]"), tensor(r"a\nb", "F32", "[4,8]")]);
    }
}
