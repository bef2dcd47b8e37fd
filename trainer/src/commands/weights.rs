//! `hiend-train import FILE` and `hiend-train export --model PATH`: weights from and to `PyTorch`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use hiend_cache::lookup;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::program::{UsageError, check_extension};

use super::model::{load_pretrained, sizes};
use super::{note, outputs, print, print_text};
use crate::cli::{ExportArgs, ExportFormat, ImportArgs};
use crate::config::pretrain::PretrainConfig;
use crate::device::{Compute, settle_default};
use crate::model_source::{ModelSource, weights_of};
use crate::trained_on::{TrainedOn, spacing_text};
use crate::weights::nnssl::{PretrainingData, encoder_of, write_nnssl};
use crate::weights::{StateDict, export_hi_end_mae, safetensors};

/// Reads a weight file into the model, reports its tensors, and writes the model's weights if asked to.
pub(super) fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    args.out.as_deref().map(|out| check_out(out, "safetensors", &args.file, args.overwrite)).transpose()?;
    let (file, found) = (args.file.display(), lookup::metadata(&args.file)?);
    let found = found.with_context(|| format!("{file}: no such file or folder"))?;
    ensure!(
        !found.is_dir(),
        "{file}: a folder, where a .pth or .safetensors file is expected; runs and checkpoints need no import, every \
         --model accepts them"
    );
    ensure!(found.is_file(), "{file}: not a regular file; expected a .pth or .safetensors file");
    let compute = Compute::cpu();
    settle_default(&compute)?;
    let loaded = load_pretrained(&args.file, sizes(&args.sizes)?, &compute)?;
    if let Some(report) = &loaded.report {
        print_text(report.to_string().trim_end())?;
    }
    match &args.out {
        Some(out) => write(&export_hi_end_mae(&loaded.model)?, out)?,
        None => {
            print("nothing was written; --out FILE.safetensors writes the weights")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a model's weights under `PyTorch`'s names and in its layouts.
pub(super) fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let extension = match args.format {
        ExportFormat::Safetensors => "safetensors",
        ExportFormat::Nnssl => "pth",
    };
    check_out(&args.out, extension, &args.model, args.overwrite)?;
    let compute = Compute::cpu();
    settle_default(&compute)?;
    let sizes = sizes(&args.sizes)?;
    match args.format {
        ExportFormat::Nnssl => return export_nnssl(args, sizes, &compute),
        ExportFormat::Safetensors if args.spacing.is_none() && args.window.is_none() => {}
        ExportFormat::Safetensors => {
            return Err(UsageError::new("--spacing and --window are for --format nnssl").into());
        }
    }
    let state = match ModelSource::find(&args.model)? {
        ModelSource::Checkpoint(path) if sizes.is_none() => {
            print(format_args!("model {}", path.display()))?;
            weights_of(&path)?.state
        }
        _ => export_hi_end_mae(&load_pretrained(&args.model, sizes, &compute)?.model)?,
    };
    write(&state, &args.out)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the encoder of a pre-training model for nnU-Net.
fn export_nnssl(args: &ExportArgs, sizes: Option<PretrainConfig>, compute: &Compute) -> anyhow::Result<ExitCode> {
    let defaults = PreprocessConfig::default();
    let settings = PreprocessConfig {
        spacing: args.spacing.map_or(defaults.spacing, |spacing| spacing.mm()),
        window: args.window.unwrap_or(defaults.window),
        ..defaults
    };
    settings.validate().map_err(UsageError::new)?;
    let loaded = load_pretrained(&args.model, sizes, compute)?;
    ensure!(
        loaded.config.normalize().is_hu(),
        "{}: trained on z-scores, but the network in configs/nnunet expects HU; export it with --format safetensors",
        loaded.path.display()
    );
    let trained_on = TrainedOn::of(&loaded.config);
    let recorded = loaded.config.preprocess.as_ref().map(|preprocess| preprocess.spacing);
    let Some(spacing) = args.spacing.map(|spacing| spacing.mm()).or(recorded) else {
        let message = "--spacing <MM>: the model does not say what spacing it was trained on; state it";
        return Err(UsageError::new(message).into());
    };
    if let Some(recorded) = recorded.filter(|recorded| *recorded != spacing) {
        let [given, recorded] = [spacing, recorded].map(spacing_text);
        note(format_args!("warning: --spacing: the model was trained on scans of {recorded}, not of {given}"));
    }
    let window = args.window.or(trained_on.window()).unwrap_or(settings.window);
    let data = PretrainingData { spacing, window };
    let state = export_hi_end_mae(&loaded.model)?;
    write_nnssl(&args.out, &state, &loaded.config, data)?;
    print(format_args!(
        "{}: {} tensors of the encoder with an adaptation plan for scans of {} to {} HU; configs/nnunet/README.md says how \
         nnU-Net reads it",
        args.out.display(),
        encoder_of(&state).tensors.len(),
        window[0],
        window[1]
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses file names that do not end in `extension`, places that take no file, the file that is read, and an existing one
/// unless `overwrite` is set.
fn check_out(out: &Path, extension: &'static str, input: &Path, overwrite: bool) -> anyhow::Result<()> {
    check_extension(out, extension)?;
    outputs::check_file(out)?;
    if !lookup::exists(out)? {
        return Ok(());
    }
    let resolved = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
    // An input that is not there is reported when it is opened.
    let is_input = lookup::exists(input)? && resolved(out)? == resolved(input)?;
    ensure!(!is_input, "{} would replace the weights that are read; choose another --out", out.display());
    ensure!(overwrite, "{} exists; --overwrite replaces it", out.display());
    Ok(())
}

fn write(state: &StateDict, out: &Path) -> anyhow::Result<()> {
    safetensors::write(out, state)?;
    let values: usize = state.tensors.values().map(|tensor| tensor.values.len()).sum();
    print(format_args!(
        "{}: {} tensors, {:.1} million values, named and laid out as in the reference's PyTorch model",
        out.display(),
        state.tensors.len(),
        values as f64 / 1e6
    ))?;
    Ok(())
}
