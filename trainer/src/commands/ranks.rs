//! The process of one rank: its device and its place among the others; or the process that starts the ranks.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use hiend_loader::budget::cores;
use hiend_loader::remote::RemoteError;

use super::running::listen;
use super::signals::{BatchSignals, REQUEUE};
use super::source::Servers;
use super::{INTERRUPTED, note};
use crate::cli::RunArgs;
use crate::config::RunConfig;
use crate::device::{Compute, DeviceChoice, DeviceError, check_sums, keep_kernels_in, remember_panics, settle_default};
use crate::distributed::{Children, JoinError, Master, ProcessGroup, Token, World, die_with_launcher, own_children};
use crate::training::{Stop, TrainingError};

/// Exit code of a rank that ends because another one failed or was lost (`EX_UNAVAILABLE` of `sysexits.h`). The run can
/// be resumed.
pub(super) const LOST: u8 = 69;
/// Exit code of ranks that do not belong together (`EX_CONFIG` of `sysexits.h`). Starting them again would not help.
pub(super) const DISAGREEMENT: u8 = 78;
/// Time that ranks have to save and end after another one has failed, on top of the time in which they notice it.
const SAVING: Duration = Duration::from_mins(2);

/// What a process needs to train: its device, its place among the ranks, and the signals that were blocked before the
/// device was opened.
pub(super) struct Rank {
    pub compute: Compute,
    pub group: Option<Arc<ProcessGroup>>,
    /// Number of ranks that share the cores and the memory of this process.
    num_sharing: usize,
    pub signals: BatchSignals,
    /// Request to stop, once signals raise it.
    stop: Option<Stop>,
}

impl Rank {
    /// Makes Ctrl-C and the batch system's signals request a stop, from the first call on.
    pub(super) fn stop(&mut self) -> anyhow::Result<Stop> {
        if let Some(stop) = &self.stop {
            return Ok(stop.clone());
        }
        // Of several ranks, which all receive a signal, the first one confirms it.
        let message = self.is_first().then_some("stopping after this step; press Ctrl-C again to stop at once");
        let stop = listen(message)?;
        self.signals.handle(&stop, message.is_some())?;
        Ok(self.stop.insert(stop).clone())
    }

    /// Connects to the servers that `--loader` names; `None` if it is absent.
    pub(super) fn connect<C: RunConfig>(&mut self, args: &RunArgs, config: &C) -> anyhow::Result<Option<Servers>> {
        if args.service.loader.is_empty() {
            return Ok(None);
        }
        let stop = self.stop()?;
        Ok(Some(Servers::connect(args, config, self, &stop)?))
    }

    /// The exit code of a command that was stopped before any server answered; any other error is passed on.
    pub(super) fn unless_stopped(&self, error: anyhow::Error) -> anyhow::Result<ExitCode> {
        match error.downcast_ref() {
            Some(RemoteError::Stopped) => Ok(self.signals.interrupted()),
            _ => Err(error),
        }
    }

    /// True for the rank that prints and writes.
    pub(super) fn is_first(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.rank() == 0)
    }

    /// This rank and the number of ranks.
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

    /// Loader threads of this rank out of those of all that share its cores; 0 for one per core.
    pub(super) fn threads(&self, all: Option<u16>) -> usize {
        match (all, self.num_sharing) {
            (None, 1) => 0,
            (all, sharing) => (all.map_or_else(cores, usize::from) / sharing).max(1),
        }
    }

    /// Bytes of this rank out of those of all that share its memory.
    pub(super) fn memory_bytes(&self, all: u64) -> u64 {
        all / self.num_sharing as u64
    }
}

/// Opens the device, joins the other ranks if there are any, and calls `train`; or starts the ranks of this machine and
/// waits for them. A failure is reported to the other ranks.
pub(super) fn run(args: &RunArgs, train: impl FnOnce(Rank) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    die_with_launcher();
    let world = World::of_environment(args.ranks.ranks)?;
    let is_child = matches!(&world, Some(World { master: Master::File(_), .. }));
    if world.is_none() && args.devices.len() > 1 {
        return start_ranks(args);
    }
    if args.ranks.restarts > 0 && !is_child {
        bail!("--restarts is for ranks that --devices starts; torchrun has --max-restarts, Slurm --requeue");
    }
    let signals = BatchSignals::block()?;
    if let Some(dir) = &args.cache_dir {
        keep_kernels_in(dir);
    }
    let compute = match &world {
        Some(world) => open_device(&args.devices, args.device, world)?,
        None => Compute::open(args.devices.first().copied().unwrap_or(args.device))?,
    };
    settle_default(&compute)?;
    remember_panics();
    let mut rank = Rank { compute, group: None, num_sharing: 1, signals, stop: None };
    let Some(world) = world else { return train(rank) };
    check_sums(&rank.compute)?;
    rank.num_sharing = world.num_sharing;
    if world.rank == 0 && !is_child {
        note(format_args!("rank 0 waits for {} other ranks at {}", world.num_ranks - 1, world.master));
    }
    let joined = Token::of_environment()
        .map_err(Into::into)
        .and_then(|token| Ok(ProcessGroup::join(&world, &token, args.ranks.timeouts(), args.ranks.listen.as_deref())?));
    let (group, result) = match joined {
        Ok(group) => {
            rank.group = Some(Arc::clone(&group));
            (Some(group), train(rank))
        }
        Err(error) => (None, Err(error)),
    };
    let Err(error) = result else { return result };
    if let Some(group) = group {
        group.abort(&format!("{error:#}"));
    }
    match code_of_others(&error) {
        // The launcher and rank 0 say it, once for all.
        Some(code) if is_child && world.rank > 0 => Ok(ExitCode::from(code)),
        Some(code) => {
            note(format_args!("error: {error:#}"));
            Ok(ExitCode::from(code))
        }
        None => Err(error),
    }
}

/// Exit code of an error whose cause is another rank, or that ranks do not fit together.
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

/// Opens the device of a rank: the one of `--devices` for its place on the machine, the one of `--device`, or by default
/// the CUDA device of that number. No rank chooses the CPU because a GPU is missing where others have one.
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
        Err(DeviceError::NotBuilt { .. } | DeviceError::NotFound { found: 0, .. }) => Ok(Compute::cpu()),
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
        stopped_codes: [REQUEUE, INTERRUPTED],
        lost_code: LOST,
    };
    let code = own_children(&children, &|line| note(line))?;
    Ok(ExitCode::from(code))
}
