//! Number of windows predicted at a time: on a GPU, as many as fit into its free memory, which is measured.
//!
//! The forward pass of a single window is run once; the memory that the allocator gains by it is the memory per window.
//! Only batches of powers of two are used, so that scans of different sizes need products and convolutions of few
//! shapes.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Tensor};

use super::{DeviceError, InferenceError, logits_of_all};
use crate::device::Compute;
use crate::model::unetr::Unetr;
use crate::sliding_window::SlidingWindow;

/// Share of the free memory that is left to the allocator, which reserves pages larger than the requests.
const SPARE: f64 = 0.125;

/// Largest number of windows at a time on a GPU that does not report its free memory.
const UNMEASURED: usize = 4;

/// Number of windows predicted at a time, measured when it is first needed.
#[derive(Debug)]
pub struct WindowBatch {
    most: usize,
    measured: Mutex<Option<Measured>>,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measured {
    /// Memory taken by the forward pass of one window.
    per_window: u64,
    /// Memory still free after one window was predicted.
    free: u64,
}

impl WindowBatch {
    /// Creates a batch size of at most `most` windows.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, measured: Mutex::new(None) }
    }

    /// Returns `sliding` with the number of windows at a time that suits the device for a volume of `dims` voxels. It
    /// is one on a CPU, because its caches cannot hold the activations of two windows and one window keeps its cores
    /// busy; at most four on a GPU that does not report its free memory.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If `models` is empty, or a window's size is not that of the models' crops.
    pub fn fit(
        &self,
        models: &[Unetr],
        compute: &Compute,
        sliding: SlidingWindow,
        dims: [usize; 3],
    ) -> Result<SlidingWindow, InferenceError> {
        if compute.is_cpu() || self.most == 1 {
            return Ok(sliding.at_a_time(1));
        }
        let unmeasured = self.most.min(UNMEASURED);
        if compute.free_memory().is_none() {
            return Ok(sliding.at_a_time(unmeasured));
        }
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match *measured {
            Some(known) => Some(known),
            None => measure(models, compute, &sliding)?,
        };
        *measured = known;
        let Some(known) = known else { return Ok(sliding.at_a_time(unmeasured)) };
        // The sums, and equally many averages that wait to be read.
        let others = 2 * sliding.device_bytes(models[0].num_classes(), dims);
        let windows = known.windows(others, self.most);
        tracing::debug!(windows, ?known, others, "windows at a time");
        Ok(sliding.at_a_time(windows))
    }
}

impl Measured {
    /// Number of windows that fit next to `others` bytes: a power of two, or `most`.
    fn windows(self, others: u64, most: usize) -> usize {
        let room = (self.free as f64 * (1.0 - SPARE)) as u64;
        let more = room.saturating_sub(others) / self.per_window.max(1);
        let fit = usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1);
        if fit >= most { most } else { 1 << fit.ilog2() }
    }
}

/// Predicts one window of zeros and reads the allocator's bytes in use; `None` if the device or its allocator do not
/// report them.
fn measure(models: &[Unetr], compute: &Compute, sliding: &SlidingWindow) -> Result<Option<Measured>, InferenceError> {
    let device = compute.raw();
    let [x, y, z] = sliding.roi_size();
    let window = || Tensor::<5>::zeros([1, models[0].in_channels(), x, y, z], device);
    // The first window compiles kernels, chooses engines, and allocates the memory that they keep.
    drop(logits_of_all(models, window()));
    wait(device)?;
    // Memory that a training keeps for reuse would hide the memory of a window.
    device.memory_cleanup();
    wait(device)?;
    let Some(before) = device.memory_pool_usage() else { return Ok(None) };
    drop(logits_of_all(models, window()));
    wait(device)?;
    let (Some(after), Some(free)) = (device.memory_pool_usage(), compute.free_memory()) else { return Ok(None) };
    Ok(Some(Measured { per_window: after.bytes_reserved.saturating_sub(before.bytes_in_use), free }))
}

fn wait(device: &Device) -> Result<(), DeviceError> {
    device.sync().map_err(DeviceError::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_fill_the_free_memory_and_no_more() {
        let windows = |free, others, most| Measured { per_window: 1000, free }.windows(others, most);
        // An eighth of the memory is spared; one window more reuses the memory of the first.
        assert_eq!(windows(8000, 0, 16), 8);
        assert_eq!(windows(7999, 0, 16), 4);
        assert_eq!(windows(8000, 1, 16), 4);
        assert_eq!(windows(16_000, 0, 16), 8);
        assert_eq!(windows(1 << 40, 0, 16), 16);
        // The limit itself is used where memory allows it, even if it is not a power of two.
        assert_eq!(windows(8000, 0, 6), 6);
        assert_eq!(windows(5000, 0, 6), 4);
        assert_eq!(windows(0, 5000, 6), 1);
        assert_eq!(Measured { per_window: 0, free: 4 }.windows(0, 3), 3);
    }
}
