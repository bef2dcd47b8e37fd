//! Scans named by flags, for the commands that draw them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use hiend_cache::Cache;
use hiend_loader::case::case_named;
use hiend_loader::picture::Canvas;
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::scan::{Scan, name_of};

use super::print;
use crate::cli::ScanArgs;
use crate::config::pretrain::PretrainConfig;

/// Calls `draw` with every scan, preprocessed as for training; stops at the first failure.
///
/// # Errors
/// If two scans would write the same pictures, a scan cannot be read, or `draw` fails.
pub(super) fn for_each(
    args: &ScanArgs,
    config: &PretrainConfig,
    mut draw: impl FnMut(&Scan) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    ensure!(!args.out.is_file(), "{}: a file, where a folder for the pictures is expected", args.out.display());
    let window = args.window.or(config.stream.window);
    if let Some([low, high]) = window {
        ensure!(low < high, "--window {low},{high}: expected two HU values, the lower one first");
    }
    if let Some(dir) = &args.shards {
        let cache = Cache::open(dir)?;
        let cases: Result<Vec<_>, _> = args.case.iter().map(|name| case_named(&cache, name)).collect();
        let cases = cases?;
        refuse_namesakes(cases.iter().map(|case| case.key().to_owned()))?;
        for case in cases {
            draw(&Scan::of_case(&cache, case, window)?)?;
        }
        return Ok(());
    }
    refuse_namesakes(args.inputs.iter().map(|path| name_of(path)))?;
    let recipe = PreprocessConfig::default();
    let preprocess = PreprocessConfig { spacing: args.spacing.mm(), window: window.unwrap_or(recipe.window), ..recipe };
    preprocess.validate().map_err(anyhow::Error::msg)?;
    for input in &args.inputs {
        draw(&Scan::read(input, &preprocess)?)?;
    }
    Ok(())
}

fn refuse_namesakes(names: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        ensure!(seen.insert(name.clone()), "two scans are named {name}; draw them into different folders by --out");
    }
    Ok(())
}

/// Writes `DIR/SCAN-KIND.png` and prints its path.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(canvas: &Canvas, dir: &Path, scan: &Scan, kind: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let path: PathBuf = dir.join(format!("{}-{kind}.png", picture_name(scan)));
    canvas.write_png(&path).with_context(|| path.display().to_string())?;
    print(format_args!("picture {}", path.display()))?;
    Ok(())
}

fn picture_name(scan: &Scan) -> String {
    scan.name.replace(['/', '\\'], "_")
}
