//! nnU-Net's default 3-D chain, for one channel.
//!
//! Left out are the steps behind it that are about nnU-Net's own data: masks for normalisation, cascades, regions,
//! and the coarser labels of deep supervision.
//!
//! Crops of 96³ a second of one core's time, over the drawn probabilities, in one session on a busy 2-core machine:
//! 260 to 284, with labels 220 to 238; batchgeneratorsv2 0.3.6 on `PyTorch` 2.15, one thread, sources of 154³ (what
//! nnU-Net cuts for 96³): 30, with labels of three classes 9. A crop's copy alone: 4,000.
//! `cargo bench -p benches --bench transforms` repeats ours by the clock.

use serde::{Deserialize, Serialize};

use super::super::brightness::{Brightness, BrightnessParams};
use super::super::contrast::{Contrast, ContrastParams};
use super::super::gamma::{Gamma, GammaParams, Polarity};
use super::super::gaussian_blur::{GaussianBlur, GaussianBlurParams};
use super::super::gaussian_noise::{GaussianNoise, GaussianNoiseParams};
use super::super::low_resolution::{LowResolution, LowResolutionParams};
use super::super::mirror::{Mirror, MirrorParams, MirrorUse};
use super::super::scratch::Scratch;
use super::super::spatial::{Spatial, SpatialParams};
use super::{CropMut, CropRef, copy, phrase, phrases};
use crate::rng::DrawId;

/// nnU-Net's default 3-D chain, in the order applied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nnunet {
    /// Rotation and scaling, each with probability 0.2.
    pub spatial: Spatial,
    /// With probability 0.1.
    pub gaussian_noise: GaussianNoise,
    /// With probability 0.2 times 0.5.
    pub gaussian_blur: GaussianBlur,
    /// With probability 0.15.
    pub brightness: Brightness,
    /// With probability 0.15.
    pub contrast: Contrast,
    /// With probability 0.25 times 0.5.
    pub low_resolution: LowResolution,
    /// With probability 0.1.
    pub gamma_inverted: Gamma,
    /// With probability 0.3.
    pub gamma: Gamma,
    /// Each axis with probability 0.5.
    pub mirror: Mirror,
}

impl Default for Nnunet {
    fn default() -> Self {
        Self {
            spatial: Spatial::default(),
            gaussian_noise: GaussianNoise::default(),
            gaussian_blur: GaussianBlur::default(),
            brightness: Brightness::default(),
            contrast: Contrast::default(),
            low_resolution: LowResolution::default(),
            gamma_inverted: Gamma::inverted(),
            gamma: Gamma::default(),
            mirror: Mirror::default(),
        }
    }
}

/// What nnU-Net's chain drew; `None` where a transform did not come up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NnunetParams {
    /// First.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spatial: Option<SpatialParams>,
    /// Second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaussian_noise: Option<GaussianNoiseParams>,
    /// Third.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaussian_blur: Option<GaussianBlurParams>,
    /// Fourth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brightness: Option<BrightnessParams>,
    /// Fifth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<ContrastParams>,
    /// Sixth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_resolution: Option<LowResolutionParams>,
    /// Seventh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma_inverted: Option<GammaParams>,
    /// Eighth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<GammaParams>,
    /// Last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorParams>,
}

impl Nnunet {
    /// All parameters of the crop that `id` names.
    #[must_use]
    pub fn draw(&self, id: &DrawId) -> NnunetParams {
        NnunetParams {
            spatial: self.spatial.draw(id),
            gaussian_noise: self.gaussian_noise.draw(id),
            gaussian_blur: self.gaussian_blur.draw(id),
            brightness: self.brightness.draw(id),
            contrast: self.contrast.draw(id),
            low_resolution: self.low_resolution.draw(id),
            gamma_inverted: self.gamma_inverted.draw(id, Polarity::Inverted),
            gamma: self.gamma.draw(id, Polarity::Plain),
            mirror: self.mirror.draw(id, MirrorUse::Mirror),
        }
    }
}

impl NnunetParams {
    /// The box to cut from the volume, about the crop's centre, for a crop of `crop_size`.
    #[must_use]
    pub fn source_box(&self, crop_size: [usize; 3]) -> [usize; 3] {
        self.spatial.map_or(crop_size, |params| params.source_box(crop_size))
    }

    /// One phrase for each thing done, in the order done.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let Self {
            spatial,
            gaussian_noise,
            gaussian_blur,
            brightness,
            contrast,
            low_resolution,
            gamma_inverted,
            gamma,
            mirror,
        } = self;
        phrases([
            phrase(spatial.as_ref()),
            phrase(gaussian_noise.as_ref()),
            phrase(gaussian_blur.as_ref()),
            phrase(brightness.as_ref()),
            phrase(contrast.as_ref()),
            phrase(low_resolution.as_ref()),
            phrase(gamma_inverted.as_ref()),
            phrase(gamma.as_ref()),
            phrase(mirror.as_ref()),
        ])
    }

    /// The whole chain. A source that is smaller than [`Self::source_box`] counts as 0 outside.
    ///
    /// # Panics
    /// As [`super::SampledParams::apply`].
    pub fn apply(&self, source: CropRef<'_>, crop: &mut CropMut<'_>, scratch: &mut Scratch) {
        if let Some(spatial) = &self.spatial {
            spatial.apply_image(source.image, source.shape, crop.image, crop.shape, scratch);
            match (source.labels, crop.labels.as_deref_mut()) {
                (Some(from), Some(to)) => spatial.apply_labels(from, source.shape, to, crop.shape),
                (None, None) => {}
                _ => panic!("labels go in and out, or neither"),
            }
        } else {
            copy(source, crop);
        }
        self.apply_in_place(crop, scratch);
    }

    /// Everything after the resampling: for crops that were cut straight into their place.
    ///
    /// # Panics
    /// If a slice has not its shape.
    pub fn apply_in_place(&self, crop: &mut CropMut<'_>, scratch: &mut Scratch) {
        let image = &mut *crop.image;
        if let Some(params) = &self.gaussian_noise {
            params.apply(image);
        }
        if let Some(params) = &self.gaussian_blur {
            params.apply(image, crop.shape, scratch);
        }
        if let Some(params) = &self.brightness {
            params.apply(image);
        }
        if let Some(params) = &self.contrast {
            params.apply(image);
        }
        if let Some(params) = &self.low_resolution {
            params.apply(image, crop.shape, scratch);
        }
        if let Some(params) = &self.gamma_inverted {
            params.apply(image);
        }
        if let Some(params) = &self.gamma {
            params.apply(image);
        }
        if let Some(params) = &self.mirror {
            params.apply(image, crop.shape);
            if let Some(labels) = crop.labels.as_deref_mut() {
                params.apply(labels, crop.shape);
            }
        }
    }
}
