use object_store::client::{HttpRequestBody, HttpResponseBody};

use super::*;

#[test]
fn errors_of_abandoned_requests_are_distinguished_from_interrupted_system_calls() {
    let abandoned = || io::Error::new(io::ErrorKind::Interrupted, Abandoned);
    let named = || crate::FileError::at("s3://bucket/shard", "fetch")(abandoned());
    assert!(is_abandoned(&abandoned()) && is_abandoned(&named()));
    assert!(is_abandoned(&io::Error::from(named())));
    assert!(!is_abandoned(&io::Error::from(io::ErrorKind::Interrupted)));
    assert!(!is_abandoned(&io::Error::new(io::ErrorKind::Interrupted, "a signal")));
    let source = Box::new(HttpError::new(HttpErrorKind::Unknown, Abandoned));
    let of_store = object_store::Error::Generic { store: "S3", source };
    assert!(is_abandoned(&crate::object::connect::io_error(&of_store)));
}

/// Server that gives the same answer to every request.
#[derive(Clone, Copy, Debug)]
enum Fake {
    Status(u16),
    Io(io::ErrorKind),
}

impl HttpService for Fake {
    fn call<'a, 'b>(
        &'a self,
        _: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let answer = match *self {
            Self::Status(status) => {
                let mut response = HttpResponse::new(HttpResponseBody::from(bytes::Bytes::new()));
                *response.status_mut() = status.try_into().unwrap();
                Ok(response)
            }
            Self::Io(kind) => Err(HttpError::new(HttpErrorKind::Connect, io::Error::from(kind))),
        };
        Box::pin(async move { answer })
    }
}

/// Answer of a fake server to a request for `url`.
fn request(store: &Arc<Store>, fake: Fake, url: &str) -> Result<u16, HttpError> {
    let client = Watched { small: HttpClient::new(fake), large: HttpClient::new(fake), store: Arc::clone(store) };
    send(&client, HttpRequestBody::empty(), url)
}

/// Answer to a request with a body.
fn send(client: &Watched, body: HttpRequestBody, url: &str) -> Result<u16, HttpError> {
    let mut request = HttpRequest::new(body);
    *request.uri_mut() = url.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.call(request)).map(|response| response.status().as_u16())
}

fn store() -> Arc<Store> {
    Connector::new("s3://bucket", Duration::from_secs(9), "A and B").store
}

const DATA: &str = "http://host/object";
const METADATA: &str = "http://169.254.169.254/latest/api/token";

#[test]
fn parts_of_uploads_are_not_ended_by_the_silence_of_the_server() {
    let (small, large) = (HttpClient::new(Fake::Status(200)), HttpClient::new(Fake::Status(201)));
    let client = Watched { small, large, store: store() };
    let sent = |len: usize| send(&client, vec![0_u8; len].into(), DATA).unwrap();
    assert_eq!([0, SMALL_BODY, SMALL_BODY + 1].map(sent), [200, 200, 201]);

    let read_timeout = |options: &ClientOptions| options.get_config_value(&ClientConfigKey::ReadTimeout);
    let options = ClientOptions::new();
    assert_eq!(read_timeout(&options), None);
    assert_eq!(read_timeout(&for_small_bodies(&options)).as_deref(), Some("30s"));
    let of_user = options.with_config(ClientConfigKey::ReadTimeout, "5s");
    assert_eq!(read_timeout(&for_small_bodies(&of_user)).as_deref(), Some("5s"));
}

#[test]
fn failures_that_heal_are_repeated_and_others_are_not() {
    let store = store();
    for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset, io::ErrorKind::TimedOut] {
        let error = request(&store, Fake::Io(kind), DATA).unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Connect, "{kind:?}");
    }
    assert!(store.lock().failing_since.is_some());
    // A certificate that is not trusted, or a server without TLS, as it comes from the client's layers.
    let of_tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    let of_tls = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, of_tls));
    assert!(!heals(&HttpError::new(HttpErrorKind::Connect, of_tls)));
    let ended = io::Error::other(io::Error::from(io::ErrorKind::UnexpectedEof));
    assert!(heals(&HttpError::new(HttpErrorKind::Connect, ended)));
    let error = request(&store, Fake::Io(io::ErrorKind::InvalidData), DATA).unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::Unknown);
    assert_eq!(error.to_string().matches("HTTP error").count(), 1, "{error}");
}

#[test]
fn the_proxy_of_the_environment_is_named_without_its_password() {
    let named = |is_https, set: &[(&str, &str)]| {
        let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        proxy(is_https, value)
    };
    assert_eq!(named(false, &[]), None);
    assert_eq!(named(false, &[("http_proxy", ""), ("HTTPS_PROXY", "http://a:1")]), None);
    assert_eq!(named(true, &[("https_proxy", "http://a:1")]).unwrap(), "https_proxy names the proxy http://a:1");
    let all = [("ALL_PROXY", "http://name:secret@a:1"), ("http_proxy", "b:2")];
    assert_eq!(named(true, &all).unwrap(), "ALL_PROXY names the proxy a:1");
    assert_eq!(named(false, &all).unwrap(), "http_proxy names the proxy b:2");
    let error = Proxied { reason: "refused".into(), proxy: named(false, &all).unwrap() };
    let error = once(HttpError::new(HttpErrorKind::Connect, error));
    let text = "refused (http_proxy names the proxy b:2; no_proxy lists hosts to be reached without it)";
    assert_eq!(innermost(&error), text);
}

#[test]
fn a_row_of_failures_ends_with_an_answer() {
    let store = store();
    for status in [500, 503, 429] {
        assert_eq!(request(&store, Fake::Status(status), DATA).unwrap(), status);
        assert!(store.lock().failing_since.is_some(), "{status}");
    }
    for status in [200, 404, 412] {
        store.lock().failing_since = Some(Instant::now());
        assert_eq!(request(&store, Fake::Status(status), DATA).unwrap(), status);
        assert!(store.lock().failing_since.is_none(), "{status}");
    }
}

#[test]
fn a_failure_is_reported_once_when_the_patience_is_over() {
    let store = store();
    store.failed("refused", None);
    assert!(!store.lock().is_told);
    store.lock().failing_since = Instant::now().checked_sub(PATIENCE);
    store.failed("refused", None);
    assert!(store.lock().is_told);
    store.answered();
    assert!(!store.lock().is_told);
}

#[test]
fn a_machine_without_a_role_is_an_error_that_names_the_variables() {
    let store = store();
    let error = request(&store, Fake::Io(io::ErrorKind::ConnectionRefused), METADATA).unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::Unknown, "it is not repeated");
    assert!(error.to_string().contains("no credentials: set A and B; this machine has no role"), "{error}");
    let error = request(&store, Fake::Status(404), METADATA).unwrap_err();
    assert!(error.to_string().contains("no credentials") && error.to_string().contains("404"), "{error}");
    // A machine whose metadata are switched off.
    let error = request(&store, Fake::Status(403), METADATA).unwrap_err();
    assert!(error.to_string().contains("no credentials") && error.to_string().contains("403"), "{error}");
    assert_eq!(request(&store, Fake::Status(200), METADATA).unwrap(), 200);
    let error = request(&store, Fake::Io(io::ErrorKind::ConnectionRefused), METADATA).unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::Connect, "a machine that had a role is asked again");
}
