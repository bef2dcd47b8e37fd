//! Classes of averaged predictions, selected on the device: one byte per voxel is transferred to the host instead of
//! all averages.

use burn::tensor::{Int, IntDType, Tensor};

/// Class of the largest value at each voxel of a region, on the device.
#[derive(Debug)]
pub struct LargestClasses {
    /// Classes `[1, X, Y, Z]` as bytes; the lowest class among equals. Meaningful only if all values are finite.
    pub classes: Tensor<4, Int>,
    /// Number of values that are NaN or infinite, `[1]`.
    pub not_finite: Tensor<1, Int>,
    /// Number of all values.
    pub num_values: usize,
}

impl LargestClasses {
    /// Queues the selection among `values` `[K, X, Y, Z]`.
    ///
    /// # Panics
    /// If there are more than 256 classes, or none.
    #[must_use]
    pub fn of(values: Tensor<4>) -> Self {
        let [num_classes, ..] = values.dims();
        assert!((1..=256).contains(&num_classes), "classes of a label map of 8 bits");
        let num_values = values.shape().num_elements();
        let not_finite = values.clone().is_finite().bool_not().int().sum();
        let plane = |class: usize| values.clone().narrow(0, class, 1);
        let mut top = plane(0);
        let mut classes = Tensor::<4, Int>::zeros(top.dims(), &values.device());
        // Compares one class after the other, as the host does: a reduction may return any of several equal maxima.
        for class in 1..num_classes {
            let next = plane(class);
            let is_larger = next.clone().greater(top.clone());
            classes = classes.mask_fill(is_larger, class as i64);
            top = top.max_pair(next);
        }
        Self { classes: classes.cast(IntDType::U8), not_finite, num_values }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::on_devices;
    use crate::sliding_window::whole::argmax_of_planes;
    use burn::tensor::{Device, TensorData};

    /// Values with few distinct numbers, so that many are equal.
    fn values(num_classes: usize) -> Vec<f32> {
        (0..num_classes * 210).map(|at| (at * 7919 % 11) as f32 - 5.5).collect()
    }

    fn classes_are_those_of_the_host(device: &Device) {
        for num_classes in [1, 2, 14, 256] {
            let values = values(num_classes);
            let mut expected = Vec::new();
            argmax_of_planes(&values, 210, &mut expected);
            let tensor = Tensor::<4>::from_data(TensorData::new(values, [num_classes, 5, 6, 7]), device);
            let LargestClasses { classes, not_finite, num_values } = LargestClasses::of(tensor);
            assert_eq!(classes.dims(), [1, 5, 6, 7]);
            assert_eq!(classes.into_data().try_to_vec::<u8>().expect("bytes"), expected);
            assert_eq!((not_finite.into_scalar::<i64>(), num_values), (0, 210 * num_classes));
        }
    }

    fn values_that_are_not_finite_are_counted(device: &Device) {
        let mut values = values(3);
        (values[5], values[300], values[629]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let tensor = Tensor::<4>::from_data(TensorData::new(values, [3, 5, 6, 7]), device);
        assert_eq!(LargestClasses::of(tensor).not_finite.into_scalar::<i64>(), 3);
    }

    on_devices!(classes_are_those_of_the_host, values_that_are_not_finite_are_counted);
}
