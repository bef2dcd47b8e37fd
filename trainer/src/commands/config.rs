//! `hiend-train config [PRESET]`.

use std::process::ExitCode;

use anyhow::bail;
use hiend_loader::nearest::nearest;

use crate::cli::ConfigArgs;
use crate::config::finetune::FinetunePreset;
use crate::config::pretrain::PretrainPreset;

pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let presets = presets();
    let Some(wanted) = &args.preset else {
        for (name, _) in presets {
            super::print(name)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let found: Vec<_> = presets.iter().filter(|(name, _)| is_named(name, wanted)).collect();
    match found.as_slice() {
        [(_, text)] => {
            super::print_text(text.trim_end())?;
        }
        [] => {
            let names = presets.iter().flat_map(|(name, _)| [Some(name.as_str()), short(name)]).flatten();
            let nearest =
                nearest(wanted, names).and_then(|found| presets.iter().find(|(name, _)| is_named(name, found)));
            let hint = nearest.map(|(name, _)| format!("; did you mean `{name}`?")).unwrap_or_default();
            bail!("no preset `{wanted}`{hint} (hiend-train config lists them)");
        }
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
            bail!("`{wanted}` names several presets; give the full name of one: {}", names.join(" or "));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns `true` if a preset's name is `wanted`, with its folder or without.
fn is_named(name: &str, wanted: &str) -> bool {
    name == wanted || short(name) == Some(wanted)
}

/// Name of a preset without its folder.
fn short(name: &str) -> Option<&str> {
    name.split_once('/').map(|(_, short)| short)
}

/// All presets, each as its name `pretrain/NAME` or `finetune/NAME` and its text.
fn presets() -> Vec<(String, &'static str)> {
    let pretrain = PretrainPreset::ALL.iter().map(|preset| (format!("pretrain/{}", preset.name()), preset.toml()));
    let finetune = FinetunePreset::ALL.iter().map(|preset| (format!("finetune/{}", preset.name()), preset.toml()));
    pretrain.chain(finetune).collect()
}
