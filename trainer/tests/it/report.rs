//! Tests of the files that a run writes for display: TensorBoard and curves.

use std::fs;
use std::path::Path;

use hiend_trainer::journal::{Entry, Journal, StepRecord};
use hiend_trainer::report::history::History;
use hiend_trainer::report::watcher::{Display, Watcher, draw_curves};
use hiend_trainer::training::{Event, Stop};

fn record(step: u64) -> StepRecord {
    StepRecord {
        step,
        epoch: step as f64 / 10.0,
        loss: 1.0 / step as f64,
        lr: 1e-4,
        grad_norm: None,
        crops: 2,
        crops_per_sec: 20.0,
        step_ms: 100.0,
        wait_ms: 1.0,
        upload_ms: 1.0,
        compute_ms: 99.0,
        decode_ms: 1.0,
        augment_ms: 1.0,
        ranks: vec![],
    }
}

/// Sends the events of a session that is killed after its last step.
fn session(run_dir: &Path, steps: std::ops::RangeInclusive<u64>) {
    let mut journal = Journal::open(&run_dir.join("journal.jsonl"), *steps.start() > 1).unwrap();
    let mut watcher = Watcher::open(Display::Lines, 0, &Stop::default()).unwrap();
    let (step, end_step) = (steps.start() - 1, 100);
    let device = || "CPU".to_owned();
    watcher.event(&Event::Started { num_params: 1, device: device(), step, end_step, best: None, run_dir });
    journal.write(&Entry::Started { step, device: device() }).unwrap();
    for step in steps {
        journal.write(&Entry::Step(record(step))).unwrap();
        watcher.event(&Event::Step(&record(step)));
    }
}

#[test]
fn curves_of_a_resumed_session_are_those_of_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    session(dir.path(), 1..=30);
    // Resumed from step 3: what was recorded after it is abandoned.
    session(dir.path(), 4..=10);
    let history = History::read(&dir.path().join("journal.jsonl")).unwrap();
    let steps: Vec<u64> = history.loss.points().iter().map(|point| point.first_step).collect();
    assert_eq!(steps, (1..=10).collect::<Vec<_>>());
    let expected = dir.path().join("expected.png");
    draw_curves(&history, dir.path(), &expected).unwrap();
    assert!(fs::read(dir.path().join("curves.png")).unwrap() == fs::read(expected).unwrap(), "another picture");
}

fn num_files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn run_writes_curves_and_an_event_file_per_session() {
    let dir = tempfile::tempdir().unwrap();
    session(dir.path(), 1..=5);
    let curves = dir.path().join("curves.png");
    let first = fs::read(&curves).unwrap();
    assert_eq!(num_files(&dir.path().join("tensorboard")), 1);
    session(dir.path(), 4..=30);
    assert_eq!(num_files(&dir.path().join("tensorboard")), 2);
    assert_ne!(fs::read(&curves).unwrap(), first);
    let steps = History::read(&dir.path().join("journal.jsonl")).unwrap().loss.points().len();
    assert_eq!(steps, 30);
}

#[test]
fn run_continues_without_files_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tensorboard"), "in the way").unwrap();
    fs::create_dir(dir.path().join("curves.png")).unwrap();
    session(dir.path(), 1..=5);
    let path = dir.path().join("journal.jsonl");
    assert_eq!(History::read(&path).unwrap().loss.points().len(), 5);
    // No temporary file stays.
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}
