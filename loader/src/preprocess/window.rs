//! Between Hounsfield units and stored 16-bit steps.

use serde::{Deserialize, Serialize};

/// Which values a cache keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Only the window, in steps of 1 HU: the smallest cache, and the window is fixed.
    #[default]
    Window,
    /// -32768 to 32767 HU in steps of 1 HU: any window can be chosen when streaming.
    Full,
}

/// Rounds HU to stored samples: `hu = offset + sample`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiser {
    low: f32,
    high: f32,
    /// HU of sample 0.
    pub offset: f64,
    /// Significant bits of a sample.
    pub bits: u8,
    /// Samples above this are foreground.
    pub foreground_above: u16,
}

impl Quantiser {
    /// For a validated window.
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
        let steps = (high - low) as u32;
        Self {
            low: low as f32,
            high: high as f32,
            offset: low,
            bits: (32 - steps.leading_zeros()) as u8,
            foreground_above: (window[0] - low) as u16,
        }
    }

    /// Clips to the range kept and rounds to the nearest step.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=65535 before the cast")]
    pub fn quantise(&self, hu: &[f32], samples: &mut [u16]) {
        for (sample, &value) in samples.iter_mut().zip(hu) {
            // Truncating after adding a half is rounding, and stays vector code where `round` does not.
            *sample = (value.clamp(self.low, self.high) - self.low + 0.5) as i32 as u16;
        }
    }
}

/// From stored samples to units of the window: 0 is its lower end, 1 its upper end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Multiplies a sample.
    pub gain: f32,
    /// Is added; then the sum is clamped to 0 to 1.
    pub bias: f32,
}

impl Scale {
    /// For samples of `hu = offset + step * sample`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "crops are f32")]
    pub fn new(step: f64, offset: f64, [low, high]: [f64; 2]) -> Self {
        Self { gain: (step / (high - low)) as f32, bias: ((offset - low) / (high - low)) as f32 }
    }

    /// Clamping matters for caches of the full range; inside the window it changes nothing.
    #[inline]
    #[must_use]
    pub fn apply(self, sample: u16) -> f32 {
        (f32::from(sample) * self.gain + self.bias).clamp(0.0, 1.0)
    }
}

/// Stored samples of `hu = offset + step * sample` in units of a window, as crops hold them.
#[must_use]
pub fn window_units(samples: &[u16], offset: f64, step: f64, window: [f64; 2]) -> Vec<f32> {
    let scale = Scale::new(step, offset, window);
    samples.iter().map(|&sample| scale.apply(sample)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_becomes_steps_of_one_hu() {
        let quantiser = Quantiser::new([-175.0, 250.0], Store::Window);
        assert_eq!((quantiser.bits, quantiser.foreground_above, quantiser.offset), (9, 0, -175.0));
        let mut samples = [0; 6];
        quantiser.quantise(&[-2000.0, -175.0, -174.4, 0.0, 250.0, 3000.0], &mut samples);
        assert_eq!(samples, [0, 0, 1, 175, 425, 425]);
    }

    #[test]
    fn a_window_s_ends_are_0_and_1() {
        let units = window_units(&[0, 100, 200, 300], -100.0, 1.0, [0.0, 100.0]);
        assert_eq!(units, [0.0, 0.0, 1.0, 1.0]);
        assert!((window_units(&[30], -10.0, 2.0, [0.0, 100.0])[0] - 0.5).abs() < 1e-6);
    }

    #[test]
    fn the_full_range_keeps_every_hu() {
        let quantiser = Quantiser::new([-175.0, 250.0], Store::Full);
        assert_eq!((quantiser.bits, quantiser.foreground_above, quantiser.offset), (16, 32_593, -32_768.0));
        let mut samples = [0; 3];
        quantiser.quantise(&[-1024.0, 0.0, 3071.0], &mut samples);
        assert_eq!(samples.map(|s| i32::from(s) - 32_768), [-1024, 0, 3071]);
    }
}
