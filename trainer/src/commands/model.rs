//! Pre-training models selected by flags.

use std::path::Path;

use hiend_cache::FileError;

use super::print;
use crate::cli::SizesArgs;
use crate::config;
use crate::config::RunConfig as _;
use crate::config::pretrain::{PretrainConfig, PretrainPreset};
use crate::device::Compute;
use crate::model_source::Pretrained;

/// Sizes of the model from `--preset` or `--config`; `None` without either flag.
///
/// # Errors
/// If the configuration cannot be read.
pub(super) fn sizes(args: &SizesArgs) -> anyhow::Result<Option<PretrainConfig>> {
    let Some(path) = &args.config else { return Ok(args.preset.map(PretrainPreset::config)) };
    let text = config::read_text(path).map_err(FileError::at(path, "read"))?;
    Ok(Some(PretrainConfig::parse(&text, &path.display().to_string())?))
}

/// Loads a pre-training model and prints its path.
///
/// # Errors
/// If there is no such model or it cannot be read.
pub(super) fn load_pretrained(
    path: &Path,
    sizes: Option<PretrainConfig>,
    compute: &Compute,
) -> anyhow::Result<Pretrained> {
    let loaded = Pretrained::load(path, sizes, compute.raw())?;
    let path = loaded.path.display();
    if let Some(preset) = loaded.found_preset {
        print(format_args!("model {path} (its tensors are those of the preset {})", preset.name()))?;
    } else {
        print(format_args!("model {path}"))?;
    }
    Ok(loaded)
}
