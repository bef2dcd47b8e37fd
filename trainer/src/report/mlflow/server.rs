//! Address of an MLflow server, and the credentials for it.

use std::fmt;
use std::str::FromStr;

use reqwest::{RequestBuilder, Url};

use crate::variable::{self, NotText};

/// Form of an address, for messages.
const EXPECTED: &str = "expected http://HOST:PORT or https://HOST, such as http://127.0.0.1:5000";

/// Address of an MLflow server, such as `http://127.0.0.1:5000` or `https://host/mlflow`. Never displays credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// The URL without user, password, query and fragment.
    url: Url,
    had_credentials: bool,
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut url = Url::parse(text).map_err(|error| format!("{error}; {EXPECTED}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(EXPECTED.to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("expected the server's address without the part from ? or # on".to_owned());
        }
        let had_credentials = !url.username().is_empty() || url.password().is_some();
        // These fail only for URLs without a host, and an http URL has one.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Self { url, had_credentials })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

impl ServerUrl {
    /// Returns true if the address contained a user name or a password, which are not allowed there.
    pub(super) fn had_credentials(&self) -> bool {
        self.had_credentials
    }

    /// The URL without credentials.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// URL of a method of the API, such as `runs/create`.
    pub(super) fn method(&self, name: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/api/2.0/mlflow/{name}", self.url.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Address of a run's page.
    #[must_use]
    pub fn page(&self, experiment_id: &str, run_id: &str) -> String {
        format!("{self}/#/experiments/{experiment_id}/runs/{run_id}")
    }
}

/// Credentials for an MLflow server. Never displayed.
#[derive(Clone, Default)]
pub enum Credentials {
    /// No credentials.
    #[default]
    Absent,
    /// User and password.
    Basic {
        /// User name for HTTP basic authentication.
        user: String,
        /// Password for HTTP basic authentication.
        password: String,
    },
    /// Bearer token.
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Basic { .. } => "Basic",
            Self::Token(_) => "Token",
        })
    }
}

impl Credentials {
    /// Reads the credentials from `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or else from
    /// `MLFLOW_TRACKING_TOKEN`, as MLflow's own client does.
    ///
    /// # Errors
    /// If one of them is not text.
    pub fn of_environment() -> Result<Self, NotText> {
        Self::of_variables(variable::text)
    }

    fn of_variables(text: impl Fn(&str) -> Result<Option<String>, NotText>) -> Result<Self, NotText> {
        let (user, password) = (text("MLFLOW_TRACKING_USERNAME")?, text("MLFLOW_TRACKING_PASSWORD")?);
        Ok(match (user, password, text("MLFLOW_TRACKING_TOKEN")?) {
            (Some(user), Some(password), _) => Self::Basic { user, password },
            (_, _, Some(token)) => Self::Token(token),
            _ => Self::Absent,
        })
    }

    pub(super) fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Absent => request,
            Self::Basic { user, password } => request.basic_auth(user, Some(password)),
            Self::Token(token) => request.bearer_auth(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_servers() {
        let check = |text: &str, expected: &str| {
            let server: ServerUrl = text.parse().unwrap();
            assert_eq!(server.to_string(), expected);
            let url = server.method("runs/get", &[("run_id", "a b")]);
            assert_eq!(url.as_str(), format!("{expected}/api/2.0/mlflow/runs/get?run_id=a+b"));
        };
        check("http://127.0.0.1:5000", "http://127.0.0.1:5000");
        check("https://host/mlflow/", "https://host/mlflow");
        let refuse = |text: &str, expected: &str| {
            let message = text.parse::<ServerUrl>().unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        };
        refuse("localhost:5000", EXPECTED);
        refuse("127.0.0.1:5000", EXPECTED);
        refuse("databricks", EXPECTED);
        refuse("sqlite:///mlflow.db", EXPECTED);
        refuse("http://", EXPECTED);
        refuse("http://host:5000/#/experiments/1", "without the part from ? or #");
    }

    #[test]
    fn credentials_are_taken_as_by_mlflow_and_never_shown() {
        let of = |pairs: &[(&str, &str)]| {
            let of_name = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            Credentials::of_variables(|name| Ok(of_name(name))).unwrap()
        };
        let (user, password) = (("MLFLOW_TRACKING_USERNAME", "u"), ("MLFLOW_TRACKING_PASSWORD", "secret"));
        let token = ("MLFLOW_TRACKING_TOKEN", "secret");
        assert!(matches!(of(&[user, password, token]), Credentials::Basic { .. }));
        assert!(matches!(of(&[user, token]), Credentials::Token(_)));
        assert!(matches!(of(&[user]), Credentials::Absent));
        for shown in [of(&[user, password]), of(&[token])] {
            assert!(!format!("{shown:?}").contains("secret"));
        }
        let unreadable = Credentials::of_variables(|name| Err(NotText { name: name.to_owned() })).unwrap_err();
        assert_eq!(unreadable.name, "MLFLOW_TRACKING_USERNAME");
        let server: ServerUrl = "http://u:secret@host:5000".parse().unwrap();
        assert!(server.had_credentials());
        assert!(!format!("{server} {server:?} {}", server.page("1", "a")).contains("secret"));
    }
}
