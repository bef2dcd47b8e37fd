//! Presets: which transforms a crop goes through, in which order.

use serde::{Deserialize, Serialize};

use super::axis_map::AxisMap;
use super::brightness::{Brightness, BrightnessParams};
use super::contrast::{Contrast, ContrastParams};
use super::gamma::{Gamma, GammaParams, Polarity};
use super::gaussian_blur::{GaussianBlur, GaussianBlurParams};
use super::gaussian_noise::{GaussianNoise, GaussianNoiseParams};
use super::low_resolution::{LowResolution, LowResolutionParams};
use super::mirror::{Mirror, MirrorParams, MirrorUse};
use super::rotate90::{Rotate90, Rotate90Params};
use super::scale_intensity::{ScaleIntensity, ScaleIntensityParams};
use super::scratch::Scratch;
use super::shift_intensity::{ShiftIntensity, ShiftIntensityParams};
use super::spatial::{Spatial, SpatialParams};
use crate::rng::DrawId;

/// The augmentation of a stream, as its config states it: `chain = "nnunet"`, then a table for each transform whose
/// numbers differ from the preset's. A transform is switched off by `probability = 0`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "chain", rename_all = "snake_case")]
pub enum Chain {
    /// Crops as they are, for validation.
    Plain(Plain),
    /// The pre-training recipe's.
    Recipe(Recipe),
    /// nnU-Net's default 3-D chain.
    Nnunet(Nnunet),
}

/// No transform, and so no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {}

/// Hi-End-MAE's pre-training chain, in the order applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Each axis with probability 0.5.
    pub flip: Mirror,
    /// With probability 0.3.
    pub rotate90: Rotate90,
    /// With probability 0.1, by up to a tenth.
    pub scale_intensity: ScaleIntensity,
    /// With probability 0.1, by up to a tenth of the window.
    pub shift_intensity: ShiftIntensity,
}

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

/// Every parameter of one crop: enough to do it again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "chain", rename_all = "snake_case")]
pub enum Drawn {
    /// Nothing.
    Plain(Plain),
    /// Of [`Recipe`].
    Recipe(RecipeDrawn),
    /// Of [`Nnunet`].
    Nnunet(NnunetDrawn),
}

/// What the recipe's chain drew; `None` where a transform did not come up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipeDrawn {
    /// First.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip: Option<MirrorParams>,
    /// Second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate90: Option<Rotate90Params>,
    /// Third.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_intensity: Option<ScaleIntensityParams>,
    /// Fourth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_intensity: Option<ShiftIntensityParams>,
}

/// What nnU-Net's chain drew; `None` where a transform did not come up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NnunetDrawn {
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

/// Voxels to read: a box cut from a volume.
#[derive(Clone, Copy, Debug)]
pub struct CropRef<'a> {
    /// Image, z fastest.
    pub image: &'a [f32],
    /// Labels of the same voxels, if the stream carries labels.
    pub labels: Option<&'a [u8]>,
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
}

/// Voxels to write: a crop's place in a batch.
#[derive(Debug)]
pub struct CropMut<'a> {
    /// Image, z fastest.
    pub image: &'a mut [f32],
    /// Labels of the same voxels, if the stream carries labels.
    pub labels: Option<&'a mut [u8]>,
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
}

impl Chain {
    /// The recipe's preset.
    #[must_use]
    pub fn recipe() -> Self {
        Self::Recipe(Recipe::default())
    }

    /// nnU-Net's preset.
    #[must_use]
    pub fn nnunet() -> Self {
        Self::Nnunet(Nnunet::default())
    }

    /// No augmentation.
    #[must_use]
    pub fn plain() -> Self {
        Self::Plain(Plain {})
    }

    /// All parameters of the crop that `id` names: a pure function.
    #[must_use]
    pub fn draw(&self, id: &DrawId) -> Drawn {
        match self {
            Self::Plain(plain) => Drawn::Plain(*plain),
            Self::Recipe(recipe) => Drawn::Recipe(recipe.draw(id)),
            Self::Nnunet(nnunet) => Drawn::Nnunet(nnunet.draw(id)),
        }
    }
}

impl Recipe {
    /// All parameters of the crop that `id` names.
    #[must_use]
    pub fn draw(&self, id: &DrawId) -> RecipeDrawn {
        RecipeDrawn {
            flip: self.flip.draw(id, MirrorUse::Flip),
            rotate90: self.rotate90.draw(id),
            scale_intensity: self.scale_intensity.draw(id),
            shift_intensity: self.shift_intensity.draw(id),
        }
    }
}

impl Nnunet {
    /// All parameters of the crop that `id` names.
    #[must_use]
    pub fn draw(&self, id: &DrawId) -> NnunetDrawn {
        NnunetDrawn {
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

impl Drawn {
    /// The box to cut from the volume, about the crop's centre, for a crop of `crop_size`.
    #[must_use]
    pub fn source_box(&self, crop_size: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Plain(_) => crop_size,
            Self::Recipe(drawn) => drawn.axis_map().source_shape(crop_size),
            Self::Nnunet(drawn) => drawn.source_box(crop_size),
        }
    }

    /// One phrase for each thing done, in the order done.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        match self {
            Self::Plain(_) => Vec::new(),
            Self::Recipe(drawn) => drawn.describe(),
            Self::Nnunet(drawn) => drawn.describe(),
        }
    }

    /// From the box of [`Self::source_box`] to the augmented crop.
    ///
    /// # Panics
    /// If a slice has not its shape, if the source's shape does not fit, or if only one side has labels.
    pub fn apply(&self, source: CropRef<'_>, crop: &mut CropMut<'_>, scratch: &mut Scratch) {
        match self {
            Self::Plain(_) => copy(source, crop),
            Self::Recipe(drawn) => drawn.apply(source, crop),
            Self::Nnunet(drawn) => drawn.apply(source, crop, scratch),
        }
    }
}

impl RecipeDrawn {
    /// Flips and quarter turns as one map.
    #[must_use]
    pub fn axis_map(&self) -> AxisMap {
        AxisMap::new(self.flip, self.rotate90)
    }

    /// `(m, a)` such that a voxel v becomes m v + a: the two intensity steps.
    ///
    /// Where one did not come up its number is 1 or 0, which leaves every voxel as the plain step leaves it (but for
    /// the sign of a zero).
    #[must_use]
    pub fn intensity(&self) -> (f32, f32) {
        (
            self.scale_intensity.map_or(1.0, |params| params.factor),
            self.shift_intensity.map_or(0.0, |params| params.shift),
        )
    }

    /// One phrase for each thing done, in the order done.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let Self { flip, rotate90, scale_intensity, shift_intensity } = self;
        phrases([phrase(flip), phrase(rotate90), phrase(scale_intensity), phrase(shift_intensity)])
    }

    /// The plain form of what the pipeline fuses with its crop copy.
    ///
    /// # Panics
    /// As [`Drawn::apply`].
    pub fn apply(&self, source: CropRef<'_>, crop: &mut CropMut<'_>) {
        let map = self.axis_map();
        assert_eq!(source.shape, map.source_shape(crop.shape), "the source is the box asked for");
        let (factor, shift) = self.intensity();
        permute(source.image, source.shape, crop.image, crop.shape, map, |v| v * factor + shift);
        match (source.labels, crop.labels.as_deref_mut()) {
            (Some(from), Some(to)) => permute(from, source.shape, to, crop.shape, map, |v| v),
            (None, None) => {}
            _ => panic!("labels go in and out, or neither"),
        }
    }
}

impl NnunetDrawn {
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
            phrase(spatial),
            phrase(gaussian_noise),
            phrase(gaussian_blur),
            phrase(brightness),
            phrase(contrast),
            phrase(low_resolution),
            phrase(gamma_inverted),
            phrase(gamma),
            phrase(mirror),
        ])
    }

    /// The whole chain. A source that is smaller than [`Self::source_box`] counts as 0 outside.
    ///
    /// # Panics
    /// As [`Drawn::apply`].
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

fn phrase(params: &Option<impl ToString>) -> Option<String> {
    params.as_ref().map(ToString::to_string)
}

fn phrases<const N: usize>(all: [Option<String>; N]) -> Vec<String> {
    all.into_iter().flatten().collect()
}

fn copy(source: CropRef<'_>, crop: &mut CropMut<'_>) {
    assert_eq!(source.shape, crop.shape, "the source is the box asked for");
    crop.image.copy_from_slice(source.image);
    match (source.labels, crop.labels.as_deref_mut()) {
        (Some(from), Some(to)) => to.copy_from_slice(from),
        (None, None) => {}
        _ => panic!("labels go in and out, or neither"),
    }
}

fn permute<T: Copy>(
    from: &[T],
    from_shape: [usize; 3],
    to: &mut [T],
    shape: [usize; 3],
    map: AxisMap,
    value: impl Fn(T) -> T,
) {
    assert_eq!(to.len(), shape.iter().product::<usize>(), "a crop has its shape");
    assert_eq!(from.len(), to.len(), "the source is the box asked for");
    let (start, steps) = map.walk(shape, [from_shape[1] * from_shape[2], from_shape[2], 1]);
    let offset = |i: usize, axis: usize| i as isize * steps[axis];
    for (row, to) in to.chunks_exact_mut(shape[2].max(1)).enumerate() {
        let row_at = offset(row / shape[1], 0) + offset(row % shape[1], 1);
        for (z, t) in to.iter_mut().enumerate() {
            *t = value(from[start.wrapping_add_signed(row_at + offset(z, 2))]);
        }
    }
}
