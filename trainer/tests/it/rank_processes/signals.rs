//! Tests of signals to the launcher, to the whole process group, and to waiting ranks.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};

use super::{Folder, REQUEUE, Running, STOPPED, as_torchrun, free_address, succeed};

/// Starts a run, sends signals once a step was done, and checks its exit code and that the steps done are saved.
fn stop_by(run: &str, expected: i32, send: impl FnOnce(&Running)) {
    let folder = Folder::new(2);
    let mut command = folder.pretrain(run, &["--devices", "cpu,cpu"]);
    command.process_group(0);
    let mut running = Running::start(command);
    running.wait_for_step(1);
    send(&running);
    let (code, stderr) = running.end();
    assert_eq!(code, Some(expected), "{run}: {stderr}");
    let done = folder.losses(run).len();
    let checkpoint = folder.at(run).join("checkpoints").join(format!("step-{done:08}"));
    assert!(checkpoint.is_dir(), "{run}: {stderr}");
}

#[test]
fn signal_to_the_launcher_stops_and_saves() {
    stop_by("term", REQUEUE, |running| kill(running.own_pid(), Signal::SIGTERM).unwrap());
    stop_by("int", STOPPED, |running| kill(running.own_pid(), Signal::SIGINT).unwrap());
}

#[test]
fn signals_to_the_whole_process_group_stop_and_save() {
    stop_by("int", STOPPED, |running| killpg(running.own_pid(), Signal::SIGINT).unwrap());
    stop_by("term", REQUEUE, |running| {
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGHUP] {
            killpg(running.own_pid(), signal).unwrap();
        }
    });
}

#[test]
fn interrupted_validation_is_repeated_and_nothing_is_lost() {
    let folder = Folder::new(4);
    let flags = ["--init", "none", "--devices", "cpu,cpu"];
    succeed(folder.program("straight", "finetune", &flags));
    // The validation follows the line of its step. Wherever the signal arrives, the two runs together are the other one.
    let mut running = Running::start(folder.program("parts", "finetune", &flags));
    running.wait_for_step(2);
    kill(running.own_pid(), Signal::SIGTERM).unwrap();
    let (code, stderr) = running.end();
    // A machine may be so busy that the run is over before the signal arrives.
    assert!([Some(REQUEUE), Some(0)].contains(&code), "{stderr}");
    succeed(folder.program("parts", "finetune", &["--resume", "--devices", "cpu,cpu"]));
    assert_eq!(folder.losses("parts"), folder.losses("straight"));
    assert_eq!(format!("{:?}", folder.validations("parts")), format!("{:?}", folder.validations("straight")));
}

#[test]
fn signal_ends_a_rank_that_waits_for_others() {
    let folder = Folder::new(2);
    let master = free_address();
    for (signal, expected) in [(Signal::SIGTERM, REQUEUE), (Signal::SIGINT, STOPPED)] {
        let mut running =
            as_torchrun(folder.pretrain("run", &["--device", "cpu"]), 0, master, "a token for tests only");
        let mut stderr = BufReader::new(running.child.stderr.take().unwrap()).lines().map(Result::unwrap);
        stderr.find(|line| line.starts_with("rank 0 waits for 1 other rank at ")).unwrap();
        kill(running.own_pid(), signal).unwrap();
        assert_eq!(running.child.wait().unwrap().code(), Some(expected));
    }
}

#[test]
fn ignored_hangup_stays_ignored() {
    let folder = Folder::new(2);
    for (run, device) in [("one", ["--device", "cpu"]), ("two", ["--devices", "cpu,cpu"])] {
        let command = folder.pretrain(run, &[device[0], device[1], "--max-steps", "12"]);
        let unset = command.get_envs().filter(|(_, value)| value.is_none());
        let mut ignoring = Command::new("sh");
        ignoring.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
        unset.for_each(|(name, _)| {
            ignoring.env_remove(name);
        });
        ignoring.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running::start(ignoring);
        running.wait_for_step(2);
        killpg(running.own_pid(), Signal::SIGHUP).unwrap();
        let (code, stderr) = running.end();
        assert_eq!(code, Some(0), "{run}: {stderr}");
        assert_eq!(folder.losses(run).len(), 12);
    }
}
