//! Working memory of one thread, reused from crop to crop.

/// Buffers that grow with a chain's first crop and are reused from then on.
///
/// Their contents are unspecified between calls. For crops of 96³ and the default chains they stay below 0.5 MiB; the
/// unfused quarter turn, which the pipeline does not use, needs the size of a crop.
#[derive(Debug, Default)]
pub struct Scratch {
    floats: Vec<f32>,
    indices: Vec<u32>,
}

impl Scratch {
    /// Creates empty buffers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns `num_floats` floats and `num_indices` indices of unspecified value.
    pub(super) fn take(&mut self, num_floats: usize, num_indices: usize) -> (&mut [f32], &mut [u32]) {
        if self.floats.len() < num_floats {
            self.floats.resize(num_floats, 0.0);
        }
        if self.indices.len() < num_indices {
            self.indices.resize(num_indices, 0);
        }
        (&mut self.floats[..num_floats], &mut self.indices[..num_indices])
    }
}
