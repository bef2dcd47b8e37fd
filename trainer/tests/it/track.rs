//! Runs tracked by MLflow, through the program.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::folder::Folder;

/// Server that answers as MLflow does, always with the same experiment and run, and records requests.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    /// Starts a server whose answer to every request is `other`, if given.
    fn start(other: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let recorded = Arc::clone(&requests);
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &recorded, other);
            }
        });
        Self { url, requests }
    }

    /// Bodies of the requests to a method so far.
    fn taken(&self, method: &str) -> Vec<Value> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(own, _)| own == method).map(|(_, body)| body.clone()).collect()
    }

    /// Steps at which a metric was sent, in order.
    fn steps(&self, key: &str) -> Vec<u64> {
        let batches = self.taken("runs/log-batch");
        let metrics = batches.iter().flat_map(|batch| batch["metrics"].as_array().unwrap());
        metrics.filter(|metric| metric["key"] == key).map(|metric| metric["step"].as_u64().unwrap()).collect()
    }
}

fn answer(
    mut stream: TcpStream,
    requests: &Mutex<Vec<(String, Value)>>,
    other: Option<&'static str>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let (mut first, mut len) = (String::new(), 0);
    lines.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; len];
    lines.read_exact(&mut body)?;
    let target = first.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let method = path.trim_start_matches("/api/2.0/mlflow/").to_owned();
    let answer = match method.as_str() {
        "experiments/get-by-name" => json!({ "experiment": { "experiment_id": "7", "lifecycle_stage": "active" } }),
        "runs/create" => json!({ "run": { "info": { "run_id": "abc" } } }),
        "runs/get" => json!({ "run": { "info": { "lifecycle_stage": "active" }, "data": {} } }),
        _ => json!({}),
    };
    requests.lock().unwrap().push((method, serde_json::from_slice(&body).unwrap_or_default()));
    let body = answer.to_string();
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(other.map_or(whole.as_bytes(), str::as_bytes))
}

/// Status by the last change of a run.
fn last_status(server: &Server) -> String {
    server.taken("runs/update").last().unwrap()["status"].as_str().unwrap().to_owned()
}

/// Sends the run in `folder` to a server; returns the line that is printed.
fn replay(folder: &Folder, url: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
    let output = command.args(["track", "run", "--mlflow", url]).current_dir(folder.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const TRAIN: &str = "pretrain --shards cache --config pretrain.toml --run-dir run --display lines";

#[test]
fn run_is_tracked_resumed_and_replayed() {
    let (folder, server) = (Folder::new(), Server::start(None));
    folder.succeed(&format!("{TRAIN} --max-steps 3 --mlflow {}", server.url));
    assert_eq!(server.steps("train/loss"), [1, 2, 3]);
    assert_eq!(last_status(&server), "FINISHED");
    let created = server.taken("runs/create");
    assert_eq!((created.len(), &created[0]["run_name"]), (1, &json!("run")));
    let batches = server.taken("runs/log-batch");
    let pairs = |list: &str| batches.iter().flat_map(|batch| batch[list].as_array().unwrap()).collect::<Vec<_>>();
    assert!(pairs("params").iter().any(|pair| pair["key"] == "optim.lr"));
    let digest = pairs("tags").into_iter().find(|pair| pair["key"] == "hiend.stream_digest").cloned().unwrap();
    // The server says that it has nothing, as one that lost its data: everything is sent again, to the same run.
    folder.succeed(&format!("{TRAIN} --max-steps 5 --resume --mlflow {}", server.url));
    assert_eq!(server.steps("train/loss"), [1, 2, 3, 1, 2, 3, 4, 5]);
    assert_eq!(server.taken("runs/create").len(), 1);
    assert_eq!(
        replay(&folder, &server.url),
        format!("5 steps sent to {}/#/experiments/7/runs/abc; FINISHED\n", server.url)
    );
    // Without its file the run is sent as a new one, with the same tags.
    std::fs::remove_file(folder.path("run/mlflow.json")).unwrap();
    replay(&folder, &server.url);
    assert_eq!(server.taken("runs/create").len(), 2);
    let batches = server.taken("runs/log-batch");
    let tags = batches.iter().flat_map(|batch| batch["tags"].as_array().unwrap());
    assert_eq!(tags.filter(|tag| **tag == digest).count(), 2);
}

#[test]
fn mistaken_address_is_refused_before_a_folder_is_made() {
    let folder = Folder::new();
    let page = "HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>";
    let other = Server::start(Some(page)).url;
    folder.refuse(&format!("{TRAIN} --mlflow {other}"), &[other.as_str(), "does not answer like an MLflow server"]);
    folder.refuse(&format!("{TRAIN} --mlflow http://u:p@127.0.0.1:1"), &["set MLFLOW_TRACKING_USERNAME and"]);
    assert!(!folder.path("run").exists());
    let mistyped = folder.command(&format!("{TRAIN} --mlflow localhost:5000")).output().unwrap();
    let stderr = String::from_utf8(mistyped.stderr).unwrap();
    assert_eq!(mistyped.status.code(), Some(2));
    assert!(stderr.contains("expected http://HOST:PORT or https://HOST"), "{stderr}");
}

#[test]
fn smoke_test_asks_the_server_and_leaves_no_run() {
    let (folder, server) = (Folder::new(), Server::start(None));
    folder.succeed(&format!("{TRAIN} --smoke --mlflow {}", server.url));
    assert_eq!((server.taken("experiments/get-by-name").len(), server.taken("runs/create").len()), (1, 0));
}

/// Answer of a real server to a request, as JSON.
fn ask(url: &str, target: &str) -> Value {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    // Version 1.0 has no chunks. MLflow checks the name of the host.
    write!(stream, "GET /api/2.0/mlflow/{target} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{target}: {error}: {answer}"))
}

/// With a real server, which the script `tests/mlflow` installs and starts.
#[test]
#[ignore = "needs an MLflow server: tests/mlflow"]
fn mlflow_shows_every_step_once() {
    let url = std::env::var("HIEND_MLFLOW_URL").expect("HIEND_MLFLOW_URL names a server");
    let folder = Folder::new();
    let tracked = format!("--mlflow {url} --mlflow-experiment hiend-test");
    folder.succeed(&format!("{TRAIN} --max-steps 4 {tracked}"));
    // Without the checkpoint, the resumed run begins at the first step again.
    std::fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    folder.succeed(&format!("{TRAIN} --max-steps 150 --resume {tracked}"));
    replay(&folder, &url);
    let link: Value = serde_json::from_slice(&std::fs::read(folder.path("run/mlflow.json")).unwrap()).unwrap();
    let run_id = link["run_id"].as_str().unwrap();
    let run = ask(&url, &format!("runs/get?run_id={run_id}"));
    assert_eq!(run["run"]["info"]["status"], "FINISHED");
    let params = run["run"]["data"]["params"].as_array().unwrap();
    assert!(params.iter().any(|param| param["key"] == "optim.lr"), "{params:?}");
    for key in ["train%2Floss", "time_ms%2Fwait"] {
        let history = ask(&url, &format!("metrics/get-history?run_id={run_id}&metric_key={key}"));
        let metrics = history["metrics"].as_array().unwrap();
        let steps: Vec<u64> = metrics.iter().map(|metric| metric["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, (1..=150).collect::<Vec<_>>(), "{key}");
    }
}
