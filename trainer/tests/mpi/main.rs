//! Ranks that `mpirun` starts. Needs MPI's library and Open MPI's `mpirun`, and is built with the feature `mpi` only:
//! `cargo test --release --workspace --features hiend-trainer/mpi --test mpi`.

#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use hiend_loader::convert::Conversion;
use hiend_loader::dataset;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_trainer::config::{MicroBatch, RunConfig as _};
use hiend_trainer::distributed::{Mpi, MpiSum, ProcessGroup, TcpSum, Timeouts};
use hiend_trainer::journal::{Entry, read};
use hiend_trainer::schedule::Unit;
use hiend_trainer::testing::{RANK_VARIABLES, small_pretraining};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `mpirun` with ranks that share the cores of this machine, wherever the test runs.
fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
    // Containers forbid the system call by which Open MPI copies between processes.
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    for name in RANK_VARIABLES {
        command.env_remove(name);
    }
    command
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn sums_have_the_bits_of_the_sum_over_tcp() {
    for num_ranks in ["2", "3", "4"] {
        let mut command = mpirun();
        command.args(["-n", num_ranks]).arg(std::env::current_exe().unwrap());
        let output = command.args(["--ignored", "--exact", "rank_compares_sums"]).output().unwrap();
        assert!(output.status.success(), "{num_ranks} ranks: {}", both(&output));
        let passed = both(&output).matches("1 passed").count();
        assert_eq!(passed.to_string(), num_ranks, "{}", both(&output));
    }
}

#[test]
#[ignore = "one rank of the test before, which starts it by mpirun"]
fn rank_compares_sums() {
    // Two full buckets and a rest that no number of ranks divides.
    const FLOATS: usize = (2 << 20) + 1009;
    let mpi = Mpi::start().unwrap();
    let (world, token) = mpi.world(None).unwrap();
    let group = ProcessGroup::join(&world, &token, Timeouts::default(), None).unwrap();
    // Magnitudes differ between ranks, so that each order of additions has its own bits.
    let own: Vec<f32> =
        (0..FLOATS).map(|at| ((at * 7919 + 13) as f32).sin() * 10f32.powf(group.rank() as f32)).collect();
    let by_tcp = TcpSum::new(Arc::clone(&group)).sum_floats(&own).unwrap();
    let by_mpi = MpiSum.sum_floats(&own);
    assert_eq!(by_mpi.len(), FLOATS);
    assert!(by_mpi.iter().zip(&by_tcp).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(MpiSum.sum_floats(&[]).is_empty());
    group.finish().unwrap();
    drop(group);
    mpi.end();
}

/// A cache of phantoms and a configuration: a small model, four crops per batch, computed one by one.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let phantoms = PhantomConfig { cases: 2, seed: 5, spacing_mm: [6.0, 8.0] };
        write_dataset(&folder.at("raw/Dataset001_P"), &phantoms).unwrap();
        let raw = folder.at("raw");
        let preprocess = PreprocessConfig { spacing: Some([8.0; 3]), ..PreprocessConfig::default() };
        let datasets = dataset::find(&raw).unwrap();
        Conversion::new(&raw, &datasets, &folder.at("cache")).config(preprocess).run().unwrap();
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
        fs::write(folder.at("pretrain.toml"), config.to_toml()).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Appends the program and the flags of every run.
    fn program<'a>(&self, command: &'a mut Command, run: &Path, flags: &[&str]) -> &'a mut Command {
        command.arg("pretrain").arg("--shards").arg(self.at("cache"));
        command.arg("--config").arg(self.at("pretrain.toml")).arg("--run-dir").arg(run);
        command.args(["--device", "cpu", "--display", "lines", "--log-every", "1", "--threads", "1"]);
        command.args(["--memory", "256MiB"]).args(flags)
    }

    fn losses(&self, run: &str) -> Vec<u64> {
        let entries = read(&self.at(run).join("journal.jsonl")).unwrap().map(Result::unwrap);
        let losses = entries.filter_map(|entry| if let Entry::Step(record) = entry { Some(record.loss) } else { None });
        losses.map(f64::to_bits).collect()
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_hiend-train");

#[test]
fn ranks_give_the_bits_of_one_process() {
    let folder = Folder::new();
    let three = ["--max-steps", "3"];
    let mut alone = Command::new(PROGRAM);
    let output = folder.program(&mut alone, &folder.at("one"), &three).output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    for num_ranks in ["2", "4"] {
        let mut command = mpirun();
        command.args(["-n", num_ranks, PROGRAM]);
        let output = folder.program(&mut command, &folder.at(num_ranks), &three).output().unwrap();
        assert!(output.status.success(), "{num_ranks} ranks: {}", both(&output));
        assert_eq!(folder.losses(num_ranks), folder.losses("one"), "{num_ranks} ranks");
    }
    assert_eq!(folder.losses("one").len(), 3);
}

#[test]
fn rank_with_another_configuration_ends_all_and_is_named() {
    let folder = Folder::new();
    let mut command = mpirun();
    command.args(["-n", "1", PROGRAM]);
    folder.program(&mut command, &folder.at("run"), &["--set", "optim.lr=0.25"]);
    command.args([":", "-n", "1", PROGRAM]);
    folder.program(&mut command, &folder.at("run"), &["--set", "optim.lr=0.5"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let text = both(&output);
    let named = |line: &str| {
        line.starts_with("error: rank 1 (") && line.ends_with("config differs in optim.lr: 0.5, rank 0 has 0.25")
    };
    assert!(text.lines().any(named), "{text}");
}

#[test]
fn killed_rank_ends_all_and_is_named() {
    let folder = Folder::new();
    let mut command = mpirun();
    command.args(["-n", "2", PROGRAM]);
    folder.program(&mut command, &folder.at("run"), &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("step ")), "the run ended before its first step");
    kill(rank_of(child.id(), 1), Signal::SIGKILL).unwrap();
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    // Rank 0 says so if mpirun, which says so itself, leaves it the time.
    let text = both(&output);
    assert!(text.contains("rank 1 (") || text.contains("process rank 1"), "{text}");
}

/// Process of a rank that a process of `mpirun` has started.
fn rank_of(mpirun: u32, rank: usize) -> Pid {
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        let is_rank = environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
        if is_rank && parent == Some(&mpirun.to_string()) {
            return Pid::from_raw(pid);
        }
    }
    panic!("no process of rank {rank}");
}
