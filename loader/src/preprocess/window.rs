//! Conversion of Hounsfield units (HU) to stored 16-bit values, and of these to window units.

use serde::{Deserialize, Serialize};

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

/// Rounds HU to stored values: `hu = offset + quantized`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiser {
    low: f32,
    high: f32,
    /// HU of quantized value 0.
    pub offset: f64,
    /// Number of significant bits of a quantized value.
    pub bits: u8,
    /// Largest quantized value that is not foreground.
    pub foreground_above: u16,
}

impl Quantiser {
    /// Creates the quantiser of a window that [`PreprocessConfig::validate`](super::PreprocessConfig::validate) accepts.
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
            offset: low,
            bits: (32 - largest.leading_zeros()) as u8,
            foreground_above: (window[0] - low) as u16,
        }
    }

    /// Clamps HU to the stored range and rounds them to the nearest value; both slices have the same length.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=65535 before the cast")]
    pub fn quantise(&self, hu: &[f32], quantized: &mut [u16]) {
        for (quantized, &value) in quantized.iter_mut().zip(hu) {
            // Truncation after adding a half is rounding, and compiles to vector code where `round` does not.
            *quantized = (value.clamp(self.low, self.high) - self.low + 0.5) as i32 as u16;
        }
    }
}

/// Linear map from quantized values to window units: 0 is the window's lower end, 1 its upper end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor of a quantized value.
    pub gain: f32,
    /// Summand; the sum is clamped to [0, 1].
    pub bias: f32,
}

impl Scale {
    /// The map for values of `hu = offset + scale * quantized`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "crops are f32")]
    pub fn new(scale: f64, offset: f64, [low, high]: [f64; 2]) -> Self {
        Self { gain: (scale / (high - low)) as f32, bias: ((offset - low) / (high - low)) as f32 }
    }

    /// The value in window units, [0, 1]. Only values of a cache with [`Store::Full`] are ever clamped.
    #[inline]
    #[must_use]
    pub fn apply(self, quantized: u16) -> f32 {
        (f32::from(quantized) * self.gain + self.bias).clamp(0.0, 1.0)
    }
}

/// Converts quantized values of `hu = offset + scale * quantized` to window units, the values of crops.
#[must_use]
pub fn window_units(quantized: &[u16], offset: f64, scale: f64, window: [f64; 2]) -> Vec<f32> {
    let scale = Scale::new(scale, offset, window);
    quantized.iter().map(|&value| scale.apply(value)).collect()
}

#[cfg(test)]
mod tests {
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
        let units = window_units(&[0, 100, 200, 300], -100.0, 1.0, [0.0, 100.0]);
        assert_eq!(units, [0.0, 0.0, 1.0, 1.0]);
        assert!((window_units(&[30], -10.0, 2.0, [0.0, 100.0])[0] - 0.5).abs() < 1e-6);
    }

    #[test]
    fn the_full_range_keeps_every_hu() {
        let quantiser = Quantiser::new([-175.0, 250.0], Store::Full);
        assert_eq!((quantiser.bits, quantiser.foreground_above, quantiser.offset), (16, 32_593, -32_768.0));
        let mut quantized = [0; 3];
        quantiser.quantise(&[-1024.0, 0.0, 3071.0], &mut quantized);
        assert_eq!(quantized.map(|s| i32::from(s) - 32_768), [-1024, 0, 3071]);
    }
}
