//! Table of the 16-bit copies of f32 weights: written once per step, by the kernel of the optimizer step, and read by
//! every product until the next step.
//!
//! A copy enters the table when a weight in training is narrowed for the first time. [`super::adamw`] takes it out,
//! writes weight and copy in one kernel and puts both back. The table holds the weight's buffer as well as the copy's,
//! so that no other operation can write to the weight in place: an operation that changes a weight makes a new buffer,
//! whose copy is not in the table. An entry is therefore never out of date. Entries whose weight has no other holder
//! are dropped when the next one enters.
//!
//! Bytes saved in a step of `vit-l-p12`: 83 casts of 6 bytes per value, 2.2 GB, less the 0.7 GB that the optimizer step
//! writes: 0.5 ms at 3.0 TB/s of an H100, 0.35 ms at 4.3 of an H200, and 83 launches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, FloatDType};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;

/// A weight and its copy.
struct Entry {
    weight: CubeTensor,
    copy: CubeTensor,
}

static TABLE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

fn table() -> MutexGuard<'static, Vec<Entry>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns true if both tensors are the same view of the same buffer. Buffer identifiers are never reused.
fn same(a: &CubeTensor, b: &CubeTensor) -> bool {
    let id = |tensor: &CubeTensor| tensor.handle.memory.clone().binding().id();
    let view = |tensor: &CubeTensor| (tensor.handle.offset_start, tensor.handle.offset_end, tensor.dtype);
    view(a) == view(b) && a.meta.shape() == b.meta.shape() && a.meta.strides() == b.meta.strides() && id(a) == id(b)
}

/// Returns the stored copy of `weight` in `dtype`, or a cast that is not stored.
pub(crate) fn of(weight: CubeTensor, dtype: FloatDType) -> CubeTensor {
    let dtype = DType::from(dtype);
    if weight.dtype == dtype {
        return weight;
    }
    let known = table()
        .iter()
        .find(|entry| entry.copy.dtype == dtype && same(&entry.weight, &weight))
        .map(|entry| entry.copy.clone());
    known.unwrap_or_else(|| cast(weight, dtype))
}

/// Returns the copy of `weight` in `dtype`, which is created and stored if there was none.
pub(crate) fn keep(weight: CubeTensor, dtype: FloatDType) -> CubeTensor {
    if weight.dtype != DType::F32 || !matches!(dtype, FloatDType::F16 | FloatDType::BF16) {
        return of(weight, dtype);
    }
    let mut table = table();
    if let Some(entry) = table.iter().find(|entry| same(&entry.weight, &weight)) {
        if entry.copy.dtype == DType::from(dtype) {
            return entry.copy.clone();
        }
        // The table keeps one copy of a weight; another type is cast again.
        return cast(weight, dtype.into());
    }
    table.retain(|entry| !entry.weight.can_mut());
    // Contiguous, as the optimizer step writes it; a cast may be pitched.
    let copy = into_contiguous(cast(weight.clone(), dtype.into()));
    table.push(Entry { weight, copy: copy.clone() });
    copy
}

/// Takes the copy of `weight` out of the table.
pub(super) fn take(weight: &CubeTensor) -> Option<CubeTensor> {
    let mut table = table();
    let found = table.iter().position(|entry| same(&entry.weight, weight))?;
    Some(table.swap_remove(found).copy)
}

/// Puts `copy`, which holds the values of `weight`, into the table.
pub(super) fn put(weight: CubeTensor, copy: CubeTensor) {
    table().push(Entry { weight, copy });
}
