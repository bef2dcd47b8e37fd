//! `hiend-train curves RUN`.

use std::process::ExitCode;

use crate::cli::CurvesArgs;
use crate::report::history::History;
use crate::report::watcher::{CURVES, draw_curves};

pub fn run(args: &CurvesArgs) -> anyhow::Result<ExitCode> {
    let history = History::read(&args.run_dir.join("journal.jsonl"))?;
    let out = args.out.clone().unwrap_or_else(|| args.run_dir.join(CURVES));
    let drawn = draw_curves(&history, &args.run_dir, &out);
    drawn.map_err(|message| anyhow::anyhow!("{}: {message}", args.run_dir.display()))?;
    println!("picture {}", out.display());
    Ok(ExitCode::SUCCESS)
}
