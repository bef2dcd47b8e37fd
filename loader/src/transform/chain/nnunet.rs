//! Default 3-D chain of nnU-Net, for one channel.
//!
//! Parts of nnU-Net's pipeline that concern its own data are not included: masks for normalisation, cascades,
//! regions, and the coarser labels of deep supervision.
//!
//! Throughput in crops of 96³ per second on one core, averaged over the sampled parameters, in one session on a busy
//! 2-core machine: 260 to 284, with labels 220 to 238; batchgeneratorsv2 0.3.6 on `PyTorch` 2.15, one thread, sources
//! of 154³ (the box that nnU-Net cuts for 96³): 30, with labels of three classes 9. Copying a crop: 4,000. `cargo bench
//! -p benches --bench transforms` repeats our figures in wall-clock time.

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

/// Settings of nnU-Net's default 3-D chain, in the order of application. The probabilities stated are the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nnunet {
    /// Rotation and scaling, probability 0.2 each.
    pub spatial: Spatial,
    /// Additive noise, probability 0.1.
    pub gaussian_noise: GaussianNoise,
    /// Blur, probability 0.2 times 0.5.
    pub gaussian_blur: GaussianBlur,
    /// Multiplication of the intensities, probability 0.15.
    pub brightness: Brightness,
    /// Contrast about the mean, probability 0.15.
    pub contrast: Contrast,
    /// Simulated low resolution, probability 0.25 times 0.5.
    pub low_resolution: LowResolution,
    /// Gamma correction of the inverted image, probability 0.1.
    pub gamma_inverted: Gamma,
    /// Gamma correction, probability 0.3.
    pub gamma: Gamma,
    /// Mirroring, probability 0.5 per axis.
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

/// Parameters of nnU-Net's chain for one crop, in the order of application; `None` for transforms that are not applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NnunetParams {
    /// Rotation and scaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spatial: Option<SpatialParams>,
    /// Added Gaussian noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaussian_noise: Option<GaussianNoiseParams>,
    /// Shape of the box, centred on the crop's centre, to cut from the volume for a crop of `crop_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaussian_blur: Option<GaussianBlurParams>,
    /// Describes each applied transform by a phrase, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brightness: Option<BrightnessParams>,
    /// Contrast about the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<ContrastParams>,
    /// Simulated low resolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_resolution: Option<LowResolutionParams>,
    /// Gamma correction of the inverted image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma_inverted: Option<GammaParams>,
    /// Gamma correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<GammaParams>,
    /// Mirroring along chosen axes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorParams>,
}

impl Nnunet {
    /// Samples all parameters of the crop `id`.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> NnunetParams {
        NnunetParams {
            spatial: self.spatial.sample_params(id),
            gaussian_noise: self.gaussian_noise.sample_params(id),
            gaussian_blur: self.gaussian_blur.sample_params(id),
            brightness: self.brightness.sample_params(id),
            contrast: self.contrast.sample_params(id),
            low_resolution: self.low_resolution.sample_params(id),
            gamma_inverted: self.gamma_inverted.sample_params(id, Polarity::Inverted),
            gamma: self.gamma.sample_params(id, Polarity::Plain),
            mirror: self.mirror.sample_params(id, MirrorUse::Mirror),
        }
    }
}

impl NnunetParams {
    /// Shape of the box to cut from the volume, about the crop's centre, for a crop of `crop_size`.
    #[must_use]
    pub fn source_box(&self, crop_size: [usize; 3]) -> [usize; 3] {
        self.spatial.map_or(crop_size, |params| params.source_box(crop_size))
    }

    /// Describes each transform that is applied by one phrase, in order.
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

    /// Applies the whole chain. Voxels outside a source smaller than [`Self::source_box`] count as 0.
    ///
    /// # Panics
    /// Like [`super::SampledParams::apply`].
    pub fn apply(&self, source: CropRef<'_>, crop: &mut CropMut<'_>, scratch: &mut Scratch) {
        if let Some(spatial) = &self.spatial {
            spatial.apply_image(source.image, source.shape, crop.image, crop.shape, scratch);
            match (source.labels, crop.labels.as_deref_mut()) {
                (Some(from), Some(to)) => spatial.apply_labels(from, source.shape, to, crop.shape),
                (None, None) => {}
                _ => panic!("source and crop both have labels or neither has"),
            }
        } else {
            copy(source, crop);
        }
        self.apply_in_place(crop, scratch);
    }

    /// Applies, in place, the transforms that follow the resampling.
    ///
    /// # Panics
    /// If a slice does not have its shape.
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
