//! `/metrics` for Prometheus and `/healthz`, served on their own port by one thread.
//!
//! The pages hold counts, times and losses, never voxels or names of cases, and are served without encryption: the
//! address should be one that only the monitoring system reaches. Any other path returns 404, any other method 405.

mod bounded;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use self::bounded::Bounded;
use super::health::Health;

/// Upper bounds of the buckets of histograms whose names end in `_seconds`.
const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Interval at which recorded values are moved into the histograms, so that none accumulate between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Number of connections served at a time. A monitoring system and the probes of an orchestrator need a few.
const CONNECTIONS: usize = 32;

/// Time after which a connection is closed; a monitoring system opens another.
const LIFETIME: Duration = Duration::from_mins(1);

/// Content type of Prometheus's text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Failure to serve metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsServerError {
    /// The address cannot be bound.
    #[error("cannot serve metrics on {addr}")]
    Bind {
        /// Address and port of the metrics server.
        addr: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The process has another recorder of metrics.
    #[error("cannot record metrics: {reason}")]
    Recorder {
        /// The recorder's error.
        reason: Arc<BuildError>,
    },
    /// The system refused the server's thread.
    #[error("cannot start the thread that serves metrics; see the limit on processes (ulimit -u)")]
    Thread(#[source] io::Error),
}

/// A running metrics server. Dropping it ends the server; the recorder stays installed.
#[derive(Debug)]
pub struct MetricsServer {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Installs the process's recorder and serves its metrics and `health` on `addr`; port 0 selects a free port.
    ///
    /// Counters that were obtained before the recorder was installed are not recorded: a program calls this first.
    ///
    /// # Errors
    /// If the address is taken, or the process has another recorder.
    pub fn start(addr: SocketAddr, health: Health) -> Result<Self, MetricsServerError> {
        let handle = recorder()?;
        let bind_error = |source| MetricsServerError::Bind { addr, source };
        let listener = std::net::TcpListener::bind(addr).map_err(bind_error)?;
        listener.set_nonblocking(true).map_err(bind_error)?;
        let addr = listener.local_addr().map_err(bind_error)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MetricsServerError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            let listener = Bounded::new(listener, CONNECTIONS, LIFETIME);
            let upkeep = tokio::spawn(keep_up(handle.clone()));
            // Connections end with the runtime: a scrape in progress does not delay the program's end.
            tokio::select! {
                _ = axum::serve(listener, router(handle, health)) => {}
                _ = stopped => {}
            }
            upkeep.abort();
        };
        let thread = std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || runtime.block_on(serve))
            .map_err(MetricsServerError::Thread)?;
        Ok(Self { addr, stop: Some(stop), thread: Some(thread) })
    }

    /// Address that the server listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        // A dropped sender ends the wait of the server, whether or not the message is received.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// The process's recorder, installed at the first call.
///
/// # Errors
/// If the process has another recorder.
pub fn recorder() -> Result<PrometheusHandle, MetricsServerError> {
    static RECORDER: OnceLock<Result<PrometheusHandle, Arc<BuildError>>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS);
        let handle = builder.and_then(PrometheusBuilder::install_recorder).map_err(Arc::new)?;
        crate::stats::describe(crate::stats::METRICS);
        Ok(handle)
    };
    RECORDER.get_or_init(install).clone().map_err(|reason| MetricsServerError::Recorder { reason })
}

/// Routes `/metrics` and `/healthz`, for a server that also has other routes.
pub fn router(handle: PrometheusHandle, health: Health) -> Router {
    let metrics = move || async move { ([(header::CONTENT_TYPE, TEXT_FORMAT)], handle.render()) };
    let healthz = move || async move {
        match health.page() {
            Ok(text) => (StatusCode::OK, format!("ok\n{text}")),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    };
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz))
}

/// Moves recorded values into the histograms until aborted.
async fn keep_up(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    fn request(addr: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(addr).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    #[test]
    fn metrics_and_health_are_served_until_dropped() {
        let health = Health::new();
        let server = MetricsServer::start(([127, 0, 0, 1], 0).into(), health.clone()).unwrap();
        let addr = server.addr();
        metrics::histogram!("hiend_loader_wait_seconds").record(0.2);
        metrics::counter!("hiend_loader_skipped_visits_total").increment(0);
        let page = request(addr, "GET /metrics");
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("text/plain; version=0.0.4"), "{page}");
        for line in [
            "# TYPE hiend_loader_wait_seconds histogram",
            "# HELP hiend_loader_wait_seconds Time the consumer waited for a batch.",
            "hiend_loader_wait_seconds_bucket{le=\"+Inf\"}",
            "# TYPE hiend_loader_skipped_visits_total counter",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
        assert!(request(addr, "GET /healthz").starts_with("HTTP/1.1 200"));
        health.fail("no server answers");
        let ill = request(addr, "GET /healthz");
        assert!(ill.starts_with("HTTP/1.1 503") && ill.ends_with("no server answers\n"), "{ill}");
        assert!(request(addr, "GET /").starts_with("HTTP/1.1 404"));
        assert!(request(addr, "POST /metrics").starts_with("HTTP/1.1 405"));
        // A connection that sends nothing does not delay the end, and is closed by it. Another test may have got the port by
        // then, so a new connection would show nothing.
        let mut silent = TcpStream::connect(addr).unwrap();
        drop(server);
        silent.set_read_timeout(Some(LIFETIME / 2)).unwrap();
        let ended = silent.read(&mut [0; 8]);
        assert!(
            matches!(&ended, Ok(0)) || matches!(&ended, Err(err) if err.kind() == io::ErrorKind::ConnectionReset),
            "{ended:?}"
        );
    }

    #[test]
    fn a_taken_address_is_named() {
        let held = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = held.local_addr().unwrap();
        let error = MetricsServer::start(addr, Health::new()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot serve metrics on {addr}"));
    }
}
