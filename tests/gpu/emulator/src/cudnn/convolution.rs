//! Convolutions of volumes by filters of 3³ voxels, and their gradients.

use super::graph::{Run, Tensor};
use super::{Descriptor, KIND_DATA, KIND_FORWARD};

/// Voxels of a filter.
const TAPS: usize = 27;

/// Lengths of a convolution.
#[derive(Clone, Copy)]
struct Volume {
    cases: usize,
    inputs: usize,
    outputs: usize,
    size: [usize; 3],
}

/// Computes a convolution with a border of one voxel, or its gradient by the image or by the filter.
pub(super) unsafe fn run(run: &mut Run, operation: &Descriptor) -> Result<(), String> {
    // Settings, image, filter, result, alpha and beta.
    let [settings, image, filter, result, alpha, beta] = match operation.kind {
        KIND_FORWARD => [702, 704, 703, 705, 700, 701],
        KIND_DATA => [708, 710, 709, 711, 706, 707],
        _ => [714, 716, 715, 717, 712, 713],
    };
    unsafe {
        let tensor = |attribute| operation.other(attribute).and_then(Tensor::of);
        let [image, filter, result] = [tensor(image)?, tensor(filter)?, tensor(result)?];
        if [operation.float(alpha)?, operation.float(beta)?].map(f32::to_bits) != [1f32, 0.0].map(f32::to_bits) {
            return Err("factors of a convolution".to_owned());
        }
        let settings = operation.other(settings)?;
        let all_ones = |attribute| settings.numbers(attribute) == [1, 1, 1];
        if settings.code(101)? != 1 || ![102, 103, 104, 105].into_iter().all(all_ones) {
            return Err("a convolution other than a cross-correlation with a border of one voxel".to_owned());
        }
        let volume = Volume::of(&image, &filter, &result)?;
        match operation.kind {
            KIND_FORWARD => {
                let values = volume.forward(&run.get(&image)?, &run.get(&filter)?);
                run.put(&result, &values)
            }
            KIND_DATA => {
                let values = volume.gradient_by_image(&run.get(&filter)?, &run.get(&result)?);
                run.put(&image, &values)
            }
            _ => {
                let values = volume.gradient_by_filter(&run.get(&image)?, &run.get(&result)?);
                run.put(&filter, &values)
            }
        }
    }
}

impl Volume {
    fn of(image: &Tensor, filter: &Tensor, result: &Tensor) -> Result<Self, String> {
        let [cases, inputs, x, y, z] = image.dims[..] else { return Err("a volume that is not 3-D".to_owned()) };
        let size = [x, y, z];
        let [outputs, of_filter, 3, 3, 3] = filter.dims[..] else {
            return Err("a filter other than of 3³ voxels".to_owned());
        };
        if of_filter != inputs || result.dims != [cases, outputs, x, y, z] {
            return Err(format!("{:?} by {:?} to {:?}", image.dims, filter.dims, result.dims));
        }
        Ok(Self { cases, inputs, outputs, size })
    }

    fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// Values [cases, channels, voxels] with the channels last.
    fn channels_last(&self, values: &[f32], channels: usize) -> Vec<f32> {
        let voxels = self.voxels();
        let at = |i: usize| (i / channels / voxels * channels + i % channels) * voxels + i / channels % voxels;
        (0..values.len()).map(|i| values[at(i)]).collect()
    }

    /// Values [cases, voxels, channels] with the channels before the voxels.
    fn channels_first(&self, values: &[f32], channels: usize) -> Vec<f32> {
        let voxels = self.voxels();
        let at = |i: usize| (i / voxels / channels * voxels + i % voxels) * channels + i / voxels % channels;
        (0..values.len()).map(|i| values[at(i)]).collect()
    }

    /// A filter [outputs, inputs, taps] as one matrix [inputs, outputs] for each tap.
    fn by_taps(&self, filter: &[f32]) -> Vec<f32> {
        let Self { inputs, outputs, .. } = *self;
        let at = |i: usize| (i % outputs * inputs + i / outputs % inputs) * TAPS + i / outputs / inputs;
        (0..filter.len()).map(|i| filter[at(i)]).collect()
    }

    /// Calls `f` with each tap, and the numbers of the voxels of image and result that it joins.
    fn for_each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let voxels = self.voxels();
        let [size_x, size_y, size_z] = self.size;
        for (case, tap) in (0..self.cases).flat_map(|case| (0..TAPS).map(move |tap| (case, tap))) {
            for voxel in 0..voxels {
                let own = [voxel / size_z / size_y, voxel / size_z % size_y, voxel % size_z];
                let offset = [tap / 9, tap / 3 % 3, tap % 3];
                let [x, y, z] = [0, 1, 2].map(|axis| (own[axis] + offset[axis]).wrapping_sub(1));
                if x < size_x && y < size_y && z < size_z {
                    f(tap, case * voxels + (x * size_y + y) * size_z + z, case * voxels + voxel);
                }
            }
        }
    }

    /// The result, from image and filter.
    fn forward(&self, image: &[f32], filter: &[f32]) -> Vec<f32> {
        let Self { inputs, outputs, .. } = *self;
        let (image, filter) = (self.channels_last(image, inputs), self.by_taps(filter));
        let mut result = vec![0f32; self.cases * self.voxels() * outputs];
        self.for_each(|tap, from, to| {
            let sums = &mut result[to * outputs..][..outputs];
            let rows = filter[tap * inputs * outputs..].chunks_exact(outputs);
            for (value, row) in image[from * inputs..][..inputs].iter().zip(rows) {
                sums.iter_mut().zip(row).for_each(|(sum, weight)| *sum += value * weight);
            }
        });
        self.channels_first(&result, outputs)
    }

    /// The gradient by the image, from the filter and the gradient by the result.
    fn gradient_by_image(&self, filter: &[f32], result: &[f32]) -> Vec<f32> {
        let Self { inputs, outputs, .. } = *self;
        let (filter, result) = (self.by_taps(filter), self.channels_last(result, outputs));
        let mut image = vec![0f32; self.cases * self.voxels() * inputs];
        self.for_each(|tap, to, from| {
            let values = &result[from * outputs..][..outputs];
            let rows = filter[tap * inputs * outputs..].chunks_exact(outputs);
            for (sum, row) in image[to * inputs..][..inputs].iter_mut().zip(rows) {
                *sum += values.iter().zip(row).map(|(value, weight)| value * weight).sum::<f32>();
            }
        });
        self.channels_first(&image, inputs)
    }

    /// The gradient by the filter, from the image and the gradient by the result.
    fn gradient_by_filter(&self, image: &[f32], result: &[f32]) -> Vec<f32> {
        let Self { inputs, outputs, .. } = *self;
        let (image, result) = (self.channels_last(image, inputs), self.channels_last(result, outputs));
        let mut filter = vec![0f32; TAPS * inputs * outputs];
        self.for_each(|tap, of_image, of_result| {
            let factors = &result[of_result * outputs..][..outputs];
            let rows = filter[tap * inputs * outputs..].chunks_exact_mut(outputs);
            for (value, row) in image[of_image * inputs..][..inputs].iter().zip(rows) {
                row.iter_mut().zip(factors).for_each(|(sum, factor)| *sum += value * factor);
            }
        });
        let at = |i: usize| (i % TAPS * inputs + i / TAPS % inputs) * outputs + i / TAPS / inputs;
        (0..filter.len()).map(|i| filter[at(i)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{TAPS, Volume};

    /// Small integers, of which all sums are exact.
    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) * (i + seed) % 9) as f32 - 4.0).collect()
    }

    fn sum_of_products(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn one_tap_shifts_the_image() {
        let volume = Volume { cases: 1, inputs: 1, outputs: 1, size: [3, 1, 2] };
        let image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        // The tap behind the middle along x.
        let mut filter = vec![0.0; TAPS];
        filter[9 + 9 + 3 + 1] = 2.0;
        assert_eq!(volume.forward(&image, &filter), [6.0, 8.0, 10.0, 12.0, 0.0, 0.0]);
    }

    #[test]
    fn gradients_are_those_of_the_result() {
        let volume = Volume { cases: 2, inputs: 3, outputs: 2, size: [2, 3, 4] };
        let (image, filter) = (values(2 * 3 * 24, 1), values(2 * 3 * TAPS, 2));
        let gradient = values(2 * 2 * 24, 5);
        let expected = sum_of_products(&volume.forward(&image, &filter), &gradient);
        let by_image = sum_of_products(&image, &volume.gradient_by_image(&filter, &gradient));
        let by_filter = sum_of_products(&filter, &volume.gradient_by_filter(&image, &gradient));
        assert_eq!([by_image.to_bits(), by_filter.to_bits()], [expected.to_bits(); 2]);
    }
}
