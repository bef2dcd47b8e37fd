use super::*;
use crate::journal::Journal;
use crate::journal::testing::{step_record, validation_record};
use crate::report::mlflow::testing::{Fault, Server, live, run_folder};

/// Writes the journal of a run that finished after `steps` steps and a validation.
fn write_journal(run_dir: &Path, steps: u64) {
    let mut journal = Journal::open(&run_dir.join(JOURNAL), false).unwrap();
    let entries = [Entry::Started { step: 0, device: "CPU".into() }]
        .into_iter()
        .chain((1..=steps).map(|step| Entry::Step(step_record(step, 0.5))))
        .chain([Entry::Validation(validation_record(steps, 0.5)), Entry::Stopped { step: steps, interrupted: false }]);
    for entry in entries {
        journal.write(&entry).unwrap();
    }
}

/// Sender of a run that has ended.
fn replay(server: &Server, run_dir: &Path) -> Result<Sender, MlflowError> {
    let (experiment, stream_digest) = ("experiment".to_owned(), Some("digest".to_owned()));
    Sender::open(server.client(), run_dir, Description { experiment, stream_digest, ..Description::default() })
}

#[test]
fn finished_run_is_replayed_once() {
    let (server, run) = (Server::start(), run_folder());
    write_journal(run.path(), 120);
    for _ in 0..2 {
        let mut sender = replay(&server, run.path()).unwrap();
        sender.catch_up().unwrap();
        assert_eq!(sender.status(), Status::Finished);
        sender.finish(sender.status()).unwrap();
    }
    assert_eq!(server.steps("train/loss"), (1..=120).collect::<Vec<_>>());
    assert_eq!(server.steps("dice/liver"), [120]);
    assert_eq!((server.num_runs(), server.status().as_str()), (1, "FINISHED"));
    // Steps of 100 ms.
    let times = server.times("train/loss");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 100), "{times:?}");
    let tag = |key: &str| server.tag(key).unwrap_or_default();
    let found = (tag("hiend.stream_digest"), tag("hiend.version"), tag("hiend.device"));
    assert_eq!(found, ("digest".to_owned(), env!("CARGO_PKG_VERSION").to_owned(), "CPU".to_owned()));
    assert!(server.param("classes").unwrap().contains("\"liver\""));
}

#[test]
fn session_that_goes_back_names_the_steps_that_the_server_keeps() {
    let (server, run) = (Server::start(), run_folder());
    write_journal(run.path(), 7);
    replay(&server, run.path()).unwrap().catch_up().unwrap();
    let kept = |step| {
        let experiment = "experiment".to_owned();
        let description = Description { experiment, is_live: true, step, ..Description::default() };
        let mut sender = Sender::open(server.client(), run.path(), description).unwrap();
        sender.catch_up().unwrap();
        sender.kept
    };
    assert_eq!(kept(7), None);
    let mut journal = Journal::open(&run.path().join(JOURNAL), true).unwrap();
    journal.write(&Entry::Started { step: 3, device: "CPU".into() }).unwrap();
    for step in 4..=8 {
        journal.write(&Entry::Step(step_record(step, 0.25))).unwrap();
    }
    assert_eq!(kept(3), Some(4..=7));
    assert_eq!(server.steps("train/loss"), (1..=8).collect::<Vec<_>>());
    // The next session continues after the last step.
    assert_eq!(kept(8), None);
}

#[test]
fn server_restored_from_an_older_copy_receives_what_it_lost() {
    let (server, run) = (Server::start(), run_folder());
    write_journal(run.path(), 20);
    let mut sender = replay(&server, run.path()).unwrap();
    sender.catch_up().unwrap();
    // While the sender is at work: it asks after a failed request.
    server.forget_after(10);
    let mut journal = Journal::open(&run.path().join(JOURNAL), true).unwrap();
    journal.write(&Entry::Step(step_record(21, 0.5))).unwrap();
    server.fail_at("metrics", Fault::Close);
    assert!(sender.catch_up().unwrap_err().is_temporary());
    sender.catch_up().unwrap();
    assert_eq!(server.steps("train/loss"), (1..=21).collect::<Vec<_>>());
    drop(sender);
    // Between two senders.
    server.forget_after(5);
    replay(&server, run.path()).unwrap().catch_up().unwrap();
    assert_eq!(server.steps("train/loss"), (1..=21).collect::<Vec<_>>());
    assert_eq!(server.steps("validation/mean_dice"), [20]);
}

#[test]
fn long_value_is_cut_for_servers_that_refuse_it() {
    let (server, run) = (Server::start(), run_folder());
    write_journal(run.path(), 1);
    let path = run.path().join(CONFIG);
    let text = std::fs::read_to_string(&path).unwrap();
    let names: Vec<String> = (0..200).map(|idx| format!("class {idx}")).collect();
    let mut config: Table = text.parse().unwrap();
    config.insert("classes".into(), names.into());
    std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    replay(&server, run.path()).unwrap().catch_up().unwrap();
    let value = server.param("classes").unwrap();
    assert!(value.contains("\"class 0\"") && value.ends_with('…') && value.chars().count() == SHORT, "{value}");
    assert!(server.param("train.seed").is_some());
}

#[test]
fn refused_settings_cost_no_metrics() {
    let (server, run) = (Server::start(), run_folder());
    write_journal(run.path(), 3);
    let refusal = r#"{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}"#;
    server.fail_at("params", Fault::Status(400, refusal.into()));
    replay(&server, run.path()).unwrap().catch_up().unwrap();
    assert_eq!(server.param("train.seed"), None);
    assert_eq!(server.steps("train/loss"), [1, 2, 3]);
}

#[test]
fn deleted_run_is_named_with_its_file() {
    let (server, run) = (Server::start(), run_folder());
    write_journal(run.path(), 2);
    replay(&server, run.path()).unwrap().catch_up().unwrap();
    server.delete_run();
    let message = replay(&server, run.path()).unwrap().catch_up().unwrap_err().to_string();
    assert!(message.contains("has no MLflow run run-0; remove ") && message.contains(LINK), "{message}");
    std::fs::remove_file(run.path().join(LINK)).unwrap();
    replay(&server, run.path()).unwrap().catch_up().unwrap();
    assert_eq!(server.num_runs(), 2);
}

#[test]
fn one_process_at_a_time_sends_a_run() {
    let (server, run) = (Server::start(), run_folder());
    let first = live(&server, run.path(), true);
    let message = replay(&server, run.path()).unwrap_err().to_string();
    assert!(message.ends_with("is being sent to MLflow by another process"), "{message}");
    drop(first);
    assert!(replay(&server, run.path()).is_ok());
}

#[test]
fn other_experiment_is_refused_if_it_was_named() {
    let (server, run) = (Server::start(), run_folder());
    write_journal(run.path(), 2);
    replay(&server, run.path()).unwrap().catch_up().unwrap();
    let of = |is_named| {
        let description = Description { experiment: "other".into(), is_named, ..Description::default() };
        Sender::open(server.client(), run.path(), description)
    };
    let message = of(true).unwrap_err().to_string();
    assert!(message.contains("is tracked in experiment `experiment`, not `other`"), "{message}");
    assert!(of(false).is_ok());
}

#[test]
fn run_that_begins_anew_in_its_folder_is_a_new_one() {
    let (server, run) = (Server::start(), run_folder());
    write_journal(run.path(), 2);
    live(&server, run.path(), true).catch_up().unwrap();
    live(&server, run.path(), true).catch_up().unwrap();
    assert_eq!(server.num_runs(), 2);
}
