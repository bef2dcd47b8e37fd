//! Tests of ranks that are killed, hang, are slow or fail, and of restarts.

use std::fs;
use std::io::Read as _;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::{Folder, LOST, REQUEUE, Running, succeed, told};

#[test]
fn killed_rank_is_named_and_the_steps_done_are_saved() {
    let folder = Folder::new(2);
    let flags = ["--devices", "cpu,cpu,cpu,cpu"];
    let mut running = Running::start(folder.pretrain("run", &flags));
    running.wait_for_step(2);
    let rank = running.rank(2);
    kill(rank, Signal::SIGKILL).unwrap();
    let (code, stderr) = running.end();
    assert_eq!(code, Some(LOST), "{stderr}");
    let [first, second] = told(&stderr)[..] else { panic!("{stderr}") };
    let killed = format!("error: rank 2 (process {rank}) was killed by SIGKILL");
    let (launcher, rank_0) = if first == killed { (first, second) } else { (second, first) };
    assert_eq!(launcher, killed);
    assert!(rank_0.starts_with("error: rank 2 (") && rank_0.contains("is gone"), "{stderr}");
    assert!(rank_0.contains("; last good checkpoint: "), "{stderr}");
    // Fewer ranks continue, with the losses of one process.
    let done = folder.losses("run").len();
    assert!(done >= 2);
    let to = (done + 2).to_string();
    succeed(folder.pretrain("run", &["--devices", "cpu,cpu", "--resume", "--max-steps", &to]));
    succeed(folder.pretrain("one", &["--device", "cpu", "--max-steps", &to]));
    assert_eq!(folder.losses("run"), folder.losses("one"));
}

#[test]
fn straggler_that_is_killed_after_the_last_step_does_not_fail_the_run() {
    let folder = Folder::new(2);
    let mut running = Running::start(folder.pretrain("run", &["--devices", "cpu,cpu", "--max-steps", "3"]));
    // Rank 0 has everything that it needs: what is left is to save.
    running.wait_for_step(3);
    if let Some(rank) = running.find_rank(1) {
        // It may end at this moment.
        let _ = kill(rank, Signal::SIGKILL);
    }
    let (code, stderr) = running.end();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(folder.at("run/checkpoints/step-00000003").is_dir());
}

#[test]
fn killed_first_rank_ends_the_others() {
    let folder = Folder::new(2);
    let mut running = Running::start(folder.pretrain("run", &["--devices", "cpu,cpu"]));
    running.wait_for_step(1);
    let rank = running.rank(0);
    kill(rank, Signal::SIGKILL).unwrap();
    let (code, stderr) = running.end();
    assert_eq!(code, Some(LOST), "{stderr}");
    // On a loaded machine, the launcher may have to end rank 1, and says so.
    assert!(stderr.starts_with(&format!("error: rank 0 (process {rank}) was killed by SIGKILL\n")), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
}

/// Stops a rank of two without ending it, and checks that both end, and that the stopped one is named.
fn stop_rank(rank: usize) {
    let mut folder = Folder::new(2);
    let mut running = Running::start(folder.pretrain("run", &["--devices", "cpu,cpu", "--peer-timeout", "10"]));
    running.wait_for_step(1);
    kill(running.rank(rank), Signal::SIGSTOP).unwrap();
    // What is left is to wait, for the timeout and for the launcher to kill the stopped rank.
    folder.end_turn();
    let (code, stderr) = running.end();
    assert_eq!(code, Some(LOST), "{stderr}");
    let named = format!("error: rank {rank} (");
    let is_named = |line: &str| line.starts_with(&named) && line.contains("has sent nothing for 10 s");
    assert!(stderr.lines().any(is_named), "{stderr}");
    assert!(stderr.contains(&format!("killing ranks [{rank}]")), "{stderr}");
}

#[test]
fn stopped_rank_is_silent_and_ends_all() {
    stop_rank(1);
}

#[test]
fn stopped_first_rank_is_silent_and_ends_all() {
    stop_rank(0);
}

#[test]
fn slow_rank_is_waited_for_and_changes_no_loss() {
    const PAUSE: Duration = Duration::from_secs(3);
    let folder = Folder::new(2);
    let mut running = Running::start(folder.pretrain("run", &["--devices", "cpu,cpu"]));
    running.wait_for_step(2);
    let rank = running.rank(1);
    kill(rank, Signal::SIGSTOP).unwrap();
    std::thread::sleep(PAUSE);
    let done = folder.steps("run").len() as u64;
    kill(rank, Signal::SIGCONT).unwrap();
    running.wait_for_step(done + 2);
    kill(running.own_pid(), Signal::SIGTERM).unwrap();
    let (code, stderr) = running.end();
    assert_eq!(code, Some(REQUEUE), "{stderr}");
    assert!(told(&stderr).iter().all(|line| !line.starts_with("error: ")), "{stderr}");
    // One step contains the pause, except for the part in which rank 0 was still at its own work.
    let steps = folder.steps("run");
    assert!(steps.iter().any(|step| step.step_ms > PAUSE.as_secs_f64() * 1e3 / 2.0), "{steps:?}");
    succeed(folder.pretrain("one", &["--device", "cpu", "--max-steps", &steps.len().to_string()]));
    assert_eq!(folder.losses("run"), folder.losses("one"));
}

#[test]
fn ranks_are_started_again_from_the_newest_checkpoint() {
    let folder = Folder::new(2);
    let flags = ["--devices", "cpu,cpu", "--restarts", "1", "--checkpoint-every", "5", "--max-steps", "80"];
    // On a machine that is busy with something else, a run may be over before the signal comes.
    for run in ["first", "second", "third"] {
        let mut running = Running::start(folder.pretrain(run, &flags));
        running.wait_for_step(7);
        let is_killed = running.find_rank(1).is_some_and(|rank| kill(rank, Signal::SIGKILL).is_ok());
        let (code, stderr) = running.end();
        let is_over = !stderr.contains("restart ") && folder.losses(run).len() == 80;
        if !is_killed || is_over {
            continue;
        }
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains("restart 1 of 1: all ranks begin again from the newest checkpoint"), "{stderr}");
        succeed(folder.pretrain("one", &["--device", "cpu", "--max-steps", "80"]));
        assert_eq!(folder.losses(run), folder.losses("one"));
        return;
    }
    panic!("three runs were over before a rank was killed");
}

#[test]
fn error_that_would_occur_again_is_not_followed_by_a_restart() {
    let folder = Folder::new(2);
    let flags = ["--devices", "cpu,cpu", "--restarts", "3", "--checkpoint-every", "2"];
    let mut running = Running::start(folder.pretrain("run", &flags));
    running.wait_for_step(1);
    // No checkpoint can be written into a file. The run may make the folder again before the file has its name.
    for number in 0.. {
        fs::rename(folder.at("run/checkpoints"), folder.at(&format!("checkpoints-{number}"))).unwrap();
        if fs::write(folder.at("run/checkpoints"), "").is_ok() {
            break;
        }
    }
    let (code, stderr) = running.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("checkpoints") && !stderr.contains("restart"), "{stderr}");
}

#[test]
fn run_that_exists_is_not_continued_by_a_restart() {
    let folder = Folder::new(2);
    succeed(folder.pretrain("run", &["--device", "cpu", "--max-steps", "1"]));
    let output = folder.pretrain("run", &["--devices", "cpu,cpu", "--restarts", "3"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("already holds a run") && told(&stderr).len() == 1, "{stderr}");
    assert_eq!(folder.losses("run").len(), 1);
}

#[test]
fn error_of_all_ranks_is_shown_once() {
    let folder = Folder::new(2);
    let output = folder.pretrain("run", &["--devices", "cpu,cpu,cpu"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    // "error: ranks 0-2: .." if they end within the time in which errors are merged.
    assert!(stderr.starts_with("error: ") && stderr.matches("error: ").count() == 1, "{stderr}");
    assert!(stderr.contains("3 ranks cannot share stream.visits_per_batch = 4 evenly; "), "{stderr}");
    assert!(stderr.contains("--set stream.visits_per_batch=6"), "{stderr}");
    assert!(!folder.at("run").exists());
}

#[test]
fn ranks_end_with_their_launcher() {
    let folder = Folder::new(2);
    let mut command = folder.pretrain("run", &["--devices", "cpu,cpu"]);
    // A launcher that is killed leaves the folder of the rendezvous behind.
    command.env("TMPDIR", folder.dir.path());
    let mut running = Running::start(command);
    running.wait_for_step(1);
    kill(running.own_pid(), Signal::SIGKILL).unwrap();
    // Every rank holds the other end of this pipe until it ends.
    let mut stderr = running.child.stderr.take().unwrap();
    running.lines.by_ref().for_each(drop);
    stderr.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(running.child.wait().unwrap().code(), None);
}
