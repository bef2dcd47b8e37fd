//! Numbers of scans that a command has gone through.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use hiend_loader::program::{SKIPPED, count};

use super::note;

/// Numbers of scans done and skipped so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Number of scans whose results are written.
    pub num_done: usize,
    /// Number of scans without results.
    pub num_skipped: usize,
}

impl Tally {
    /// Counts a scan that is skipped, and names it with the reason on standard error.
    pub(super) fn skip(&mut self, name: &str, reason: impl Display) {
        note(format_args!("{name}: skipped: {reason}"));
        self.num_skipped += 1;
    }

    /// Closing line, such as `3 of 4 scans drawn into DIR` for `done` = `drawn`.
    pub(super) fn summary(&self, done: &str, out: &Path) -> String {
        let all = self.num_done + self.num_skipped;
        format!("{} of {} {done} into {}", self.num_done, count(all, "scan"), out.display())
    }

    /// Exit code: a failure if all scans were skipped.
    pub(super) fn exit_code(&self) -> ExitCode {
        match (self.num_done, self.num_skipped) {
            (_, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::FAILURE,
            _ => ExitCode::from(SKIPPED),
        }
    }
}
