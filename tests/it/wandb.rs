//! Runs `configs/trackers/wandb_journal.py` with a stand-in for the package `wandb`, which needs an account.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// Stand-in that stores rows in the file named by `ROWS`, as W&B does: a row of a later step closes the previous row,
/// as does the end of a run; values for a closed row are lost.
const WANDB: &str = r#"
import json, os, pathlib

class Run:
    def __init__(self):
        self.path = pathlib.Path(os.environ["ROWS"])
        self.rows = json.loads(self.path.read_text()) if self.path.exists() else []
        self.resumed, self.step, self.summary = bool(self.rows), 0, {}
        if self.rows:
            self.step = self.rows[-1]["step"] + 1
        self.first = self.step

    def define_metric(self, name, step_metric=None):
        pass

    def log(self, metrics, step=None, commit=None):
        step = self.step if step is None else step
        if step < self.step or (step < self.first):
            return
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step, "metrics": {}})
        self.rows[-1]["metrics"].update(metrics)
        self.step = step

    def finish(self):
        self.path.write_text(json.dumps(self.rows))
        self.path.with_suffix(".summary").write_text(json.dumps(self.summary))

def init(**settings):
    return Run()
"#;

/// Sends the journal of a run; returns the rows received so far, and the summary of the call.
fn send(dir: &Path) -> (Vec<Value>, Value) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/trackers/wandb_journal.py");
    let python = std::env::var_os("HIEND_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(python)
        .arg(script)
        .arg(dir)
        .env("PYTHONPATH", dir)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ROWS", dir.join("rows.json"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap() };
    (read("rows.json").as_array().unwrap().clone(), read("rows.summary"))
}

#[test]
fn an_extended_run_keeps_every_step_and_validation() {
    let python = std::env::var_os("HIEND_PYTHON").unwrap_or_else(|| "python3".into());
    if Command::new(&python).arg("--version").output().is_err() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "there is no {} (set HIEND_PYTHON)", python.display());
        println!("W&B: NOT tried, there is no {} (set HIEND_PYTHON)", python.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("wandb.py"), WANDB).unwrap();
    std::fs::write(dir.path().join("config.toml"), "classes = [\"background\", \"liver\"]\n").unwrap();
    let mut journal = File::create(dir.path().join("journal.jsonl")).unwrap();
    let mut write = |entries: &[Value]| {
        for entry in entries {
            writeln!(journal, "{entry}").unwrap();
        }
        send(dir.path())
    };
    let started = |step: u32| json!({"event": "started", "step": step, "device": "cpu"});
    let stopped = |step: u32| json!({"event": "stopped", "step": step, "interrupted": false});
    let step =
        |step: u32| json!({"event": "step", "step": step, "epoch": 0.5, "loss": 1.0 / f64::from(step), "lr": 0.1});
    let validation = |step: u32| {
        json!({"event": "validation", "step": step, "mean_dice": f64::from(step) / 10.0, "mean_fg_dice": null,
               "dice_per_class": [0.9, null], "num_cases": 1})
    };
    write(&[started(0), step(1), step(2)]);
    // The row of step 2 is closed.
    let (rows, summary) = write(&[validation(2), stopped(2)]);
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(summary["validation/mean_dice"], json!(0.2));
    let (rows, _) = write(&[started(2), step(3), step(4), validation(4), stopped(4)]);
    let of = |name: &str| -> Vec<Value> { rows.iter().map(|row| row["metrics"][name].clone()).collect() };
    assert_eq!(rows.iter().map(|row| row["step"].clone()).collect::<Vec<_>>(), [1, 2, 3, 4].map(|step| json!(step)));
    assert_eq!(of("train/loss"), [1, 2, 3, 4].map(|step| json!(1.0 / f64::from(step))));
    assert_eq!(of("validation/step"), [Value::Null, Value::Null, json!(2), json!(4)]);
    assert_eq!(of("validation/mean_dice"), [Value::Null, Value::Null, json!(0.2), json!(0.4)]);
}
