//! Location of a cache: a folder, or a prefix in object storage.
//!
//! | text | storage |
//! |---|---|
//! | `s3://bucket/prefix` | Amazon S3 and compatible servers |
//! | `gs://bucket/prefix` | Google Cloud Storage |
//! | `az://container/prefix` | Azure Blob Storage |
//! | `https://host/path`, `http://host/path` | any web server, read only |
//! | anything without `scheme://` | a folder |
//!
//! A text with a scheme is never taken for a folder: a mistyped URL is an error when the cache is opened, not a new
//! folder called `s4:`. Nor is `s3:/bucket`, with one slash; a folder of such a name is `./s3:/bucket`.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::error::LocationError;

/// Schemes of the URLs that a cache can have.
const SCHEMES: [&str; 5] = ["s3", "gs", "az", "https", "http"];

/// A folder or a URL that holds a cache, or will hold one. Two locations with the same text are equal, whatever their
/// retry times are.
#[derive(Clone, Debug)]
pub struct Location {
    /// Path of the folder, or the URL without slashes at its end.
    text: OsString,
    /// Time for which failed requests to object storage are retried.
    retry: Duration,
}

impl Location {
    /// Default time for which failed requests to object storage are retried: longer than a server takes to restart, and
    /// shorter than a credential lives.
    pub const RETRY: Duration = Duration::from_mins(3);

    /// Parses the text of a flag and checks a URL's form; opens nothing.
    ///
    /// # Errors
    /// If the text is a URL that no cache can have.
    pub fn parse(text: &OsStr) -> Result<Self, LocationError> {
        let location = Self::from(text);
        location.check()?;
        Ok(location)
    }

    /// Checks the form of a URL; a folder is always valid.
    pub(crate) fn check(&self) -> Result<(), LocationError> {
        let Some(scheme) = scheme_of(&self.text) else { return self.check_folder() };
        let Some(url) = self.text.to_str() else {
            return Err(LocationError::Unicode { url: self.to_string() });
        };
        let url = url.to_owned();
        if !SCHEMES.contains(&scheme) {
            return Err(LocationError::Scheme { url });
        }
        let rest = url.get(scheme.len() + "://".len()..).unwrap_or_default();
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            return Err(LocationError::Extra { url: format!("{scheme}://...") });
        }
        if rest.contains(['?', '#']) {
            return Err(LocationError::Extra { url });
        }
        if host.is_empty() {
            return Err(LocationError::Host { url });
        }
        if cfg!(feature = "object-store") { Ok(()) } else { Err(LocationError::Unsupported { url }) }
    }

    /// Checks that a folder's path is not a URL without its second slash.
    fn check_folder(&self) -> Result<(), LocationError> {
        let text = self.text.to_string_lossy();
        let begun = |scheme: &&str| Some(text.strip_prefix(*scheme)?.strip_prefix(":/")?.trim_start_matches('/'));
        match SCHEMES.iter().find_map(|scheme| Some((scheme, begun(scheme)?))) {
            Some((scheme, rest)) => {
                Err(LocationError::Slashes { text: text.clone().into_owned(), url: format!("{scheme}://{rest}") })
            }
            None => Ok(()),
        }
    }

    /// Sets the time for which failed requests to object storage are retried; [`Self::RETRY`] by default.
    #[must_use]
    pub fn with_retry(self, retry: Duration) -> Self {
        Self { retry, ..self }
    }

    /// Time for which failed requests to object storage are retried.
    #[must_use]
    pub fn retry(&self) -> Duration {
        self.retry
    }

    /// Path of the folder; `None` for a URL.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        if scheme_of(&self.text).is_none() { Some(Path::new(&self.text)) } else { None }
    }

    /// The URL, without slashes at its end; `None` for a folder.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        scheme_of(&self.text).and(self.text.to_str())
    }

    /// Returns `true` if a cache can be read there but not written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(scheme_of(&self.text), Some("https" | "http"))
    }

    /// Path of the folder, or the URL in the form of a path, for messages.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.text)
    }

    /// Path or URL of a file in this location.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.as_path().join(name)
    }

    fn new(text: OsString) -> Self {
        match text.to_str() {
            Some(url) if scheme_of(&text).is_some() => {
                let scheme_len = url.find("://").map_or(0, |at| at + "://".len());
                let kept = url[scheme_len..].trim_end_matches('/').len();
                Self { text: url[..scheme_len + kept].into(), retry: Self::RETRY }
            }
            _ => Self { text, retry: Self::RETRY },
        }
    }
}

impl PartialEq for Location {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Location {}

impl Hash for Location {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for Location {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Location {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_path().display().fmt(f)
    }
}

impl<T: AsRef<OsStr> + ?Sized> From<&T> for Location {
    fn from(text: &T) -> Self {
        Self::new(text.as_ref().to_owned())
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::new(path.into())
    }
}

impl From<String> for Location {
    fn from(text: String) -> Self {
        Self::new(text.into())
    }
}

impl From<&Location> for Location {
    fn from(location: &Location) -> Self {
        location.clone()
    }
}

/// Scheme of a text of the form `scheme://...`.
fn scheme_of(text: &OsStr) -> Option<&str> {
    // A path that is not Unicode may still begin like a URL; then its beginning decides.
    let bytes = text.as_encoded_bytes();
    let len = bytes.windows(3).position(|window| window == b"://")?;
    let scheme = std::str::from_utf8(&bytes[..len]).ok()?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    is_scheme.then_some(scheme)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn check(text: &str, url: Option<&str>) {
        let location = Location::parse(OsStr::new(text)).unwrap();
        assert_eq!(location.url(), url, "{text}");
        assert_eq!(location.folder().is_some(), url.is_none(), "{text}");
    }

    #[test]
    fn folders_and_urls_are_told_apart() {
        for folder in ["cache", "/data/cache", "./s3:/x", "a b/c", "", "C:\\cache", "://", "a/b://c"] {
            check(folder, None);
        }
        if cfg!(feature = "object-store") {
            check("s3://bucket/a/b//", Some("s3://bucket/a/b"));
            check("gs://bucket", Some("gs://bucket"));
            check("az://container/x", Some("az://container/x"));
            check("https://host:8443/a", Some("https://host:8443/a"));
        }
    }

    #[test]
    fn impossible_urls_are_refused() {
        let refused = |text: &str| Location::parse(OsStr::new(text)).unwrap_err();
        for text in ["s4://bucket/x", "file:///data/x", "S3://bucket"] {
            assert!(matches!(refused(text), LocationError::Scheme { .. }), "{text}");
        }
        for text in ["s3://", "s3:///x", "https:///x"] {
            assert!(matches!(refused(text), LocationError::Host { .. }), "{text}");
        }
        for text in ["https://host/x?y", "s3://bucket/#x"] {
            assert!(matches!(refused(text), LocationError::Extra { .. }), "{text}");
        }
        let error = refused("https://name:secret@host/x");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn url_with_one_slash_is_not_taken_for_a_folder() {
        let refused = |text: &str| Location::parse(OsStr::new(text)).unwrap_err();
        for (text, expected) in [
            ("s3:/b/c", "s3://b/c"),
            ("gs:/b", "gs://b"),
            ("az:/b/c/", "az://b/c/"),
            ("https:/host/x", "https://host/x"),
            ("http:/host", "http://host"),
        ] {
            let error = refused(text);
            assert!(matches!(&error, LocationError::Slashes { url, .. } if url == expected), "{text}: {error}");
        }
        for folder in ["./s3:/x", "/data/s3:/x", "s3/x", "s3:x"] {
            check(folder, None);
        }
    }

    #[test]
    fn locations_of_one_cache_are_equal_whatever_their_time_for_requests() {
        let cache = Location::from("s3://bucket/p");
        let other = cache.clone().with_retry(Duration::from_secs(1));
        assert_ne!(cache.retry(), other.retry());
        assert_eq!(cache, other);
        assert_eq!(HashSet::from([cache.clone(), other.clone()]).len(), 1);
        assert_eq!(cache.cmp(&other), Ordering::Equal);
        assert_ne!(cache, Location::from("s3://bucket/q"));
    }

    #[test]
    fn file_in_a_location_is_named_like_one() {
        assert_eq!(
            Location::from("s3://bucket/p/").join("manifest.json").display().to_string(),
            "s3://bucket/p/manifest.json"
        );
        assert_eq!(Location::from(Path::new("a")).join("b"), Path::new("a").join("b"));
    }
}
