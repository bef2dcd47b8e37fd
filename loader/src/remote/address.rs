//! URLs of servers.

use std::path::PathBuf;

use url::Url;

/// Address of a server, parsed from its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// Host and port, with or without TLS.
    Tcp { url: String, host: String, tls: bool },
    /// Path of a Unix socket.
    Unix { url: String, path: PathBuf },
}

/// Error of a URL that is not a valid server address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid server {text:?}; expected http://HOST:PORT, https://HOST:PORT or unix:///PATH")]
pub struct AddressError {
    text: String,
}

impl Address {
    /// Parses a URL.
    ///
    /// # Errors
    /// If it is not an address of a server.
    pub(super) fn parse(text: &str) -> Result<Self, AddressError> {
        let address = match text.strip_prefix("unix:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                path.starts_with('/').then(|| Self::Unix { url: format!("unix://{path}"), path: path.into() })
            }
            None => Self::tcp(text),
        };
        address.ok_or_else(|| AddressError { text: text.to_owned() })
    }

    fn tcp(text: &str) -> Option<Self> {
        let parsed = Url::parse(text).ok()?;
        let tls = match parsed.scheme() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let plain = parsed.path() == "/"
            && parsed.query().is_none()
            && parsed.fragment().is_none()
            && parsed.username().is_empty()
            && parsed.password().is_none();
        let host = parsed.host_str().filter(|_| plain)?;
        let port = parsed.port_or_known_default()?;
        let url = format!("{}://{host}:{port}", parsed.scheme());
        Some(Self::Tcp { url, host: host.trim_matches(['[', ']']).to_owned(), tls })
    }

    /// Returns the URL of the server.
    pub(super) fn url(&self) -> &str {
        match self {
            Self::Tcp { url, .. } | Self::Unix { url, .. } => url,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_or_refused() {
        let url = |text| Address::parse(text).map(|address| address.url().to_owned());
        assert_eq!(url("http://a:7070"), Ok("http://a:7070".into()));
        assert_eq!(url("https://a.b/"), Ok("https://a.b:443".into()));
        assert_eq!(url("http://[::1]:80"), Ok("http://[::1]:80".into()));
        assert_eq!(url("unix:///run/a b.sock"), Ok("unix:///run/a b.sock".into()));
        assert_eq!(url("unix:/run/s"), Ok("unix:///run/s".into()));
        assert!(matches!(Address::parse("unix:///s"), Ok(Address::Unix { path, .. }) if path.as_os_str() == "/s"));
        for text in
            ["", "a:7070", "/run/s", "unix:run", "ftp://a:1", "http://a:1/path", "http://u:p@a:1", "s3://bucket"]
        {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
