//! Digest of a model's weights, by which the ranks of a run find out whether they begin with equal ones.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, ExecutionError, Int, Tensor, TensorData};

use super::TrainingError;
use crate::device::failure::reason_of;

/// Digest of all parameters of a model, in the order in which the model visits them.
///
/// # Errors
/// If a parameter cannot be read from the device.
pub(super) fn weights_digest<M: Module>(model: &M) -> Result<String, TrainingError> {
    let mut digest = Digest { hasher: blake3::Hasher::new(), failure: None };
    model.visit(&mut digest);
    match digest.failure {
        None => Ok(digest.hasher.finalize().to_hex().to_string()),
        Some(message) => Err(TrainingError::Device { step: 0, message, last_good: None }),
    }
}

struct Digest {
    hasher: blake3::Hasher,
    failure: Option<String>,
}

impl Digest {
    fn add(&mut self, data: Result<TensorData, ExecutionError>) {
        match data {
            Ok(data) => {
                self.hasher.update(data.as_bytes());
            }
            Err(error) => self.failure = Some(reason_of(error)),
        }
    }
}

impl ModuleVisitor for Digest {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.val().try_into_data());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.val().try_into_data());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.val().try_into_data());
    }
}
