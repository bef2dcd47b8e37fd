//! Connections to object storage, one per bucket and process.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use url::{Position, Url};

use super::transport::{Abandoned, Connector, NoCredentials, innermost};
use super::{environment, runtime};
use crate::error::FileError;
use crate::location::Location;

/// First pause before a request is repeated; each further one is twice as long, with jitter.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause between retries.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// Timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a whole request, unless the environment sets another. The parts of an upload in flight total 32 MiB,
/// which a link of 2 Mbit/s sends within it; the default of `object_store` is 30 seconds, which needs 9 Mbit/s. It is
/// shorter than the default retry time, so that a part on a connection that went silent is sent again.
const REQUEST_TIMEOUT: &str = "150s";

/// Buckets and hosts that are already connected, by URL without its path and by retry time.
type Connected = HashMap<(String, Duration), Arc<dyn ObjectStore>>;

static CONNECTED: Mutex<Option<Connected>> = Mutex::new(None);

/// Connects to the bucket of a URL; also returns the prefix within the bucket. Makes no request.
pub(super) fn connect(location: &Location, retry: Duration) -> Result<(Arc<dyn ObjectStore>, ObjectPath), FileError> {
    let failed = |reason: String| FileError::at(location.as_path(), "connect to")(io::Error::other(reason));
    let url = Url::parse(location.url().unwrap_or_default()).map_err(|err| failed(err.to_string()))?;
    let prefix = ObjectPath::from_url_path(url.path()).map_err(|err| failed(err.to_string()))?;
    runtime::check_process().map_err(FileError::at(location.as_path(), "connect to"))?;
    // The provider of cryptography must be there before a client is built.
    runtime::handle().map_err(FileError::at(location.as_path(), "start threads for"))?;
    let key = (url[..Position::BeforePath].to_owned(), retry);
    let mut connected = CONNECTED.lock().unwrap_or_else(PoisonError::into_inner);
    let connected = connected.get_or_insert_default();
    if let Some(store) = connected.get(&key) {
        return Ok((Arc::clone(store), prefix));
    }
    environment::check(url.scheme(), std::env::var_os).map_err(|err| failed(err.to_string()))?;
    if let Some(missing) = missing_variable(url.scheme(), |name| std::env::var_os(name).is_some()) {
        return Err(failed(format!("incomplete credentials: {missing} is not set")));
    }
    let store = build(&url, &key.0, retry).map_err(|err| failed(text_of(&err)))?;
    connected.insert(key, Arc::clone(&store));
    Ok((store, prefix))
}

/// Returns [`REQUEST_TIMEOUT`], or `None` if the environment variable `variable` sets another timeout.
fn request_timeout(variable: &str, is_set: impl Fn(&str) -> bool) -> Option<&'static str> {
    (!is_set(variable)).then_some(REQUEST_TIMEOUT)
}

fn build(url: &Url, origin: &str, retry: Duration) -> object_store::Result<Arc<dyn ObjectStore>> {
    let connector = Connector::new(origin, retry, variables(url.scheme()));
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_BACKOFF, max_backoff: LONGEST_BACKOFF, base: 2.0 },
        // The time limits the repetitions.
        max_retries: usize::MAX,
        retry_timeout: retry,
    };
    let is_set = |name: &str| std::env::var_os(name).is_some();
    Ok(match url.scheme() {
        "s3" => {
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str());
            if let Some(timeout) = request_timeout("AWS_TIMEOUT", is_set) {
                builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), timeout);
            }
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
            if let Some(timeout) = request_timeout("GOOGLE_TIMEOUT", is_set) {
                builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), timeout);
            }
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        "az" => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
            if let Some(timeout) = request_timeout("AZURE_TIMEOUT", is_set) {
                builder = builder.with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), timeout);
            }
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        _ => {
            let options = ClientOptions::new()
                .with_allow_http(url.scheme() == "http")
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_timeout_disabled();
            let builder = HttpBuilder::new().with_url(origin).with_client_options(options);
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
    })
}

/// Environment variables with the credentials of the stores of a scheme.
fn variables(scheme: &str) -> &'static str {
    match scheme {
        "s3" => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with temporary keys AWS_SESSION_TOKEN, too)",
        "gs" => "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT_KEY",
        _ => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    }
}

/// Returns the environment variable that is missing although its companions are set.
fn missing_variable(scheme: &str, is_set: impl Fn(&str) -> bool) -> Option<&'static str> {
    let (key, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    let accounts = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR"];
    match scheme {
        "s3" if is_set(key) && !is_set(secret) => Some(secret),
        "s3" if is_set(secret) && !is_set(key) => Some(key),
        "az" if !accounts.into_iter().any(&is_set) => Some(accounts[0]),
        _ => None,
    }
}

/// Returns `true` if a request failed because the bucket or container does not exist, by the codes of S3, Google and
/// Azure.
fn is_bucket_missing(err: &object_store::Error) -> bool {
    let text = err.to_string();
    ["<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>"].into_iter().any(|code| text.contains(code))
}

/// Returns `true` if a request fails because the bucket has no such object.
pub(super) fn is_absent(err: &object_store::Error) -> bool {
    matches!(err, object_store::Error::NotFound { .. }) && !is_bucket_missing(err)
}

/// Converts a request error to an I/O error of a matching kind, with a text of one line.
pub(super) fn io_error(err: &object_store::Error) -> io::Error {
    use object_store::Error;
    if cause::<Abandoned>(err).is_some() {
        return io::Error::new(io::ErrorKind::Interrupted, Abandoned);
    }
    if is_bucket_missing(err) {
        return io::Error::other("there is no such bucket; create it, or check its name and the endpoint");
    }
    let kind = match err {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        Error::NotSupported { .. } | Error::NotImplemented { .. } => io::ErrorKind::Unsupported,
        _ if cause::<NoCredentials>(err).is_some() => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, text_of(err))
}

/// First cause of type `E` in an error's chain of causes.
fn cause<'a, E: StdError + 'static>(err: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(err), |&err| err.source()).find_map(|err| err.downcast_ref())
}

/// Text of an error and its first cause, without the line breaks of a server's response.
fn text_of(err: &object_store::Error) -> String {
    if let Some(err) = cause::<NoCredentials>(err) {
        return err.to_string();
    }
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (text, first) = (words(&without_limits(&err.to_string())), words(&innermost(err)));
    if text.contains(&first) { text } else { format!("{text}: {first}") }
}

/// Removes the retry limits from an error text of `object_store`; retries are bounded by time, and the count in the
/// text is a placeholder.
fn without_limits(text: &str) -> String {
    let limits = text.split_once(", max_retries: ").and_then(|(before, rest)| {
        let (_, after) = rest.split_once(" - ")?;
        Some(format!("{before}: {after}"))
    });
    limits.unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_repetition_are_not_shown() {
        let text = "Error performing GET http://host/x in 3.1s, after 7 retries, max_retries: 18446744073709551615, \
                    retry_timeout: 3s  - HTTP error: error sending request - refused";
        let expected =
            "Error performing GET http://host/x in 3.1s, after 7 retries: HTTP error: error sending request - refused";
        assert_eq!(without_limits(text), expected);
        assert_eq!(without_limits("Not found: a - b"), "Not found: a - b");
    }

    #[test]
    fn a_bucket_that_is_missing_is_not_an_object_that_is_missing() {
        let source = |code: &str| -> Box<dyn StdError + Send + Sync> {
            format!("404 Not Found: <?xml ..?> <Error><Code>{code}</Code></Error>").into()
        };
        let object = |code: &str| object_store::Error::NotFound { path: "cache/a".into(), source: source(code) };
        let of_list = object_store::Error::Generic { store: "S3", source: source("NoSuchBucket") };
        for err in [of_list, object("NoSuchBucket"), object("ContainerNotFound")] {
            assert!(!is_absent(&err), "{err}");
            assert!(io_error(&err).to_string().starts_with("there is no such bucket;"), "{}", io_error(&err));
            assert_ne!(io_error(&err).kind(), io::ErrorKind::NotFound);
        }
        assert!(is_absent(&object("NoSuchKey")));
        assert_eq!(io_error(&object("NoSuchKey")).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn time_for_a_request_is_left_to_the_environment() {
        assert_eq!(request_timeout("AWS_TIMEOUT", |_| false), Some("150s"));
        assert_eq!(request_timeout("AWS_TIMEOUT", |name| name == "AWS_TIMEOUT"), None);
        let key = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        let builder = AmazonS3Builder::new().with_config(key, REQUEST_TIMEOUT);
        assert_eq!(builder.get_config_value(&key).as_deref(), Some("150s"));
    }

    #[test]
    fn half_of_the_credentials_is_an_error_that_names_the_other_half() {
        let missing = |scheme, set: &[&str]| missing_variable(scheme, |name| set.contains(&name));
        assert_eq!(missing("s3", &["AWS_ACCESS_KEY_ID"]), Some("AWS_SECRET_ACCESS_KEY"));
        assert_eq!(missing("s3", &["AWS_SECRET_ACCESS_KEY"]), Some("AWS_ACCESS_KEY_ID"));
        // A role of the machine may give the credentials.
        assert_eq!(missing("s3", &[]), None);
        assert_eq!(missing("s3", &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]), None);
        assert_eq!(missing("az", &[]), Some("AZURE_STORAGE_ACCOUNT_NAME"));
        assert_eq!(missing("az", &["AZURE_STORAGE_USE_EMULATOR"]), None);
        assert_eq!(missing("gs", &[]), None);
    }
}
