//! Import of a file's weights into a model, with a report of the tensors taken and skipped.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use hiend_loader::plural::count;

use super::naming::{Naming, unetr_name};
use super::{ModelKind, StateDict, WeightsError};
use crate::model::hi_end_mae::HiEndMae;
use crate::model::unetr::Unetr;

/// Outcome of an import: tensors taken, tensors skipped, and parameters without a tensor. Names are those in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportReport {
    /// Tensors that are now in the model.
    pub taken: Vec<String>,
    /// Tensors of the file without a parameter in the model.
    pub skipped: Vec<String>,
    /// Parameters that keep their initial values because this kind of file lacks them, by their names in an export.
    pub missing: Vec<String>,
}

impl std::fmt::Display for ImportReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} taken", count(self.taken.len(), "tensor"))?;
        for (what, keys) in [("skipped", &self.skipped), ("not in the file, left unchanged", &self.missing)] {
            writeln!(f, "{} {what}", keys.len())?;
            for key in keys {
                writeln!(f, "  {key}")?;
            }
        }
        Ok(())
    }
}

/// Imports a pre-training checkpoint into a pre-training model.
///
/// # Errors
/// If a tensor is missing, has another shape or another type than floating point; the error names it.
pub fn import_hi_end_mae(model: HiEndMae, state: &StateDict) -> Result<(HiEndMae, ImportReport), WeightsError> {
    import(model, state, Naming::Pretraining, 1)
}

/// Imports the weights of a pre-training checkpoint or of a UNETR into a UNETR; the names of the tensors tell which of
/// the two it is.
///
/// From a pre-training checkpoint the encoder is taken (149 tensors with the usual 12 blocks), the class token and
/// the decoder are skipped, and the convolutional decoder keeps its values.
///
/// # Errors
/// If the names belong to neither model, or a tensor is missing, has another shape or another type than floating point.
pub fn import_unetr(model: Unetr, state: &StateDict) -> Result<(Unetr, ImportReport), WeightsError> {
    let naming = match state.model_kind()? {
        ModelKind::Unetr => Naming::Unetr,
        ModelKind::Pretraining => Naming::UnetrFromPretraining,
    };
    let in_channels = model.in_channels();
    import(model, state, naming, in_channels)
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
    let skipped = state.tensors.keys().chain(&state.not_float).filter(|key| !taken.contains(*key)).cloned().collect();
    Ok((model, ImportReport { taken: taken.into_iter().collect(), skipped, missing }))
}

struct Importer<'a> {
    state: &'a StateDict,
    naming: Naming,
    in_channels: usize,
    path: Vec<String>,
    taken: BTreeSet<String>,
    /// Tensors that the file should have but lacks.
    absent: Vec<String>,
    /// Parameters without a counterpart in this kind of file, under their names in an export.
    missing: Vec<String>,
    /// First error; a mapper cannot stop early.
    error: Option<WeightsError>,
}

impl Importer<'_> {
    /// Values for the parameter at the current path, in the model's layout; `None` if it keeps its own values or there
    /// is an error.
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
