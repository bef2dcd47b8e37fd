//! Connected ranks of a run: gathers small values from all of them, and ends all of them after one failure.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::group_core::Core;
use super::inbox::{Arrived, NoFrame};
use super::link::Link;
use super::peer::{Cause, PeerFailure};
use super::rendezvous::{self, JoinError};
use super::token::Token;
use super::wire::{Frame, Kind, pack, unpack};
use super::world::World;
use crate::sync::PoisonError;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Time that a rank which leaves waits for the others to close their connections.
const PARTING: Duration = Duration::from_secs(2);

/// Time that a rank started by `mpirun`, which ends all ranks as soon as one has failed, leaves rank 0 to save and end
/// first.
const SAVING: Duration = Duration::from_mins(2);

/// Timeouts after which a rank gives up on another rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest time until all ranks have joined.
    pub join: Duration,
    /// Longest time without data or heartbeat.
    pub peer: Duration,
    /// Longest time between two exchanges, with heartbeats: computing, tuning, validating, saving.
    pub step: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { join: Duration::from_mins(10), peer: Duration::from_mins(1), step: Duration::from_mins(30) }
    }
}

/// Values of all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered<T> {
    /// One value per rank, in rank order.
    pub values: Vec<T>,
    /// Time from the arrival of the first rank to that of each rank. Known only to rank 0; empty on the others.
    pub behind: Vec<Duration>,
}

/// Connected ranks of a run. Dropping it before [`Self::finish`] makes the other ranks fail; when rank 0 drops it
/// afterwards, the others learn that the run is over.
pub struct ProcessGroup {
    rank: usize,
    num_ranks: usize,
    name: String,
    timeouts: Timeouts,
    core: Arc<Core>,
    links: Vec<Link>,
    /// True if MPI assigned this rank.
    of_mpi: bool,
    finished: AtomicBool,
}

impl fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessGroup")
            .field("rank", &self.rank)
            .field("num_ranks", &self.num_ranks)
            .finish_non_exhaustive()
    }
}

impl ProcessGroup {
    /// Joins the ranks of a run. Rank 0 listens at the address of `world`, or at `listen` if the others reach it under
    /// another name, and returns once all have joined.
    ///
    /// # Errors
    /// If a rank does not appear in time, is refused, or the address cannot be used.
    pub fn join(
        world: &World,
        token: &Token,
        timeouts: Timeouts,
        listen: Option<&str>,
    ) -> Result<Arc<Self>, JoinError> {
        let num_links = if world.rank == 0 { world.num_ranks - 1 } else { 1 };
        let core = Core::new(num_links);
        let name = rendezvous::own_name();
        let mut group = Self {
            rank: world.rank,
            num_ranks: world.num_ranks,
            name,
            timeouts,
            core,
            links: vec![],
            of_mpi: world.is_of_mpi(),
            finished: AtomicBool::new(false),
        };
        // On an error, dropping the group reports it to the ranks that have joined.
        let joined = if world.rank == 0 {
            rendezvous::accept_all(world, token, timeouts, listen, &group.name, &group.core, &mut group.links)
        } else {
            rendezvous::connect(world, token, timeouts, &group.name, &group.core).map(|link| group.links.push(link))
        };
        match joined {
            Ok(()) => Ok(Arc::new(group)),
            Err(error) => {
                group.abort(&error.to_string());
                Err(error)
            }
        }
    }

    /// Number of this rank, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    #[must_use]
    pub fn num_ranks(&self) -> usize {
        self.num_ranks
    }

    /// Returns true if MPI assigned this rank, so that the ranks of MPI are those of the group.
    #[must_use]
    pub fn is_of_mpi(&self) -> bool {
        self.of_mpi
    }

    /// Share of each batch: number of this rank, and number of ranks.
    #[must_use]
    pub fn share(&self) -> (usize, usize) {
        (self.rank, self.num_ranks)
    }

    /// Host and process of a rank. Ranks other than 0 know only their own name and that of rank 0.
    #[must_use]
    pub fn name(&self, rank: usize) -> &str {
        if rank == self.rank {
            return &self.name;
        }
        let known = self.links.iter().find(|link| link.peer.rank == rank);
        known.map_or("unknown host", |link| link.peer.name.as_str())
    }

    /// Gathers a small value from every rank; all ranks receive all values.
    ///
    /// # Errors
    /// If the group has failed, or a rank does not arrive in time.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, own: &T) -> Result<Gathered<T>, PeerFailure> {
        let own = serde_json::to_vec(own).map_err(|error| self.protocol(self.rank, error.to_string()))?;
        let (values, behind) =
            if self.rank == 0 { self.gather_all(own)? } else { (self.gather_from_first(own)?, vec![]) };
        let parse = |(rank, value): (usize, &Vec<u8>)| {
            serde_json::from_slice(value).map_err(|error| self.protocol(rank, format!("an unexpected value: {error}")))
        };
        let values = values.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(Gathered { values, behind })
    }

    /// Waits until every rank has called this function.
    ///
    /// # Errors
    /// See [`Self::gather`].
    pub fn barrier(&self) -> Result<(), PeerFailure> {
        self.gather(&()).map(|_| ())
    }

    fn gather_all(&self, own: Vec<u8>) -> Result<(Vec<Vec<u8>>, Vec<Duration>), PeerFailure> {
        let (mut values, mut times) = (vec![own], vec![Instant::now()]);
        for rank in 1..self.num_ranks {
            let Arrived { frame, at } = self.receive(rank, Kind::Gather)?;
            values.push(frame.payload.to_vec());
            times.push(at);
        }
        let all = Frame::new(Kind::Gather, pack(&values));
        (1..self.num_ranks).for_each(|rank| self.send(rank, all.clone()));
        let first = times.iter().min().copied().unwrap_or_else(Instant::now);
        Ok((values, times.into_iter().map(|at| at - first).collect()))
    }

    fn gather_from_first(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>, PeerFailure> {
        self.send(0, Frame::new(Kind::Gather, own));
        let arrived = self.receive(0, Kind::Gather)?;
        unpack(&arrived.frame.payload, self.num_ranks)
            .ok_or_else(|| self.protocol(0, "gathered values of another form".into()))
    }

    /// Queues a frame for a rank that this rank is connected to.
    pub(super) fn send(&self, rank: usize, frame: Frame) {
        self.core.send(self.index(rank), frame);
    }

    /// Waits for the next frame of a rank, which must have the given kind.
    ///
    /// # Errors
    /// If the group has failed, the rank is late, or it sent something else.
    pub(super) fn receive(&self, rank: usize, kind: Kind) -> Result<Arrived, PeerFailure> {
        // Rank 0 notices a late rank first and names it; the others wait a little longer for its report.
        let patience = self.timeouts.step + if self.rank == 0 { Duration::ZERO } else { self.timeouts.peer };
        match self.core.inbox.take(self.index(rank), patience) {
            Ok(arrived) if arrived.frame.kind == kind => Ok(arrived),
            Ok(arrived) => {
                Err(self.protocol(rank, format!("a {:?} where a {kind:?} was expected", arrived.frame.kind)))
            }
            Err(NoFrame::Failed(failure)) => Err(failure),
            Err(NoFrame::TimedOut) => Err(self.fail(rank, Cause::Late(patience.as_secs()))),
        }
    }

    /// Fails the group because a rank violated the protocol.
    pub(super) fn protocol(&self, rank: usize, what: String) -> PeerFailure {
        self.fail(rank, Cause::Protocol(what))
    }

    /// Fails the group because of a rank; returns the first failure, which is the one that is reported.
    fn fail(&self, rank: usize, cause: Cause) -> PeerFailure {
        let failure = PeerFailure { rank, name: self.name(rank).to_owned(), cause };
        self.core.fail(failure.clone());
        self.core.inbox.failure().unwrap_or(failure)
    }

    fn index(&self, rank: usize) -> usize {
        if self.rank == 0 { rank - 1 } else { rank }
    }

    /// Longest time after which any wait for another rank ends by itself, except a wait in MPI.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.timeouts.step + 2 * self.timeouts.peer
    }

    /// Ends all ranks because of an error of this rank, unless the group has already failed.
    pub fn abort(&self, message: &str) {
        self.fail(self.rank, Cause::Failed(message.lines().next().unwrap_or_default().to_owned()));
    }

    /// Ends all ranks because this rank was asked to stop while it waited for data, unless the group has already
    /// failed.
    pub fn stop(&self, message: &str) {
        self.fail(self.rank, Cause::Stopped(message.lines().next().unwrap_or_default().to_owned()));
    }

    /// Failure that ended the group; `None` if it has not failed.
    #[must_use]
    pub fn failure(&self) -> Option<PeerFailure> {
        self.core.inbox.failure()
    }

    /// Calls `hook` once after the first failure, on the thread that notices it, or at once if the group has already
    /// failed.
    pub fn on_failure(&self, hook: impl Fn() + Send + 'static) {
        // A failure is recorded before the hooks are locked and called: none is missed, and none is called twice.
        let mut hooks = self.core.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failure().is_some() {
            hook();
        } else {
            hooks.push(Box::new(hook));
        }
    }

    /// Ends the group cleanly, after all ranks have called this. Rank 0 calls this when everything is written, so the
    /// run counts as complete even if another rank was lost since the last exchange; the other ranks wait for rank 0.
    ///
    /// # Errors
    /// If the group has failed, or a rank does not arrive in time; on ranks other than 0 only if rank 0 does not leave in
    /// order either.
    pub fn finish(&self) -> Result<(), PeerFailure> {
        let arrived = self.barrier();
        let is_over = arrived.is_ok() || self.rank == 0 || self.core.inbox.has_left(self.index(0), self.timeouts.step);
        self.finished.store(is_over, Ordering::Release);
        if is_over && self.rank > 0 { Ok(()) } else { arrived }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if self.finished.load(Ordering::Acquire) {
            for link in &self.links {
                self.core.send(link.peer.index, Frame::empty(Kind::Leave));
            }
        } else {
            self.abort("its process ended before the run was over");
        }
        self.core.leave();
        let deadline = Instant::now() + if self.of_mpi && self.rank > 0 { SAVING } else { PARTING };
        self.links.drain(..).for_each(|link| link.close(deadline));
    }
}
