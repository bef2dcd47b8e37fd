//! Tests of ranks as processes of the program: their results equal those of one process. Also holds what the other
//! tests of ranks share.

mod environments;
mod failures;
mod network;
mod signals;
mod threads;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::split::{Part, ShotSplit, Split};
use hiend_trainer::config::finetune::{FinetuneConfig, FinetunePreset};
use hiend_trainer::config::pretrain::PretrainConfig;
use hiend_trainer::config::{MicroBatch, RunConfig as _};
use hiend_trainer::journal::{Entry, StepRecord, ValidationRecord, read};
use hiend_trainer::schedule::{Every, ScheduleConfig, Unit};
use hiend_trainer::testing::{RANK_VARIABLES, small_pretraining};
use nix::unistd::Pid;

/// Exit code of ranks that end because another rank was lost.
pub(crate) const LOST: i32 = 69;
/// Exit code of a run stopped by a batch system's signal.
const REQUEUE: i32 = 75;
/// Exit code of a run stopped by Ctrl-C.
const STOPPED: i32 = 130;
/// Exit code of ranks that disagree on the run.
const DISAGREEMENT: i32 = 78;

/// Configuration of a model small enough for a test, with four crops per batch, computed one by one.
fn pretraining() -> PretrainConfig {
    let mut config = small_pretraining(8);
    config.model.depth = 4;
    config.model.taps = vec![1, 2, 3];
    config.model.mask_ratio = 0.5;
    config.stream.visits_per_batch = 4;
    config.stream.crops_per_visit = 1;
    config.train.micro_batch = Some(MicroBatch::Crops(1));
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
    config.train.micro_batch = Some(MicroBatch::Crops(1));
    config.train.ema_decay = Some(0.9);
    config.schedule = ScheduleConfig { unit: Unit::Step, total: 4, warmup: 1, rate_changes: Every::Step };
    let validation = config.validation.as_mut().unwrap();
    validation.every = 2;
    validation.overlap = 0.0;
    validation.split = Split::Shots(ShotSplit { shots: 2, part: Part::Validation, seed: 0 });
    config
}

/// Lock held by one test at a time, because each starts up to four processes and their timeouts only allow for one such
/// test.
static TURN: Mutex<()> = Mutex::new(());

/// Cache of phantoms and configurations, for the test that holds the lock.
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

    /// Releases the lock for the next test, while the processes of this one only wait.
    fn end_turn(&mut self) {
        drop(self.turn.take());
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates the command with the flags common to all runs, in an environment without variables of ranks.
    fn program(&self, run: &str, kind: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-train"));
        command.arg(kind).arg("--shards").arg(self.at("cache"));
        command.arg("--config").arg(self.at(&format!("{kind}.toml"))).arg("--run-dir").arg(self.at(run));
        command.args(["--display", "lines", "--log-every", "1", "--threads", "1", "--memory", "256MiB"]).args(flags);
        for name in RANK_VARIABLES {
            command.env_remove(name);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn pretrain(&self, run: &str, flags: &[&str]) -> Command {
        self.program(run, "pretrain", flags)
    }

    /// Records of a run by step; if there are two lines for a step, the later one is valid.
    fn steps(&self, run: &str) -> Vec<StepRecord> {
        let mut steps = Vec::new();
        for entry in read(&self.at(run).join("journal.jsonl")).unwrap() {
            if let Entry::Step(record) = entry.unwrap() {
                steps.truncate(record.step as usize - 1);
                assert_eq!(steps.len() as u64, record.step - 1, "a step is missing");
                steps.push(record);
            }
        }
        steps
    }

    /// Losses of a run by step.
    fn losses(&self, run: &str) -> Vec<u64> {
        self.steps(run).iter().map(|step| step.loss.to_bits()).collect()
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

/// Lines of a launcher, except the one reporting that it killed ranks that were slow to end, which may appear on a
/// loaded machine.
fn told(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| !line.starts_with("killing ranks [")).collect()
}

/// A run in progress, and its standard output.
pub(crate) struct Running {
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
    pub(crate) fn wait_for_step(&mut self, step: u64) {
        let number = format!("{step}/");
        let is_step = |line: &str| {
            line.starts_with("step ") && line.split_whitespace().nth(1).is_some_and(|word| word.starts_with(&number))
        };
        let found = self.lines.by_ref().map(Result::unwrap).any(|line| is_step(&line));
        assert!(found, "the run ended before step {step}");
    }

    /// Process id of a rank that has not ended.
    fn rank(&self, rank: usize) -> Pid {
        self.find_rank(rank).unwrap_or_else(|| panic!("no process of rank {rank}"))
    }

    /// Process id of a rank; `None` if it has ended.
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

    pub(crate) fn own_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Waits for the end of a process that writes little more, at most for `limit`; returns exit code and standard error.
    pub(crate) fn end_within(mut self, limit: Duration) -> (Option<i32>, String) {
        let deadline = Instant::now() + limit;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() >= deadline {
                self.child.kill().unwrap();
                let (_, stderr) = self.end();
                panic!("the process did not end within {limit:?}: {stderr}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.end()
    }

    /// Waits for the end; returns exit code and standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
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
fn number_of_crops_chosen_by_memory_is_recorded_and_kept() {
    let folder = Folder::new(2);
    let mut config = pretraining();
    config.train.micro_batch = Some(MicroBatch::Auto);
    fs::write(folder.at("pretrain.toml"), config.to_toml()).unwrap();
    let recorded = |run: &str| {
        let text = fs::read_to_string(folder.at(run).join("config.toml")).unwrap();
        PretrainConfig::parse(&text, "config.toml").unwrap().train.micro_batch
    };
    // Another number than the one that memory suggests, which is the whole batch unless the machine has hardly any left.
    succeed(folder.pretrain("begun", &["--device", "cpu", "--max-steps", "1", "--set", "train.micro_batch=3"]));
    succeed(folder.pretrain("begun", &["--devices", "cpu,cpu", "--max-steps", "2", "--resume"]));
    assert_eq!(recorded("begun"), Some(MicroBatch::Crops(3)));
    assert_eq!(folder.losses("begun").len(), 2);

    let output = folder.pretrain("chosen", &["--devices", "cpu,cpu", "--max-steps", "1"]).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    let Some(MicroBatch::Crops(chosen @ 1..=2)) = recorded("chosen") else { panic!("{:?}", recorded("chosen")) };
    assert!(told.contains(&format!("train.micro_batch = {chosen} (auto): {chosen} of 2 crops at a time")), "{told}");
    succeed(folder.pretrain("chosen", &["--device", "cpu", "--max-steps", "2", "--resume"]));
    assert_eq!(recorded("chosen"), Some(MicroBatch::Crops(chosen)));
}

/// Starts a rank of two as torchrun does.
pub(crate) fn as_torchrun(mut command: Command, rank: usize, master: SocketAddr, token: &str) -> Running {
    command.envs([("WORLD_SIZE", "2"), ("HIEND_TOKEN", token)]).env("MASTER_ADDR", master.ip().to_string());
    command.env("MASTER_PORT", master.port().to_string());
    command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
    Running::start(command)
}

/// Finds a free port on a loopback address that no other test uses, in this or any other process.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // 127.0.0.x is what everything else uses.
    let host = Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
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
