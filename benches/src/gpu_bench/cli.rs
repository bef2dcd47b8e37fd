//! Command line of `gpu-bench`.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use hiend_loader::program::Expected;
use hiend_trainer::config::pretrain::PretrainPreset;
use hiend_trainer::device::DeviceChoice;
use hiend_trainer::model::precision::Precision;
use hiend_trainer::ops::attention::Computation;

/// Measure training and inference on a device
#[derive(Debug, Parser)]
#[command(name = "gpu-bench")]
pub struct Cli {
    /// Device: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto")]
    pub(super) device: DeviceChoice,
    /// Cases to measure, in this order
    #[arg(long, value_delimiter = ',', value_enum, default_value = "step,finetune,predict,numerics,shapes")]
    pub(super) cases: Vec<Case>,
    /// Text that the names of the kernels' tests to run contain; after !, text that they do not contain [default: all
    /// tests]
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) tests: String,
    /// Model
    #[arg(long, default_value = "vit-l-p12")]
    pub(super) preset: PretrainPreset,
    /// Crops in a batch
    #[arg(long, default_value_t = 192)]
    pub(super) batch: usize,
    /// Crops in a forward and backward pass [default: the whole batch]
    #[arg(long)]
    pub(super) micro_batch: Option<usize>,
    /// Crops in a batch in fine-tuning and in the case convolution-times
    #[arg(long, default_value_t = 4)]
    pub(super) finetune_batch: usize,
    /// Largest side of a volume in the case convolution-times, in voxels
    #[arg(long, default_value_t = 96)]
    pub(super) convolution_side: usize,
    /// Leave UNETR's convolutions to Burn's kernels, which are tuned first
    #[arg(long)]
    pub(super) burn_convolutions: bool,
    /// Type of the factors of matrix products
    #[arg(long, value_parser = precision, default_value = "bf16")]
    pub(super) precision: Precision,
    /// Computation of attention on a GPU: products or cudnn
    #[arg(long, value_parser = computation, default_value = "products")]
    pub(super) attention: Computation,
    /// Compute gradients of biases in passes of their own, not in the products of weight gradients (CUDA)
    #[arg(long)]
    pub(super) separate_bias_gradients: bool,
    /// Keep only the inputs of transformer blocks and recompute the blocks in the backward pass
    #[arg(long)]
    pub(super) gradient_checkpointing: bool,
    /// Measured steps
    #[arg(long, default_value_t = 20)]
    pub(super) steps: usize,
    /// Steps before the measurement
    #[arg(long, default_value_t = 5)]
    pub(super) warmup: usize,
    /// Steps in the cases numerics and reference
    #[arg(long, default_value_t = 200)]
    pub(super) numerics_steps: u64,
    /// File with the line printed by the case reference; without it, the case numerics computes the reference itself,
    /// which takes minutes
    #[arg(long)]
    pub(super) reference: Option<PathBuf>,
    /// Cache that the cases overlap, chunks, service and loader stream from [default: a generated volume]
    #[arg(long)]
    pub(super) shards: Option<PathBuf>,
    /// Threads of the loader, 0 for one per core
    #[arg(long, default_value_t = 0)]
    pub(super) threads: usize,
    /// Memory of the loader's buffers
    #[arg(long, default_value = "8GiB")]
    pub(super) memory: ByteSize,
    /// Folder for compiled and tuned kernels
    #[arg(long)]
    pub(super) cache_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    Tests,
    Step,
    Overlap,
    Chunks,
    Service,
    Loader,
    Finetune,
    FinetuneOverlap,
    Predict,
    Numerics,
    Reference,
    Kernels,
    Products,
    Shapes,
    Convolutions,
    ConvolutionTimes,
}

fn computation(text: &str) -> Result<Computation, Expected> {
    match text {
        "products" => Ok(Computation::Products),
        "cudnn" => Ok(Computation::Cudnn),
        _ => Err(Expected("products or cudnn")),
    }
}

fn precision(text: &str) -> Result<Precision, Expected> {
    match text {
        "f32" => Ok(Precision::F32),
        "tf32" => Ok(Precision::Tf32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err(Expected("f32, tf32 or bf16")),
    }
}
