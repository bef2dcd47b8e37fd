//! Settings of training that belong to no other section: `[train]`.

use hiend_loader::batch::VoxelForm;
use hiend_loader::transform::Chain;
use serde::{Deserialize, Serialize};

use super::MicroBatch;
use crate::model::precision::Precision;
use crate::ops::attention::Computation;

/// Settings that belong to no other section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of initial weights, crops, augmentation and masks. At most 2⁶³ - 1, the maximum of TOML's integers.
    pub seed: u64,
    /// Number of crops on the device at a time. A larger batch is split into parts whose gradients add up to the
    /// batch's, except for rounding; this takes more time and less memory. Absent for the whole batch at once; `"auto"`
    /// for a number that fits into the free memory, chosen when the run begins and saved with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<MicroBatch>,
    /// Decay of the moving average of the weights, such as 0.999. Validation and prediction use the average. Absent for
    /// no average, as in the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Number type of matrix products: `f32`, or `bf16`, which is faster on GPUs. Everything else is f32.
    #[serde(default)]
    pub precision: Precision,
    /// Computation of attention on GPUs: `products`, or `cudnn`, which stores no attention matrix and needs 16-bit
    /// precision. No effect on a CPU.
    #[serde(default)]
    pub attention: Computation,
    /// Processor that computes nnU-Net's augmentations: `cpu`, or `device` if decoding keeps the cores busy. Crops are
    /// the same except for rounding. The recipe's augmentations are always applied while a crop is cut.
    #[serde(default)]
    pub augment_on: AugmentOn,
    /// Processor that decodes chunks and cuts crops from them: `cpu`, or `device`, which then receives chunks as they
    /// are stored. Requires shards of the codec `fast` that this process reads; the chain `nnunet` also requires
    /// `augment_on = "device"`. Labels are always decoded by the CPU. Crops are the same.
    #[serde(default)]
    pub decode_on: DecodeOn,
    /// Kernels of UNETR's convolutions on NVIDIA GPUs: `cudnn`, if it is found, or `burn` for Burn's own, which are
    /// first tuned for minutes. No effect on other devices.
    #[serde(default)]
    pub convolutions: Convolutions,
}

/// Kernels of convolutions on NVIDIA GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Convolutions {
    /// cuDNN, if it is found.
    #[default]
    Cudnn,
    /// Burn's own kernels.
    Burn,
}

impl Convolutions {
    /// Applies the setting to all models of the process.
    pub fn settle(self) {
        crate::ops::conv::leave_to_burn(self == Self::Burn);
    }
}

/// Processor that decodes chunks and cuts crops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeOn {
    /// The loader's threads.
    #[default]
    Cpu,
    /// The device that trains.
    Device,
}

/// Processor that augments crops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AugmentOn {
    /// The loader's threads.
    #[default]
    Cpu,
    /// The device that trains.
    Device,
}

impl TrainConfig {
    /// Returns settings in which every key is present, optional ones included.
    pub(crate) fn with_every_key() -> Self {
        Self {
            seed: 0,
            micro_batch: Some(MicroBatch::Crops(1)),
            ema_decay: Some(0.999),
            precision: Precision::F32,
            attention: Computation::Products,
            augment_on: AugmentOn::Cpu,
            decode_on: DecodeOn::Cpu,
            convolutions: Convolutions::Cudnn,
        }
    }

    /// Number of crops on the device at a time; `None` for the whole batch, and for `"auto"` before a number was chosen.
    #[must_use]
    pub fn crops_at_a_time(&self) -> Option<usize> {
        self.micro_batch.and_then(MicroBatch::crops)
    }

    /// Form in which the loader delivers voxels for these settings and this augmentation; `is_cpu` is true if the
    /// device is a CPU.
    #[must_use]
    pub fn voxel_form(&self, augment: &Chain, is_cpu: bool) -> VoxelForm {
        if self.decode_on == DecodeOn::Device {
            return VoxelForm::Chunks;
        }
        match (augment.is_linear(), self.augment_on) {
            (true, _) if is_cpu => VoxelForm::Floats,
            (true, _) => VoxelForm::Quantized,
            (false, AugmentOn::Cpu) => VoxelForm::Floats,
            (false, AugmentOn::Device) => VoxelForm::Boxes,
        }
    }

    /// Returns the first setting that is out of range, with the reason.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if i64::try_from(self.seed).is_err() {
            return Some(("seed", format!("{} is larger than 2^63 - 1", self.seed)));
        }
        if self.micro_batch == Some(MicroBatch::Crops(0)) {
            return Some(("micro_batch", "must be at least 1; leave it out for the whole batch".into()));
        }
        if self.attention == Computation::Cudnn && self.precision != Precision::Bf16 {
            let name = self.precision.name();
            return Some(("attention", format!("\"cudnn\" needs train.precision = \"bf16\", which is \"{name}\"")));
        }
        self.ema_decay
            .filter(|decay| !(0.0..1.0).contains(decay) || *decay as f32 >= 1.0)
            .map(|decay| ("ema_decay", format!("{decay} must lie in [0, 1) in f32; leave it out for no average")))
    }
}
