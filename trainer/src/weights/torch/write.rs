//! Writing of `PyTorch` checkpoints: an archive of the pickle and of one file per tensor.

use std::io::Write;
use std::path::Path;

use bytemuck::cast_slice;
use hiend_cache::FileError;
use hiend_cache::durable::{self, NewFile};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::pickle::{Value, pickle};
use crate::weights::{HostTensor, StateDict};

/// Folder in the archive; `PyTorch` accepts any name.
const FOLDER: &str = "archive";
/// Alignment of a tensor's bytes in the file, as in `PyTorch`'s own files; needed to map the file into memory.
const ALIGNMENT: u16 = 64;

/// Writes a checkpoint: a dictionary of the tensors under `tensors_key`, and of `more`.
///
/// Removes temporary files that killed processes left in its folder.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, tensors_key: &str, state: &StateDict, more: Vec<(String, Value)>) -> Result<(), FileError> {
    durable::remove_stale_beside(path);
    let mut file = NewFile::create(path)?;
    write_archive(&mut file, tensors_key, state, more).map_err(FileError::at(path, "write"))?;
    file.commit()
}

fn write_archive(
    file: &mut NewFile,
    tensors_key: &str,
    state: &StateDict,
    more: Vec<(String, Value)>,
) -> std::io::Result<()> {
    let tensor = |(storage, (name, tensor)): (usize, (&String, &HostTensor))| {
        (name.clone(), Value::Tensor { storage, shape: tensor.shape.clone() })
    };
    let tensors = Value::Dict(state.tensors.iter().enumerate().map(tensor).collect());
    let root = Value::Dict(std::iter::once((tensors_key.to_owned(), tensors)).chain(more).collect());

    let mut archive = ZipWriter::new(file);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(ALIGNMENT);
    let mut put = |name: &str, bytes: &[u8]| {
        archive.start_file(format!("{FOLDER}/{name}"), stored.large_file(bytes.len() > u32::MAX as usize))?;
        archive.write_all(bytes)
    };
    put("data.pkl", &pickle(&root))?;
    put("byteorder", if cfg!(target_endian = "big") { b"big" } else { b"little" })?;
    for (storage, tensor) in state.tensors.values().enumerate() {
        put(&format!("data/{storage}"), cast_slice(&tensor.values))?;
    }
    put("version", b"3\n")?;
    archive.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pth");
        let tensor = |shape: &[usize], first: u16| {
            let values = (0..shape.iter().product::<usize>()).map(|i| f32::from(first) + i as f32 / 3.0).collect();
            HostTensor { shape: shape.to_vec(), values }
        };
        let mut state = StateDict::default();
        state.tensors.insert("a.weight".into(), tensor(&[2, 3, 4], 7));
        state.tensors.insert("b".into(), tensor(&[5], 100));
        write(&path, "state_dict", &state, vec![("plan".into(), Value::dict([("x", "y".into())]))]).unwrap();
        assert_eq!(StateDict::read(&path).unwrap(), state);
    }
}
