//! Process of one rank: its device and its place among the ranks; or the process that starts the ranks.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hiend_loader::budget::cores;
use hiend_loader::program::{UsageError, count, error_code, error_text, stop_at_panic};
use hiend_loader::remote::RemoteError;

use super::signals::{REQUEUE, StopSignals};
use super::{INTERRUPTED, note};
use crate::apart;
use crate::cli::RunArgs;
use crate::device::{Compute, DeviceChoice, DeviceError, check_sums, keep_kernels, settle_default};
use crate::distributed::{
    Cause, Children, JoinError, Master, Mpi, ProcessGroup, Token, World, die_with_launcher, leave_error, leave_loss,
    own_children,
};
use crate::host_memory;
use crate::report::dashboard::terminal;
use crate::report::watcher::Display;
use crate::training::{Stop, TrainingError};

/// Exit code of a rank that ends because another one failed or was lost (`EX_UNAVAILABLE` of `sysexits.h`). The run can
/// be resumed.
pub(super) const LOST: u8 = 69;
/// Exit code of ranks that disagree on the run (`EX_CONFIG` of `sysexits.h`). Starting them again would not help.
pub(super) const DISAGREEMENT: u8 = 78;
/// Time for the other ranks to save and end after one has failed, in addition to the time until they notice.
const SAVING: Duration = Duration::from_mins(2);

/// State that a process needs for training: its device, its place among the ranks, and its signal handler.
pub(super) struct Rank {
    pub compute: Compute,
    pub group: Option<Arc<ProcessGroup>>,
    /// Number of ranks that share the cores and the memory of this process.
    num_sharing: usize,
    pub signals: StopSignals,
    /// Request to stop, made by the first call of [`Self::stop`].
    stop: Option<Stop>,
}

impl Rank {
    /// Makes Ctrl-C, the batch system's signals and a panic on another thread request a stop, from the first call on.
    pub(super) fn stop(&mut self) -> Stop {
        if let Some(stop) = &self.stop {
            return stop.clone();
        }
        let stop = Stop::default();
        // If several ranks receive the signal, only the first one confirms it.
        self.signals.begin(&stop, self.is_first().then_some("step"));
        let request = stop.clone();
        stop_at_panic(move || {
            request.request();
            // As after Ctrl-C, a batch that waits for object storage which is away would delay the stop.
            hiend_cache::abandon_requests();
        });
        self.stop.insert(stop).clone()
    }

    /// Returns the exit code if the command was stopped before any server answered; passes on any other error.
    pub(super) fn unless_stopped(&self, error: anyhow::Error) -> anyhow::Result<ExitCode> {
        match error.downcast_ref() {
            Some(RemoteError::Stopped) => Ok(self.signals.interrupted()),
            _ => Err(error),
        }
    }

    /// Returns true for the rank that prints and writes files.
    pub(super) fn is_first(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.rank() == 0)
    }

    /// Number of this rank, and number of ranks.
    pub(super) fn share(&self) -> (usize, usize) {
        self.group.as_ref().map_or((0, 1), |group| group.share())
    }

    /// Prints a line, on the first rank only.
    pub(super) fn print(&self, line: impl fmt::Display) -> anyhow::Result<()> {
        if self.is_first() {
            super::print(line)?;
        }
        Ok(())
    }

    /// Shows a line on standard error, on the first rank only.
    pub(super) fn note(&self, line: impl fmt::Display) {
        if self.is_first() {
            note(line);
        }
    }

    /// Number of loader threads of this rank, given the number for all ranks that share its cores; 0 for one per core.
    pub(super) fn threads(&self, all: Option<u16>) -> usize {
        match (all, self.num_sharing) {
            (None, 1) => 0,
            (all, sharing) => (all.map_or_else(cores, usize::from) / sharing).max(1),
        }
    }

    /// Opens data on another thread, which is left behind if another rank fails while servers, storage or a file system do
    /// not answer.
    ///
    /// # Errors
    /// If another rank has failed, or the system refuses a thread.
    pub(super) fn open_data<T: Send + 'static>(&self, open: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let Some(group) = &self.group else { return Ok(open()) };
        let opened = apart::unless("open", open, || group.failure());
        let opened = opened.context("cannot start the open thread; see the limit on processes (ulimit -u)")?;
        opened.map_err(|failure| JoinError::from(failure).into())
    }

    /// Memory of the machine that this rank may use, in bytes; `None` where the system does not report it.
    pub(super) fn host_memory(&self) -> Option<u64> {
        host_memory::limit().map(|all| self.memory_bytes(all))
    }

    /// Memory of this rank in bytes, given the memory for all ranks that share its machine.
    pub(super) fn memory_bytes(&self, all: u64) -> u64 {
        all / self.num_sharing as u64
    }
}

/// Opens the device, joins the other ranks if there are any, and calls `train`; or starts the ranks of this machine and
/// waits for them. A failure is reported to the other ranks.
pub(super) fn run(args: &RunArgs, train: impl FnOnce(Rank) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    die_with_launcher();
    keep_kernels(args.cache_dir.as_deref());
    let mut world = World::of_environment(args.ranks.ranks)?;
    refuse_address_without_effect(args, world.as_ref())?;
    let (mut mpi, mut token) = (None, None);
    if let Some(place) = world.as_ref().filter(|world| matches!(world.master, Master::Mpi(None))) {
        // This may start the process again, which MPI does not survive.
        settle_default(&open_device(&args.devices, args.device, place)?)?;
        let started = Mpi::start()?;
        let (own, secret) = started.world(args.ranks.listen.as_deref())?;
        (world, mpi, token) = (Some(own), Some(started), Some(secret));
    }
    let is_child = matches!(&world, Some(World { master: Master::File(_), .. }));
    if world.is_none() && args.devices.len() > 1 {
        return start_ranks(args);
    }
    if args.ranks.restarts > 0 && !is_child {
        bail!("--restarts is for ranks that --devices starts; torchrun has --max-restarts, Slurm --requeue");
    }
    let (result, world) = match world {
        None => return train(open(args, None)?),
        Some(world) => (train_together(args, &world, is_child, (mpi, token), train), world),
    };
    let Err(error) = result else { return result };
    let code = code_of_others(&error);
    if is_child && lost_rank(&error) == Some(0) {
        leave_loss(&error_text(&error));
    }
    // A launcher collects the errors of its ranks. Rank 0 says it for all if another rank failed, or does not fit.
    if is_child && ((code.is_some() && world.rank > 0) || leave_error(world.rank, &error_text(&error))) {
        return Ok(ExitCode::from(code.unwrap_or_else(|| error_code(&error))));
    }
    let Some(code) = code else { return Err(error) };
    note(format_args!("error: {}", error_text(&error)));
    Ok(ExitCode::from(code))
}

/// Rejects `--listen` where no rank connects to that address: in a process that trains alone, and with `--devices`,
/// whose ranks find each other on their own.
fn refuse_address_without_effect(args: &RunArgs, world: Option<&World>) -> Result<(), UsageError> {
    let is_used = matches!(world, Some(World { master: Master::Address { .. } | Master::Mpi(_), .. }));
    if args.ranks.listen.is_none() || is_used {
        return Ok(());
    }
    let reason = if args.devices.len() > 1 {
        "the ranks of --devices connect to each other within this machine"
    } else {
        "this process trains alone"
    };
    Err(UsageError::new(format!(
        "--listen has no effect: {reason}; it needs two or more ranks, started by torchrun, srun, mpirun or Kubernetes"
    )))
}

/// Opens the device of a rank, or of the only process.
fn open(args: &RunArgs, world: Option<&World>) -> anyhow::Result<Rank> {
    let signals = StopSignals::watch()?;
    let compute = match world {
        Some(world) => open_device(&args.devices, args.device, world)?,
        None => Compute::open(args.devices.first().copied().unwrap_or(args.device))?,
    };
    settle_default(&compute)?;
    let num_sharing = world.map_or(1, |world| world.num_sharing);
    Ok(Rank { compute, group: None, num_sharing, signals, stop: None })
}

/// Joins the other ranks and calls `train`. An error also ends the other ranks.
fn train_together(
    args: &RunArgs,
    world: &World,
    is_child: bool,
    (mpi, token): (Option<Mpi>, Option<Token>),
    train: impl FnOnce(Rank) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let mut rank = open(args, Some(world))?;
    let cores = share_cores(&rank.compute, world)?;
    check_sums(&rank.compute)?;
    let token = match token {
        Some(token) => token,
        None => Token::of_environment()?,
    };
    if world.rank == 0 && !is_child {
        note(format_args!("rank 0 waits for {} at {}", count(world.num_ranks - 1, "other rank"), world.master));
    }
    let group = ProcessGroup::join(world, &token, args.ranks.timeouts(), args.ranks.listen.as_deref())?;
    // A rank that waits for object storage that does not answer ends with the others.
    group.on_failure(hiend_cache::abandon_requests);
    rank.group = Some(Arc::clone(&group));
    // From here on, an error that occurs on every rank is reported by each of them, not as the failure of another one.
    let result = group.barrier().map_err(|failure| anyhow::Error::from(JoinError::from(failure))).and_then(|()| {
        if let Some(line) = cores {
            rank.print(line)?;
        }
        train(rank)
    });
    let result = match (result, group.failure()) {
        // The wait was ended because of that failure.
        (Err(error), Some(failure)) if hiend_cache::is_abandoned(&*error) => Err(JoinError::from(failure).into()),
        (result, _) => result,
    };
    match (&result, mpi) {
        // With a rank that is lost, MPI's end would wait for it without end; mpirun then ends what is left.
        (Ok(_), Some(mpi)) if group.failure().is_none() => mpi.end(),
        (Ok(_), _) => {}
        (Err(error), _) => group.abort(&format!("{error:#}")),
    }
    result
}

/// Divides the cores among the ranks that share them, for computing on the CPU, unless `RAYON_NUM_THREADS` is set.
/// Returns a line that states the division.
///
/// # Errors
/// If the threads were started before.
fn share_cores(compute: &Compute, world: &World) -> anyhow::Result<Option<String>> {
    if !compute.is_cpu() || world.num_sharing == 1 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return Ok(None);
    }
    let own = (cores() / world.num_sharing).max(1);
    rayon::ThreadPoolBuilder::new().num_threads(own).build_global().context("cannot divide the cores")?;
    Ok(Some(format!("each of {} ranks computes on {own} of {}", world.num_sharing, count(cores(), "core"))))
}

/// Number of the rank that is gone or hangs, if this caused the error.
fn lost_rank(error: &anyhow::Error) -> Option<usize> {
    let of_training = error.downcast_ref().and_then(|error| match error {
        TrainingError::Rank { failure, .. } => Some(failure),
        _ => None,
    });
    let of_joining = || match error.downcast_ref()? {
        JoinError::Peer(failure) => Some(failure),
        _ => None,
    };
    let failure = of_training.or_else(of_joining)?;
    matches!(failure.cause, Cause::Closed | Cause::Silent(_) | Cause::Late(_)).then_some(failure.rank)
}

/// Exit code of an error caused by another rank or by a disagreement of the ranks; `None` for other errors.
fn code_of_others(error: &anyhow::Error) -> Option<u8> {
    if let Some(error) = error.downcast_ref::<TrainingError>() {
        return match error {
            TrainingError::Rank { .. } => Some(LOST),
            TrainingError::Disagreement { .. } => Some(DISAGREEMENT),
            _ => None,
        };
    }
    match error.downcast_ref::<JoinError>()? {
        JoinError::Missing { .. } | JoinError::Unreachable { .. } | JoinError::Peer(_) => Some(LOST),
        JoinError::Refused { .. } | JoinError::Stranger { .. } | JoinError::Misfit(_) => Some(DISAGREEMENT),
        JoinError::Listen { .. } | JoinError::Announce(_) | JoinError::Setup { .. } => None,
    }
}

/// Opens the device of a rank: the entry of `--devices` for its place on the machine, or the one of `--device`, or by
/// default the CUDA device of that number. A rank never falls back to the CPU because its GPU is missing while other
/// ranks have one.
pub(super) fn open_device(devices: &[DeviceChoice], device: DeviceChoice, world: &World) -> anyhow::Result<Compute> {
    let choice = match devices {
        [] => device,
        [all] => *all,
        each => match each.get(world.local_rank) {
            Some(own) => *own,
            None => {
                bail!("--devices names {} devices, but this is rank {} of its machine", each.len(), world.local_rank)
            }
        },
    };
    if choice != DeviceChoice::Auto {
        return Ok(Compute::open(choice)?);
    }
    match Compute::open(DeviceChoice::Cuda(world.local_rank)) {
        Ok(compute) => Ok(compute),
        Err(absent @ (DeviceError::NotBuilt { .. } | DeviceError::NotFound { found: 0, .. })) => {
            Ok(Compute::cpu_without(&absent))
        }
        Err(DeviceError::NotFound { found: 1, .. }) if world.may_see_one_gpu => {
            Ok(Compute::open(DeviceChoice::Cuda(0))?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Starts one rank per device on this machine.
fn start_ranks(args: &RunArgs) -> anyhow::Result<ExitCode> {
    DeviceChoice::check_together(&args.devices)?;
    let children = Children {
        num_ranks: args.devices.len(),
        restarts: args.ranks.restarts,
        grace: args.ranks.timeouts().peer + SAVING,
        interrupted_code: INTERRUPTED,
        requeue_code: REQUEUE,
        lost_code: LOST,
        holds_lines: args.display != Display::Lines && terminal::is_ours(),
    };
    let code = own_children(&children, &|line| note(line))?;
    Ok(ExitCode::from(code))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn an_address_to_listen_on_is_refused_where_no_rank_connects_to_it() {
        let refused = |flags: &str, master: Option<Master>| {
            let words = format!("hiend-train --shards c {flags}");
            let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
            let world = master.map(|master| World {
                rank: 1,
                num_ranks: 2,
                local_rank: 1,
                num_sharing: 2,
                may_see_one_gpu: false,
                master,
            });
            let refused = refuse_address_without_effect(&cli.pretrain.run, world.as_ref());
            refused.err().map(|error| error.to_string()).unwrap_or_default()
        };
        let address = || Some(Master::Address { host: "node1".into(), port: 1 });
        assert_eq!(refused("--listen 0.0.0.0", address()), "");
        assert_eq!(refused("--listen 0.0.0.0", Some(Master::Mpi(None))), "");
        assert_eq!(refused("--devices cpu,cpu", None), "");
        assert_eq!(refused("", None), "");
        for (flags, reason) in
            [("", "trains alone"), ("--devices cpu", "trains alone"), ("--devices cpu,cpu", "--devices")]
        {
            let message = refused(&format!("--listen 0.0.0.0 {flags}"), None);
            assert!(message.starts_with("--listen has no effect") && message.contains(reason), "{flags}: {message:?}");
        }
    }
}
