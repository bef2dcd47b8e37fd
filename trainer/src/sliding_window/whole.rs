//! Predictions of a whole volume in memory, as values or as classes.

use super::{InputVolume, Region, Slab, SlidingWindow, SlidingWindowError};

impl SlidingWindow {
    /// Averaged prediction of the whole volume, `[K, X, Y, Z]`, all in memory: for small volumes and tests.
    ///
    /// # Errors
    /// See [`SlidingWindow::run`].
    pub fn collect<E: From<SlidingWindowError> + Send>(
        &self,
        volume: InputVolume<'_>,
        predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        let [_, ny, nz] = volume.dims;
        let num_voxels = volume.dims.iter().product::<usize>();
        let mut whole = Vec::new();
        self.run(volume, predict, |slab| {
            let slab_len = slab.dims.iter().product::<usize>();
            let num_channels = slab.values.len() / slab_len;
            whole.resize(num_channels * num_voxels, 0.0_f32);
            for (row_idx, row) in slab.values.chunks_exact(slab.dims[2]).enumerate() {
                let (channel, x, y) = row_position(row_idx, slab.dims);
                let at = ((x + slab.start[0]) * ny + y + slab.start[1]) * nz + slab.start[2];
                whole[channel * num_voxels + at..][..row.len()].copy_from_slice(row);
            }
            Ok(())
        })?;
        Ok(whole)
    }

    /// Class of the largest averaged prediction at each voxel, `[X, Y, Z]`; the lowest class wins a tie.
    ///
    /// # Errors
    /// See [`SlidingWindow::run`]; also if the predictor returns more than 256 channels.
    pub fn argmax<E: From<SlidingWindowError> + Send>(
        &self,
        volume: InputVolume<'_>,
        predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<u8>, E> {
        let mut labels = Labels::new(volume.dims);
        self.run(volume, predict, |slab| Ok(labels.push(slab)?))?;
        Ok(labels.finish())
    }
}

/// Class of the largest value at each voxel of a volume, from slabs.
#[derive(Debug)]
pub struct Labels {
    dims: [usize; 3],
    voxels: Vec<u8>,
    best: Vec<u8>,
}

impl Labels {
    /// Creates the labels of a volume of `dims` voxels before any slab.
    #[must_use]
    pub fn new(dims: [usize; 3]) -> Self {
        Self { dims, voxels: vec![0; dims.iter().product()], best: Vec::new() }
    }

    /// Labels the voxels of a slab; the lowest class wins a tie.
    ///
    /// # Errors
    /// If the slab has more than 256 channels.
    pub fn push(&mut self, slab: Slab<'_>) -> Result<(), SlidingWindowError> {
        let slab_len = slab.dims.iter().product::<usize>();
        let num_classes = slab.values.len() / slab_len;
        if num_classes > 256 {
            return Err(SlidingWindowError::TooManyClasses { num_classes });
        }
        let mut best = std::mem::take(&mut self.best);
        argmax_of_planes(slab.values, slab_len, &mut best);
        self.place(Region { start: slab.start, dims: slab.dims }, &best);
        self.best = best;
        Ok(())
    }

    /// Sets the labels of a region, z fastest.
    ///
    /// # Panics
    /// If the region is not in the volume.
    pub fn place(&mut self, Region { start, dims }: Region, classes: &[u8]) {
        let [_, ny, nz] = self.dims;
        for (row_idx, row) in classes.chunks_exact(dims[2]).enumerate() {
            let (_, x, y) = row_position(row_idx, dims);
            let at = ((x + start[0]) * ny + y + start[1]) * nz + start[2];
            self.voxels[at..][..row.len()].copy_from_slice(row);
        }
    }

    /// Labels `[X, Y, Z]`, z fastest.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.voxels
    }
}

/// Channel, x and y of row `row_idx` along z of values `[C, X, Y, Z]`.
fn row_position(row_idx: usize, dims: [usize; 3]) -> (usize, usize, usize) {
    let [nx, ny, _] = dims;
    (row_idx / (nx * ny), row_idx / ny % nx, row_idx % ny)
}

/// Class of the largest value at each position of planes of `len` values, the lowest class among equals; NaN is never
/// selected.
pub(super) fn argmax_of_planes(values: &[f32], len: usize, best: &mut Vec<u8>) {
    best.clear();
    best.resize(len, 0);
    let mut top = values[..len].to_vec();
    for (class, plane) in (0..=u8::MAX).zip(values.chunks_exact(len)).skip(1) {
        for ((best, top), &value) in best.iter_mut().zip(&mut top).zip(plane) {
            if value > *top || top.is_nan() {
                (*best, *top) = (class, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_lowest_class_of_equals() {
        let mut best = Vec::new();
        argmax_of_planes(&[1.0, 0.0, f32::NAN, 1.0, 2.0, 0.0, 0.5, 2.0, 1.0], 3, &mut best);
        assert_eq!(best, [0, 1, 2]);
    }
}
