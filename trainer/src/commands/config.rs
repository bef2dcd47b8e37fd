//! `hiend-train config [PRESET]`.

use std::process::ExitCode;

use anyhow::bail;

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
    let matches = |name: &str| name == wanted || name.split_once('/').is_some_and(|(_, name)| name == wanted);
    let found: Vec<_> = presets.iter().filter(|(name, _)| matches(name)).collect();
    match found.as_slice() {
        [(_, text)] => {
            super::print_text(text.trim_end())?;
        }
        [] => {
            let similarity = |name: &str| {
                let (_, short) = name.split_once('/').unwrap_or(("", name));
                strsim::jaro_winkler(short, wanted).max(strsim::jaro_winkler(name, wanted))
            };
            let nearest = presets.iter().max_by(|a, b| similarity(&a.0).total_cmp(&similarity(&b.0)));
            let hint = nearest.filter(|(name, _)| similarity(name) > 0.7);
            let hint = hint.map(|(name, _)| format!("; did you mean `{name}`?")).unwrap_or_default();
            bail!("no preset `{wanted}`{hint} (hiend-train config lists them)");
        }
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
            bail!("`{wanted}` names several presets; give the full name of one: {}", names.join(" or "));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All presets, each as its name `pretrain/NAME` or `finetune/NAME` and its text.
fn presets() -> Vec<(String, &'static str)> {
    let pretrain = PretrainPreset::ALL.iter().map(|preset| (format!("pretrain/{}", preset.name()), preset.toml()));
    let finetune = FinetunePreset::ALL.iter().map(|preset| (format!("finetune/{}", preset.name()), preset.toml()));
    pretrain.chain(finetune).collect()
}
