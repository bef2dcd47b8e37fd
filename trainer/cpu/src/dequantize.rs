//! Conversion of quantized voxels to floats: `clamp(quantized · gain + bias, low, high) · factor + shift`, with six
//! parameters per crop.

use crate::buffer::{in_blocks, write_with};

/// Parameters of a crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Factor applied to a quantized value.
    pub gain: f32,
    /// Term added before clamping.
    pub bias: f32,
    /// Lowest value after clamping.
    pub low: f32,
    /// Highest value after clamping.
    pub high: f32,
    /// Factor applied to a clamped value.
    pub factor: f32,
    /// Term added after clamping.
    pub shift: f32,
}

/// Converts `quantized` to floats; it holds equally many values for each of `crops`. A thread takes one crop at a time.
///
/// # Panics
/// If the number of values is not a multiple of the number of crops.
#[must_use]
pub fn floats<Q: Copy + Sync + Into<f32>>(quantized: &[Q], crops: &[Params]) -> Vec<f32> {
    let len = quantized.len() / crops.len().max(1);
    assert_eq!(len * crops.len(), quantized.len(), "values of {} crops", crops.len());
    if len == 0 {
        return vec![];
    }
    let of_crop = |number: usize| (&quantized[number * len..][..len], crops[number]);
    in_blocks(quantized.len(), len, 0, |number, out, _| {
        let (quantized, Params { gain, bias, low, high, factor, shift }) = of_crop(number);
        assert!(out.len() == quantized.len());
        // `clamp` would check its bounds for each value.
        let clamped = |value: f32| {
            if value < low {
                low
            } else if value > high {
                high
            } else {
                value
            }
        };
        write_with(out, |i| clamped(quantized[i].into() * gain + bias) * factor + shift)
    })
    .0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crop_has_its_parameters() {
        let crops = [
            Params { gain: 0.5, bias: -0.5, low: 0.0, high: 1.0, factor: 1.0, shift: 0.0 },
            Params { gain: 0.25, bias: 0.0, low: 0.0, high: 1.0, factor: 2.0, shift: -1.0 },
            Params { gain: 0.5, bias: -1.0, low: -1.0, high: 3.0, factor: 1.0, shift: 0.0 },
        ];
        let values = [0u16, 1, 2, 9];
        let expected = [[0.0, 0.0, 0.5, 1.0], [-1.0, -0.5, 0.0, 1.0], [-1.0, -0.5, 0.0, 3.0]];
        assert_eq!(floats(&values.repeat(3), &crops), expected.as_flattened());
        assert_eq!(floats::<u8>(&[], &crops), [0.0; 0]);
    }
}
