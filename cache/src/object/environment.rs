//! Environment variables with endpoints and credentials, checked before `object_store` reads them: it panics at the
//! first request to an endpoint that is not a URL, and sends credentials that are empty.

use std::ffi::OsString;

use url::Url;

/// Fault of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EnvironmentError {
    /// A variable without a value.
    #[error("the environment variable {name} is empty; unset it or give it a value")]
    Empty {
        /// Name of the variable.
        name: &'static str,
    },
    /// A value with characters that no such value has. It may be a secret, and is not shown.
    #[error(
        "the environment variable {name} holds a space, a line break or another character that is not visible ASCII"
    )]
    Characters {
        /// Name of the variable.
        name: &'static str,
    },
    /// An endpoint that is not a URL.
    #[error("the environment variable {name} is {value:?}; expected a URL such as http://127.0.0.1:9000")]
    Endpoint {
        /// Name of the variable.
        name: &'static str,
        /// Value of the variable, without a user name.
        value: String,
    },
    /// An endpoint without TLS, which nothing allows.
    #[error("the environment variable {name} is {value:?}, without TLS; {allow}=true allows that")]
    WithoutTls {
        /// Name of the variable.
        name: &'static str,
        /// Value of the variable, without a user name.
        value: String,
        /// Variable that allows endpoints without TLS.
        allow: &'static str,
    },
}

/// Environment variables that are read for the stores of a scheme.
struct Variables {
    /// Names and keys, whose values are single words.
    words: &'static [&'static str],
    /// Credentials with any text, such as JSON.
    texts: &'static [&'static str],
    /// URLs of the store.
    endpoints: &'static [&'static str],
    /// URLs of services that give credentials.
    services: &'static [&'static str],
    /// Variable that allows endpoints without TLS.
    allow: &'static str,
}

impl Variables {
    /// Variables of a scheme, less those that a set one overrides; `None` for web servers, which take none.
    fn of(scheme: &str, is_set: impl Fn(&'static str) -> bool) -> Option<Self> {
        match scheme {
            "s3" => Some(Self {
                words: &[
                    "AWS_ACCESS_KEY_ID",
                    "AWS_SECRET_ACCESS_KEY",
                    "AWS_SESSION_TOKEN",
                    "AWS_REGION",
                    "AWS_DEFAULT_REGION",
                ],
                texts: &[],
                endpoints: if is_set("AWS_ENDPOINT_URL_S3") {
                    &["AWS_ENDPOINT_URL_S3"]
                } else {
                    &["AWS_ENDPOINT", "AWS_ENDPOINT_URL"]
                },
                services: &["AWS_ENDPOINT_URL_STS", "AWS_METADATA_ENDPOINT"],
                allow: "AWS_ALLOW_HTTP",
            }),
            "gs" => Some(Self {
                words: &[],
                texts: &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"],
                endpoints: &["GOOGLE_BASE_URL"],
                services: &[],
                allow: "GOOGLE_ALLOW_HTTP",
            }),
            "az" => Some(Self {
                words: &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"],
                texts: &[],
                // The emulator has a URL of its own.
                endpoints: if is_set("AZURE_STORAGE_USE_EMULATOR") {
                    &[]
                } else {
                    &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]
                },
                services: &[],
                allow: "AZURE_ALLOW_HTTP",
            }),
            _ => None,
        }
    }
}

/// Checks the variables that are read for stores of a scheme.
///
/// # Errors
/// If a variable is set to a value that cannot be meant.
pub(super) fn check(scheme: &str, value: impl Fn(&'static str) -> Option<OsString>) -> Result<(), EnvironmentError> {
    let Some(variables) = Variables::of(scheme, |name| value(name).is_some()) else { return Ok(()) };
    let Variables { words, texts, endpoints, services, allow } = variables;
    let allows = value(allow).is_some_and(|value| is_truthy(&value.to_string_lossy()));
    let given = |name: &'static str| Some((name, value(name)?.to_string_lossy().into_owned()));
    for (name, value) in [words, texts, endpoints, services].concat().into_iter().filter_map(given) {
        if value.is_empty() {
            return Err(EnvironmentError::Empty { name });
        }
        if words.contains(&name) && !value.chars().all(|c| c.is_ascii_graphic()) {
            return Err(EnvironmentError::Characters { name });
        }
        let is_endpoint = endpoints.contains(&name);
        let shown = || value.rsplit('@').next().unwrap_or_default().to_owned();
        if (is_endpoint || services.contains(&name)) && !is_url(&value) {
            return Err(EnvironmentError::Endpoint { name, value: shown() });
        }
        if is_endpoint && !allows && value.to_ascii_lowercase().starts_with("http://") {
            return Err(EnvironmentError::WithoutTls { name, value: shown(), allow });
        }
    }
    Ok(())
}

/// Returns `true` for the values that `object_store` takes for a yes.
pub(super) fn is_truthy(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
}

/// Returns `true` for a URL to which a path can be added as it is.
fn is_url(text: &str) -> bool {
    const NEVER: [char; 11] = ['"', '<', '>', '\\', '^', '`', '{', '|', '}', '?', '#'];
    let lower = text.to_ascii_lowercase();
    let begins = ["http://", "https://"].into_iter().any(|scheme| lower.starts_with(scheme));
    begins && text.chars().all(|c| c.is_ascii_graphic() && !NEVER.contains(&c)) && Url::parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(scheme: &str, set: &[(&str, &str)]) -> String {
        let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        check(scheme, value).err().map(|err| err.to_string()).unwrap_or_default()
    }

    #[test]
    fn endpoints_are_urls_and_named_otherwise() {
        let endpoint = |value: &str| checked("s3", &[("AWS_ENDPOINT", value), ("AWS_ALLOW_HTTP", "TRUE")]);
        for value in ["http://127.0.0.1:9000", "https://a.example/path/", "HTTP://[::1]:9000"] {
            assert_eq!(endpoint(value), "", "{value}");
        }
        for value in [
            "127.0.0.1:9000",
            "localhost:9000",
            "http:/127.0.0.1:9000",
            "http://",
            "http://a:1\n",
            "ftp://a",
            "http://a?b",
        ] {
            let expected = format!("AWS_ENDPOINT is {value:?}; expected a URL such as http://127.0.0.1:9000");
            assert!(endpoint(value).ends_with(&expected), "{value}: {}", endpoint(value));
        }
        assert!(!endpoint("name:secret@host").contains("secret"));
        assert!(checked("gs", &[("GOOGLE_BASE_URL", "host:1")]).contains("GOOGLE_BASE_URL"));
        assert!(checked("az", &[("AZURE_STORAGE_ENDPOINT", "host:1")]).contains("AZURE_STORAGE_ENDPOINT"));
        assert!(checked("s3", &[("AWS_METADATA_ENDPOINT", "host:1")]).contains("AWS_METADATA_ENDPOINT"));
        // What is not read is not checked.
        let both = [("AWS_ENDPOINT_URL_S3", "https://a"), ("AWS_ENDPOINT", "host:1")];
        assert_eq!(checked("s3", &both), "");
        assert_eq!(checked("az", &[("AWS_ENDPOINT", "host:1")]), "");
        assert_eq!(checked("https", &[("AWS_ENDPOINT", "host:1")]), "");
    }

    #[test]
    fn endpoints_without_tls_need_the_variable_that_allows_them() {
        for allow in [None, Some("false"), Some("")] {
            let mut set = vec![("AWS_ENDPOINT", "http://127.0.0.1:9000")];
            set.extend(allow.map(|value| ("AWS_ALLOW_HTTP", value)));
            assert!(checked("s3", &set).ends_with("without TLS; AWS_ALLOW_HTTP=true allows that"), "{allow:?}");
        }
        assert_eq!(checked("s3", &[("AWS_ENDPOINT", "https://a")]), "");
        assert_eq!(checked("s3", &[("AWS_METADATA_ENDPOINT", "http://a")]), "");
    }

    #[test]
    fn values_that_are_empty_or_hold_spaces_are_named_and_not_shown() {
        let empty = checked("s3", &[("AWS_ENDPOINT", "")]);
        assert_eq!(empty, "the environment variable AWS_ENDPOINT is empty; unset it or give it a value");
        assert!(checked("gs", &[("GOOGLE_SERVICE_ACCOUNT_KEY", "")]).contains("is empty"));
        assert_eq!(checked("gs", &[("GOOGLE_SERVICE_ACCOUNT_KEY", "{ \"a\": 1 }")]), "");
        let broken = checked("s3", &[("AWS_SECRET_ACCESS_KEY", "secret\n")]);
        assert!(broken.contains("AWS_SECRET_ACCESS_KEY holds a space, a line break"), "{broken}");
        assert!(!broken.contains("secret"), "{broken}");
    }
}
