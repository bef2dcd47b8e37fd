//! `hiend-train doctor`.

use std::process::ExitCode;

use crate::cli::DoctorArgs;
use crate::device::{keep_kernels, take_panic};
use crate::doctor::Report;

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    keep_kernels(None);
    let report = Report::of(args.device);
    super::print_text(report.to_string().trim_end())?;
    if let Some(panic) = take_panic() {
        super::note(format_args!("warning: a thread of the device panicked: {panic}"));
    }
    Ok(if report.is_healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
