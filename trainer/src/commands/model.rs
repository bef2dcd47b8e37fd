//! The flags that name a model, for the commands that take one.

use std::path::Path;

use anyhow::Context as _;

use crate::cli::SizesArgs;
use crate::config::RunConfig as _;
use crate::config::pretrain::{PretrainConfig, PretrainPreset};
use crate::device::Compute;
use crate::model_source::Pretrained;

/// The sizes that `--preset` or `--config` give, if either was given.
pub fn sizes(args: &SizesArgs) -> anyhow::Result<Option<PretrainConfig>> {
    let Some(path) = &args.config else { return Ok(args.preset.map(PretrainPreset::config)) };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Some(PretrainConfig::parse(&text, &path.display().to_string())?))
}

/// Loads a pre-training model and says which.
pub fn load_pretrained(path: &Path, sizes: Option<PretrainConfig>, compute: &Compute) -> anyhow::Result<Pretrained> {
    let loaded = Pretrained::load(path, sizes, compute.raw())?;
    let path = loaded.path.display();
    if let Some(preset) = loaded.found_preset {
        println!("model {path} (its tensors are those of the preset {})", preset.name());
    } else {
        println!("model {path}");
    }
    Ok(loaded)
}
