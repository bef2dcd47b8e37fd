//! Metrics and health of a run, served while it lasts.

use std::time::Duration;

use hiend_loader::program::health::{Health, Pulse};
use hiend_loader::program::metrics_server::MetricsServer;
use hiend_loader::stats::describe;

use crate::cli::RunArgs;
use crate::report::metrics;
use crate::training::{Event, Stream};

/// The run as monitoring sees it: metrics, and whether it makes progress.
pub(super) struct Observer {
    health: Health,
    limit: Duration,
    /// Beats with every event of the run.
    progress: Pulse,
    /// Serves while the run lasts.
    _server: Option<MetricsServer>,
}

impl Observer {
    /// Starts the server of metrics if one was asked for. Of several ranks, the first one serves.
    pub(super) fn start(args: &RunArgs, is_first: bool) -> anyhow::Result<Self> {
        let (health, limit) = (Health::new(), Duration::from_secs(args.stalled_after));
        let server = args.metrics_listen.filter(|_| is_first);
        let server = server.map(|addr| MetricsServer::start(addr, health.clone())).transpose()?;
        if let Some(server) = &server {
            describe(metrics::METRICS);
            super::note(format_args!("metrics on http://{0}/metrics, health on http://{0}/healthz", server.addr()));
        }
        Ok(Self { progress: health.stage("training", limit), health, limit, _server: server })
    }

    /// Watches how long batches are awaited.
    pub(super) fn watch(&self, stream: Stream) -> Stream {
        stream.watched(self.health.clone(), self.limit)
    }

    pub(super) fn event(&self, event: &Event<'_>) {
        metrics::record(event);
        match event {
            Event::Stopped(_) => self.progress.idle(),
            _ => self.progress.beat(),
        }
    }
}
