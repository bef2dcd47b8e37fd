//! Weights in and out, under the names and in the layouts of the `PyTorch` reference.
//!
//! A [`StateDict`] holds tensors as a `PyTorch` file names and shapes them. A [`Naming`] says, for every parameter of
//! one of our models, which tensor that is and how its layout differs; reading and writing go through the same
//! naming, so that a round trip gives the same bits.
//!
//! Layouts differ in two places. A linear map is `[out, in]` there and `[in, out]` here. The patch embedding of the
//! pre-training model is a convolution `[E, C, p, p, p]` there and a linear map `[p·p·p·C, E]` here, channel fastest.

pub mod safetensors;
pub mod torch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use thiserror::Error;

use crate::model::hi_end_mae::HiEndMae;
use crate::model::unetr::Unetr;

/// Why weights could not be read, written or put into a model.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The file could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no `PyTorch` checkpoint.
    #[error("{} is no readable PyTorch checkpoint", path.display())]
    Torch {
        /// Which file.
        path: PathBuf,
        /// What the reader said.
        source: Box<burn_store::pytorch::PytorchError>,
    },
    /// The file is no safetensors file.
    #[error("{} is no readable safetensors file", path.display())]
    Safetensors {
        /// Which file.
        path: PathBuf,
        /// What the reader said.
        source: ::safetensors::SafeTensorError,
    },
    /// Neither `.pth`, `.pt`, `.bin` nor `.safetensors`.
    #[error("{} is neither a .pth, .pt or .bin nor a .safetensors file", path.display())]
    UnknownKind {
        /// Which file.
        path: PathBuf,
    },
    /// Two tensors have one name once the prefix `module.` is gone.
    #[error("{}: two tensors are named {key}", path.display())]
    Duplicate {
        /// Which file.
        path: PathBuf,
        /// Their name.
        key: String,
    },
    /// The tensors are those of no model that we know.
    #[error(
        "neither a pre-training checkpoint (encoder.blocks…) nor a UNETR (vit.blocks…): the first key is {first:?}"
    )]
    UnknownModel {
        /// First key in alphabetical order, if there is any.
        first: Option<String>,
    },
    /// A tensor of another shape than the model's.
    #[error("{key} has shape {found:?}, the model needs {expected:?}")]
    Shape {
        /// Its name in the file.
        key: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the model's parameter has in such a file.
        expected: Vec<usize>,
    },
    /// A tensor that is needed exists, but not as floating point numbers.
    #[error("{key} holds no floating point numbers")]
    NotFloat {
        /// Its name in the file.
        key: String,
    },
    /// Tensors that a file of this kind must have.
    #[error("{} tensors are missing, the first is {}", keys.len(), keys[0])]
    Missing {
        /// Their names in the file; at least one.
        keys: Vec<String>,
    },
    /// A model's values could not be read back from its device.
    #[error("{key} cannot be read from the device: {reason}")]
    Device {
        /// The parameter's name in the file.
        key: String,
        /// What the back end said.
        reason: String,
    },
}

/// A tensor on the host, z (the last axis) fastest.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Size of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// All values.
    pub values: Vec<f32>,
}

/// Named tensors of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// The floating point ones, as f32.
    pub tensors: BTreeMap<String, HostTensor>,
    /// Names of the others, whose values are not kept.
    pub not_float: BTreeSet<String>,
}

impl StateDict {
    /// Reads a `PyTorch` checkpoint (`.pth`, `.pt`, `.bin`) or a `.safetensors` file.
    ///
    /// # Errors
    /// If the ending is another, or the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("pth" | "pt" | "bin") => torch::read(path),
            Some("safetensors") => safetensors::read(path),
            _ => Err(WeightsError::UnknownKind { path: path.to_owned() }),
        }
    }

    /// Adds a tensor of a file, without the prefix that data-parallel training leaves on its name.
    fn add(&mut self, path: &Path, name: &str, tensor: Option<HostTensor>) -> Result<(), WeightsError> {
        let key = name.strip_prefix("module.").unwrap_or(name).to_owned();
        let is_new = match tensor {
            Some(tensor) => self.tensors.insert(key.clone(), tensor).is_none() && !self.not_float.contains(&key),
            None => self.not_float.insert(key.clone()) && !self.tensors.contains_key(&key),
        };
        if is_new { Ok(()) } else { Err(WeightsError::Duplicate { path: path.to_owned(), key }) }
    }
}

/// How a tensor in a file relates to our parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// The same.
    Same,
    /// `[out, in]` in the file, `[in, out]` here.
    Transposed,
    /// `[E, C, p, p, p]` in the file, `[p·p·p·C, E]` here.
    PatchConv {
        /// C.
        in_channels: usize,
    },
}

impl Layout {
    /// Shape in a file of a parameter that has `shape` here.
    fn file_shape(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Self::Transposed, &[d_input, d_output]) => vec![d_output, d_input],
            (Self::PatchConv { in_channels }, &[width, embed_dim]) => {
                let side = cube_root(width / in_channels);
                vec![embed_dim, in_channels, side, side, side]
            }
            _ => shape.to_vec(),
        }
    }

    /// Values in a file's order, as ours; `file_shape` is theirs.
    fn ours(self, values: &[f32], file_shape: &[usize]) -> Vec<f32> {
        match (self, file_shape) {
            (Self::Transposed, &[d_output, d_input]) => transposed(values, d_output, d_input),
            (Self::PatchConv { in_channels }, &[embed_dim, ..]) => {
                // Channel slowest within a row becomes channel fastest; then rows and columns change places.
                let volume = values.len() / (embed_dim * in_channels);
                let rows = values.chunks_exact(in_channels * volume);
                let rows: Vec<f32> = rows.flat_map(|row| transposed(row, in_channels, volume)).collect();
                transposed(&rows, embed_dim, volume * in_channels)
            }
            _ => values.to_vec(),
        }
    }

    /// Our values in a file's order; `file_shape` is theirs.
    fn theirs(self, values: &[f32], file_shape: &[usize]) -> Vec<f32> {
        match (self, file_shape) {
            (Self::Transposed, &[d_output, d_input]) => transposed(values, d_input, d_output),
            (Self::PatchConv { in_channels }, &[embed_dim, ..]) => {
                let volume = values.len() / (embed_dim * in_channels);
                let rows = transposed(values, volume * in_channels, embed_dim);
                rows.chunks_exact(volume * in_channels).flat_map(|row| transposed(row, volume, in_channels)).collect()
            }
            _ => values.to_vec(),
        }
    }
}

/// A row-major matrix with rows and columns exchanged.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    debug_assert_eq!(values.len(), rows * columns);
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

fn cube_root(volume: usize) -> usize {
    (volume as f64).cbrt().round() as usize
}

/// Which tensor of which kind of file each parameter of a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// [`HiEndMae`] and the released pre-training checkpoint.
    Pretraining,
    /// [`Unetr`] and the reference's UNETR.
    Unetr,
    /// [`Unetr`] and a pre-training checkpoint: the encoder without its class token. The rest has no counterpart.
    UnetrFromPretraining,
}

impl Naming {
    /// Name and layout in the file of the parameter at `path` of our model, or nothing if the file has none such.
    fn find(self, path: &str, in_channels: usize) -> Option<(String, Layout)> {
        match self {
            Self::Pretraining => Some(pretraining_name(path, in_channels)),
            Self::Unetr => Some(unetr_name(path)),
            Self::UnetrFromPretraining => {
                let inner = path.strip_prefix("vit.")?;
                Some(pretraining_name(&format!("encoder.{inner}"), in_channels))
            }
        }
    }
}

/// Burn calls the parameters of a layer norm by other names than `PyTorch`.
fn torch_leaf(path: &str) -> String {
    match path.rsplit_once('.') {
        Some((parent, "gamma")) => format!("{parent}.weight"),
        Some((parent, "beta")) => format!("{parent}.bias"),
        _ => path.to_owned(),
    }
}

/// Whether the parameter is the weight of a linear map. Our convolutions have weights of their own rank, five.
fn layout_of_linear(path: &str) -> Layout {
    let is_norm = path.contains("norm");
    if path.ends_with(".weight") && !is_norm { Layout::Transposed } else { Layout::Same }
}

fn pretraining_name(path: &str, in_channels: usize) -> (String, Layout) {
    match path {
        "encoder.pos_embed.table" => ("encoder_pos_embed".to_owned(), Layout::Same),
        "decoder_pos_embed.table" => ("decoder_pos_embed".to_owned(), Layout::Same),
        "encoder.patch_embed.proj.weight" => (path.to_owned(), Layout::PatchConv { in_channels }),
        _ => (torch_leaf(path), layout_of_linear(path)),
    }
}

fn unetr_name(path: &str) -> (String, Layout) {
    if let Some(inner) = path.strip_prefix("vit.") {
        let name = match inner {
            "pos_embed.table" => "patch_embedding.position_embeddings".to_owned(),
            "patch_embed.proj.weight" => "patch_embedding.patch_embeddings.1.weight".to_owned(),
            "patch_embed.proj.bias" => "patch_embedding.patch_embeddings.1.bias".to_owned(),
            _ => torch_leaf(inner)
                .replace(".attn.proj.", ".attn.out_proj.")
                .replace(".fc1.", ".linear1.")
                .replace(".fc2.", ".linear2."),
        };
        return (format!("vit.{name}"), layout_of_linear(inner));
    }
    let name = match path.rsplit_once('.') {
        Some(("out", leaf)) => format!("out.conv.conv.{leaf}"),
        // The one convolution that the reference does not wrap.
        Some(("decoder2.conv3d", _)) | None => path.to_owned(),
        Some((parent, leaf)) => format!("{parent}.conv.{leaf}"),
    };
    (name, Layout::Same)
}

/// What became of a file's tensors and of a model's parameters; names as in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportReport {
    /// Tensors now in the model.
    pub taken: Vec<String>,
    /// Tensors of the file that the model has no place for.
    pub left_out: Vec<String>,
    /// Parameters that kept their first values because a file of this kind has none for them; names as in an export.
    pub missing: Vec<String>,
}

impl std::fmt::Display for ImportReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} tensors taken", self.taken.len())?;
        for (what, keys) in [("left out", &self.left_out), ("not in the file, kept as they were", &self.missing)] {
            writeln!(f, "{} {what}", keys.len())?;
            for key in keys {
                writeln!(f, "  {key}")?;
            }
        }
        Ok(())
    }
}

/// Puts a pre-training checkpoint into a pre-training model.
///
/// # Errors
/// If a tensor is missing, has another shape or holds no floats; the error names it.
pub fn import_hi_end_mae(model: HiEndMae, state: &StateDict) -> Result<(HiEndMae, ImportReport), WeightsError> {
    import(model, state, Naming::Pretraining, 1)
}

/// Puts weights into a UNETR: those of a pre-training checkpoint, or of a UNETR; which one is told by the names.
///
/// From a pre-training checkpoint the encoder is taken (149 tensors with the usual 12 blocks), the class token and
/// the decoder are left out, and the convolutional decoder keeps its values.
///
/// # Errors
/// If the names are those of neither, or a tensor is missing, has another shape or holds no floats.
pub fn import_unetr(model: Unetr, state: &StateDict) -> Result<(Unetr, ImportReport), WeightsError> {
    let has = |prefix: &str| state.tensors.keys().any(|key| key.starts_with(prefix));
    let naming = if has("vit.blocks.") {
        Naming::Unetr
    } else if has("encoder.blocks.") {
        Naming::UnetrFromPretraining
    } else {
        return Err(WeightsError::UnknownModel { first: state.tensors.keys().next().cloned() });
    };
    let in_channels = model.in_channels();
    import(model, state, naming, in_channels)
}

/// All tensors of a pre-training model, fixed position tables included, as the reference's `state_dict()` has them.
///
/// # Errors
/// If the model's values cannot be read back.
pub fn export_hi_end_mae(model: &HiEndMae) -> Result<StateDict, WeightsError> {
    export(model, Naming::Pretraining, 1)
}

/// All tensors of a UNETR, as the reference's `state_dict()` has them.
///
/// # Errors
/// If the model's values cannot be read back.
pub fn export_unetr(model: &Unetr) -> Result<StateDict, WeightsError> {
    export(model, Naming::Unetr, model.in_channels())
}

fn import<M: Module>(
    model: M,
    state: &StateDict,
    naming: Naming,
    in_channels: usize,
) -> Result<(M, ImportReport), WeightsError> {
    let mut importer = Importer {
        state,
        naming,
        in_channels,
        path: Vec::new(),
        taken: BTreeSet::new(),
        absent: Vec::new(),
        missing: Vec::new(),
        error: None,
    };
    let model = model.map(&mut importer);
    let Importer { taken, absent, missing, error, .. } = importer;
    if let Some(error) = error {
        return Err(error);
    }
    if !absent.is_empty() {
        return Err(WeightsError::Missing { keys: absent });
    }
    let left_out = state.tensors.keys().chain(&state.not_float).filter(|key| !taken.contains(*key)).cloned().collect();
    Ok((model, ImportReport { taken: taken.into_iter().collect(), left_out, missing }))
}

struct Importer<'a> {
    state: &'a StateDict,
    naming: Naming,
    in_channels: usize,
    path: Vec<String>,
    taken: BTreeSet<String>,
    /// Names that the file should have and has not.
    absent: Vec<String>,
    /// Parameters without a counterpart in this kind of file.
    missing: Vec<String>,
    /// The first that occurred; a mapper cannot stop.
    error: Option<WeightsError>,
}

impl Importer<'_> {
    /// Our values for the parameter at the current path, if the file is to give them.
    fn values(&mut self, shape: &[usize]) -> Option<Vec<f32>> {
        let path = self.path.join(".");
        let Some((key, layout)) = self.naming.find(&path, self.in_channels) else {
            self.missing.push(unetr_name(&path).0);
            return None;
        };
        let Some(tensor) = self.state.tensors.get(&key) else {
            if self.state.not_float.contains(&key) {
                self.error.get_or_insert(WeightsError::NotFloat { key });
            } else {
                self.absent.push(key);
            }
            return None;
        };
        let expected = layout.file_shape(shape);
        if tensor.shape != expected {
            let found = tensor.shape.clone();
            self.error.get_or_insert(WeightsError::Shape { key, found, expected });
            return None;
        }
        self.taken.insert(key);
        Some(layout.ours(&tensor.values, &tensor.shape))
    }
}

impl ModuleMapper for Importer<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape: [usize; D] = param.dims();
        let Some(values) = self.values(&shape) else { return param };
        let (id, device) = (param.id, param.val().device());
        param.transform_for_load(Tensor::from_data(TensorData::new(values, shape), &device), id)
    }
}

fn export<M: Module>(model: &M, naming: Naming, in_channels: usize) -> Result<StateDict, WeightsError> {
    let mut exporter = Exporter { naming, in_channels, path: Vec::new(), state: StateDict::default(), error: None };
    model.visit(&mut exporter);
    match exporter.error {
        Some(error) => Err(error),
        None => Ok(exporter.state),
    }
}

struct Exporter {
    naming: Naming,
    in_channels: usize,
    path: Vec<String>,
    state: StateDict,
    /// The first that occurred; a visitor cannot stop.
    error: Option<WeightsError>,
}

impl ModuleVisitor for Exporter {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some((key, layout)) = self.naming.find(&self.path.join("."), self.in_channels) else { return };
        let shape = layout.file_shape(&param.dims());
        let read = param.val().try_into_data().map_err(|error| format!("{error:?}"));
        match read.and_then(|data| data.try_to_vec::<f32>().map_err(|error| format!("{error:?}"))) {
            Ok(values) => {
                let values = layout.theirs(&values, &shape);
                self.state.tensors.insert(key, HostTensor { shape, values });
            }
            Err(reason) => {
                self.error.get_or_insert(WeightsError::Device { key, reason });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::hi_end_mae::HiEndMaeConfig;
    use crate::model::init::WeightInit;
    use crate::model::unetr::UnetrConfig;
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
    fn layouts_undo_themselves() {
        let values: Vec<f32> = (0..3 * 2 * 8).map(|i| i as f32).collect();
        let layout = Layout::PatchConv { in_channels: 2 };
        let file_shape = layout.file_shape(&[16, 3]);
        assert_eq!(file_shape, [3, 2, 2, 2, 2]);
        let ours = layout.ours(&values, &file_shape);
        // Row 1 is the first voxel's second channel: values 8, 24 and 40 of the three outputs.
        assert_eq!(ours[3..6], [8.0, 24.0, 40.0]);
        assert_eq!(layout.theirs(&ours, &file_shape), values);
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
        assert!(report.left_out.is_empty() && report.missing.is_empty());

        let state = export_unetr(&unetr(1, 2)).unwrap();
        safetensors::write(&path, &state).unwrap();
        let (back, report) = import_unetr(unetr(2, 2), &StateDict::read(&path).unwrap()).unwrap();
        assert_eq!(export_unetr(&back).unwrap(), state);
        assert!(report.left_out.is_empty() && report.missing.is_empty());
    }

    #[test]
    fn a_pretrained_encoder_is_taken_and_the_rest_reported() {
        let state = export_hi_end_mae(&mae(1)).unwrap();
        let (model, report) = import_unetr(unetr(2, 1), &state).unwrap();
        assert_eq!(report.taken.len(), 5 * 12 + 5);
        assert!(report.left_out.contains(&"encoder.cls_token".to_owned()));
        assert!(report.left_out.iter().all(|key| key == "encoder.cls_token" || !key.starts_with("encoder.")));
        assert!(report.missing.contains(&"out.conv.conv.weight".to_owned()));
        let export = export_unetr(&model).unwrap();
        assert_eq!(report.taken.len() + report.missing.len(), export.tensors.len());
        let (fc1, qkv) = ("blocks.4.mlp.fc1.weight", "blocks.0.attn.qkv.weight");
        assert_eq!(export.tensors["vit.blocks.4.mlp.linear1.weight"], state.tensors[&format!("encoder.{fc1}")]);
        assert_eq!(export.tensors[&format!("vit.{qkv}")], state.tensors[&format!("encoder.{qkv}")]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
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
            "1 tensors are missing, the first is encoder_pos_embed",
        );
        check(|state| state.tensors.retain(|key, _| key.starts_with("decoder")), "neither a pre-training checkpoint");
        check(
            |state| {
                state.tensors.remove("encoder.norm.bias");
                state.not_float.insert("encoder.norm.bias".to_owned());
            },
            "encoder.norm.bias holds no floating point numbers",
        );
    }
}
