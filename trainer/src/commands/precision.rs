//! Lines about the number types and libraries that compute products and attention.

use super::ranks::Rank;
use crate::config::TrainConfig;
use crate::device::Compute;
use crate::model::precision::Precision;
use crate::ops::attention::Computation;
use crate::ops::product::Factors;
use crate::vendor;

/// Prints how the configured precision is computed, where that is not evident.
pub(super) fn announce(rank: &Rank, train: &TrainConfig) {
    let (compute, precision) = (&rank.compute, train.precision);
    if compute.is_cpu() && precision != Precision::F32 {
        let name = precision.name();
        rank.note(format_args!("warning: train.precision = \"{name}\" is for GPUs; it is not faster on a CPU"));
    }
    if let Some(line) = products_line(compute, precision.factors()) {
        rank.note(line);
    }
    if let Some(line) = attention_line(compute, train.attention) {
        rank.note(line);
    }
}

/// Line that states how attention is computed on `compute`; `None` for products, the default.
fn attention_line(compute: &Compute, attention: Computation) -> Option<String> {
    if attention == Computation::Products {
        return None;
    }
    if !compute.is_cuda() {
        return Some("warning: train.attention = \"cudnn\" is for NVIDIA GPUs; it makes no difference here".to_owned());
    }
    Some(match vendor::cudnn::library() {
        Ok(library) => {
            let version = library.found.version.as_deref().unwrap_or("of an unknown version");
            format!("attention by cuDNN {version} ({})", library.found.path.display())
        }
        Err(reason) => format!("warning: attention by products, slower: {reason}"),
    })
}

/// Line about the library that computes matrix products on `compute`; `None` on a CPU, which has a single way.
fn products_line(compute: &Compute, factors: Factors) -> Option<String> {
    if !compute.is_cuda() {
        return None;
    }
    #[cfg(feature = "cuda")]
    {
        let form = match factors {
            Factors::F32 => "32-bit factors in full",
            Factors::Tf32 => "32-bit factors rounded to TF32",
            Factors::Bf16 => "bf16 factors, 32-bit sums",
        };
        Some(match vendor::cublaslt::library() {
            Ok(found) => {
                let version = found.version.as_deref().unwrap_or("of an unknown version");
                format!("products by cuBLASLt {version} ({}): {form}", found.path.display())
            }
            Err(reason) => {
                let rounded = if factors == Factors::F32 { ", 32-bit factors rounded to TF32" } else { "" };
                format!(
                    "warning: products by built-in kernels, slower and tuned before the first step{rounded}: {reason}"
                )
            }
        })
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = factors;
        None
    }
}
