//! Watches HTTP requests to object storage: `object_store` retries failed requests silently, so that a mistyped
//! endpoint would look like a hanging program.
//!
//! [`Connector`] wraps the HTTP client of a store. It logs once, after [`PATIENCE`] or [`SLOW`], that a server does not
//! answer and why. It prevents retries of errors that no retry can fix (TLS, missing credentials), and it ends all
//! retries after [`abandon_requests`].

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientConfigKey, ClientOptions};

use super::environment::is_truthy;

/// Duration of failing requests after which a message says what the program waits for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time after which a request without an answer counts as failing. A busy server may take seconds.
const SLOW: Duration = Duration::from_secs(5);
/// Largest body, in bytes, whose upload time is negligible: a late answer then means a slow server.
const SMALL_BODY: usize = 256 << 10;
/// Time without receiving a byte after which a request with a small body is given up and retried. A large body may take
/// longer to send.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Hosts of the metadata services that give programs the credentials of their cloud machine.
const METADATA_HOSTS: [&str; 4] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal", "metadata"];

/// `true` once requests shall be abandoned.
static ABANDONED: AtomicBool = AtomicBool::new(false);
/// Number of stores that have not answered for [`PATIENCE`].
static FAILING: AtomicUsize = AtomicUsize::new(0);

/// Makes requests to stores that do not answer fail at once instead of being retried, from now on and in the whole
/// process. Requests that are answered continue. For programs that were asked to stop.
pub fn abandon_requests() {
    ABANDONED.store(true, Ordering::Relaxed);
}

/// Ends the effect of [`abandon_requests`].
pub fn resume_requests() {
    ABANDONED.store(false, Ordering::Relaxed);
}

/// Returns `true` if an error, or one of its causes, comes from a request that [`abandon_requests`] ended.
#[must_use]
pub fn is_abandoned(error: &(dyn StdError + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        // The source of an I/O error skips the error within it, so that one is examined here. The kind alone does not
        // suffice: interrupted system calls have the same kind.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.is::<Abandoned>() || within.is_some_and(|within| is_abandoned(within))
    })
}

/// Returns `true` if requests are abandoned and some store does not answer.
pub(super) fn is_hopeless() -> bool {
    ABANDONED.load(Ordering::Relaxed) && FAILING.load(Ordering::Relaxed) > 0
}

/// Error of a request that [`abandon_requests`] ended.
#[derive(Debug, thiserror::Error)]
#[error("stopped while the object storage did not answer")]
pub struct Abandoned;

/// Neither the environment nor the machine provides credentials.
#[derive(Debug, thiserror::Error)]
#[error("no credentials: set {variables}; this machine has no role that gives any ({reason})")]
pub(super) struct NoCredentials {
    variables: &'static str,
    reason: String,
}

/// Creates the HTTP clients of one store.
#[derive(Debug)]
pub(super) struct Connector {
    store: Arc<Store>,
}

/// State that the clients of a store share.
#[derive(Debug)]
struct Store {
    /// URL without its path, for messages.
    origin: String,
    /// Time for which failed requests are retried.
    retry: Duration,
    /// Environment variables that hold the credentials for this kind of store.
    variables: &'static str,
    /// URL of the service that gives the credentials of this machine, if the environment names one.
    metadata: Option<String>,
    /// `true` if a refused request for a token may be followed by requests without one, the first version of Amazon's protocol
    /// (`AWS_IMDSV1_FALLBACK`).
    asks_without_token: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Time of the first failure since the last answer.
    failing_since: Option<Instant>,
    /// `true` once the failure has been reported.
    is_told: bool,
    /// `true` once the machine's metadata service has answered.
    has_role: bool,
}

impl Connector {
    /// Creates the connector of the store at `origin`, whose failed requests are retried for `retry`.
    pub(super) fn new(origin: &str, retry: Duration, variables: &'static str) -> Self {
        let metadata = std::env::var("AWS_METADATA_ENDPOINT").ok().filter(|url| !url.is_empty());
        let asks_without_token = std::env::var("AWS_IMDSV1_FALLBACK").is_ok_and(|value| is_truthy(&value));
        let origin = origin.to_owned();
        let store = Store { origin, retry, variables, metadata, asks_without_token, state: Mutex::default() };
        Self { store: Arc::new(store) }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let small = ReqwestConnector::default().connect(&for_small_bodies(options))?;
        let large = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Watched { small, large, store: Arc::clone(&self.store) }))
    }
}

/// Options of the client for requests with small bodies, which also end after a silence and not only after their whole
/// timeout.
fn for_small_bodies(options: &ClientOptions) -> ClientOptions {
    let is_set = options.get_config_value(&ClientConfigKey::ReadTimeout).is_some();
    if is_set { options.clone() } else { options.clone().with_read_timeout(READ_TIMEOUT) }
}

/// An HTTP client whose answers and failures are recorded.
struct Watched {
    /// Client for requests whose bodies have at most [`SMALL_BODY`] bytes.
    small: HttpClient,
    /// Client for requests with larger bodies: the parts of uploads.
    large: HttpClient,
    store: Arc<Store>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("origin", &self.store.origin).finish_non_exhaustive()
    }
}

impl HttpService for Watched {
    // The signature that the attribute `async_trait` gives to an asynchronous method.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            if is_hopeless() {
                return Err(HttpError::new(HttpErrorKind::Unknown, Abandoned));
            }
            let is_metadata = self.store.is_metadata(&request);
            let is_https = request.uri().scheme_str() == Some("https");
            let is_small = request.body().content_length() <= SMALL_BODY;
            let started = Instant::now();
            let client = if is_small { &self.small } else { &self.large };
            let mut answer = pin!(client.execute(request));
            let answer = match tokio::time::timeout(SLOW, answer.as_mut()).await {
                Ok(answer) => answer,
                Err(_elapsed) => {
                    if is_small && !is_metadata {
                        self.store.failed("no answer yet", Instant::now().checked_sub(SLOW));
                    }
                    answer.await
                }
            };
            if is_metadata { self.store.of_metadata(answer) } else { self.store.of_data(answer, started, is_https) }
        })
    }
}

impl Store {
    /// Returns `true` for a request for the credentials of this machine.
    fn is_metadata(&self, request: &HttpRequest) -> bool {
        let uri = request.uri();
        uri.host().is_some_and(|host| METADATA_HOSTS.contains(&host))
            || self.metadata.as_deref().is_some_and(|url| uri.to_string().starts_with(url))
    }

    /// Records the outcome of a data request that began at `started`.
    fn of_data(
        &self,
        answer: Result<HttpResponse, HttpError>,
        started: Instant,
        is_https: bool,
    ) -> Result<HttpResponse, HttpError> {
        match answer {
            Ok(response) => {
                let status = response.status();
                if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
                    self.failed(&format!("HTTP status {status}"), None);
                } else {
                    self.answered();
                }
                Ok(response)
            }
            Err(err) => {
                let is_final = !heals(&err);
                let err = match proxy(is_https, |name| std::env::var(name).ok()) {
                    Some(proxy) => HttpError::new(err.kind(), Proxied { reason: innermost(&err), proxy }),
                    None => err,
                };
                if is_final {
                    return Err(once(err));
                }
                // A request that took long to fail has failed for long: a large upload to a silent server, for example.
                self.failed(&innermost(&err), Some(started));
                // Requests may have been abandoned while this one was on its way.
                Err(if is_hopeless() { HttpError::new(HttpErrorKind::Unknown, Abandoned) } else { err })
            }
        }
    }

    /// Records the outcome of a request for the machine's credentials. A failure is retried only if the metadata
    /// service has answered before.
    fn of_metadata(&self, answer: Result<HttpResponse, HttpError>) -> Result<HttpResponse, HttpError> {
        let had_role = self.lock().has_role;
        let reason = match answer {
            Ok(response) if response.status().is_success() => {
                self.lock().has_role = true;
                return Ok(response);
            }
            Ok(response) if had_role || (response.status().as_u16() == 403 && self.asks_without_token) => {
                return Ok(response);
            }
            Err(err) if had_role => return Err(err),
            Ok(response) => format!("HTTP status {}", response.status()),
            Err(err) => innermost(&err),
        };
        Err(HttpError::new(HttpErrorKind::Unknown, NoCredentials { variables: self.variables, reason }))
    }

    /// Records a failure, which began at `since` if that is known, and reports it once failures have lasted for
    /// [`PATIENCE`].
    fn failed(&self, reason: &str, since: Option<Instant>) {
        let mut state = self.lock();
        let now = Instant::now();
        let since = *state.failing_since.get_or_insert_with(|| since.unwrap_or(now));
        if state.is_told || now.duration_since(since) < PATIENCE {
            return;
        }
        state.is_told = true;
        // Counted only after `PATIENCE`: one failed request must not make a program that is stopping abandon all others.
        FAILING.fetch_add(1, Ordering::Relaxed);
        drop(state);
        let (origin, secs) = (&self.origin, self.retry.as_secs());
        tracing::warn!(
            "{origin} does not answer ({reason}); each request is repeated for up to {secs} s (storage retry)"
        );
    }

    /// Records an answer, which ends a series of failures.
    fn answered(&self) {
        let mut state = self.lock();
        state.failing_since = None;
        if std::mem::take(&mut state.is_told) {
            FAILING.fetch_sub(1, Ordering::Relaxed);
            drop(state);
            tracing::info!("{} answers again", self.origin);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `true` if a retry may succeed: the server is unreachable or busy. A TLS error means that it has no valid
/// certificate, or speaks another protocol.
fn heals(err: &(dyn StdError + 'static)) -> bool {
    std::iter::successors(Some(err), |&error| error.source()).all(|error| match error.downcast_ref::<io::Error>() {
        // rustls reports its errors with this kind. The source of an I/O error is that of the error within it, which may be
        // another I/O error.
        Some(error) => error.kind() != io::ErrorKind::InvalidData && error.get_ref().is_none_or(|within| heals(within)),
        None => !error.is::<rustls::Error>(),
    })
}

/// Failure of a request in an environment that names a proxy. Only the HTTP client, which reads the environment too,
/// knows whether the request went through the proxy.
#[derive(Debug, thiserror::Error)]
#[error("{reason} ({proxy}; no_proxy lists hosts to be reached without it)")]
struct Proxied {
    reason: String,
    proxy: String,
}

/// The proxy that the environment names for requests, with its variable and without its password.
fn proxy(is_https: bool, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let own = if is_https { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let set = |name: &'static str| variable(name).filter(|value| !value.is_empty()).map(|value| (name, value));
    let (name, value) = own.into_iter().chain(["ALL_PROXY", "all_proxy"]).find_map(set)?;
    let host = value.rsplit_once('@').map_or(value.as_str(), |(_, host)| host);
    Some(format!("{name} names the proxy {host}"))
}

/// Converts an error to a kind that is not retried.
fn once(err: HttpError) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, Final(err))
}

/// An error that is not retried. Displays only its cause, because the error that wraps it displays the rest.
#[derive(Debug)]
struct Final(HttpError);

impl fmt::Display for Final {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(cause) => fmt::Display::fmt(cause, f),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl StdError for Final {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Text of the first cause of an error.
pub(super) fn innermost(err: &(dyn StdError + 'static)) -> String {
    let mut error = err;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests;
