//! Tensors of the CPU backend as slices, for the functions of [`hiend_cpu`].

use burn::backend::TensorMetadata as _;
use burn::tensor::DType;

pub(super) use super::on_cpu::{CpuTensor, in_order, tensor, values};

/// Returns true if all of `tensors` are in f32, the type that [`hiend_cpu`] computes in.
pub(super) fn all_f32<const N: usize>(tensors: [&CpuTensor; N]) -> bool {
    tensors.into_iter().all(|x| x.dtype() == DType::F32)
}

/// Values of a tensor, to be changed in place; copied only if others hold them, or if they are part of a larger tensor.
///
/// # Panics
/// If the tensor is not in f32.
pub(super) fn values_mut(x: &mut CpuTensor) -> &mut [f32] {
    let len = x.shape().num_elements();
    if !x.is_contiguous() || x.storage::<f32>().len() != len {
        *x = tensor(values(&x.to_contiguous()).to_vec(), x.shape());
    }
    x.storage_mut()
}

/// Length of the last axis of `x`.
pub(super) fn width(x: &CpuTensor) -> usize {
    let shape = x.shape();
    shape[shape.num_dims() - 1]
}
