//! `hiend-train import FILE` and `hiend-train export --model PATH`: weights from and to `PyTorch`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::ensure;

use super::model::{load_pretrained, sizes};
use crate::cli::{ExportArgs, ImportArgs};
use crate::device::{Compute, settle_default};
use crate::model_source::{ModelSource, weights_of};
use crate::weights::{StateDict, export_hi_end_mae, safetensors};

/// Reads a file of weights into the model, says what became of its tensors, and writes what the model holds.
pub fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    args.out.as_deref().map(check_name).transpose()?;
    ensure!(
        !args.file.is_dir(),
        "{}: a folder, where a .pth or .safetensors file is expected; runs and checkpoints need no import, every \
         --model takes them",
        args.file.display()
    );
    let compute = Compute::cpu();
    settle_default(&compute)?;
    let loaded = load_pretrained(&args.file, sizes(&args.sizes)?, &compute)?;
    if let Some(report) = &loaded.report {
        print!("{report}");
    }
    match &args.out {
        Some(out) => write(&export_hi_end_mae(&loaded.model)?, out)?,
        None => println!("nothing was written; --out FILE.safetensors would"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a model's weights as `PyTorch` names and shapes them.
pub fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    check_name(&args.out)?;
    let compute = Compute::cpu();
    settle_default(&compute)?;
    let sizes = sizes(&args.sizes)?;
    let state = match ModelSource::find(&args.model)? {
        ModelSource::Checkpoint(path) if sizes.is_none() => {
            println!("model {}", path.display());
            weights_of(&path)?.0
        }
        _ => export_hi_end_mae(&load_pretrained(&args.model, sizes, &compute)?.model)?,
    };
    write(&state, &args.out)?;
    Ok(ExitCode::SUCCESS)
}

fn check_name(out: &Path) -> anyhow::Result<()> {
    let fits = out.extension().is_some_and(|extension| extension == "safetensors");
    ensure!(fits, "{}: expected a name that ends in .safetensors", out.display());
    Ok(())
}

fn write(state: &StateDict, out: &Path) -> anyhow::Result<()> {
    safetensors::write(out, state)?;
    let values: usize = state.tensors.values().map(|tensor| tensor.values.len()).sum();
    println!(
        "{}: {} tensors, {:.1} million values, named and laid out as in the reference's PyTorch model",
        out.display(),
        state.tensors.len(),
        values as f64 / 1e6
    );
    Ok(())
}
