//! Requests that track a run; each call returns after its response.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, StatusCode, Url, redirect};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::params::Pair;
use super::points::{Metric, STEP_MARK, VALIDATION_MARK};
use super::{Credentials, MlflowError, ServerUrl};
use crate::http::{client_for, one_line};

/// Timeout for making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for a complete response.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum size of a response, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Maximum length of a server's message, in characters.
const MAX_MESSAGE: usize = 300;

/// Maximum number of metrics in a request.
pub(super) const MAX_METRICS: usize = 1000;

/// Status of an MLflow run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Begun and not ended.
    Running,
    /// Ended after its last step.
    Finished,
    /// Ended by an error.
    Failed,
    /// Ended on the user's request.
    Killed,
}

impl Status {
    /// Name of the status, as in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        }
    }
}

/// Last records of a run that the server has; absent before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Last optimizer step.
    pub(super) step: Option<u64>,
    /// Step of the last validation.
    pub(super) validation: Option<u64>,
}

/// Connection to an MLflow server. Makes one request at a time, on the calling thread.
#[derive(Debug)]
pub struct Client {
    server: ServerUrl,
    credentials: Credentials,
    http: reqwest::Client,
    runtime: Runtime,
}

impl Client {
    /// Prepares requests to `server`; sends none yet.
    ///
    /// # Errors
    /// If the address holds credentials, or the system refuses sockets.
    pub fn new(server: &ServerUrl, credentials: Credentials) -> Result<Self, MlflowError> {
        if server.had_credentials() {
            return Err(MlflowError::CredentialsInUrl { server: server.to_string() });
        }
        // Connections are not kept: between two requests, seconds apart, nothing would notice that the server closed one.
        // A redirect would turn a request with a body into one without.
        let http = client_for(server.url())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .redirect(redirect::Policy::none());
        let http = http.build().map_err(|error| MlflowError::System(std::io::Error::other(error)))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(MlflowError::System)?;
        Ok(Self { server: server.clone(), credentials, http, runtime })
    }

    /// Address of the server.
    #[must_use]
    pub fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// Returns the id of an experiment, which is created if it is missing.
    ///
    /// # Errors
    /// If the server does not answer or refuses, or the experiment is deleted.
    pub fn experiment(&self, name: &str) -> Result<String, MlflowError> {
        let find = || self.get("experiments/get-by-name", &[("experiment_name", name)]);
        let found = match find() {
            Err(error) if error.has_code("RESOURCE_DOES_NOT_EXIST") => {
                match self.post("experiments/create", &json!({ "name": name })) {
                    Ok(created) => return self.text(&created["experiment_id"], "experiments/create"),
                    // Another process was faster.
                    Err(error) if error.has_code("RESOURCE_ALREADY_EXISTS") => find()?,
                    Err(error) => return Err(error),
                }
            }
            found => found?,
        };
        let experiment = &found["experiment"];
        if experiment["lifecycle_stage"] == "deleted" {
            let (server, experiment) = (self.server.to_string(), name.to_owned());
            return Err(MlflowError::DeletedExperiment { server, experiment });
        }
        self.text(&experiment["experiment_id"], "experiments/get-by-name")
    }

    /// Creates a run and returns its id. `start_ms` is in milliseconds since 1970.
    pub(super) fn create_run(
        &self,
        experiment_id: &str,
        name: &str,
        start_ms: i64,
        tags: &[Pair],
    ) -> Result<String, MlflowError> {
        let body = json!({ "experiment_id": experiment_id, "run_name": name, "start_time": start_ms, "tags": tags });
        let created = self.post("runs/create", &body)?;
        self.text(&created["run"]["info"]["run_id"], "runs/create")
    }

    /// Returns the id of the run whose tag `key` has this value, if there is one.
    pub(super) fn find_run(&self, experiment_id: &str, key: &str, value: &str) -> Result<Option<String>, MlflowError> {
        let filter = format!("tags.\"{key}\" = '{value}'");
        let body = json!({ "experiment_ids": [experiment_id], "filter": filter, "max_results": 1 });
        let found = self.post("runs/search", &body)?;
        Ok(found["runs"][0]["info"]["run_id"].as_str().map(str::to_owned))
    }

    /// Returns the positions up to which the server has a run's records; `None` if it has no such run, or a deleted one.
    pub(super) fn received(&self, run_id: &str) -> Result<Option<Received>, MlflowError> {
        let found = match self.get("runs/get", &[("run_id", run_id)]) {
            Err(error) if error.has_code("RESOURCE_DOES_NOT_EXIST") => return Ok(None),
            found => found?,
        };
        let run = &found["run"];
        if run["info"]["lifecycle_stage"] == "deleted" {
            return Ok(None);
        }
        // The latest value of each metric is the one with the largest step.
        let step_of = |key: &str| {
            let metric = run["data"]["metrics"].as_array()?.iter().find(|metric| metric["key"] == key)?;
            // Step 0 is left out by servers that write default values as absent ones.
            Some(integer(&metric["step"]).unwrap_or(0))
        };
        Ok(Some(Received { step: step_of(STEP_MARK), validation: step_of(VALIDATION_MARK) }))
    }

    /// Adds metrics (at most [`MAX_METRICS`]), parameters (at most 100, which never change) and tags to a run.
    pub(super) fn log(
        &self,
        run_id: &str,
        metrics: &[Metric],
        params: &[Pair],
        tags: &[Pair],
    ) -> Result<(), MlflowError> {
        let body = json!({ "run_id": run_id, "metrics": metrics, "params": params, "tags": tags });
        self.post("runs/log-batch", &body).map(|_| ())
    }

    /// Sets the status of a run, and the time of its end if it has ended.
    pub(super) fn set_status(&self, run_id: &str, status: Status, end_ms: Option<i64>) -> Result<(), MlflowError> {
        let mut body = json!({ "run_id": run_id, "status": status.name() });
        if let Some(end_ms) = end_ms {
            body["end_time"] = end_ms.into();
        }
        self.post("runs/update", &body).map(|_| ())
    }

    fn get(&self, request: &'static str, query: &[(&str, &str)]) -> Result<Value, MlflowError> {
        self.call(request, Method::GET, self.server.method(request, query), None)
    }

    fn post(&self, request: &'static str, body: &Value) -> Result<Value, MlflowError> {
        self.call(request, Method::POST, self.server.method(request, &[]), Some(body))
    }

    fn call(
        &self,
        request: &'static str,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<Value, MlflowError> {
        let failed = |error: reqwest::Error| no_answer(&self.server, &error);
        let mut call = self.credentials.add_to(self.http.request(method, url));
        if let Some(body) = body {
            call = call.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let (status, location, answer) = self.runtime.block_on(async {
            let mut response = call.send().await.map_err(failed)?;
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let mut answer = Vec::new();
            while let Some(part) = response.chunk().await.map_err(failed)? {
                answer.extend_from_slice(&part);
                if answer.len() > MAX_ANSWER {
                    return Err(self.not_mlflow(format!("more than {MAX_ANSWER} bytes to {request}")));
                }
            }
            Ok::<_, MlflowError>((response.status(), location, answer))
        })?;
        self.interpret(request, status, location, &answer)
    }

    /// Extracts the JSON of a successful response.
    fn interpret(
        &self,
        request: &'static str,
        status: StatusCode,
        location: Option<String>,
        answer: &[u8],
    ) -> Result<Value, MlflowError> {
        let json = serde_json::from_slice::<Value>(answer).ok().filter(Value::is_object);
        if status.is_success() {
            return json.ok_or_else(|| self.not_mlflow(format!("{status} without JSON to {request}")));
        }
        if let Some(location) = location.filter(|_| status.is_redirection()) {
            return Err(self.not_mlflow(format!("it redirects {request} to {}", printable(&location))));
        }
        let field = |name: &str| json.as_ref().and_then(|json| json[name].as_str()).map(str::to_owned);
        let code = field("error_code");
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) && code.is_none() {
            return Err(self.not_mlflow(format!("{status} to {request}")));
        }
        let text = || String::from_utf8(answer.to_vec()).ok().filter(|text| !text.trim_start().starts_with('<'));
        let message = field("message").or_else(text).unwrap_or_default();
        let message = printable(message.trim().lines().next().unwrap_or_default());
        Err(MlflowError::Refused {
            server: self.server.to_string(),
            request,
            status: status.as_u16(),
            code: code.unwrap_or_default(),
            message: if message.is_empty() { message } else { format!(": {message}") },
        })
    }

    /// Required text field of a response.
    fn text(&self, value: &Value, request: &'static str) -> Result<String, MlflowError> {
        let text = value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        text.ok_or_else(|| self.not_mlflow(format!("no id to {request}")))
    }

    fn not_mlflow(&self, found: String) -> MlflowError {
        MlflowError::NotMlflow { server: self.server.to_string(), found }
    }
}

fn no_answer(server: &ServerUrl, error: &reqwest::Error) -> MlflowError {
    if error.is_builder() {
        return MlflowError::BadCredentials;
    }
    MlflowError::NoAnswer { server: server.to_string(), reason: printable(&one_line(error)) }
}

/// Removes control characters from an external text and truncates it if it is too long.
fn printable(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let start: String = chars.by_ref().take(MAX_MESSAGE).collect();
    if chars.next().is_some() { start + "…" } else { start }
}

/// Parses a whole number, which some servers write as text.
fn integer(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::mlflow::testing::{Fault, Server};

    fn message<T>(result: Result<T, MlflowError>) -> String {
        match result {
            Ok(_) => panic!("no error"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn experiment_is_created_once() {
        let server = Server::start();
        let client = server.client();
        let id = client.experiment("a name").unwrap();
        assert_eq!(client.experiment("a name").unwrap(), id);
        assert_ne!(client.experiment("another").unwrap(), id);
        assert_eq!(server.num_requests("experiments/create"), 2);
        server.delete_experiment("a name");
        let message = message(client.experiment("a name"));
        assert!(message.starts_with("experiment `a name` is deleted on http://127.0.0.1:"), "{message}");
    }

    #[test]
    fn credentials_are_sent_and_never_shown() {
        let server = Server::start();
        let of = |credentials| Client::new(&server.url(), credentials).unwrap();
        of(Credentials::Token("secret".into())).experiment("a").unwrap();
        of(Credentials::Basic { user: "user".into(), password: "secret".into() }).experiment("a").unwrap();
        // The base64 form of user:secret.
        let expected = ["Bearer secret", "Bearer secret", "Basic dXNlcjpzZWNyZXQ="];
        assert_eq!(server.authorizations(), expected);
        server.fail_next(Fault::Status(401, "Not allowed".into()));
        let refused = message(of(Credentials::Token("secret".into())).experiment("a"));
        assert!(refused.contains("get-by-name with 401: Not allowed; credentials are taken from MLFLOW_"), "{refused}");
        let unfit = message(of(Credentials::Token("secret\nline".into())).experiment("a"));
        assert!(unfit.contains("characters that no HTTP header may have"), "{unfit}");
        assert!(!refused.contains("secret") && !unfit.contains("secret"));
        let url = server.url().to_string().replace("http://", "http://user:secret@").parse().unwrap();
        let refused = message(Client::new(&url, Credentials::Absent));
        assert!(refused.contains("do not belong in the address") && !refused.contains("secret"), "{refused}");
    }

    #[test]
    fn server_that_is_not_mlflow_is_distinguished_from_one_that_is_away() {
        let server = Server::start();
        let check = |fault: Fault, is_temporary: bool, expected: &str| {
            server.fail_next(fault);
            let error = server.client().experiment("a").unwrap_err();
            let message = error.to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "{message}");
            assert_eq!(error.is_temporary(), is_temporary, "{message}");
        };
        check(Fault::Status(404, "<html>".into()), false, "does not answer like an MLflow server (404 Not Found to");
        check(Fault::Status(200, "<html>".into()), false, "(200 OK without JSON to experiments/get-by-name)");
        check(Fault::Redirect("https://host/"), false, "it redirects experiments/get-by-name to https://host/");
        check(Fault::Status(502, "<html>".into()), true, "answered experiments/get-by-name with 502");
        check(Fault::Status(429, "slower".into()), true, "with 429: slower");
        check(Fault::Close, true, "does not answer (");
        // A port that no test is given.
        let nobody = Client::new(&"http://127.0.0.1:1".parse().unwrap(), Credentials::Absent).unwrap();
        let error = nobody.experiment("a").unwrap_err();
        assert!(error.is_temporary() && error.to_string().contains("http://127.0.0.1:1 does not answer"), "{error}");
    }

    #[test]
    fn answers_are_cut_and_printable() {
        assert_eq!(printable("a\u{1b}b\r\n"), "a b  ");
        assert_eq!(printable(&"x".repeat(400)).chars().count(), MAX_MESSAGE + 1);
        assert_eq!((integer(&json!(7)), integer(&json!("8")), integer(&json!(null))), (Some(7), Some(8), None));
    }
}
