//! Arguments of runs with several ranks.

use std::time::Duration;

use clap::Args;

use super::values::{parse_positive, parse_whole};
use crate::distributed::{Launcher, Timeouts};

/// Arguments of runs with several ranks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Several ranks")]
pub struct RanksArgs {
    /// Program that started the ranks, one process each; its environment determines this process's rank
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub ranks: Launcher,
    /// Address that rank 0 listens on, if it differs from the one that the others connect to
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Seconds within which all ranks must have joined
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = parse_positive::<u64>)]
    pub join_timeout: u64,
    /// Seconds without data or heartbeat after which a rank counts as lost, and all ranks end
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = parse_positive::<u64>)]
    pub peer_timeout: u64,
    /// Seconds that a rank may take between two exchanges: a step, tuning, a validation, a checkpoint
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = parse_positive::<u64>)]
    pub step_timeout: u64,
    /// Number of times that the ranks of --devices are restarted from the newest checkpoint after one was lost or
    /// killed
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        value_parser = parse_whole::<usize>,
        requires = "devices",
        conflicts_with = "smoke"
    )]
    pub restarts: usize,
}

impl RanksArgs {
    /// Timeouts after which a rank gives up on another rank.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        let [join, peer, step] = [self.join_timeout, self.peer_timeout, self.step_timeout].map(Duration::from_secs);
        Timeouts { join, peer, step }
    }
}
