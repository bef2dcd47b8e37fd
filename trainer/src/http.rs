//! Requests over HTTP, as downloads of weights and MLflow make them.

use reqwest::{Client, ClientBuilder, Url};

/// Begins a client for requests to the server of `url`; one on this machine is asked without a proxy.
pub(crate) fn client_for(url: &Url) -> ClientBuilder {
    // TLS needs a provider of cryptography, one per process. Another part of the program may have installed one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match url.host_str() {
        Some("localhost" | "127.0.0.1" | "[::1]") => Client::builder().no_proxy(),
        _ => Client::builder(),
    }
}

/// Formats an error with its sources on one line, without the URL, which the message already names.
pub(crate) fn one_line(error: &reqwest::Error) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    let reasons: Vec<String> = sources.map(|error| error.to_string().replace(['\r', '\n'], " ")).collect();
    if reasons.is_empty() { "the connection broke".to_owned() } else { reasons.join(": ") }
}
