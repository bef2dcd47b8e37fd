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
        phrases([
            phrase(flip.as_ref()),
            phrase(rotate90.as_ref()),
            phrase(scale_intensity.as_ref()),
            phrase(shift_intensity.as_ref()),
        ])
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

fn phrase(params: Option<&impl ToString>) -> Option<String> {
    params.map(ToString::to_string)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(crop: u32) -> DrawId {
        DrawId { seed: 5, epoch: 1, case: 77, crop }
    }

    #[test]
    fn a_name_is_the_preset_and_a_table_changes_it() {
        let parse = |text: &str| serde_json::from_str::<Chain>(text).map_err(|e| e.to_string());
        assert_eq!(parse(r#"{"chain": "recipe"}"#), Ok(Chain::recipe()));
        assert_eq!(parse(r#"{"chain": "nnunet"}"#), Ok(Chain::nnunet()));
        assert_eq!(parse(r#"{"chain": "plain"}"#), Ok(Chain::plain()));
        let Ok(Chain::Nnunet(changed)) = parse(r#"{"chain": "nnunet", "gamma": {"probability": 0}}"#) else {
            panic!("parses")
        };
        assert!((0..500).all(|crop| changed.draw(&id(crop)).gamma.is_none()));
        assert!(parse(r#"{"chain": "recipe", "gamma": {}}"#).is_err());
        assert!(parse(r#"{"chain": "recipe", "flip": {"probabilty": 0.5}}"#).is_err());
        assert!(parse(r#"{"chain": "plain", "flip": {}}"#).is_err());
        assert!(parse(r#"{"chain": "nnunet", "gamma": {"exponent": [1.5, 0.7]}}"#).is_err());
    }

    #[test]
    fn configs_and_draws_survive_writing_and_reading() {
        for chain in [Chain::plain(), Chain::recipe(), Chain::nnunet()] {
            let text = serde_json::to_string(&chain).unwrap();
            assert_eq!(serde_json::from_str::<Chain>(&text).unwrap(), chain);
            for crop in 0..100 {
                let drawn = chain.draw(&id(crop));
                let text = serde_json::to_string(&drawn).unwrap();
                assert_eq!(serde_json::from_str::<Drawn>(&text).unwrap(), drawn, "{text}");
            }
        }
    }

    #[test]
    fn switching_one_off_changes_no_other() {
        let all = Nnunet::default();
        let mut fewer = all;
        fewer.gaussian_noise.probability = crate::transform::Probability::known(0.0);
        for crop in 0..200 {
            let expected = NnunetDrawn { gaussian_noise: None, ..all.draw(&id(crop)) };
            assert_eq!(fewer.draw(&id(crop)), expected);
        }
    }

    #[test]
    fn phrases_come_in_the_order_applied() {
        let drawn = RecipeDrawn {
            flip: Some(MirrorParams { axes: [false, true, false] }),
            rotate90: Some(Rotate90Params { turns: 1 }),
            scale_intensity: None,
            shift_intensity: Some(ShiftIntensityParams { shift: -0.04 }),
        };
        assert_eq!(Drawn::Recipe(drawn).describe(), ["mirror y", "rotate 90", "shift intensity -0.040"]);
        assert!(Drawn::Plain(Plain {}).describe().is_empty());
    }

    #[test]
    fn the_recipe_in_one_pass_is_the_recipe_step_by_step() {
        let shape = [4, 6, 5];
        for crop in 0..300 {
            let drawn = Recipe::default().draw(&id(crop));
            let from_shape = drawn.axis_map().source_shape(shape);
            let from: Vec<f32> = (0..120u8).map(|i| f32::from(i) / 119.0).collect();
            let labels: Vec<u8> = (0..120).collect();

            let mut expected = from.clone();
            let mut now = from_shape;
            if let Some(flip) = drawn.flip {
                flip.apply(&mut expected, now);
            }
            if let Some(turn) = drawn.rotate90 {
                now = turn.apply(&mut expected, now, &mut Scratch::new());
            }
            let numbers: Vec<u8> = expected.iter().map(|v| (v * 119.0).round() as u8).collect();
            if let Some(scale) = drawn.scale_intensity {
                scale.apply(&mut expected);
            }
            if let Some(shift) = drawn.shift_intensity {
                shift.apply(&mut expected);
            }
            assert_eq!(now, shape);

            let (mut image, mut carried) = (vec![0.0; 120], vec![0; 120]);
            let source = CropRef { image: &from, labels: Some(&labels), shape: from_shape };
            let mut to = CropMut { image: &mut image, labels: Some(&mut carried), shape };
            Drawn::Recipe(drawn).apply(source, &mut to, &mut Scratch::new());
            assert_eq!(image, expected, "{drawn:?}");
            assert_eq!(carried, numbers, "{drawn:?}");
        }
    }

    #[test]
    fn a_used_scratch_changes_nothing() {
        let chain = Chain::nnunet();
        let shape = [12, 10, 14];
        let mut used = Scratch::new();
        for crop in 0..200 {
            let drawn = chain.draw(&id(crop));
            let source_shape = drawn.source_box(shape);
            let from: Vec<f32> = (0..source_shape.iter().product::<usize>()).map(|i| (i * 37 % 101) as f32).collect();
            let labels: Vec<u8> = from.iter().map(|v| *v as u8).collect();
            let mut results = Vec::new();
            for scratch in [&mut used, &mut Scratch::new()] {
                let (mut image, mut carried) = (vec![0.0; 1680], vec![0; 1680]);
                let source = CropRef { image: &from, labels: Some(&labels), shape: source_shape };
                drawn.apply(source, &mut CropMut { image: &mut image, labels: Some(&mut carried), shape }, scratch);
                assert!(image.iter().all(|v| v.is_finite()), "{drawn:?}");
                results.push((image, carried));
            }
            assert_eq!(results[0], results[1], "{drawn:?}");
        }
    }

    /// Counts over many crops against the stated probabilities: each within five standard errors.
    #[test]
    fn transforms_come_up_as_often_as_stated() {
        const NUM_CROPS: u32 = 20_000;
        let (recipe, nnunet) = (Recipe::default(), Nnunet::default());
        let drawn: Vec<(RecipeDrawn, NnunetDrawn)> =
            (0..NUM_CROPS).map(|crop| (recipe.draw(&id(crop)), nnunet.draw(&id(crop)))).collect();
        let check = |what: &str, expected: f64, came_up: &dyn Fn(&(RecipeDrawn, NnunetDrawn)) -> bool| {
            let n = f64::from(NUM_CROPS);
            let share = drawn.iter().filter(|&d| came_up(d)).count() as f64 / n;
            let error = (expected * (1.0 - expected) / n).sqrt();
            assert!((share - expected).abs() < 5.0 * error, "{what}: {share} instead of {expected}");
        };
        for axis in 0..3 {
            check("flip", 0.5, &|(r, _)| r.flip.is_some_and(|p| p.axes[axis]));
            check("mirror", 0.5, &|(_, n)| n.mirror.is_some_and(|p| p.axes[axis]));
        }
        for turns in 1..4 {
            check("turns", 0.1, &|(r, _)| r.rotate90.is_some_and(|p| p.turns == turns));
        }
        check("scale intensity", 0.1, &|(r, _)| r.scale_intensity.is_some());
        check("shift intensity", 0.1, &|(r, _)| r.shift_intensity.is_some());
        check("shift upwards", 0.05, &|(r, _)| r.shift_intensity.is_some_and(|p| p.shift > 0.0));
        check("spatial", 0.36, &|(_, n)| n.spatial.is_some());
        check("rotation", 0.2, &|(_, n)| n.spatial.is_some_and(|p| p.rotation_degrees.iter().any(|a| a.abs() > 0.0)));
        check("scaling", 0.2, &|(_, n)| n.spatial.is_some_and(|p| p.scale.to_bits() != 1f32.to_bits()));
        check("noise", 0.1, &|(_, n)| n.gaussian_noise.is_some());
        check("blur", 0.1, &|(_, n)| n.gaussian_blur.is_some());
        check("brightness", 0.15, &|(_, n)| n.brightness.is_some());
        check("contrast", 0.15, &|(_, n)| n.contrast.is_some());
        check("low resolution", 0.125, &|(_, n)| n.low_resolution.is_some());
        check("inverted gamma", 0.1, &|(_, n)| n.gamma_inverted.is_some());
        check("gamma", 0.3, &|(_, n)| n.gamma.is_some());
        check("gamma below one", 0.15, &|(_, n)| n.gamma.is_some_and(|p| p.exponent < 1.0));
        // Each transform draws for itself: two come up together as often as chance has it.
        check("noise and gamma", 0.03, &|(_, n)| n.gaussian_noise.is_some() && n.gamma.is_some());
    }
}
