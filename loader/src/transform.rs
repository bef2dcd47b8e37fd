//! Augmentation of crops: each transform samples its parameters from the crop's identity, then applies them.
//!
//! Sampling and applying are separate. `sample_params` is a pure function of [`DrawId`](crate::rng::DrawId) and returns
//! parameters that can be printed, stored and applied again; `apply` is a pure function of parameters and voxels.
//! Each transform samples from its own [`Operation`](crate::rng::Operation), so switching one off changes no other.
//!
//! Transforms work on one channel of f32 voxels `[x, y, z]`, z fastest, in units of the window (0 its lower end, 1 its
//! upper end) or z-scores, and on one thread. Sums are taken in a fixed order, so every thread and machine computes the same bits.
//! Buffers come from a [`Scratch`]; after the first crop nothing is allocated.
//!
//! [`Chain`] has two presets: the chain of the pre-training recipe, whose four transforms the pipeline fuses with the
//! copy of the crop, and nnU-Net's default 3-D chain.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "voxel counts and coordinates of a crop are far below 2^23, where f32, i32 and u32 are exact"
)]

mod approx;
mod axis_map;
mod brightness;
mod chain;
mod contrast;
mod gamma;
mod gaussian_blur;
mod gaussian_noise;
mod low_resolution;
mod mirror;
mod moments;
mod range;
mod rotate90;
mod scale_intensity;
mod scratch;
mod shift_intensity;
mod spatial;

pub use axis_map::AxisMap;
pub use brightness::{Brightness, BrightnessParams};
pub use chain::{Chain, CropMut, CropRef, Nnunet, NnunetParams, Plain, Recipe, RecipeParams, Rest, SampledParams};
pub use contrast::{Contrast, ContrastParams};
pub use gamma::{Gamma, GammaParams, Polarity};
pub use gaussian_blur::{GaussianBlur, GaussianBlurParams};
pub use gaussian_noise::{GaussianNoise, GaussianNoiseParams};
pub use low_resolution::{LowResolution, LowResolutionParams};
pub use mirror::{Mirror, MirrorParams, MirrorUse};
pub use range::{PositiveRange, Probability, Range, RangeError};
pub use rotate90::{Rotate90, Rotate90Params};
pub use scale_intensity::{ScaleIntensity, ScaleIntensityParams};
pub use scratch::Scratch;
pub use shift_intensity::{ShiftIntensity, ShiftIntensityParams};
pub use spatial::{SourceRows, Spatial, SpatialParams};
