//! Prediction of a whole volume by overlapping windows, in memory that does not grow with the volume's longest axis.
//!
//! The windows are those of MONAI's `sliding_window_inference`: `roi * (1 - overlap)` voxels apart, the last window of
//! each axis moved back inside, volumes smaller than the ROI padded with zeros on both sides and cropped again.
//! The predictor's output (logits, as in the recipe, or probabilities) is averaged with the window's weights.
//!
//! Windows are visited in the order of their start along the longest axis. A position of that axis that no later
//! window overlaps is divided by its weight, handed to the sink and cleared, so the accumulator spans one ROI along
//! that axis: `4 * (channels + 1) * roi * (product of the two shorter axes)` bytes. Two batches of windows and two of
//! predictions are in memory as well: one in the predictor, one being cut or added meanwhile.

mod accumulator;
pub(crate) mod classes;
mod geometry;
pub(crate) mod on_device;
mod weighting;
mod whole;
mod window;

use thiserror::Error;

use accumulator::Accumulator;
pub use classes::LargestClasses;
use geometry::Geometry;
pub use on_device::Region;
pub use weighting::Weighting;
pub use whole::Labels;
use window::{copy_window, mirror};

/// Errors from predicting a volume by windows.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SlidingWindowError {
    /// A ROI or volume with an empty axis, or a batch size of 0.
    #[error("{what} must not be empty")]
    Empty {
        /// Name of the empty quantity.
        what: &'static str,
    },
    /// An overlap outside [0, 1).
    #[error("overlap {overlap} is not in [0, 1)")]
    Overlap {
        /// Overlap as given.
        overlap: f64,
    },
    /// A slice whose length does not match the size of the volume.
    #[error("{num_channels} channels of {dims:?} voxels do not have {num_values} values")]
    VolumeLength {
        /// Number of channels.
        num_channels: usize,
        /// Voxels along x, y, z.
        dims: [usize; 3],
        /// Length of the slice.
        num_values: usize,
    },
    /// A prediction with another number of values than the windows have.
    #[error("the predictor returned {got} values, expected {expected}")]
    PredictionLength {
        /// Number of values expected for the batch.
        expected: usize,
        /// Number of values returned.
        got: usize,
    },
    /// More classes than a `u8` label map can hold.
    #[error("{num_classes} classes do not fit a label map of 8 bits")]
    TooManyClasses {
        /// Number of classes.
        num_classes: usize,
    },
}

/// A borrowed volume `[C, X, Y, Z]`, z fastest.
#[derive(Debug, Clone, Copy)]
pub struct InputVolume<'a> {
    values: &'a [f32],
    num_channels: usize,
    dims: [usize; 3],
}

impl<'a> InputVolume<'a> {
    /// Wraps `num_channels` images of `dims` voxels, one after the other.
    ///
    /// # Errors
    /// If the slice has another length, or is empty.
    pub fn new(values: &'a [f32], num_channels: usize, dims: [usize; 3]) -> Result<Self, SlidingWindowError> {
        let announced = dims.iter().try_fold(num_channels, |product, &dim| product.checked_mul(dim));
        if announced != Some(values.len()) {
            return Err(SlidingWindowError::VolumeLength { num_channels, dims, num_values: values.len() });
        }
        if values.is_empty() {
            return Err(SlidingWindowError::Empty { what: "the volume" });
        }
        Ok(Self { values, num_channels, dims })
    }

    /// Voxels along x, y, z.
    #[must_use]
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }
}

/// Finished predictions of a box of the volume, `[C, X, Y, Z]`, z fastest.
#[derive(Debug, Clone, Copy)]
pub struct Slab<'a> {
    /// First voxel of the box along x, y, z.
    pub start: [usize; 3],
    /// Voxels of the box along x, y, z.
    pub dims: [usize; 3],
    /// Averaged predictions, channel after channel.
    pub values: &'a [f32],
}

/// Size, overlap and weights of the windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlidingWindow {
    roi_size: [usize; 3],
    overlap: f64,
    weighting: Weighting,
    sw_batch_size: usize,
    mirror_axes: [bool; 3],
}

impl SlidingWindow {
    /// Creates windows of `roi_size` voxels with `overlap` in [0, 1), predicted `sw_batch_size` at a time.
    ///
    /// # Errors
    /// If the overlap is out of range or a size is zero.
    pub fn new(roi_size: [usize; 3], overlap: f64, sw_batch_size: usize) -> Result<Self, SlidingWindowError> {
        if roi_size.contains(&0) {
            return Err(SlidingWindowError::Empty { what: "the ROI" });
        }
        if sw_batch_size == 0 {
            return Err(SlidingWindowError::Empty { what: "a batch of windows" });
        }
        if !(0.0..1.0).contains(&overlap) {
            return Err(SlidingWindowError::Overlap { overlap });
        }
        Ok(Self { roi_size, overlap, weighting: Weighting::Constant, sw_batch_size, mirror_axes: [false; 3] })
    }

    /// Replaces the weighting of the windows.
    #[must_use]
    pub fn with_weighting(self, weighting: Weighting) -> Self {
        Self { weighting, ..self }
    }

    /// Averages each window with its mirror images along the marked axes: 2, 4 or 8 predictions per window.
    #[must_use]
    pub fn with_mirroring(self, mirror_axes: [bool; 3]) -> Self {
        Self { mirror_axes, ..self }
    }

    /// Replaces the number of windows predicted at a time.
    ///
    /// # Panics
    /// If it is zero.
    #[must_use]
    pub fn at_a_time(self, sw_batch_size: usize) -> Self {
        assert!(sw_batch_size > 0, "a batch of no windows");
        Self { sw_batch_size, ..self }
    }

    /// Number of windows predicted at a time.
    #[must_use]
    pub fn sw_batch_size(&self) -> usize {
        self.sw_batch_size
    }

    /// Bytes of the sums and weights that [`Self::run_on_device`] keeps for a volume of `dims` voxels.
    #[must_use]
    pub fn device_bytes(&self, num_channels: usize, dims: [usize; 3]) -> u64 {
        let mut extent: [usize; 3] = std::array::from_fn(|axis| dims[axis].max(self.roi_size[axis]));
        let axis = self.slab_axis(dims);
        extent[axis] = self.roi_size[axis];
        (size_of::<f32>() * (num_channels + 1) * extent.iter().product::<usize>()) as u64
    }

    /// Size of a window, voxels along x, y, z.
    #[must_use]
    pub fn roi_size(&self) -> [usize; 3] {
        self.roi_size
    }

    /// Number of windows for a volume of `dims` voxels, mirror images not counted.
    #[must_use]
    pub fn num_windows(&self, dims: [usize; 3]) -> usize {
        (0..3).map(|a| self.starts(a, dims[a].max(self.roi_size[a])).len()).product()
    }

    /// Axis along which slabs of a volume of `dims` voxels are delivered: the longest axis, the first among equals.
    #[must_use]
    pub fn slab_axis(&self, dims: [usize; 3]) -> usize {
        (0..3).rev().max_by_key(|&a| dims[a].max(self.roi_size[a])).unwrap_or(0)
    }

    /// Predicts `volume` and passes each finished slab to `sink`, in order along the longest axis.
    ///
    /// `predict` receives windows `[n, C, rx, ry, rz]` and their number `n <= sw_batch_size`, and returns
    /// `[n, K, rx, ry, rz]` with the same K each time. While it runs, a second thread adds the previous prediction, which
    /// calls `sink`, and cuts the next windows.
    ///
    /// # Errors
    /// Errors of `predict` and `sink`, and [`SlidingWindowError::PredictionLength`].
    pub fn run<E: From<SlidingWindowError> + Send>(
        &self,
        volume: InputVolume<'_>,
        mut predict: impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
        mut sink: impl FnMut(Slab<'_>) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let geometry = Geometry::new(self, volume.dims);
        let windows = self.windows(geometry.padded, geometry.axis);
        let cut = |starts: &[[usize; 3]], batch: &mut Vec<f32>| {
            batch.clear();
            for &start in starts {
                copy_window(volume, &geometry, start, batch);
            }
        };
        let mut adder = Adder { geometry, weights: self.weighting.of_window(geometry.roi), sums: None };
        let mut batches = windows.chunks(self.sw_batch_size).peekable();
        let (mut batch, mut next) = (Vec::new(), Vec::new());
        if let Some(starts) = batches.peek() {
            cut(starts, &mut batch);
        }
        let mut predicted: Option<(&[[usize; 3]], Vec<f32>)> = None;
        while let Some(starts) = batches.next() {
            let previous = predicted.take();
            let predictions = std::thread::scope(|scope| {
                let meanwhile = scope.spawn(|| {
                    if let Some(starts) = batches.peek() {
                        cut(starts, &mut next);
                    }
                    previous.map_or(Ok(()), |(starts, predictions)| adder.add(starts, &predictions, &mut sink))
                });
                let predictions = self.predict_mirrored(&mut batch, starts.len(), &mut predict);
                // A panic in there is the same bug as a panic here.
                meanwhile.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                predictions
            })?;
            predicted = Some((starts, predictions));
            std::mem::swap(&mut batch, &mut next);
        }
        if let Some((starts, predictions)) = predicted {
            adder.add(starts, &predictions, &mut sink)?;
        }
        adder.finish(&mut sink)
    }

    /// First voxels of the windows along one axis of `dim >= roi` voxels.
    fn starts(&self, axis: usize, dim: usize) -> Vec<usize> {
        let roi = self.roi_size[axis];
        let stride = if roi == dim { roi } else { ((roi as f64 * (1.0 - self.overlap)) as usize).max(1) };
        let mut starts: Vec<usize> = (0..dim - roi).step_by(stride).collect();
        starts.push(dim - roi);
        starts
    }

    /// Starts of all windows, sorted along `axis`.
    fn windows(&self, padded: [usize; 3], axis: usize) -> Vec<[usize; 3]> {
        let starts: [Vec<usize>; 3] = std::array::from_fn(|a| self.starts(a, padded[a]));
        let mut windows = Vec::with_capacity(starts.iter().map(Vec::len).product());
        for &x in &starts[0] {
            for &y in &starts[1] {
                windows.extend(starts[2].iter().map(|&z| [x, y, z]));
            }
        }
        // Stable, so the other two axes keep their order and results do not depend on the sort.
        windows.sort_by_key(|start| start[axis]);
        windows
    }

    /// Mean prediction over the marked mirror images, each mirrored back. `batch` is mirrored in place meanwhile.
    fn predict_mirrored<E>(
        &self,
        batch: &mut [f32],
        num_windows: usize,
        predict: &mut impl FnMut(&[f32], usize) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        let mut sum = predict(batch, num_windows)?;
        let axes: Vec<usize> = (0..3).filter(|&a| self.mirror_axes[a]).collect();
        if axes.is_empty() {
            return Ok(sum);
        }
        let num_images = 1_u8 << axes.len();
        for image in 1..num_images {
            let flipped =
                || axes.iter().enumerate().filter(move |(bit, _)| image >> bit & 1 == 1).map(|(_, &axis)| axis);
            flipped().for_each(|axis| mirror(batch, self.roi_size, axis));
            let mut prediction = predict(batch, num_windows)?;
            flipped().for_each(|axis| mirror(batch, self.roi_size, axis));
            flipped().for_each(|axis| mirror(&mut prediction, self.roi_size, axis));
            sum.iter_mut().zip(&prediction).for_each(|(sum, value)| *sum += value);
        }
        let scale = 1.0 / f32::from(num_images);
        for value in &mut sum {
            *value *= scale;
        }
        Ok(sum)
    }
}

/// Sums of predictions, and the geometry for adding to them.
struct Adder {
    geometry: Geometry,
    /// Weights of a window's voxels.
    weights: Vec<f32>,
    /// Sums; `None` before the first prediction, which determines the number of channels.
    sums: Option<Accumulator>,
}

impl Adder {
    /// Adds predictions `[n, K, rx, ry, rz]` of the windows that begin at `starts`.
    fn add<E: From<SlidingWindowError>>(
        &mut self,
        starts: &[[usize; 3]],
        predictions: &[f32],
        sink: &mut impl FnMut(Slab<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let geometry = self.geometry;
        let window_len = self.weights.len();
        let per_channel = starts.len() * window_len;
        let num_channels = predictions.len() / per_channel;
        let expected = self.sums.as_ref().map_or(num_channels.max(1), |known| known.num_channels) * per_channel;
        if predictions.len() != expected {
            return Err(SlidingWindowError::PredictionLength { expected, got: predictions.len() }.into());
        }
        let sums = self.sums.get_or_insert_with(|| Accumulator::new(num_channels, geometry));
        for (&start, prediction) in starts.iter().zip(predictions.chunks_exact(num_channels * window_len)) {
            sums.finish_before(start[geometry.axis], sink)?;
            sums.add(start, prediction, &self.weights);
        }
        Ok(())
    }

    /// Passes the remaining positions to the sink.
    fn finish<E>(self, sink: &mut impl FnMut(Slab<'_>) -> Result<(), E>) -> Result<(), E> {
        let end = self.geometry.padded[self.geometry.axis];
        self.sums.map_or(Ok(()), |mut sums| sums.finish_before(end, sink))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Outcome<T> = Result<T, SlidingWindowError>;

    fn ramp(dims: [usize; 3]) -> Vec<f32> {
        (0..u16::try_from(dims.iter().product::<usize>()).expect("small")).map(f32::from).collect()
    }

    /// A predictor that returns the window itself and its negative.
    #[allow(clippy::unnecessary_wraps, reason = "the shape of a predictor")]
    fn twice(windows: &[f32], num_windows: usize) -> Outcome<Vec<f32>> {
        let len = windows.len() / num_windows;
        Ok(windows.chunks_exact(len).flat_map(|w| w.iter().copied().chain(w.iter().map(|v| -v))).collect())
    }

    /// Checks that a predictor that returns its input reproduces the volume, whatever the windows.
    fn check(sliding: SlidingWindow, dims: [usize; 3]) {
        let values = ramp(dims);
        let got = sliding.collect(InputVolume::new(&values, 1, dims).expect("volume"), twice).expect("prediction");
        assert_eq!(got.len(), 2 * values.len());
        for (i, (value, got)) in values.iter().chain(&values).zip(&got).enumerate() {
            let want = if i < values.len() { *value } else { -value };
            assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "value {i}: {got}, expected {want}");
        }
    }

    proptest! {
        #[test]
        fn returns_every_voxel_to_its_place(
            dims in [1_usize..20, 1_usize..12, 1_usize..20],
            roi in [1_usize..8, 1_usize..8, 1_usize..8],
            overlap in 0.0_f64..0.9,
            sw_batch_size in 1_usize..5,
            gaussian in any::<bool>(),
            mirror_axes in any::<[bool; 3]>(),
        ) {
            let weighting = if gaussian { Weighting::Gaussian } else { Weighting::Constant };
            let sliding = SlidingWindow::new(roi, overlap, sw_batch_size).expect("windows");
            check(sliding.with_weighting(weighting).with_mirroring(mirror_axes), dims);
        }
    }

    /// Compares a predictor that depends on the position within the window with a plain accumulation over the whole
    /// volume.
    #[test]
    fn the_ring_averages_as_one_big_buffer_would() {
        for (dims, roi) in [([21, 9, 13], [6, 4, 5]), ([7, 19, 8], [4, 6, 4]), ([7, 8, 23], [4, 4, 6])] {
            let sliding = SlidingWindow::new(roi, 0.5, 3).expect("windows").with_weighting(Weighting::Gaussian);
            let values = ramp(dims);
            let volume = InputVolume::new(&values, 1, dims).expect("volume");
            let roi_len = roi.iter().product::<usize>();
            let tilt = ramp(roi);
            let predict = |windows: &[f32], _: usize| -> Outcome<Vec<f32>> {
                Ok(windows.chunks_exact(roi_len).flat_map(|w| w.iter().zip(&tilt).map(|(v, t)| v * t)).collect())
            };
            let got = sliding.collect(volume, predict).expect("prediction");

            let weights = sliding.weighting.of_window(roi);
            let (mut sums, mut totals) = (vec![0.0; values.len()], vec![0.0; values.len()]);
            for start in sliding.windows(dims, 0) {
                for i in 0..roi_len {
                    let (x, y, z) = (i / (roi[1] * roi[2]), i / roi[2] % roi[1], i % roi[2]);
                    let at = ((start[0] + x) * dims[1] + start[1] + y) * dims[2] + start[2] + z;
                    sums[at] += f64::from(values[at] * tilt[i]) * f64::from(weights[i]);
                    totals[at] += f64::from(weights[i]);
                }
            }
            for (i, got) in got.iter().enumerate() {
                let want = sums[i] / totals[i];
                assert!((f64::from(*got) - want).abs() <= 1e-4 * want.abs().max(1.0), "{i}: {got}, expected {want}");
            }
        }
    }

    #[test]
    fn sums_span_one_roi_along_the_longest_axis() {
        let sliding = SlidingWindow::new([96; 3], 0.5, 1).expect("windows");
        assert_eq!(sliding.device_bytes(14, [200, 97, 50]), 4 * 15 * 96 * 97 * 96);
        assert_eq!(sliding.device_bytes(14, [120, 97, 150]), 4 * 15 * 120 * 97 * 96);
    }

    #[test]
    fn adjacent_windows_are_half_a_roi_apart_and_end_at_the_border() {
        let sliding = SlidingWindow::new([96; 3], 0.5, 1).expect("windows");
        assert_eq!(sliding.starts(0, 96), [0]);
        assert_eq!(sliding.starts(0, 97), [0, 1]);
        assert_eq!(sliding.starts(0, 200), [0, 48, 96, 104]);
        assert_eq!(sliding.num_windows([200, 97, 50]), 8);
    }

    #[test]
    fn a_predictor_of_the_wrong_size_is_an_error() {
        let values = ramp([4, 4, 4]);
        let sliding = SlidingWindow::new([2; 3], 0.5, 1).expect("windows");
        let volume = InputVolume::new(&values, 1, [4; 3]).expect("volume");
        let error = sliding.collect(volume, |_, _| Outcome::Ok(vec![0.0; 7])).expect_err("seven values");
        assert_eq!(error, SlidingWindowError::PredictionLength { expected: 8, got: 7 });
    }
}
