//! `hiend-train curves RUN`.

use std::process::ExitCode;

use crate::cli::CurvesArgs;
use crate::report::history::History;
use crate::report::watcher::{CURVES, draw_curves};

pub fn run(args: &CurvesArgs) -> anyhow::Result<ExitCode> {
    let history = History::read(&args.run_dir.join("journal.jsonl"))?;
    let out = args.out.clone().unwrap_or_else(|| args.run_dir.join(CURVES));
    draw_curves(&history, &args.run_dir, &out).map_err(anyhow::Error::msg)?;
    println!("picture {}", out.display());
    Ok(ExitCode::SUCCESS)
}
