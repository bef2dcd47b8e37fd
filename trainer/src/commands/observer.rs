//! Metrics and health of a run, served while it runs, and warnings of stages that stand still.

use std::time::Duration;

use hiend_loader::program::health::{Health, Pulse};
use hiend_loader::program::metrics_server::MetricsServer;
use hiend_loader::program::watchdog::Watchdog;
use hiend_loader::stats::describe;

use crate::cli::RunArgs;
use crate::report::metrics;
use crate::training::{Event, Stream};

/// A run's state for monitoring: metrics, and whether it makes progress.
pub(super) struct Observer {
    health: Health,
    limit: Duration,
    /// Progress signal for health checks, sent with every event of the run.
    progress: Pulse,
    /// Metrics server, which runs as long as the run.
    _server: Option<MetricsServer>,
    /// Warnings of stages that stand still.
    _watchdog: Watchdog,
}

impl Observer {
    /// Starts the warnings, and the metrics server if requested. With several ranks, only the first rank serves.
    pub(super) fn start(args: &RunArgs, is_first: bool) -> anyhow::Result<Self> {
        let (health, limit) = (Health::new(), Duration::from_secs(args.stalled_after));
        let server = args.metrics_listen.filter(|_| is_first);
        let server = server.map(|addr| MetricsServer::start(addr, health.clone())).transpose()?;
        if let Some(server) = &server {
            describe(metrics::METRICS);
            super::note(format_args!("metrics on http://{0}/metrics, health on http://{0}/healthz", server.addr()));
        }
        let watchdog = Watchdog::start(health.clone())?;
        Ok(Self { progress: health.stage("training", limit), health, limit, _server: server, _watchdog: watchdog })
    }

    /// Adds monitoring of the wait for batches to a stream.
    pub(super) fn watch(&self, stream: Stream) -> Stream {
        stream.watched(self.health.clone(), self.limit)
    }

    pub(super) fn event(&self, event: &Event<'_>) {
        metrics::record(event);
        match event {
            Event::Stopped(_) => self.progress.idle(),
            Event::Step(record) => self.progress.beat_at(format!("after step {}", record.step)),
            Event::Validating { done, total } => {
                self.progress.beat_at(format!("after {done} of {total} cases of a validation"));
            }
            Event::Validation(_) => self.progress.beat_at("after a validation"),
            Event::Checkpoint(_) => self.progress.beat_at("after a checkpoint"),
            _ => self.progress.beat(),
        }
    }
}
