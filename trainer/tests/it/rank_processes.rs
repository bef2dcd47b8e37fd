//! Ranks as processes of the program itself: killed, stopped, restarted, and started as others start them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::split::{Part, ShotSplit, Split};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::{FinetuneConfig, FinetunePreset};
use hiend_trainer::config::pretrain::{PretrainConfig, PretrainPreset};
use hiend_trainer::journal::{Entry, ValidationRecord, read};
use hiend_trainer::schedule::{Every, ScheduleConfig, Unit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Exit code of ranks that end because another one was lost.
const LOST: i32 = 69;
/// Exit code of a run that a signal of a batch system stopped.
const REQUEUE: i32 = 75;
/// Exit code of a run that Ctrl-C stopped.
const STOPPED: i32 = 130;
/// Exit code of ranks that do not belong together.
const DISAGREEMENT: i32 = 78;

/// A model small enough for a test, four crops per batch, computed one by one.
fn pretraining() -> PretrainConfig {
    let mut config = PretrainPreset::Tiny.config();
    config.model.patch_size = 8;
    config.model.embed_dim = 24;
    config.model.depth = 4;
    config.model.taps = vec![1, 2, 3];
    config.model.num_heads = 2;
    config.model.decoder_embed_dim = 12;
    config.model.decoder_num_heads = 2;
    config.model.mask_ratio = 0.5;
    config.stream.crop_size = [16; 3];
    config.stream.visits_per_batch = 4;
    config.stream.crops_per_visit = 1;
    config.train.micro_batch = Some(1);
    config.schedule.unit = Unit::Step;
    config.schedule.total = 1_000_000;
    config.schedule.warmup = 2;
    config
}

fn finetuning() -> FinetuneConfig {
    let mut config = FinetunePreset::Tiny.config();
    config.model = config.model.with_encoder_of(&pretraining().model).unwrap();
    config.model.feature_size = 4;
    config.stream.crop_size = [16; 3];
    config.stream.visits_per_batch = 2;
    config.stream.crops_per_visit = 1;
    config.stream.split = Split::Shots(ShotSplit { shots: 2, part: Part::Train, seed: 0 });
    config.train.micro_batch = Some(1);
    config.train.ema_decay = Some(0.9);
    config.schedule = ScheduleConfig { unit: Unit::Step, total: 4, warmup: 1, rate_changes: Every::Step };
    let validation = config.validation.as_mut().unwrap();
    validation.every = 2;
    validation.overlap = 0.0;
    validation.split = Split::Shots(ShotSplit { shots: 2, part: Part::Validation, seed: 0 });
    config
}

/// Held by one test at a time: each starts up to four processes, and their time-outs allow for one such test.
static TURN: Mutex<()> = Mutex::new(());

/// A cache of phantoms, and configurations, for the test whose turn it is.
struct Folder {
    dir: tempfile::TempDir,
    turn: Option<MutexGuard<'static, ()>>,
}

impl Folder {
    fn new(cases: usize) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Self { dir: tempfile::tempdir().unwrap(), turn: Some(turn) };
        let phantoms = PhantomConfig { cases, seed: 5, spacing_mm: [6.0, 8.0] };
        write_dataset(&folder.at("raw/Dataset001_P"), &phantoms).unwrap();
        let raw = folder.at("raw");
        let preprocess = PreprocessConfig { spacing: Some([8.0; 3]), ..PreprocessConfig::default() };
        let datasets = dataset::find(&raw).unwrap();
        Conversion::new(&raw, &datasets, &folder.at("cache")).config(preprocess).run().unwrap();
        fs::write(folder.at("pretrain.toml"), pretraining().to_toml()).unwrap();
        fs::write(folder.at("finetune.toml"), finetuning().to_toml()).unwrap();
        folder
    }

    /// Lets the next test go on, while the processes of this one wait and compute nothing.
    fn end_turn(&mut self) {
        drop(self.turn.take());
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with the flags of every run, in an environment that says nothing of ranks.
    fn program(&self, run: &str, kind: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        command.arg(kind).arg("--shards").arg(self.at("cache"));
        command.arg("--config").arg(self.at(&format!("{kind}.toml"))).arg("--run-dir").arg(self.at(run));
        command.args(["--display", "lines", "--log-every", "1", "--threads", "1", "--memory", "256MiB"]).args(flags);
        let unset = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "HIEND_TOKEN", "SLURM_PROCID"];
        for name in unset {
            command.env_remove(name);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn pretrain(&self, run: &str, flags: &[&str]) -> Command {
        self.program(run, "pretrain", flags)
    }

    /// Losses of a run by step; of two lines for a step the later one counts.
    fn losses(&self, run: &str) -> Vec<u64> {
        let mut losses = Vec::new();
        for entry in read(&self.at(run).join("journal.jsonl")).unwrap() {
            if let Entry::Step(record) = entry.unwrap() {
                losses.truncate(record.step as usize - 1);
                assert_eq!(losses.len() as u64, record.step - 1, "a step is missing");
                losses.push(record.loss.to_bits());
            }
        }
        losses
    }

    /// Validations of a run, without their times.
    fn validations(&self, run: &str) -> Vec<ValidationRecord> {
        let entries = read(&self.at(run).join("journal.jsonl")).unwrap().map(Result::unwrap);
        let records =
            entries.filter_map(|entry| if let Entry::Validation(record) = entry { Some(record) } else { None });
        records.map(|record| ValidationRecord { secs: 0.0, ..record }).collect()
    }
}

fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// Lines of a launcher, without the one that says that it ended ranks which were slow to end by themselves: on a loaded
/// machine, any may be.
fn told(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| !line.starts_with("killing ranks [")).collect()
}

/// A run in progress, and its standard output.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for the line of a step.
    fn wait_for_step(&mut self, step: u64) {
        let number = format!("{step}/");
        let is_step = |line: &str| {
            line.starts_with("step ") && line.split_whitespace().nth(1).is_some_and(|word| word.starts_with(&number))
        };
        let found = self.lines.by_ref().map(Result::unwrap).any(|line| is_step(&line));
        assert!(found, "the run ended before step {step}");
    }

    /// Process of a rank of a run that has not ended.
    fn rank(&self, rank: usize) -> Pid {
        self.find_rank(rank).unwrap_or_else(|| panic!("no process of rank {rank}"))
    }

    /// Process of a rank; `None` if it has ended.
    fn find_rank(&self, rank: usize) -> Option<Pid> {
        let wanted = format!("RANK={rank}");
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            // The name in parentheses may hold anything; the parent is the second word after it.
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            let is_rank = environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
            if is_rank && parent == Some(&self.child.id().to_string()) {
                return Some(Pid::from_raw(pid));
            }
        }
        None
    }

    fn own_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits for the end; returns exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        self.lines.by_ref().for_each(drop);
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn processes_give_the_bits_of_one_process() {
    let folder = Folder::new(2);
    succeed(folder.pretrain("one", &["--device", "cpu", "--max-steps", "4"]));
    for devices in ["cpu,cpu", "cpu,cpu,cpu,cpu"] {
        succeed(folder.pretrain(devices, &["--devices", devices, "--max-steps", "4"]));
        assert_eq!(folder.losses(devices), folder.losses("one"), "{devices}");
    }
    assert_eq!(folder.losses("one").len(), 4);
}

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

#[test]
fn stopped_process_is_silent_and_ends_all() {
    for rank in [1, 0] {
        let folder = Folder::new(2);
        let mut running = Running::start(folder.pretrain("run", &["--devices", "cpu,cpu", "--peer-timeout", "10"]));
        running.wait_for_step(1);
        kill(running.rank(rank), Signal::SIGSTOP).unwrap();
        let (code, stderr) = running.end();
        assert_eq!(code, Some(LOST), "{stderr}");
        let named = format!("error: rank {rank} (");
        let is_named = |line: &str| line.starts_with(&named) && line.contains("has sent nothing for 10 s");
        assert!(stderr.lines().any(is_named), "{stderr}");
        assert!(stderr.contains(&format!("killing ranks [{rank}]")), "{stderr}");
    }
}

#[test]
fn ranks_are_started_again_from_the_newest_checkpoint() {
    let folder = Folder::new(2);
    let flags = ["--devices", "cpu,cpu", "--restarts", "1", "--checkpoint-every", "5", "--max-steps", "200"];
    // On a machine that is busy with something else, a run may be over before the signal comes.
    for run in ["first", "second", "third"] {
        let mut running = Running::start(folder.pretrain(run, &flags));
        running.wait_for_step(7);
        let is_killed = running.find_rank(1).is_some_and(|rank| kill(rank, Signal::SIGKILL).is_ok());
        let (code, stderr) = running.end();
        let is_over = !stderr.contains("restart ") && folder.losses(run).len() == 200;
        if !is_killed || is_over {
            continue;
        }
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains("restart 1 of 1: all ranks begin again from the newest checkpoint"), "{stderr}");
        succeed(folder.pretrain("one", &["--device", "cpu", "--max-steps", "200"]));
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

#[test]
fn ranks_end_with_their_launcher() {
    let folder = Folder::new(2);
    let mut running = Running::start(folder.pretrain("run", &["--devices", "cpu,cpu"]));
    running.wait_for_step(1);
    kill(running.own_pid(), Signal::SIGKILL).unwrap();
    // Every rank holds the other end of this pipe until it ends.
    let mut stderr = running.child.stderr.take().unwrap();
    running.lines.by_ref().for_each(drop);
    stderr.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(running.child.wait().unwrap().code(), None);
}

/// Starts a rank as torchrun does.
fn as_torchrun(mut command: Command, rank: usize, master: SocketAddr, token: &str) -> Running {
    command.envs([("WORLD_SIZE", "2"), ("HIEND_TOKEN", token)]).env("MASTER_ADDR", master.ip().to_string());
    command.env("MASTER_PORT", master.port().to_string());
    command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
    Running::start(command)
}

/// A free port of a loopback address that no other test uses, in this process or another one.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // 127.0.0.x is what everything else uses.
    let host = Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn ranks_of_torchrun_train_together() {
    let folder = Folder::new(2);
    succeed(folder.pretrain("one", &["--device", "cpu", "--max-steps", "3"]));
    let master = free_address();
    let rank = |rank| {
        let command = folder.pretrain("run", &["--device", "cpu", "--max-steps", "3"]);
        as_torchrun(command, rank, master, "a token for tests only")
    };
    for rank in [rank(1), rank(0)] {
        let (code, stderr) = rank.end();
        assert_eq!(code, Some(0), "{stderr}");
    }
    assert_eq!(folder.losses("run"), folder.losses("one"));
}

#[test]
fn rank_with_another_configuration_is_named_by_all() {
    let folder = Folder::new(2);
    let master = free_address();
    let rank = |rank: usize| {
        let lr = if rank == 1 { "optim.lr=0.5" } else { "optim.lr=0.25" };
        as_torchrun(folder.pretrain("run", &["--device", "cpu", "--set", lr]), rank, master, "a token for tests only")
    };
    for rank in [rank(0), rank(1)] {
        let (code, stderr) = rank.end();
        assert_eq!(code, Some(DISAGREEMENT), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: rank 1 ("), "{stderr}");
        assert!(last.ends_with("config differs in optim.lr: 0.5, rank 0 has 0.25"), "{stderr}");
    }
}

#[test]
fn rank_with_another_token_is_refused() {
    let mut folder = Folder::new(2);
    let master = free_address();
    let rank = |folder: &Folder, rank: usize, secs: &str, token: &str| {
        as_torchrun(folder.pretrain("run", &["--device", "cpu", "--join-timeout", secs]), rank, master, token)
    };
    // The first one waits for longer, because the second one has to start meanwhile.
    let mut first = rank(&folder, 0, "20", "a token for tests only");
    let mut first_lines = BufReader::new(first.child.stderr.take().unwrap()).lines().map(Result::unwrap);
    first_lines.find(|line| line.starts_with("rank 0 waits for 1 other rank at ")).unwrap();
    let second = rank(&folder, 1, "10", "another token for tests");
    folder.end_turn();
    let (second, second_error) = second.end();
    let first_error = first_lines.collect::<Vec<_>>().join("\n");
    assert_eq!((first.end().0, second), (Some(LOST), Some(DISAGREEMENT)), "{first_error}{second_error}");
    assert!(second_error.contains("refused rank 1: its HIEND_TOKEN is another one"), "{second_error}");
    assert!(first_error.contains("1 of 2 ranks joined within 20 s; missing: 1; refused "), "{first_error}");
}

#[test]
fn ranks_without_a_token_or_with_half_an_environment_do_not_start() {
    let folder = Folder::new(2);
    let check = |variables: &[(&str, &str)], flags: &[&str], expected: &str| {
        let mut command = folder.pretrain("run", flags);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.lines().last().unwrap_or_default().starts_with(expected), "{stderr}");
        assert!(!folder.at("run").exists());
    };
    let world =
        [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")];
    check(&world, &["--device", "cpu"], "error: HIEND_TOKEN is not set");
    check(&world[1..], &["--device", "cpu"], "error: WORLD_SIZE is set but RANK is not");
    check(&[], &["--ranks", "slurm"], "error: --ranks slurm: SLURM_PROCID is not set");
    check(&[], &["--devices", "cpu", "--restarts", "2"], "error: --restarts is for ranks that --devices starts");
}

#[test]
fn error_of_all_ranks_is_shown_once() {
    let folder = Folder::new(2);
    let output = folder.pretrain("run", &["--devices", "cpu,cpu,cpu"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    // "error: ranks 0-2: .." if they end within the time in which errors are merged.
    assert!(stderr.starts_with("error: ") && stderr.matches("error: ").count() == 1, "{stderr}");
    assert!(stderr.contains("3 ranks cannot share stream.visits_per_batch = 4 evenly"), "{stderr}");
    assert!(!folder.at("run").exists());
}

#[test]
fn validation_is_shared_and_gives_the_scores_of_one_process() {
    let folder = Folder::new(4);
    succeed(folder.program("one", "finetune", &["--init", "none", "--device", "cpu"]));
    succeed(folder.program("two", "finetune", &["--init", "none", "--devices", "cpu,cpu"]));
    assert_eq!(folder.losses("two"), folder.losses("one"));
    let one = folder.validations("one");
    assert_eq!((one.len(), one[0].num_cases), (2, 2));
    assert_eq!(format!("{:?}", folder.validations("two")), format!("{one:?}"));
}
