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
mod on_device;
mod window;

use thiserror::Error;

use accumulator::Accumulator;
use window::{copy_window, mirror};

/// Smallest weight in a Gaussian window, so that no voxel is divided by zero.
const MIN_WEIGHT: f32 = 1e-3;
/// Width of the Gaussian relative to the ROI.
const SIGMA_SCALE: f64 = 0.125;

/// Weights of a window's voxels where windows overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// Equal weights, as in the recipe.
    #[default]
    Constant,
    /// A Gaussian around the window's centre with sigma `0.125 * roi`, at least 0.001.
    Gaussian,
}

/// Errors from predicting a volume by windows.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SlidingWindowError {
    /// A ROI or volume with an empty axis, or a batch of no windows.
    #[error("{what} must not be empty")]
    Empty {
        /// Name of the empty quantity.
        what: &'static str,
    },
    /// An overlap outside [0, 1).
    #[error("overlap {overlap} is not in [0, 1)")]
    Overlap {
        /// The overlap given.
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
    /// A predictor that returned another number of values than its windows have.
    #[error("the predictor returned {got} values, expected {expected}")]
    PredictionLength {
        /// Values expected for the batch.
        expected: usize,
        /// Values returned.
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

/// Size, distance and weights of the windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlidingWindow {
    roi_size: [usize; 3],
    overlap: f64,
    weighting: Weighting,
    sw_batch_size: usize,
    mirror_axes: [bool; 3],
}

impl SlidingWindow {
    /// Windows of `roi_size` voxels with `overlap` in [0, 1), predicted `sw_batch_size` at a time.
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

    /// Axis along which slabs of a volume of `dims` voxels are delivered: the longest, the first of equals.
    #[must_use]
    pub fn slab_axis(&self, dims: [usize; 3]) -> usize {
        (0..3).rev().max_by_key(|&a| dims[a].max(self.roi_size[a])).unwrap_or(0)
    }

    /// Predicts `volume` and hands each finished slab to `sink`, in order along the longest axis.
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
        let roi = self.roi_size;
        let padded: [usize; 3] = std::array::from_fn(|a| volume.dims[a].max(roi[a]));
        let pad: [usize; 3] = std::array::from_fn(|a| (padded[a] - volume.dims[a]) / 2);
        let axis = self.slab_axis(volume.dims);
        let windows = self.windows(padded, axis);
        let cut = |starts: &[[usize; 3]], batch: &mut Vec<f32>| {
            batch.clear();
            for &start in starts {
                copy_window(volume, pad, start, roi, batch);
            }
        };
        let mut adder =
            Adder { window: self, weights: self.weights(), padded, pad, dims: volume.dims, axis, sums: None };
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

    /// Averaged prediction of the whole volume, `[K, X, Y, Z]`. For small volumes and tests: all of it is in memory.
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

    /// Weights of a window's voxels, z fastest.
    fn weights(&self) -> Vec<f32> {
        let roi = self.roi_size;
        let bell = |axis: usize| -> Vec<f32> {
            let (centre, sigma) = ((roi[axis] as f64 - 1.0) / 2.0, SIGMA_SCALE * roi[axis] as f64);
            (0..roi[axis]).map(|i| (-0.5 * ((i as f64 - centre) / sigma).powi(2)).exp() as f32).collect()
        };
        match self.weighting {
            Weighting::Constant => vec![1.0; roi.iter().product()],
            Weighting::Gaussian => {
                let [bx, by, bz] = [bell(0), bell(1), bell(2)];
                let rows = bx.iter().flat_map(|wx| by.iter().map(move |wy| wx * wy));
                rows.flat_map(|wxy| bz.iter().map(move |wz| (wxy * wz).max(MIN_WEIGHT))).collect()
            }
        }
    }

    /// Mean over the marked mirror images, each mirrored back. `batch` is mirrored in place meanwhile.
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
struct Adder<'a> {
    window: &'a SlidingWindow,
    /// Weights of a window's voxels.
    weights: Vec<f32>,
    padded: [usize; 3],
    pad: [usize; 3],
    dims: [usize; 3],
    axis: usize,
    /// None before the first prediction, which tells the number of channels.
    sums: Option<Accumulator>,
}

impl Adder<'_> {
    /// Adds predictions `[n, K, rx, ry, rz]` of the windows that begin at `starts`.
    fn add<E: From<SlidingWindowError>>(
        &mut self,
        starts: &[[usize; 3]],
        predictions: &[f32],
        sink: &mut impl FnMut(Slab<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { window, padded, pad, dims, axis, .. } = *self;
        let window_len = self.weights.len();
        let per_channel = starts.len() * window_len;
        let num_channels = predictions.len() / per_channel;
        let expected = self.sums.as_ref().map_or(num_channels.max(1), |known| known.num_channels) * per_channel;
        if predictions.len() != expected {
            return Err(SlidingWindowError::PredictionLength { expected, got: predictions.len() }.into());
        }
        let sums =
            self.sums.get_or_insert_with(|| Accumulator::new(num_channels, padded, pad, dims, window.roi_size, axis));
        for (&start, prediction) in starts.iter().zip(predictions.chunks_exact(num_channels * window_len)) {
            sums.finish_before(start[axis], sink)?;
            sums.add(start, prediction, &self.weights);
        }
        Ok(())
    }

    /// Hands what is left to the sink.
    fn finish<E>(self, sink: &mut impl FnMut(Slab<'_>) -> Result<(), E>) -> Result<(), E> {
        let end = self.padded[self.axis];
        self.sums.map_or(Ok(()), |mut sums| sums.finish_before(end, sink))
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
    /// Labels of a volume of `dims` voxels, of which no slab is known.
    #[must_use]
    pub fn new(dims: [usize; 3]) -> Self {
        Self { dims, voxels: vec![0; dims.iter().product()], best: Vec::new() }
    }

    /// Labels the voxels of a slab; the lowest class wins a tie.
    ///
    /// # Errors
    /// If the slab has more than 256 channels.
    pub fn push(&mut self, slab: Slab<'_>) -> Result<(), SlidingWindowError> {
        let [_, ny, nz] = self.dims;
        let slab_len = slab.dims.iter().product::<usize>();
        let num_classes = slab.values.len() / slab_len;
        if num_classes > 256 {
            return Err(SlidingWindowError::TooManyClasses { num_classes });
        }
        argmax_of_planes(slab.values, slab_len, &mut self.best);
        for (row_idx, row) in self.best.chunks_exact(slab.dims[2]).enumerate() {
            let (_, x, y) = row_position(row_idx, slab.dims);
            let at = ((x + slab.start[0]) * ny + y + slab.start[1]) * nz + slab.start[2];
            self.voxels[at..][..row.len()].copy_from_slice(row);
        }
        Ok(())
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

/// Class of the largest value at each position of planes of `len` values, the lowest of equals; NaN never wins.
fn argmax_of_planes(values: &[f32], len: usize, best: &mut Vec<u8>) {
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

    /// Checks that a predictor which returns its input gives back the volume, whatever the windows.
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

            let weights = sliding.weights();
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
    fn adjacent_windows_are_half_a_roi_apart_and_end_at_the_border() {
        let sliding = SlidingWindow::new([96; 3], 0.5, 1).expect("windows");
        assert_eq!(sliding.starts(0, 96), [0]);
        assert_eq!(sliding.starts(0, 97), [0, 1]);
        assert_eq!(sliding.starts(0, 200), [0, 48, 96, 104]);
        assert_eq!(sliding.num_windows([200, 97, 50]), 8);
    }

    #[test]
    fn argmax_takes_the_lowest_class_of_equals() {
        let mut best = Vec::new();
        argmax_of_planes(&[1.0, 0.0, f32::NAN, 1.0, 2.0, 0.0, 0.5, 2.0, 1.0], 3, &mut best);
        assert_eq!(best, [0, 1, 2]);
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
