//! Connections to object storage, one per bucket and process.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::{Position, Url};

use super::runtime;
use crate::error::FileError;
use crate::location::Location;

/// First pause before a request is repeated; each further one is twice as long, with jitter.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// Time in which a connection must be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a byte after which a request is given up and repeated.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Buckets and hosts already connected, by URL without its path and by time for repetitions.
type Connected = HashMap<(String, Duration), Arc<dyn ObjectStore>>;

static CONNECTED: Mutex<Option<Connected>> = Mutex::new(None);

/// Connects to the bucket of a URL; returns the prefix in it, too. Makes no request.
pub(super) fn connect(location: &Location, retry: Duration) -> Result<(Arc<dyn ObjectStore>, ObjectPath), FileError> {
    let failed = |reason: String| FileError::at(location.as_path(), "connect to")(io::Error::other(reason));
    let url = Url::parse(location.url().unwrap_or_default()).map_err(|err| failed(err.to_string()))?;
    let prefix = ObjectPath::from_url_path(url.path()).map_err(|err| failed(err.to_string()))?;
    // The provider of cryptography must be there before a client is built.
    runtime::handle().map_err(FileError::at(location.as_path(), "start threads for"))?;
    let key = (url[..Position::BeforePath].to_owned(), retry);
    let mut connected = CONNECTED.lock().unwrap_or_else(PoisonError::into_inner);
    let connected = connected.get_or_insert_default();
    if let Some(store) = connected.get(&key) {
        return Ok((Arc::clone(store), prefix));
    }
    let store = build(&url, &key.0, retry).map_err(|err| failed(one_line(&err)))?;
    connected.insert(key, Arc::clone(&store));
    Ok((store, prefix))
}

fn build(url: &Url, origin: &str, retry: Duration) -> object_store::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_BACKOFF, max_backoff: LONGEST_BACKOFF, base: 2.0 },
        // The time limits the repetitions.
        max_retries: usize::MAX,
        retry_timeout: retry,
    };
    Ok(match url.scheme() {
        "s3" => Arc::new(AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry).build()?),
        "gs" => Arc::new(GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry).build()?),
        "az" => Arc::new(MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry).build()?),
        _ => {
            let options = ClientOptions::new()
                .with_allow_http(url.scheme() == "http")
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_timeout_disabled()
                .with_read_timeout(READ_TIMEOUT);
            Arc::new(HttpBuilder::new().with_url(origin).with_client_options(options).with_retry(retry).build()?)
        }
    })
}

/// Turns an error of a request into one of the operating system's kinds, in one line.
pub(super) fn io_error(err: &object_store::Error) -> io::Error {
    use object_store::Error;
    let kind = match err {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        Error::NotSupported { .. } | Error::NotImplemented { .. } => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, one_line(err))
}

/// Text of an error without the line breaks of a server's answer.
fn one_line(err: &object_store::Error) -> String {
    err.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
