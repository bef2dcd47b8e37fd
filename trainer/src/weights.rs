//! Import and export of weights under the names and in the layouts of the `PyTorch` reference.
//!
//! A [`StateDict`] holds tensors as a `PyTorch` file names and shapes them; [`mod@torch`] and [`mod@safetensors`] read
//! and write the files. [`Naming`] maps every parameter of a model to its tensor and layout in such a file; [`import`]
//! and [`export`] use the same map, so that a round trip gives the same bits.

pub mod download;
pub mod export;
pub mod import;
mod layout;
mod naming;
pub mod nnssl;
pub mod safetensors;
pub mod torch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hiend_cache::FileError;
use hiend_loader::plural::count;
use hiend_loader::program::escape_name;
use thiserror::Error;

use crate::model::pos_embed::grid_of_table;
pub use export::{export_hi_end_mae, export_unetr};
pub use import::{ImportReport, import_hi_end_mae, import_unetr};
pub use naming::Naming;
pub(crate) use naming::{DECODER_POSITIONS, ENCODER_POSITIONS};

/// Errors from reading and writing weights, and from importing them into a model.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// A file that cannot be read.
    #[error("{}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error reported by the system.
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// A file that is not a `PyTorch` checkpoint.
    #[error("{}: not a readable PyTorch checkpoint: {}", path.display(), escape_name(reason))]
    Torch {
        /// Path of the file.
        path: PathBuf,
        /// Error reported by the reader, which may quote the file.
        reason: String,
    },
    /// A file that is not a safetensors file.
    #[error("{}: not a readable safetensors file: {}", path.display(), escape_name(reason))]
    Safetensors {
        /// Path of the file.
        path: PathBuf,
        /// Error reported by the reader, which may quote the file.
        reason: String,
    },
    /// A file name with an extension other than `.pth`, `.pt`, `.bin` or `.safetensors`.
    #[error("{}: neither a .pth, .pt or .bin nor a .safetensors file", path.display())]
    UnknownKind {
        /// Path of the file.
        path: PathBuf,
    },
    /// Two tensors with the same name once the prefix `module.` is removed.
    #[error("{}: two tensors are named {}", path.display(), escape_name(key))]
    Duplicate {
        /// Path of the file.
        path: PathBuf,
        /// Name of both tensors.
        key: String,
    },
    /// Tensors that belong to no known model.
    #[error(
        "neither a pre-training checkpoint (encoder.blocks…) nor a UNETR (vit.blocks…): {}",
        content(first.as_deref(), *num_not_float)
    )]
    UnknownModel {
        /// First floating point tensor in alphabetical order, if there is any.
        first: Option<String>,
        /// Number of tensors of other types.
        num_not_float: usize,
    },
    /// Tensors of an encoder where a whole pre-training model is needed.
    #[error(
        "an encoder without its decoder, as export --format nnssl writes it, from which only finetune begins; give the run that \
         it was exported from, or an export in the format safetensors"
    )]
    EncoderAlone,
    /// A tensor whose shape differs from the model's.
    #[error("{} has shape {found:?}, the model needs {expected:?}", escape_name(key))]
    Shape {
        /// Name in the file.
        key: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the model's parameter has in such a file.
        expected: Vec<usize>,
    },
    /// A tensor that the model needs but that is not floating point.
    #[error("{} does not hold floating point numbers", escape_name(key))]
    NotFloat {
        /// Name in the file.
        key: String,
    },
    /// Tensors that the model needs but the file lacks.
    #[error("missing tensors: {}, of which the first is {}", keys.len(), keys[0])]
    Missing {
        /// Names in the file; at least one.
        keys: Vec<String>,
    },
    /// Weights that could not be read back from the device.
    #[error("{key} cannot be read from the device: {reason}")]
    Device {
        /// Name in the file.
        key: String,
        /// Message of the backend.
        reason: String,
    },
}

/// Content of a file of an unknown model, for its error.
fn content(first: Option<&str>, num_not_float: usize) -> String {
    match (first, num_not_float) {
        (Some(key), _) => format!("its first tensor is {}", escape_name(key)),
        (None, 0) => "the file holds no tensors".to_owned(),
        (None, number) => {
            let tensors = count(number, "tensor");
            format!("the file holds {tensors}, none of floating point numbers (float16, bfloat16, float32 or float64)")
        }
    }
}

/// A tensor on the host, the last axis fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Size of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// Values, as many as the product of the axes.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// First value that a network cannot compute with, if there is one.
    #[must_use]
    pub fn unusable(&self) -> Option<f32> {
        self.values.iter().copied().find(|&value| !is_usable(value))
    }
}

/// Returns whether a network can compute with a weight. The square of a value above 1.8e19 is infinite, so every norm,
/// and every product of two such values, would overflow.
#[must_use]
pub fn is_usable(weight: f32) -> bool {
    (weight * weight).is_finite()
}

/// Models whose weights can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Hi-End-MAE.
    Pretraining,
    /// UNETR.
    Unetr,
}

/// Tensors of a file by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// Floating point tensors, converted to f32.
    pub tensors: BTreeMap<String, HostTensor>,
    /// Names of tensors of other types, whose values are not kept.
    pub not_float: BTreeSet<String>,
}

impl StateDict {
    /// Reads a `PyTorch` checkpoint (`.pth`, `.pt`, `.bin`) or a `.safetensors` file. The tensors of an export for nnU-Net
    /// get the names of a pre-training checkpoint.
    ///
    /// # Errors
    /// If the name has another ending, or the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let mut state = match path.extension().and_then(|extension| extension.to_str()) {
            Some("pth" | "pt" | "bin") => torch::read(path),
            Some("safetensors") => safetensors::read(path),
            _ => Err(WeightsError::UnknownKind { path: path.to_owned() }),
        }?;
        nnssl::restore_names(&mut state);
        Ok(state)
    }

    /// Rejects the tensors of an encoder alone.
    ///
    /// # Errors
    /// [`WeightsError::EncoderAlone`] if no tensor belongs to a decoder.
    pub(crate) fn check_has_decoder(&self) -> Result<(), WeightsError> {
        let has_decoder = self.tensors.keys().any(|key| key.contains("decoder"));
        if has_decoder { Ok(()) } else { Err(WeightsError::EncoderAlone) }
    }

    /// Model to which the tensors belong, by their names.
    ///
    /// # Errors
    /// If they belong to no known model.
    pub fn model_kind(&self) -> Result<ModelKind, WeightsError> {
        let has = |prefix: &str| self.tensors.keys().any(|key| key.starts_with(prefix));
        if has("vit.blocks.") {
            Ok(ModelKind::Unetr)
        } else if has("encoder.blocks.") {
            Ok(ModelKind::Pretraining)
        } else {
            let num_not_float = self.not_float.len();
            Err(WeightsError::UnknownModel { first: self.tensors.keys().next().cloned(), num_not_float })
        }
    }

    /// Grid of patches of the crops on which a pre-training model was trained, derived from its fixed positions; `None`
    /// if there are none, or they are not the sine-cosine table of a grid.
    #[must_use]
    pub fn position_grid(&self) -> Option<[usize; 3]> {
        let HostTensor { shape, values } = self.tensors.get(ENCODER_POSITIONS)?;
        let &[1, _, dim] = shape.as_slice() else { return None };
        grid_of_table(values, dim)
    }

    /// Number of blocks of the encoder, if there are any.
    #[must_use]
    pub fn num_blocks(&self) -> Option<usize> {
        let block = |key: &String| {
            let rest = key.strip_prefix("vit.blocks.").or_else(|| key.strip_prefix("encoder.blocks."))?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        self.tensors.keys().filter_map(block).max().map(|last| last.saturating_add(1))
    }

    /// Adds a tensor from a file, dropping the prefix `module.` that data-parallel training leaves in names.
    fn add(&mut self, path: &Path, name: &str, tensor: Option<HostTensor>) -> Result<(), WeightsError> {
        let key = name.strip_prefix("module.").unwrap_or(name).to_owned();
        let is_new = match tensor {
            Some(tensor) => self.tensors.insert(key.clone(), tensor).is_none() && !self.not_float.contains(&key),
            None => self.not_float.insert(key.clone()) && !self.tensors.contains_key(&key),
        };
        if is_new { Ok(()) } else { Err(WeightsError::Duplicate { path: path.to_owned(), key }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::hi_end_mae::{HiEndMae, HiEndMaeConfig};
    use crate::model::init::WeightInit;
    use crate::model::unetr::{Unetr, UnetrConfig};
    use burn::tensor::Device;

    const CROP: [usize; 3] = [12, 12, 24];

    fn pretraining() -> HiEndMaeConfig {
        HiEndMaeConfig {
            patch_size: 6,
            embed_dim: 12,
            depth: 5,
            num_heads: 2,
            taps: vec![1, 2, 3],
            decoder_embed_dim: 6,
            decoder_num_heads: 2,
            ..HiEndMaeConfig::tiny()
        }
    }

    fn mae(seed: u64) -> HiEndMae {
        pretraining().init(CROP, &mut WeightInit::new(seed, &Device::flex()))
    }

    fn unetr(seed: u64, in_channels: usize) -> Unetr {
        let config = UnetrConfig::for_encoder_of(&pretraining(), CROP, 3).unwrap();
        let config = UnetrConfig { feature_size: 2, in_channels, ..config };
        config.init(&mut WeightInit::new(seed, &Device::flex()))
    }

    #[test]
    fn tensors_of_whole_numbers_are_counted() {
        let not_float = ["a", "b"].map(str::to_owned).into();
        let whole = StateDict { not_float, ..StateDict::default() };
        let error = whole.model_kind().unwrap_err().to_string();
        assert!(error.contains("the file holds 2 tensors, none of floating point numbers"), "{error}");
        let error = StateDict::default().model_kind().unwrap_err().to_string();
        assert!(error.ends_with("the file holds no tensors"), "{error}");
    }

    #[test]
    fn a_round_trip_through_a_file_gives_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");

        let state = export_hi_end_mae(&mae(1)).unwrap();
        safetensors::write(&path, &state).unwrap();
        let (back, report) = import_hi_end_mae(mae(2), &StateDict::read(&path).unwrap()).unwrap();
        assert_eq!(export_hi_end_mae(&back).unwrap(), state);
        assert_eq!(report.taken.len(), state.tensors.len());
        assert!(report.skipped.is_empty() && report.missing.is_empty());

        let state = export_unetr(&unetr(1, 2)).unwrap();
        safetensors::write(&path, &state).unwrap();
        let (back, report) = import_unetr(unetr(2, 2), &StateDict::read(&path).unwrap()).unwrap();
        assert_eq!(export_unetr(&back).unwrap(), state);
        assert!(report.skipped.is_empty() && report.missing.is_empty());
    }

    #[test]
    fn a_pretrained_encoder_is_taken_and_skipped_tensors_are_reported() {
        let state = export_hi_end_mae(&mae(1)).unwrap();
        let (model, report) = import_unetr(unetr(2, 1), &state).unwrap();
        assert_eq!(report.taken.len(), 5 * 12 + 5);
        assert!(report.skipped.contains(&"encoder.cls_token".to_owned()));
        assert!(report.skipped.iter().all(|key| key == "encoder.cls_token" || !key.starts_with("encoder.")));
        assert!(report.missing.contains(&"out.conv.conv.weight".to_owned()));
        let export = export_unetr(&model).unwrap();
        assert_eq!(report.taken.len() + report.missing.len(), export.tensors.len());
        let (fc1, qkv) = ("blocks.4.mlp.fc1.weight", "blocks.0.attn.qkv.weight");
        assert_eq!(export.tensors["vit.blocks.4.mlp.linear1.weight"], state.tensors[&format!("encoder.{fc1}")]);
        assert_eq!(export.tensors[&format!("vit.{qkv}")], state.tensors[&format!("encoder.{qkv}")]);
    }

    #[test]
    fn tensors_that_do_not_fit_are_named() {
        let check = |change: fn(&mut StateDict), expected: &str| {
            let mut state = export_hi_end_mae(&mae(1)).unwrap();
            change(&mut state);
            let message = import_unetr(unetr(1, 1), &state).expect_err("an error").to_string();
            assert!(message.starts_with(expected), "{message}");
        };
        check(
            |state| state.tensors.get_mut("encoder.norm.bias").unwrap().shape = vec![2, 6],
            "encoder.norm.bias has shape [2, 6], the model needs [12]",
        );
        check(
            |state| {
                state.tensors.remove("encoder_pos_embed");
            },
            "missing tensors: 1, of which the first is encoder_pos_embed",
        );
        check(|state| state.tensors.retain(|key, _| key.starts_with("decoder")), "neither a pre-training checkpoint");
        check(
            |state| {
                state.tensors.remove("encoder.norm.bias");
                state.not_float.insert("encoder.norm.bias".to_owned());
            },
            "encoder.norm.bias does not hold floating point numbers",
        );
    }
}
