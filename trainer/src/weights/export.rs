//! Export of a model's weights as a state dict of the reference.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::naming::Naming;
use super::{HostTensor, StateDict, WeightsError};
use crate::device::failure::reason_of;
use crate::model::hi_end_mae::HiEndMae;
use crate::model::unetr::Unetr;

/// Tensors of a pre-training model, fixed position tables included, as in the reference's `state_dict()`.
///
/// # Errors
/// If the weights cannot be read back from the device.
pub fn export_hi_end_mae(model: &HiEndMae) -> Result<StateDict, WeightsError> {
    export(model, Naming::Pretraining, 1)
}

/// Tensors of a UNETR, as in the reference's `state_dict()`.
///
/// # Errors
/// If the weights cannot be read back from the device.
pub fn export_unetr(model: &Unetr) -> Result<StateDict, WeightsError> {
    export(model, Naming::Unetr, model.in_channels())
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
    /// First error; a visitor cannot stop early.
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
        let read = param.val().try_into_data().map_err(reason_of);
        match read.and_then(|data| data.try_to_vec::<f32>().map_err(reason_of)) {
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
