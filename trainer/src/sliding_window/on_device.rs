//! Windows predicted and averaged on a device: only each voxel's average, or a value derived from it on the device, is
//! transferred to the host, instead of every window's prediction.
//!
//! Sums and weights are a ring over the longest axis, as on the host: `4 * (channels + 1) * roi * (product of the two
//! shorter axes)` bytes of the device's memory. Positions that no later window overlaps are divided by their weight there and
//! read by a second thread, while the device computes the next batch; the host cuts the batch after that meanwhile.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use super::geometry::Geometry;
use super::window::copy_window;
use super::{InputVolume, SlidingWindow, SlidingWindowError};

/// A box of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First voxel along x, y, z.
    pub start: [usize; 3],
    /// Voxels along x, y, z.
    pub dims: [usize; 3],
}

impl SlidingWindow {
    /// Runs as [`SlidingWindow::run`] does, with a predictor of tensors on `device`: windows `[n, C, rx, ry, rz]` →
    /// `[n, K, rx, ry, rz]` with the same K each time. `finish` queues the processing of the averages `[K, X, Y, Z]` of
    /// a region, and `hand` receives its result on a second thread, which may wait for the device. Regions are as thick
    /// as the distance between windows.
    ///
    /// # Errors
    /// Errors of `predict` and `hand`, and [`SlidingWindowError::PredictionLength`].
    pub fn run_on_device<T: Send, E: From<SlidingWindowError> + Send>(
        &self,
        volume: InputVolume<'_>,
        device: &Device,
        mut predict: impl FnMut(Tensor<5>) -> Result<Tensor<5>, E>,
        finish: impl Fn(Tensor<4>) -> T,
        mut hand: impl FnMut(Region, T) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let finish = |Average { region, values }: Average| (region, finish(values));
        let mut hand = |(region, finished): (Region, T)| hand(region, finished);
        let [rx, ry, rz] = self.roi_size;
        let geometry = Geometry::new(self, volume.dims);
        let Geometry { padded, axis, .. } = geometry;
        let windows = self.windows(padded, axis);
        let weights =
            Tensor::<4>::from_data(TensorData::new(self.weighting.of_window(self.roi_size), [1, rx, ry, rz]), device);
        let mut sums: Option<Sums> = None;
        let mut finished: Vec<(Region, T)> = Vec::new();
        for starts in windows.chunks(self.sw_batch_size) {
            let mut batch = Vec::with_capacity(starts.len() * volume.num_channels * rx * ry * rz);
            for &start in starts {
                copy_window(volume, &geometry, start, &mut batch);
            }
            let data = TensorData::new(batch, [starts.len(), volume.num_channels, rx, ry, rz]);
            let ready = std::mem::take(&mut finished);
            let predictions = std::thread::scope(|scope| {
                let meanwhile = scope.spawn(|| ready.into_iter().try_for_each(&mut hand));
                let predictions = self.predict_images(Tensor::from_data(data, device), &mut predict);
                // A panic in there is the same bug as a panic here.
                meanwhile.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                predictions
            })?;
            let [_, num_channels, ..] = predictions.dims();
            let expected = sums.as_ref().map_or(num_channels, |sums| sums.num_channels);
            if predictions.dims() != [starts.len(), expected, rx, ry, rz] {
                let expected = starts.len() * expected * rx * ry * rz;
                let got = predictions.dims().iter().product();
                return Err(SlidingWindowError::PredictionLength { expected, got }.into());
            }
            let sums = sums.get_or_insert_with(|| Sums::new(num_channels, geometry, device));
            for (number, &start) in starts.iter().enumerate() {
                finished.extend(sums.finish_before(start[axis]).map(finish));
                let window = predictions.clone().narrow(0, number, 1).squeeze_dim::<4>(0);
                sums.add(start, window * weights.clone(), weights.clone());
            }
        }
        finished.extend(sums.and_then(|mut sums| sums.finish_before(padded[axis])).map(finish));
        finished.into_iter().try_for_each(hand)
    }

    /// Mean prediction over the marked mirror images, each mirrored back.
    fn predict_images<E>(
        &self,
        windows: Tensor<5>,
        predict: &mut impl FnMut(Tensor<5>) -> Result<Tensor<5>, E>,
    ) -> Result<Tensor<5>, E> {
        let axes: Vec<usize> = (0..3).filter(|&axis| self.mirror_axes[axis]).collect();
        let num_images = 1_u8 << axes.len();
        let mut sum = predict(windows.clone())?;
        for image in 1..num_images {
            let mirrored = |tensor: Tensor<5>| {
                let marked = axes.iter().enumerate().filter(|(bit, _)| image >> bit & 1 == 1);
                marked.fold(tensor, |tensor, (_, &axis)| tensor.flip([axis + 2]))
            };
            sum = sum + mirrored(predict(mirrored(windows.clone()))?);
        }
        Ok(if num_images == 1 { sum } else { sum / f64::from(num_images) })
    }
}

/// Averages of a box of the volume, on the device.
struct Average {
    region: Region,
    /// Averages, `[K, X, Y, Z]`.
    values: Tensor<4>,
}

/// Weighted sums of the windows over one ROI along the longest axis.
struct Sums {
    num_channels: usize,
    /// Weighted sums, `[K, ..]`, with one ROI along `axis`, where positions wrap around.
    weighted: Ring,
    /// Sums of the weights, `[1, ..]`.
    weights: Ring,
    axis: usize,
    /// Range of the volume within the padded volume, for each axis.
    inside: [Range<usize>; 3],
    /// First position along `axis`, in the padded volume, that is not finished.
    next: usize,
}

impl Sums {
    fn new(num_channels: usize, geometry: Geometry, device: &Device) -> Self {
        let ring = |channels| Ring::new(channels, geometry, device);
        let (axis, inside) = (geometry.axis, geometry.inside());
        Self { num_channels, weighted: ring(num_channels), weights: ring(1), axis, inside, next: 0 }
    }

    /// Adds a weighted window `[K, rx, ry, rz]` that begins at `start` of the padded volume.
    fn add(&mut self, start: [usize; 3], window: Tensor<4>, weights: Tensor<4>) {
        self.weighted.add(start, window);
        self.weights.add(start, weights);
    }

    /// Averages of all positions below `end` along the axis, which no later window may overlap; `None` if none of them
    /// lies in the volume.
    fn finish_before(&mut self, end: usize) -> Option<Average> {
        if self.next >= end {
            return None;
        }
        let mut region = self.inside.clone();
        region[self.axis] = self.next.max(region[self.axis].start)..end.min(region[self.axis].end);
        let average = (!region[self.axis].is_empty()).then(|| Average {
            region: Region {
                start: std::array::from_fn(|a| region[a].start - self.inside[a].start),
                dims: std::array::from_fn(|a| region[a].len()),
            },
            values: self.weighted.read(&region) / self.weights.read(&region),
        });
        for ring in [&mut self.weighted, &mut self.weights] {
            ring.clear(self.next..end);
        }
        self.next = end;
        average
    }
}

/// A buffer `[C, X, Y, Z]` in which positions along one axis wrap around.
struct Ring {
    /// Values; `None` only while they are being changed.
    values: Option<Tensor<4>>,
    roi: [usize; 3],
    axis: usize,
}

impl Ring {
    fn new(channels: usize, geometry: Geometry, device: &Device) -> Self {
        let [x, y, z] = geometry.ring();
        Self { values: Some(Tensor::zeros([channels, x, y, z], device)), roi: geometry.roi, axis: geometry.axis }
    }

    /// Divides a region of the padded volume, at most one ROI thick along the axis, into parts that are contiguous in
    /// the ring; returns each part's ranges in the ring, and its start along the axis of the region.
    fn parts(&self, region: &[Range<usize>; 3]) -> Vec<([Range<usize>; 3], usize)> {
        let (axis, len) = (self.axis, self.roi[self.axis]);
        let first = region[axis].start % len;
        let before = (len - first).min(region[axis].len());
        let part = |range: Range<usize>| {
            let mut part = region.clone();
            part[axis] = range;
            part
        };
        let mut parts = vec![(part(first..first + before), 0)];
        if before < region[axis].len() {
            parts.push((part(0..region[axis].len() - before), before));
        }
        parts
    }

    fn add(&mut self, start: [usize; 3], window: Tensor<4>) {
        let region = std::array::from_fn(|a| start[a]..start[a] + self.roi[a]);
        for (part, from) in self.parts(&region) {
            let piece = window.clone().narrow(1 + self.axis, from, part[self.axis].len());
            self.change(&part, |old| old + piece);
        }
    }

    fn read(&self, region: &[Range<usize>; 3]) -> Tensor<4> {
        let values = self.values.as_ref().expect("put back after each change");
        let parts = self.parts(region).into_iter().map(|(part, _)| values.clone().slice(whole_channels(values, &part)));
        Tensor::cat(parts.collect(), 1 + self.axis)
    }

    /// Zeroes the given positions of the axis, for the next turn.
    fn clear(&mut self, positions: Range<usize>) {
        let [_, x, y, z] = self.values.as_ref().expect("put back after each change").dims();
        let mut region = [0..x, 0..y, 0..z];
        region[self.axis] = positions;
        for (part, _) in self.parts(&region) {
            self.change(&part, |old| old.zeros_like());
        }
    }

    fn change(&mut self, part: &[Range<usize>; 3], change: impl FnOnce(Tensor<4>) -> Tensor<4>) {
        let values = self.values.take().expect("put back after each change");
        let slices = whole_channels(&values, part);
        let changed = change(values.clone().slice(slices.clone()));
        self.values = Some(values.slice_assign(slices, changed));
    }
}

/// A part of all channels of `values`.
fn whole_channels(values: &Tensor<4>, [x, y, z]: &[Range<usize>; 3]) -> [Range<usize>; 4] {
    let [channels, ..] = values.dims();
    [0..channels, x.clone(), y.clone(), z.clone()]
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::on_devices;
    use crate::sliding_window::Weighting;
    #[cfg(test)]
    use proptest::prelude::*;

    /// A predictor that depends on the position within the window and is not symmetric: the window times a ramp, and its
    /// negative square.
    fn factors(roi: [usize; 3]) -> Vec<f32> {
        let len = u16::try_from(roi.iter().product::<usize>()).expect("small");
        (0..len).map(|i| 1.0 + f32::from(i) / f32::from(len)).collect()
    }

    fn read(averages: Tensor<4>) -> Vec<f32> {
        averages.into_data().try_to_vec().expect("f32")
    }

    /// Largest difference between the averages of a volume on `device` and on the host.
    fn difference(device: &Device, sliding: &SlidingWindow, dims: [usize; 3]) -> f32 {
        let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| (i as f32 * 0.7).sin()).collect();
        let volume = InputVolume::new(&values, 1, dims).unwrap();
        let roi = sliding.roi_size;
        let ramp = factors(roi);
        let of_windows = |windows: &[f32], _| {
            let products = |window: &[f32]| window.iter().zip(&ramp).map(|(v, f)| v * f).collect::<Vec<f32>>();
            let of_window = |window| {
                let first = products(window);
                let second: Vec<f32> = first.iter().map(|v| -v * v).collect();
                [first, second].concat()
            };
            Ok::<Vec<f32>, SlidingWindowError>(windows.chunks_exact(ramp.len()).flat_map(of_window).collect())
        };
        let by_host = sliding.collect(volume, of_windows).unwrap();

        let [rx, ry, rz] = roi;
        let tensor = Tensor::<5>::from_data(TensorData::new(ramp.clone(), [1, 1, rx, ry, rz]), device);
        let mut by_device = vec![f32::NAN; by_host.len()];
        let mut hand = |region: Region, averages| {
            let [_, ny, nz] = dims;
            let [sx, sy, sz] = region.dims;
            for (at, value) in read(averages).iter().enumerate() {
                let (channel, x, y, z) = (at / (sx * sy * sz), at / (sy * sz) % sx, at / sz % sy, at % sz);
                let [x, y, z] = [x + region.start[0], y + region.start[1], z + region.start[2]];
                by_device[channel * values.len() + (x * ny + y) * nz + z] = *value;
            }
            Ok::<_, SlidingWindowError>(())
        };
        let predict = |windows: Tensor<5>| {
            let first = windows * tensor.clone();
            Ok(Tensor::cat(vec![first.clone(), -first.square()], 1))
        };
        sliding.run_on_device(volume, device, predict, |averages| averages, &mut hand).unwrap();
        // A voxel that no region covers is not a number, which a maximum would pass over.
        assert!(by_device.iter().all(|value| value.is_finite()), "a voxel has no average");
        by_device.iter().zip(&by_host).fold(0.0, |most, (ours, theirs)| most.max((ours - theirs).abs()))
    }

    /// Sums of at most a few hundred windows and images in another order.
    const TOLERANCE: f32 = 1e-5;

    fn averages_on_the_device_are_those_of_the_host(device: &Device) {
        for (dims, roi, overlap, batch, weighting, mirror_axes) in [
            ([13, 7, 9], [4, 5, 3], 0.5, 4, Weighting::Constant, [false; 3]),
            ([5, 8, 13], [4, 4, 4], 0.75, 3, Weighting::Gaussian, [true, false, true]),
            // Smaller than a window along an axis.
            ([3, 6, 6], [5, 4, 2], 0.25, 2, Weighting::Gaussian, [false, true, false]),
        ] {
            let sliding = SlidingWindow::new(roi, overlap, batch).unwrap();
            let sliding = sliding.with_weighting(weighting).with_mirroring(mirror_axes);
            let difference = difference(device, &sliding, dims);
            assert!(difference <= TOLERANCE, "{dims:?} {roi:?}: {difference}");
        }
    }

    on_devices!(averages_on_the_device_are_those_of_the_host);

    #[cfg(test)]
    proptest! {
        #[test]
        fn averages_are_those_of_the_host(
            dims in [1_usize..14, 1_usize..9, 1_usize..14],
            roi in [1_usize..6, 1_usize..6, 1_usize..6],
            overlap in 0.0_f64..0.9,
            sw_batch_size in 1_usize..5,
            gaussian in any::<bool>(),
            mirror_axes in any::<[bool; 3]>(),
        ) {
            let weighting = if gaussian { Weighting::Gaussian } else { Weighting::Constant };
            let sliding = SlidingWindow::new(roi, overlap, sw_batch_size).unwrap();
            let sliding = sliding.with_weighting(weighting).with_mirroring(mirror_axes);
            let difference = difference(&Device::flex(), &sliding, dims);
            prop_assert!(difference <= TOLERANCE, "{difference}");
        }
    }

    #[cfg(test)]
    #[test]
    fn a_predictor_of_another_size_is_an_error() {
        let values = vec![1.0; 64];
        let sliding = SlidingWindow::new([2; 3], 0.5, 1).unwrap();
        let volume = InputVolume::new(&values, 1, [4; 3]).unwrap();
        let wrong = |windows: Tensor<5>| Ok::<_, SlidingWindowError>(windows.narrow(4, 0, 1));
        let run = sliding.run_on_device(volume, &Device::flex(), wrong, |averages| averages, |_, _| Ok(()));
        let error = run.unwrap_err().to_string();
        assert_eq!(error, "the predictor returned 4 values, expected 8");
    }
}
