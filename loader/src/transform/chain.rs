//! Chains: the transforms that a crop goes through, in order, and the parameters sampled for one crop.
//!
//! [`Chain`] and [`SampledParams`] are matched here only. Other modules query a crop's parameters for their own part:
//! [`SampledParams::axis_map`] and [`SampledParams::intensity`] are applied while the crop is copied,
//! [`SampledParams::rest`] afterwards.

use serde::{Deserialize, Serialize};

use super::axis_map::AxisMap;
use super::scratch::Scratch;
use crate::rng::DrawId;

mod nnunet;
mod recipe;

pub use nnunet::{Nnunet, NnunetParams};
pub use recipe::{Recipe, RecipeParams};

/// Augmentation of a stream, as its config states it: `chain = "nnunet"`, then a table for each transform whose
/// numbers differ from the preset's. `probability = 0` switches a transform off.
///
/// ```
/// use hiend_loader::transform::Chain;
///
/// let chain: Chain = serde_json::from_str(r#"{ "chain": "nnunet", "gamma": { "exponent": [0.8, 1.25] } }"#)?;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "chain", rename_all = "snake_case")]
pub enum Chain {
    /// No augmentation, for validation.
    Plain(Plain),
    /// Chain of the pre-training recipe.
    Recipe(Recipe),
    /// Default 3-D chain of nnU-Net.
    Nnunet(Nnunet),
}

/// Settings of the empty chain; it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plain {}

/// All parameters of one crop's augmentation, which suffice to repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "chain", rename_all = "snake_case")]
pub enum SampledParams {
    /// No augmentation.
    Plain(Plain),
    /// Parameters of [`Recipe`].
    Recipe(RecipeParams),
    /// Parameters of [`Nnunet`].
    Nnunet(NnunetParams),
}

/// Part of an augmentation that cannot be applied while a crop is copied from the volume.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rest<'a> {
    /// No transforms: the copied crop is finished.
    Nothing,
    /// Transforms applied in place to the copied crop.
    InPlace(&'a NnunetParams),
    /// Resampling from a box of another size, followed by transforms in place.
    Resampled(&'a NnunetParams),
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
    /// Creates the preset of the pre-training recipe.
    #[must_use]
    pub fn recipe() -> Self {
        Self::Recipe(Recipe::default())
    }

    /// Creates the preset of nnU-Net.
    #[must_use]
    pub fn nnunet() -> Self {
        Self::Nnunet(Nnunet::default())
    }

    /// Creates the preset without augmentation.
    #[must_use]
    pub fn plain() -> Self {
        Self::Plain(Plain {})
    }

    /// Returns true if intensities are at most multiplied and shifted, so that a crop can be passed on as stored
    /// values.
    #[must_use]
    pub fn is_linear(&self) -> bool {
        matches!(self, Self::Plain(_) | Self::Recipe(_))
    }

    /// Returns true if a crop may be resampled from a box of another size.
    #[must_use]
    pub fn resamples(&self) -> bool {
        matches!(self, Self::Nnunet(_))
    }

    /// Returns true if a crop may be turned by 90° in the plane of x and y, which exchanges its sides.
    #[must_use]
    pub fn turns(&self) -> bool {
        matches!(self, Self::Recipe(recipe) if recipe.rotate90.probability.get() > 0.0)
    }

    /// Shape of a box that contains the [`SampledParams::source_box`] of every crop of `crop_size`.
    #[must_use]
    pub fn largest_source_box(&self, crop_size: [usize; 3]) -> [usize; 3] {
        let [x, y, z] = crop_size;
        match self {
            Self::Recipe(_) if self.turns() => [x.max(y), x.max(y), z],
            Self::Plain(_) | Self::Recipe(_) => crop_size,
            Self::Nnunet(nnunet) => nnunet.spatial.largest_source_box(crop_size),
        }
    }

    /// Samples all parameters of a crop, as a pure function of its identity `id`.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> SampledParams {
        match self {
            Self::Plain(plain) => SampledParams::Plain(*plain),
            Self::Recipe(recipe) => SampledParams::Recipe(recipe.sample_params(id)),
            Self::Nnunet(nnunet) => SampledParams::Nnunet(nnunet.sample_params(id)),
        }
    }
}

impl SampledParams {
    /// Shape of the box, centred on the crop's centre, to cut from the volume for a crop of `crop_size`.
    #[must_use]
    pub fn source_box(&self, crop_size: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Plain(_) => crop_size,
            Self::Recipe(params) => params.axis_map().source_shape(crop_size),
            Self::Nnunet(params) => params.source_box(crop_size),
        }
    }

    /// Flips and turns to apply while the crop is copied.
    #[must_use]
    pub fn axis_map(&self) -> AxisMap {
        match self {
            Self::Plain(_) | Self::Nnunet(_) => AxisMap::IDENTITY,
            Self::Recipe(params) => params.axis_map(),
        }
    }

    /// Multiplier and offset to apply to each voxel while the crop is copied.
    #[must_use]
    pub fn intensity(&self) -> (f32, f32) {
        match self {
            Self::Plain(_) | Self::Nnunet(_) => (1.0, 0.0),
            Self::Recipe(params) => params.intensity(),
        }
    }

    /// Returns true if the parameters belong to a linear chain, see [`Chain::is_linear`].
    #[must_use]
    pub fn is_linear(&self) -> bool {
        matches!(self.rest(), Rest::Nothing)
    }

    /// Returns true if the copy of the crop applies the whole augmentation, so that a copied crop is finished.
    ///
    /// Crops without augmentation are excluded: through a row buffer and non-temporal stores, 256 of them took 1.12 s
    /// of CPU time instead of 1.06 (`hiend-shard stream --augment plain`, digests included).
    #[must_use]
    pub fn is_fused(&self) -> bool {
        matches!(self, Self::Recipe(_))
    }

    /// Augmentation that remains after [`Self::axis_map`] and [`Self::intensity`].
    #[must_use]
    pub fn rest(&self) -> Rest<'_> {
        match self {
            Self::Plain(_) | Self::Recipe(_) => Rest::Nothing,
            Self::Nnunet(params) if params.spatial.is_some() => Rest::Resampled(params),
            Self::Nnunet(params) => Rest::InPlace(params),
        }
    }

    /// Parameters of nnU-Net's chain; `None` for those of another chain.
    #[must_use]
    pub fn nnunet(&self) -> Option<&NnunetParams> {
        match self {
            Self::Nnunet(params) => Some(params),
            Self::Plain(_) | Self::Recipe(_) => None,
        }
    }

    /// Describes each applied transform by a phrase, in order.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        match self {
            Self::Plain(_) => Vec::new(),
            Self::Recipe(params) => params.describe(),
            Self::Nnunet(params) => params.describe(),
        }
    }

    /// Makes the augmented crop from the box whose shape is [`Self::source_box`].
    ///
    /// # Panics
    /// If a slice does not have its shape, if the source's shape does not fit, or if only one side has labels.
    pub fn apply(&self, source: CropRef<'_>, crop: &mut CropMut<'_>, scratch: &mut Scratch) {
        match self {
            Self::Plain(_) => copy(source, crop),
            Self::Recipe(params) => params.apply(source, crop),
            Self::Nnunet(params) => params.apply(source, crop, scratch),
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
    assert_eq!(source.shape, crop.shape, "the source has the shape of its box");
    crop.image.copy_from_slice(source.image);
    match (source.labels, crop.labels.as_deref_mut()) {
        (Some(from), Some(to)) => to.copy_from_slice(from),
        (None, None) => {}
        _ => panic!("source and crop both have labels or neither has"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::{MirrorParams, Rotate90Params, ShiftIntensityParams};

    fn id(crop: u32) -> DrawId {
        DrawId { seed: 5, epoch: 1, case: 77, crop }
    }

    #[test]
    fn chain_name_is_the_preset_and_tables_change_it() {
        let parse = |text: &str| serde_json::from_str::<Chain>(text).map_err(|e| e.to_string());
        assert_eq!(parse(r#"{"chain": "recipe"}"#), Ok(Chain::recipe()));
        assert_eq!(parse(r#"{"chain": "nnunet"}"#), Ok(Chain::nnunet()));
        assert_eq!(parse(r#"{"chain": "plain"}"#), Ok(Chain::plain()));
        let Ok(Chain::Nnunet(changed)) = parse(r#"{"chain": "nnunet", "gamma": {"probability": 0}}"#) else {
            panic!("parses")
        };
        assert!((0..500).all(|crop| changed.sample_params(&id(crop)).gamma.is_none()));
        assert!(parse(r#"{"chain": "recipe", "gamma": {}}"#).is_err());
        assert!(parse(r#"{"chain": "recipe", "flip": {"probabilty": 0.5}}"#).is_err());
        assert!(parse(r#"{"chain": "plain", "flip": {}}"#).is_err());
        assert!(parse(r#"{"chain": "nnunet", "gamma": {"exponent": [1.5, 0.7]}}"#).is_err());
    }

    #[test]
    fn chains_and_parameters_survive_a_json_round_trip() {
        for chain in [Chain::plain(), Chain::recipe(), Chain::nnunet()] {
            let text = serde_json::to_string(&chain).unwrap();
            assert_eq!(serde_json::from_str::<Chain>(&text).unwrap(), chain);
            for crop in 0..100 {
                let params = chain.sample_params(&id(crop));
                let text = serde_json::to_string(&params).unwrap();
                assert_eq!(serde_json::from_str::<SampledParams>(&text).unwrap(), params, "{text}");
            }
        }
    }

    #[test]
    fn switching_a_transform_off_changes_no_other() {
        let all = Nnunet::default();
        let mut fewer = all;
        fewer.gaussian_noise.probability = crate::transform::Probability::known(0.0);
        for crop in 0..200 {
            let expected = NnunetParams { gaussian_noise: None, ..all.sample_params(&id(crop)) };
            assert_eq!(fewer.sample_params(&id(crop)), expected);
        }
    }

    #[test]
    fn phrases_come_in_the_order_applied() {
        let params = RecipeParams {
            flip: Some(MirrorParams { axes: [false, true, false] }),
            rotate90: Some(Rotate90Params { turns: 1 }),
            scale_intensity: None,
            shift_intensity: Some(ShiftIntensityParams { shift: -0.04 }),
        };
        assert_eq!(SampledParams::Recipe(params).describe(), ["mirror y", "rotate 90", "shift intensity -0.040"]);
        assert!(SampledParams::Plain(Plain {}).describe().is_empty());
    }

    #[test]
    fn recipe_in_one_pass_equals_its_transforms_in_order() {
        let shape = [4, 6, 5];
        for crop in 0..300 {
            let params = Recipe::default().sample_params(&id(crop));
            let from_shape = params.axis_map().source_shape(shape);
            let from: Vec<f32> = (0..120u8).map(|i| f32::from(i) / 119.0).collect();
            let labels: Vec<u8> = (0..120).collect();

            let mut expected = from.clone();
            let mut now = from_shape;
            if let Some(flip) = params.flip {
                flip.apply(&mut expected, now);
            }
            if let Some(turn) = params.rotate90 {
                now = turn.apply(&mut expected, now, &mut Scratch::new());
            }
            let numbers: Vec<u8> = expected.iter().map(|v| (v * 119.0).round() as u8).collect();
            if let Some(scale) = params.scale_intensity {
                scale.apply(&mut expected);
            }
            if let Some(shift) = params.shift_intensity {
                shift.apply(&mut expected);
            }
            assert_eq!(now, shape);

            let (mut image, mut carried) = (vec![0.0; 120], vec![0; 120]);
            let source = CropRef { image: &from, labels: Some(&labels), shape: from_shape };
            let mut to = CropMut { image: &mut image, labels: Some(&mut carried), shape };
            SampledParams::Recipe(params).apply(source, &mut to, &mut Scratch::new());
            assert_eq!(image, expected, "{params:?}");
            assert_eq!(carried, numbers, "{params:?}");
        }
    }

    #[test]
    fn used_scratch_changes_no_result() {
        let chain = Chain::nnunet();
        let shape = [12, 10, 14];
        let mut used = Scratch::new();
        for crop in 0..200 {
            let params = chain.sample_params(&id(crop));
            let source_shape = params.source_box(shape);
            let from: Vec<f32> = (0..source_shape.iter().product::<usize>()).map(|i| (i * 37 % 101) as f32).collect();
            let labels: Vec<u8> = from.iter().map(|v| *v as u8).collect();
            let mut results = Vec::new();
            for scratch in [&mut used, &mut Scratch::new()] {
                let (mut image, mut carried) = (vec![0.0; 1680], vec![0; 1680]);
                let source = CropRef { image: &from, labels: Some(&labels), shape: source_shape };
                params.apply(source, &mut CropMut { image: &mut image, labels: Some(&mut carried), shape }, scratch);
                assert!(image.iter().all(|v| v.is_finite()), "{params:?}");
                results.push((image, carried));
            }
            assert_eq!(results[0], results[1], "{params:?}");
        }
    }

    #[test]
    fn crops_have_frozen_bits() {
        let shape = [10, 12, 16];
        let mut hasher = blake3::Hasher::new();
        let mut scratch = Scratch::new();
        for crop in 0..64 {
            let params = Chain::nnunet().sample_params(&id(crop));
            let source_shape = params.source_box(shape);
            let from: Vec<f32> =
                (0..source_shape.iter().product::<usize>()).map(|i| (i * 37 % 101) as f32 / 128.0).collect();
            let mut image = vec![0.0; 1920];
            let source = CropRef { image: &from, labels: None, shape: source_shape };
            params.apply(source, &mut CropMut { image: &mut image, labels: None, shape }, &mut scratch);
            hasher.update(bytemuck::cast_slice(&image));
        }
        assert_eq!(&hasher.finalize().to_hex()[..16], "2b835a8d1bb4d0d4");
    }

    /// Observed rates over many crops lie within five standard errors of the stated probabilities.
    #[test]
    fn transforms_are_applied_at_their_stated_rates() {
        const NUM_CROPS: u32 = 20_000;
        let (recipe, nnunet) = (Recipe::default(), Nnunet::default());
        let params: Vec<(RecipeParams, NnunetParams)> =
            (0..NUM_CROPS).map(|crop| (recipe.sample_params(&id(crop)), nnunet.sample_params(&id(crop)))).collect();
        let check = |what: &str, expected: f64, applied: &dyn Fn(&(RecipeParams, NnunetParams)) -> bool| {
            let n = f64::from(NUM_CROPS);
            let share = params.iter().filter(|&d| applied(d)).count() as f64 / n;
            let error = (expected * (1.0 - expected) / n).sqrt();
            assert!((share - expected).abs() < 5.0 * error, "{what}: rate {share}, expected {expected}");
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
        // Transforms are independent: two come together at the product of their rates.
        check("noise and gamma", 0.03, &|(_, n)| n.gaussian_noise.is_some() && n.gamma.is_some());
    }
}
