//! Normalisation of a scan's values before they are stored.

use hiend_cache::CaseRecord;
use serde::{Deserialize, Serialize};

use super::window::Scale;
use crate::volume::Wanted;

/// Normalisation of a scan's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalize {
    /// Hounsfield units of a CT, unchanged; crops show a window of them.
    #[default]
    Hu,
    /// Z-scores by each scan's own mean and standard deviation, see [`ZScore`](super::zscore::ZScore).
    Zscore,
}

impl Normalize {
    /// Normalisation of a cached case, derived from its record: only records of z-scores have a mean.
    #[must_use]
    pub fn of_case(record: &CaseRecord) -> Self {
        let mean = record.values.as_ref().and_then(|values| values.mean);
        if mean.is_some() { Self::Zscore } else { Self::Hu }
    }

    /// Returns true for HU, the default, which manifests and configurations leave out.
    #[must_use]
    pub fn is_hu(&self) -> bool {
        matches!(self, Self::Hu)
    }

    /// Unit of values, for messages.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Hu => "HU",
            Self::Zscore => "standard deviations",
        }
    }

    /// Name of the stored values, for messages.
    #[must_use]
    pub fn values(self) -> &'static str {
        match self {
            Self::Hu => "HU",
            Self::Zscore => "z-scores",
        }
    }

    /// Name on the command line and in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hu => "hu",
            Self::Zscore => "zscore",
        }
    }

    /// Range of values that is kept by default, in [`Self::unit`].
    #[must_use]
    pub fn default_window(self) -> [f64; 2] {
        match self {
            Self::Hu => [-175.0, 250.0],
            // At most 1 voxel of 1,600 lies 40 standard deviations off the mean (Chebyshev). The scale is 1/1024.
            Self::Zscore => [-20.0, 40.0],
        }
    }
}

impl From<Normalize> for Wanted {
    /// Returns the modalities of a normalisation: CT for HU, every modality for z-scores.
    fn from(normalize: Normalize) -> Self {
        match normalize {
            Normalize::Hu => Self::Ct,
            Normalize::Zscore => Self::CrossSections,
        }
    }
}

/// Meaning of a crop's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Units {
    /// Position in a window of HU: 0 is its lower end, 1 its upper end.
    Window([f64; 2]),
    /// Z-scores as stored. 0 is the mean, and the value of voxels outside the volume, as in nnU-Net and nnssl.
    ZScores,
}

impl Units {
    /// Units of the crops of a cache; `window`, in HU, replaces the cache's own.
    #[must_use]
    pub fn new(normalize: Normalize, window: [f64; 2]) -> Self {
        match normalize {
            Normalize::Hu => Self::Window(window),
            Normalize::Zscore => Self::ZScores,
        }
    }

    /// Conversion of stored values, which mean `offset + scale * quantized`, to these units.
    #[must_use]
    pub fn scale(self, scale: f64, offset: f64) -> Scale {
        match self {
            Self::Window(window) => Scale::new(scale, offset, window),
            Self::ZScores => Scale::unchanged(scale, offset),
        }
    }

    /// Converts stored values, which mean `offset + scale * quantized`, to these units.
    #[must_use]
    pub fn values(self, quantized: &[u16], offset: f64, scale: f64) -> Vec<f32> {
        let scale = self.scale(scale, offset);
        quantized.iter().map(|&value| scale.apply(value)).collect()
    }

    /// Values shown as black and as white in pictures.
    #[must_use]
    pub fn shown_range(self) -> [f32; 2] {
        match self {
            Self::Window(_) => [0.0, 1.0],
            Self::ZScores => [-2.0, 4.0],
        }
    }

    /// Grey level of a value in pictures: 0 is black, 1 is white; levels beyond both are possible.
    #[must_use]
    pub fn grey(self, value: f32) -> f32 {
        match self {
            Self::Window(_) => value,
            Self::ZScores => {
                let [black, white] = self.shown_range();
                (value - black) / (white - black)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "values that f32 and f64 hold exactly")]

    use super::*;

    #[test]
    fn names_are_those_of_configurations() {
        for normalize in [Normalize::Hu, Normalize::Zscore] {
            assert_eq!(serde_json::to_string(&normalize).unwrap(), format!("{:?}", normalize.name()));
        }
    }

    #[test]
    fn z_scores_are_exact_and_zero_outside() {
        // Steps of 1/1024 from -20: every value is exact in f32.
        let scale = Units::ZScores.scale(1.0 / 1024.0, -20.0);
        for (value, expected) in [(0, -20.0), (20_480, 0.0), (20_481, 0.000_976_562_5), (61_440, 40.0)] {
            assert_eq!(scale.apply(value), expected);
        }
        assert_eq!((scale.outside(), scale.apply(scale.outside())), (20_480, 0.0));
        assert_eq!(Units::ZScores.values(&[19_456, 21_504], -20.0, 1.0 / 1024.0), [-1.0, 1.0]);
    }

    #[test]
    fn a_window_is_clamped_and_0_outside() {
        for offset in [-175.0, -32_768.0] {
            let scale = Units::Window([-175.0, 250.0]).scale(1.0, offset);
            assert_eq!((scale.outside(), scale.apply(scale.outside()), scale.apply(u16::MAX)), (0, 0.0, 1.0));
        }
    }

    #[test]
    fn pictures_show_the_window_or_two_below_to_four_above_the_mean() {
        let z = [-2.0, 0.0, 4.0, 10.0].map(|value| Units::ZScores.grey(value));
        assert_eq!(z, [0.0, 1.0 / 3.0, 1.0, 2.0]);
        assert_eq!(Units::Window([-175.0, 250.0]).grey(0.25), 0.25);
    }
}
