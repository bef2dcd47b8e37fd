//! A small MLflow server on loopback, and runs to send to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::{Client, Credentials, Description, Sender, ServerUrl};
use crate::config::RunConfig as _;
use crate::config::finetune::FinetunePreset;
use crate::training::CONFIG;

/// A folder of a run with a configuration of three classes.
pub(super) fn run_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = FinetunePreset::Tiny.config();
    config.classes = ["background", "liver", "spleen"].map(str::to_owned).to_vec();
    std::fs::write(folder.path().join(CONFIG), config.to_toml()).unwrap();
    folder
}

/// Sender of a run that this process trains.
pub(super) fn live(server: &Server, run_dir: &Path, begins: bool) -> Sender {
    let experiment = "experiment".to_owned();
    let description = Description { experiment, is_live: true, begins, ..Description::default() };
    Sender::open(server.client(), run_dir, description).unwrap()
}

/// Way in which the test server fails.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Responds with this status and body.
    Status(u16, String),
    /// Responds with a redirect.
    Redirect(&'static str),
    /// Closes the connection instead of responding.
    Close,
    /// Carries out the request but closes the connection instead of responding.
    LoseAnswer,
}

/// A test server with the methods that are used, for the runs of one experiment at a time.
pub(super) struct Server {
    address: String,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    is_away: bool,
    num_refused: usize,
    /// Next fault, and the request that triggers it: a method, a list in the request, or any request if empty.
    fault: Option<(&'static str, Fault)>,
    requests: Vec<String>,
    authorizations: Vec<String>,
    /// Experiments by name, and whether they are deleted. The position is the id.
    experiments: Vec<(String, bool)>,
    runs: Vec<Run>,
}

#[derive(Default)]
struct Run {
    tags: Vec<Value>,
    params: Vec<Value>,
    metrics: Vec<Value>,
    status: String,
    is_deleted: bool,
}

impl Server {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let serving = Arc::clone(&shared);
        // Ends with the process. A client that went away fails its connection alone.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &serving);
            }
        });
        Self { address, shared }
    }

    pub(super) fn url(&self) -> ServerUrl {
        format!("http://{}", self.address).parse().unwrap()
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.url(), Credentials::Absent).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes all connections from now on.
    pub(super) fn go_away(&self) {
        self.state().is_away = true;
    }

    pub(super) fn come_back(&self) {
        self.state().is_away = false;
    }

    /// Waits until `num` requests were made while the server was away.
    pub(super) fn wait_for_refused(&self, num: usize) {
        let mut state = self.state();
        while state.num_refused < num {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn fail_next(&self, fault: Fault) {
        self.fail_at("", fault);
    }

    /// Fails the next request of this method, or the next batch with this list (`metrics`, `params`).
    pub(super) fn fail_at(&self, request: &'static str, fault: Fault) {
        self.state().fault = Some((request, fault));
    }

    pub(super) fn delete_experiment(&self, name: &str) {
        self.state()
            .experiments
            .iter_mut()
            .filter(|(own, _)| own == name)
            .for_each(|(_, is_deleted)| *is_deleted = true);
    }

    pub(super) fn delete_run(&self) {
        self.state().runs[0].is_deleted = true;
    }

    /// Removes the metrics of steps after `step`, like a server restored from an older copy.
    pub(super) fn forget_after(&self, step: u64) {
        self.state().runs[0].metrics.retain(|metric| metric["step"].as_u64().unwrap() <= step);
    }

    pub(super) fn num_requests(&self, method: &str) -> usize {
        self.state().requests.iter().filter(|request| *request == method).count()
    }

    pub(super) fn authorizations(&self) -> Vec<String> {
        self.state().authorizations.clone()
    }

    pub(super) fn num_runs(&self) -> usize {
        self.state().runs.len()
    }

    pub(super) fn status(&self) -> String {
        self.state().runs[0].status.clone()
    }

    /// Steps at which the first run has a metric, in the order they arrived.
    pub(super) fn steps(&self, key: &str) -> Vec<u64> {
        let state = self.state();
        let metrics = state.runs[0].metrics.iter().filter(|metric| metric["key"] == key);
        metrics.map(|metric| metric["step"].as_u64().unwrap()).collect()
    }

    /// Times of a metric of the first run.
    pub(super) fn times(&self, key: &str) -> Vec<i64> {
        let state = self.state();
        let metrics = state.runs[0].metrics.iter().filter(|metric| metric["key"] == key);
        metrics.map(|metric| metric["timestamp"].as_i64().unwrap()).collect()
    }

    /// Value of a parameter of the first run.
    pub(super) fn param(&self, key: &str) -> Option<String> {
        value_of(&self.state().runs[0].params, key)
    }

    /// Value of a tag of the first run.
    pub(super) fn tag(&self, key: &str) -> Option<String> {
        value_of(&self.state().runs[0].tags, key)
    }
}

/// The last value with a key.
fn value_of(pairs: &[Value], key: &str) -> Option<String> {
    pairs.iter().rev().find(|pair| pair["key"] == key).and_then(|pair| pair["value"].as_str()).map(str::to_owned)
}

/// Reads a request and answers it.
fn answer(mut stream: TcpStream, shared: &(Mutex<State>, Condvar)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut len, mut authorization) = (String::new(), 0, None);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
        match name.to_lowercase().as_str() {
            "content-length" => len = value.trim().parse().unwrap(),
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let target = first.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = path.trim_start_matches("/api/2.0/mlflow/").to_owned();
    let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    state.requests.push(method.clone());
    state.authorizations.extend(authorization);
    if state.is_away {
        state.num_refused += 1;
        shared.1.notify_all();
        return Ok(());
    }
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let holds = |list: &str| body[list].as_array().is_some_and(|list| !list.is_empty());
    let meets = |at: &str| at.is_empty() || at == method || holds(at);
    let fault = if state.fault.as_ref().is_some_and(|(at, _)| meets(at)) { state.fault.take() } else { None };
    let fault = fault.map(|(_, fault)| fault);
    let (status, header, answer) = match &fault {
        Some(Fault::Close) => return Ok(()),
        Some(Fault::Status(status, body)) => (*status, String::new(), body.clone()),
        Some(Fault::Redirect(to)) => (302, format!("Location: {to}\r\n"), String::new()),
        Some(Fault::LoseAnswer) | None => match state.handle(&method, query, &body) {
            Ok(answer) => (200, String::new(), answer.to_string()),
            Err((status, code)) => (status, String::new(), json!({ "error_code": code, "message": code }).to_string()),
        },
    };
    drop(state);
    if matches!(fault, Some(Fault::LoseAnswer)) {
        return Ok(());
    }
    let head = format!("HTTP/1.1 {status} -\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
    stream.write_all((head + &answer).as_bytes())
}

impl State {
    /// Carries out a method. An error has a status and MLflow's error code.
    fn handle(&mut self, method: &str, query: &str, body: &Value) -> Result<Value, (u16, &'static str)> {
        let argument = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.replace('+', " ")).unwrap_or_default()
        };
        match method {
            "experiments/get-by-name" => {
                let name = argument("experiment_name");
                let found = self.experiments.iter().position(|(own, _)| *own == name);
                let id = found.ok_or((404, "RESOURCE_DOES_NOT_EXIST"))?;
                let stage = if self.experiments[id].1 { "deleted" } else { "active" };
                Ok(json!({ "experiment": { "experiment_id": id.to_string(), "lifecycle_stage": stage } }))
            }
            "experiments/create" => {
                self.experiments.push((body["name"].as_str().unwrap().to_owned(), false));
                Ok(json!({ "experiment_id": (self.experiments.len() - 1).to_string() }))
            }
            "runs/create" => {
                let tags = body["tags"].as_array().unwrap().clone();
                self.runs.push(Run { tags, status: "RUNNING".into(), ..Run::default() });
                Ok(json!({ "run": { "info": { "run_id": format!("run-{}", self.runs.len() - 1) } } }))
            }
            "runs/search" => {
                let filter = body["filter"].as_str().unwrap();
                let is_wanted = |run: &Run| {
                    let key = value_of(&run.tags, "hiend.key").unwrap_or_default();
                    filter == format!("tags.\"hiend.key\" = '{key}'")
                };
                match self.runs.iter().position(is_wanted) {
                    Some(idx) => Ok(json!({ "runs": [{ "info": { "run_id": format!("run-{idx}") } }] })),
                    None => Ok(json!({})),
                }
            }
            "runs/get" => {
                let run = self.run(&argument("run_id"))?;
                let stage = if run.is_deleted { "deleted" } else { "active" };
                let mut latest: Vec<&Value> = Vec::new();
                for metric in &run.metrics {
                    match latest.iter().position(|other| other["key"] == metric["key"]) {
                        Some(idx) if latest[idx]["step"].as_u64() < metric["step"].as_u64() => latest[idx] = metric,
                        Some(_) => {}
                        None => latest.push(metric),
                    }
                }
                Ok(json!({ "run": { "info": { "lifecycle_stage": stage }, "data": { "metrics": latest } } }))
            }
            "runs/log-batch" => {
                let list = |name: &str| body[name].as_array().unwrap().clone();
                let (metrics, params, tags) = (list("metrics"), list("params"), list("tags"));
                let long = |pair: &Value| pair["value"].as_str().unwrap().chars().count() > 500;
                let is_number = |metric: &Value| metric["value"].is_f64();
                // The limits of servers before 2.8.
                if metrics.len() > 1000
                    || params.len() > 100
                    || params.iter().any(long)
                    || !metrics.iter().all(is_number)
                {
                    return Err((400, "INVALID_PARAMETER_VALUE"));
                }
                let run = self.run(body["run_id"].as_str().unwrap())?;
                run.metrics.extend(metrics);
                run.params.extend(params);
                run.tags.extend(tags);
                Ok(json!({}))
            }
            "runs/update" => {
                let run = self.run(body["run_id"].as_str().unwrap())?;
                run.status = body["status"].as_str().unwrap().to_owned();
                Ok(json!({ "run_info": {} }))
            }
            _ => Err((404, "ENDPOINT_NOT_FOUND")),
        }
    }

    fn run(&mut self, id: &str) -> Result<&mut Run, (u16, &'static str)> {
        let idx = id.strip_prefix("run-").and_then(|idx| idx.parse::<usize>().ok());
        idx.and_then(|idx| self.runs.get_mut(idx)).ok_or((404, "RESOURCE_DOES_NOT_EXIST"))
    }
}
