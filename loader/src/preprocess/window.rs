//! Conversion of Hounsfield units (HU) and z-scores to stored 16-bit values, and of stored values to values of crops.

use serde::{Deserialize, Serialize};

use super::zscore::ZScore;

/// Range of values that a cache keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// The window only, rounded to 1 HU: the smallest cache, with a fixed window.
    #[default]
    Window,
    /// -32768 to 32767 HU, rounded to 1 HU: any window can be chosen when streaming.
    Full,
}

impl Store {
    /// Name on the command line and in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Full => "full",
        }
    }
}

/// Rounds values to stored values, which mean `offset + scale * quantized`: HU with a scale of 1, or z-scores with
/// a power of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiser {
    low: f32,
    high: f32,
    zscore: Option<ZScore>,
    /// Meaning of quantized value 0, in HU or standard deviations.
    pub offset: f64,
    /// Difference in meaning between consecutive quantized values.
    pub scale: f64,
    /// Number of significant bits of a quantized value.
    pub bits: u8,
    /// Largest quantized value that is not foreground.
    pub foreground_above: u16,
}

impl Quantiser {
    /// Creates the quantiser of HU for a window that
    /// [`PreprocessConfig::validate`](super::PreprocessConfig::validate) accepts.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the window is validated: whole and 16 bits"
    )]
    pub fn new(window: [f64; 2], store: Store) -> Self {
        let [low, high] = match store {
            Store::Window => window,
            Store::Full => [-32_768.0, 32_767.0],
        };
        let largest = (high - low) as u32;
        Self {
            low: low as f32,
            high: high as f32,
            zscore: None,
            offset: low,
            scale: 1.0,
            bits: bits(largest),
            foreground_above: (window[0] - low) as u16,
        }
    }

    /// Creates the quantiser of z-scores for a range that
    /// [`PreprocessConfig::validate`](super::PreprocessConfig::validate) accepts.
    ///
    /// The scale is the smallest power of two that 16 bits allow, so that z-scores become f32 without rounding and 0 is
    /// exactly representable. Voxels above 0 in the file are foreground; in a file with negative values, all voxels
    /// are.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is validated: whole and at most 256 wide"
    )]
    pub fn zscore([low, high]: [f64; 2], zscore: ZScore) -> Self {
        let scale = zscore_scale([low, high]);
        let mut quantiser = Self {
            low: low as f32,
            high: high as f32,
            zscore: Some(zscore),
            offset: low,
            scale,
            bits: bits(((high - low) / scale) as u32),
            foreground_above: 0,
        };
        if zscore.min >= 0.0 {
            let mut background = [0];
            quantiser.quantise(&[0.0], &mut background);
            quantiser.foreground_above = background[0];
        }
        quantiser
    }

    /// Clamps values to the stored range and rounds them to the nearest stored value; both slices have the same length.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=65535 before the cast")]
    pub fn quantise(&self, values: &[f32], quantized: &mut [u16]) {
        // Truncation after adding a half is rounding, and compiles to vector code where `round` does not.
        if let Some(ZScore { mean, std, .. }) = self.zscore {
            let (low, high, per_unit) = (f64::from(self.low), f64::from(self.high), 1.0 / self.scale);
            for (quantized, &value) in quantized.iter_mut().zip(values) {
                let z = (f64::from(value) - mean) / std;
                *quantized = ((z.clamp(low, high) - low) * per_unit + 0.5) as i32 as u16;
            }
            return;
        }
        for (quantized, &value) in quantized.iter_mut().zip(values) {
            *quantized = (value.clamp(self.low, self.high) - self.low + 0.5) as i32 as u16;
        }
    }
}

/// Scale of stored z-scores in a range, the distance between two of them: the smallest power of two at which the range
/// fits into 16 bits.
#[must_use]
pub fn zscore_scale([low, high]: [f64; 2]) -> f64 {
    let mut scale = 1.0;
    while scale > 1.0 / 65_536.0 && (high - low) / (scale / 2.0) <= 65_535.0 {
        scale /= 2.0;
    }
    scale
}

/// Number of bits needed for numbers up to `largest`.
#[expect(clippy::cast_possible_truncation, reason = "at most 32")]
fn bits(largest: u32) -> u8 {
    (32 - largest.leading_zeros()) as u8
}

/// Linear map from quantized values to the values of crops: window units (0 is the window's lower end, 1 its upper end)
/// or z-scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor of a quantized value.
    pub gain: f32,
    /// Value added to the product; the sum is clamped.
    pub bias: f32,
    /// Lowest value: 0 in window units.
    pub low: f32,
    /// Highest value: 1 in window units.
    pub high: f32,
}

impl Scale {
    /// Creates the map to window units for stored values that mean `hu = offset + scale * quantized`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "crops are f32")]
    pub fn new(scale: f64, offset: f64, [low, high]: [f64; 2]) -> Self {
        Self { gain: (scale / (high - low)) as f32, bias: ((offset - low) / (high - low)) as f32, low: 0.0, high: 1.0 }
    }

    /// Creates the map to `offset + scale * quantized` itself.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "crops are f32")]
    pub fn unchanged(scale: f64, offset: f64) -> Self {
        let high = offset + scale * f64::from(u16::MAX);
        Self { gain: scale as f32, bias: offset as f32, low: offset as f32, high: high as f32 }
    }

    /// Maps a quantized value. Only values of a cache with [`Store::Full`] are ever clamped.
    #[inline]
    #[must_use]
    pub fn apply(self, quantized: u16) -> f32 {
        let value = f32::from(quantized) * self.gain + self.bias;
        // `clamp` would check in each iteration of a loop that `low` is not above `high`.
        let value = if value < self.low { self.low } else { value };
        if value > self.high { self.high } else { value }
    }

    /// Quantized value that represents voxels outside the volume: the lower end of a window, or the mean.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; exact for z-scores")]
    pub fn outside(self) -> u16 {
        if self.low < 0.0 { (-self.bias / self.gain) as u16 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "values that f32 and f64 hold exactly")]

    use super::*;

    #[test]
    fn values_inside_the_window_are_rounded_to_one_hu() {
        let quantiser = Quantiser::new([-175.0, 250.0], Store::Window);
        assert_eq!((quantiser.bits, quantiser.foreground_above, quantiser.offset), (9, 0, -175.0));
        let mut quantized = [0; 6];
        quantiser.quantise(&[-2000.0, -175.0, -174.4, 0.0, 250.0, 3000.0], &mut quantized);
        assert_eq!(quantized, [0, 0, 1, 175, 425, 425]);
    }

    #[test]
    fn window_ends_map_to_0_and_1() {
        let scale = Scale::new(1.0, -100.0, [0.0, 100.0]);
        assert_eq!([0, 100, 200, 300].map(|value| scale.apply(value)), [0.0, 0.0, 1.0, 1.0]);
        assert!((Scale::new(2.0, -10.0, [0.0, 100.0]).apply(30) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn the_full_range_keeps_every_hu() {
        let quantiser = Quantiser::new([-175.0, 250.0], Store::Full);
        assert_eq!((quantiser.bits, quantiser.foreground_above, quantiser.offset), (16, 32_593, -32_768.0));
        let mut quantized = [0; 3];
        quantiser.quantise(&[-1024.0, 0.0, 3071.0], &mut quantized);
        assert_eq!(quantized.map(|s| i32::from(s) - 32_768), [-1024, 0, 3071]);
    }

    #[test]
    fn z_scores_are_rounded_to_a_power_of_two() {
        let zscore = ZScore { mean: 300.0, std: 150.0, min: 0.0, extremes: None };
        let quantiser = Quantiser::zscore([-20.0, 40.0], zscore);
        assert_eq!((quantiser.offset, quantiser.scale, quantiser.bits), (-20.0, 1.0 / 1024.0, 16));
        let scale = Scale::unchanged(quantiser.scale, quantiser.offset);
        let values = [0.0, 300.0, 450.0, 375.5, 1e6, -1e6];
        let mut quantized = [0; 6];
        quantiser.quantise(&values, &mut quantized);
        for (value, quantized) in values.into_iter().zip(quantized) {
            let expected = ((f64::from(value) - 300.0) / 150.0).clamp(-20.0, 40.0);
            assert!((f64::from(scale.apply(quantized)) - expected).abs() <= 0.5 / 1024.0, "{value}: {quantized}");
        }
        // The mean is exact, and the background is what is 0 in the file.
        assert_eq!(scale.apply(quantized[1]), 0.0);
        assert_eq!((quantiser.foreground_above, quantized[0]), (18 * 1024, 18 * 1024));
        let negative = Quantiser::zscore([-20.0, 40.0], ZScore { min: -1.0, ..zscore });
        assert_eq!(negative.foreground_above, 0);
    }

    #[test]
    fn scales_of_z_scores_use_16_bits() {
        for (range, scale) in
            [([-1.0, 1.0], 1.0 / 16_384.0), ([-16.0, 16.0], 1.0 / 1024.0), ([-128.0, 128.0], 1.0 / 128.0)]
        {
            assert_eq!(zscore_scale(range), scale, "{range:?}");
        }
    }
}
