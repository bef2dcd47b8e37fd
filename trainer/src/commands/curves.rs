//! `hiend-train curves RUN`.

use std::process::ExitCode;

use anyhow::Context as _;
use hiend_loader::program::check_extension;

use super::outputs;
use crate::cli::CurvesArgs;
use crate::report::history::History;
use crate::report::watcher::{CURVES, draw_curves};
use crate::training::JOURNAL;

pub(super) fn run(args: &CurvesArgs) -> anyhow::Result<ExitCode> {
    let out = args.out.clone().unwrap_or_else(|| args.run_dir.join(CURVES));
    check_extension(&out, "png")?;
    let history = History::read(&args.run_dir.join(JOURNAL))?;
    // After the journal: a folder that is missing is then reported as that of the run.
    outputs::check_file(&out)?;
    draw_curves(&history, &args.run_dir, &out).with_context(|| args.run_dir.display().to_string())?;
    super::print(format_args!("picture {}", out.display()))?;
    Ok(ExitCode::SUCCESS)
}
