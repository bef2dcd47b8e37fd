//! `hiend-train import FILE` and `hiend-train export --model PATH`: weights from and to `PyTorch`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use hiend_cache::{FileError, lookup};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::program::{UsageError, check_extension};

use super::model::{load_pretrained, sizes};
use super::{outputs, print, print_text};
use crate::cli::{ExportArgs, ExportFormat, ImportArgs};
use crate::config::pretrain::PretrainConfig;
use crate::device::{Compute, settle_default};
use crate::model_source::{CheckpointWeights, ModelSource, Pretrained, weights_of};
use crate::trained_on::{TrainedOn, spacing_text};
use crate::weights::nnssl::{PretrainingData, encoder_of, write_nnssl};
use crate::weights::{StateDict, export_hi_end_mae, safetensors};

/// Reads a weight file into the model, reports its tensors, and writes the model's weights if requested.
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
        ExportFormat::Safetensors if check_extension(&args.out, "pth").is_ok() => {
            let out = args.out.display();
            return Err(UsageError::new(format!(
                "{out}: expected a name that ends in .safetensors, or --format nnssl"
            ))
            .into());
        }
        ExportFormat::Safetensors => "safetensors",
        ExportFormat::Nnssl => "pth",
    };
    check_out(&args.out, extension, &args.model, args.overwrite)?;
    let compute = Compute::cpu();
    settle_default(&compute)?;
    let sizes = sizes(&args.sizes)?;
    match args.format {
        ExportFormat::Nnssl => return export_nnssl(args, sizes, &compute),
        ExportFormat::Safetensors if args.normalize.is_some() || args.spacing.is_some() || args.window.is_some() => {
            let message = "--normalize, --spacing and --window are for --format nnssl";
            return Err(UsageError::new(message).into());
        }
        ExportFormat::Safetensors => {}
    }
    let (state, normalize) = match ModelSource::find(&args.model)? {
        ModelSource::Checkpoint(path) if sizes.is_none() => {
            print(format_args!("model {}", path.display()))?;
            let CheckpointWeights { state, facts } = weights_of(&path)?;
            (state, facts.trained_on.as_ref().map_or(Normalize::Hu, TrainedOn::normalize))
        }
        _ => {
            let loaded = load_pretrained(&args.model, sizes, &compute)?;
            (export_hi_end_mae(&loaded.model)?, loaded.config.normalize())
        }
    };
    write(&state, &args.out)?;
    if normalize == Normalize::Zscore {
        print(
            "trained on z-scores, which the file does not record: --normalize zscore states it where the file is read",
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the encoder of a pre-training model for nnU-Net.
fn export_nnssl(args: &ExportArgs, sizes: Option<PretrainConfig>, compute: &Compute) -> anyhow::Result<ExitCode> {
    let loaded = load_pretrained(&args.model, sizes, compute)?;
    let data = pretraining_data(args, &loaded)?;
    let state = export_hi_end_mae(&loaded.model)?;
    write_nnssl(&args.out, &state, &loaded.config, data)?;
    let [low, high] = data.window;
    let scans = match data.normalize {
        Normalize::Hu => format!("scans of {low} to {high} HU"),
        Normalize::Zscore => format!("scans normalised to z-scores, kept from {low} to {high}"),
    };
    print(format_args!(
        "{}: {} tensors of the encoder with an adaptation plan for {scans}; configs/nnunet/README.md says how nnU-Net reads \
         it",
        args.out.display(),
        encoder_of(&state).tensors.len(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Preprocessing of the pre-training scans: from the run's record, or else from the flags.
fn pretraining_data(args: &ExportArgs, loaded: &Pretrained) -> anyhow::Result<PretrainingData> {
    let recorded = loaded.config.preprocess.as_ref();
    let trained = loaded.config.normalize();
    let normalize = args.normalize.map_or(trained, Normalize::from);
    // A weight file does not say what it was trained on.
    let is_known = loaded.report.is_none() || recorded.is_some();
    if is_known && normalize != trained {
        let (name, values) = (normalize.name(), trained.values());
        let message = format!("--normalize {name}: the model was trained on {values}; leave it out");
        return Err(UsageError::new(message).into());
    }
    let spacing = match (recorded, args.spacing) {
        (Some(recorded), Some(given)) if given.mm() != recorded.spacing => {
            let message =
                format!("--spacing: the model's run records {}; leave it out", spacing_text(recorded.spacing));
            return Err(UsageError::new(message).into());
        }
        (Some(recorded), _) => recorded.spacing,
        (None, Some(given)) => given.mm(),
        (None, None) => {
            let message = "--format nnssl needs --spacing MM: the model does not record the spacing of its scans";
            return Err(UsageError::new(message).into());
        }
    };
    let recorded_window = TrainedOn::of(&loaded.config).window();
    let window = match (recorded_window, args.window) {
        (Some(recorded), Some(given)) if given.map(f64::to_bits) != recorded.map(f64::to_bits) => {
            let [low, high] = recorded;
            let message = format!("--window: the model's run records its range, {low} to {high}; leave it out");
            return Err(UsageError::new(message).into());
        }
        (Some(window), _) | (None, Some(window)) => window,
        (None, None) => normalize.default_window(),
    };
    let settings = PreprocessConfig { spacing, window, normalize, ..PreprocessConfig::default() };
    settings.validate().map_err(UsageError::new)?;
    Ok(PretrainingData { spacing, normalize, window })
}

/// Rejects output paths that do not end in `extension`, cannot hold a file, or are the input file; also existing files
/// unless `overwrite` is set.
fn check_out(out: &Path, extension: &'static str, input: &Path, overwrite: bool) -> anyhow::Result<()> {
    check_extension(out, extension)?;
    outputs::check_file(out)?;
    if !lookup::exists(out)? {
        return Ok(());
    }
    let resolved = |path: &Path| path.canonicalize().map_err(FileError::at(path, "look up"));
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
