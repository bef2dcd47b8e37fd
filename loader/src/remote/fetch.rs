//! Fetches one step from any server that answers.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::address::Address;
use super::failure::Failure;
use super::link::{Dialer, Link};
use super::receive::{Permit, Reception, receive};
use super::silence::{patience_with, watch};
use super::{Facts, MOST_BATCHES, RemoteError, RemoteOptions, stopped_within};
use crate::batch::{Batch, VoxelForm};
use crate::blocks::Blocks;
use crate::pipeline::StreamConfig;
use crate::sampler::SampleBy;
use crate::wire::StreamSpec;
use crate::wire::batch::Expected;
use crate::wire::spec;

/// First and longest time before a server that failed is asked again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Longest interval between checks of a batch's progress and of the other servers, one of which may have come back.
const TICK: Duration = Duration::from_secs(1);

/// Time for the other servers to answer when a stream is opened, after the first answer.
const OTHERS: Duration = Duration::from_secs(3);

/// Total size, in bytes, of small batches to keep in flight.
const SMALL: u64 = 8 << 20;

/// Number of consecutive answers that the stream is not open, above which a server counts as failing. Requests in
/// flight are all answered at once.
const MOST_CLOSED: usize = 2 * MOST_BATCHES;

/// All servers of a client.
pub(super) struct Fetcher {
    servers: Vec<Server>,
    spec: StreamSpec,
    expected: Expected,
    /// True if the classes of the datasets matter: for labels, and for crop centres, which avoid the ignore label.
    uses_classes: bool,
    options: RemoteOptions,
    blocks: Arc<Blocks>,
    /// URL and facts of the server that answered first.
    facts: OnceLock<(String, Facts)>,
}

/// A server with the state of the connection to it.
struct Server {
    dialer: Dialer,
    /// Connection to the server; the lock is held while it is made, so that requests do not make several.
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    in_flight: AtomicUsize,
    /// Number of consecutive answers that the stream is not open.
    closed: AtomicUsize,
    /// True while a task is trying to reach the server again.
    reviving: AtomicBool,
    /// True if no part of a batch arrived for as long as a batch may take, and none has arrived since.
    is_silent: AtomicBool,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    /// Time at which the server is asked again; `None` unless it failed.
    ask_again: Option<Instant>,
    /// Number of failures since the last batch.
    failures: u32,
    /// Reason of the last failure.
    reason: String,
    /// Reason why the server is no longer asked.
    lost: Option<Arc<RemoteError>>,
}

impl Fetcher {
    /// Prepares the requests of a stream.
    pub(super) fn new(
        addresses: Vec<Address>,
        config: StreamConfig,
        seed: u64,
        options: RemoteOptions,
    ) -> Result<Self, RemoteError> {
        let (rank, form) = (options.rank, options.form);
        let (_, ranks) = rank;
        let crops = (config.visits_per_batch / ranks.max(1)).saturating_mul(config.crops_per_visit);
        let expected = Expected { form, crop_size: config.crop_size, labels: config.labels, crops };
        let uses_classes = config.labels || config.sample_by != SampleBy::Intensity;
        let spec = spec::Stream { config, seed, rank, form }.to_spec()?;
        let server = |address| {
            Ok(Server {
                dialer: Dialer::new(address, &options)?,
                link: tokio::sync::Mutex::new(None),
                in_flight: AtomicUsize::new(0),
                closed: AtomicUsize::new(0),
                reviving: AtomicBool::new(false),
                is_silent: AtomicBool::new(false),
                health: Mutex::default(),
            })
        };
        let servers = addresses.into_iter().map(server).collect::<Result<_, RemoteError>>()?;
        let blocks = Blocks::new(options.memory_bytes);
        Ok(Self { servers, spec, expected, uses_classes, options, blocks, facts: OnceLock::new() })
    }

    /// Form of the voxels.
    pub(super) fn form(&self) -> VoxelForm {
        self.expected.form
    }

    /// Number of batches that fit into the memory, at least two.
    pub(super) fn num_batches(&self, facts: &Facts) -> Result<usize, RemoteError> {
        let batch_bytes = (facts.voxel_bytes + facts.label_bytes).max(1);
        let memory_bytes = self.options.memory_bytes;
        let room = usize::try_from(memory_bytes / batch_bytes).unwrap_or(usize::MAX);
        if room < 2 {
            return Err(RemoteError::TooLittleMemory { needed: 2 * batch_bytes, memory_bytes });
        }
        // Large batches need two in progress per server and one with the consumer; small ones hide the round trip.
        let wanted = 3 * self.servers.len().max(1) + usize::try_from(SMALL / batch_bytes).unwrap_or(0);
        Ok(room.min(wanted.clamp(4, MOST_BATCHES)))
    }

    /// Number of slots to share with each server on this host.
    fn num_slots(&self, facts: &Facts) -> usize {
        self.num_batches(facts).unwrap_or(2).max(2)
    }

    /// Connects to all servers until one answers; the others then have a short time left, and are otherwise connected
    /// later.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<Facts, RemoteError> {
        let started = Instant::now();
        loop {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..self.servers.len() {
                let fetcher = Arc::clone(self);
                tasks.spawn(async move { (number, fetcher.link(number).await.map(|_| ())) });
            }
            // Time until which the other servers are waited for, once one has answered.
            let mut until = None;
            let mut answered = vec![false; self.servers.len()];
            loop {
                let joined = match until {
                    None => tasks.join_next().await,
                    Some(until) => tokio::time::timeout_at(until, tasks.join_next()).await.unwrap_or(None),
                };
                let Some(result) = joined else { break };
                let (number, result) = result.ok().ok_or(RemoteError::Panicked)?;
                answered[number] = true;
                match result {
                    Ok(()) => {
                        until.get_or_insert_with(|| tokio::time::Instant::now() + OTHERS);
                    }
                    Err(Failure::Unable(err) | Failure::Lost(err) | Failure::Fatal(err)) => return Err(err),
                    Err(Failure::Away(_) | Failure::Busy(_) | Failure::Closed) => {}
                }
            }
            if let (true, Some((_, facts))) = (until.is_some(), self.facts.get()) {
                for (number, server) in self.servers.iter().enumerate() {
                    if !answered[number] {
                        server.failed("no answer for seconds after that of another server");
                    }
                    self.revive(number);
                }
                return Ok(facts.clone());
            }
            self.wait(started).await?;
        }
    }

    /// Fetches the batch of a step.
    pub(super) async fn fetch(self: &Arc<Self>, step: u64, permit: Permit) -> Result<Batch, RemoteError> {
        let mut failing: Option<Instant> = None;
        // Servers that cannot make this batch, and servers that failed to give it.
        let mut unable = vec![false; self.servers.len()];
        let mut tried = unable.clone();
        let mut refusal = None;
        // Number of times each server has sent no part of the batch for too long.
        let mut silences = vec![0_u32; self.servers.len()];
        loop {
            let Some(number) = self.pick(&unable, &silences) else {
                if let Some(err) = self.none_left(&unable, &mut refusal) {
                    return Err(err);
                }
                self.wait(*failing.get_or_insert_with(Instant::now)).await?;
                continue;
            };
            let server = &self.servers[number];
            server.in_flight.fetch_add(1, Ordering::Relaxed);
            let num_frames = AtomicU64::new(0);
            let reception = Reception { blocks: &self.blocks, permit: &permit, num_frames: &num_frames };
            let batch = self.fetch_from(number, step, &reception);
            let tick = TICK.min(self.options.patience);
            let result = watch(batch, &num_frames, tick, || self.patience(number, &unable, &silences)).await;
            server.in_flight.fetch_sub(1, Ordering::Relaxed);
            let result = match result {
                Ok(result) => result,
                Err(silent_for) => {
                    server.fell_silent(silent_for);
                    silences[number] += 1;
                    continue;
                }
            };
            match result {
                Ok(batch) => return Ok(batch),
                Err(Failure::Fatal(err)) => return Err(err),
                Err(Failure::Unable(err)) => {
                    unable[number] = true;
                    let text = err.to_string();
                    refusal = Some(err);
                    if let Some(err) = self.none_left(&unable, &mut refusal) {
                        return Err(err);
                    }
                    tracing::warn!(step, "another server is asked for the batch: {text}");
                }
                Err(Failure::Lost(err)) => {
                    server.lost(err);
                    if let Some(err) = self.none_left(&unable, &mut refusal) {
                        return Err(err);
                    }
                }
                Err(failure @ (Failure::Away(_) | Failure::Busy(_) | Failure::Closed)) => {
                    // A stream that was idle is closed once without a fault of the server.
                    tried[number] |= failing.is_some() || !matches!(failure, Failure::Closed);
                    let since = *failing.get_or_insert_with(Instant::now);
                    self.revive(number);
                    if self.options.stop.is_requested() {
                        return Err(RemoteError::Stopped);
                    }
                    let is_hopeless =
                        |(at, server): (usize, &Server)| unable[at] || tried[at] || !server.health().is_ready();
                    if since.elapsed() >= self.options.retry && self.servers.iter().enumerate().all(is_hopeless) {
                        return Err(server.unreachable(since));
                    }
                }
            }
        }
    }

    async fn fetch_from(&self, number: usize, step: u64, reception: &Reception<'_>) -> Result<Batch, Failure> {
        let server = &self.servers[number];
        let link = self.link(number).await?;
        let slot = link.memory.as_ref().and_then(|memory| {
            let slot = memory.slots.take_free(Arc::clone(reception.permit))?;
            Some((memory.id, slot))
        });
        let result = receive(&server.dialer, &link, step, self.expected, slot, reception).await;
        match &result {
            Err(Failure::Closed) => {
                // A stream that is idle is opened again at once; one that is closed each time is a fault of the server.
                let reason = "the server closes the stream again and again";
                if server.closed.fetch_add(1, Ordering::Relaxed) >= MOST_CLOSED {
                    server.failed(reason);
                } else {
                    reason.clone_into(&mut server.health().reason);
                }
                server.unlink(&link).await;
            }
            Err(Failure::Busy(reason)) => server.failed(reason),
            Err(Failure::Away(reason)) => {
                server.failed(reason);
                server.unlink(&link).await;
            }
            Ok(_) => {
                server.closed.store(0, Ordering::Relaxed);
                server.delivered();
            }
            // A server that does not keep the contract, or does not accept this client any more.
            Err(Failure::Lost(_)) => server.unlink(&link).await,
            Err(Failure::Unable(_) | Failure::Fatal(_)) => {}
        }
        result
    }

    /// Returns the connection to a server, which is made if there is none.
    async fn link(&self, number: usize) -> Result<Arc<Link>, Failure> {
        let server = &self.servers[number];
        let mut guard = server.link.lock().await;
        if let Some(link) = &*guard {
            return Ok(Arc::clone(link));
        }
        let url = server.dialer.url();
        let dialled = server.dialer.dial(&self.spec, |facts| self.num_slots(facts)).await;
        let (link, facts) = dialled.inspect_err(|failure| match failure {
            Failure::Away(reason) | Failure::Busy(reason) => server.failed(reason),
            Failure::Closed => server.failed("the server closes the stream at once"),
            Failure::Unable(_) | Failure::Lost(_) | Failure::Fatal(_) => {}
        })?;
        let (first, expected) = self.facts.get_or_init(|| (url.to_owned(), facts.clone()));
        if self.uses_classes && expected.has_datasets_of(&facts) {
            // First, because a label to ignore makes the digests differ, too, and their error does not name it.
            expected.compare_classes(&facts, url, first).map_err(Failure::Lost)?;
        }
        expected.compare(&facts, url, first).map_err(Failure::Lost)?;
        if self.uses_classes {
            expected.compare_classes(&facts, url, first).map_err(Failure::Lost)?;
        }
        let link = Arc::new(link);
        *guard = Some(Arc::clone(&link));
        server.reconnected();
        Ok(link)
    }

    /// Time without a part of a batch from server `number` after which another server is asked for it; `None` while no
    /// other server answers and can make the batch.
    fn patience(&self, number: usize, unable: &[bool], silences: &[u32]) -> Option<Duration> {
        let others = self.servers.iter().enumerate();
        let others = others.filter(|(at, server)| *at != number && !unable[*at] && server.health().is_ready());
        patience_with(self.options.patience, others.map(|(at, _)| silences[at]))
    }

    /// Picks the least busy server among those that answer and can make the batch. Silent servers come last; after
    /// them, servers that were silent during this step.
    fn pick(&self, unable: &[bool], silences: &[u32]) -> Option<usize> {
        let servers = self.servers.iter().enumerate();
        let servers = servers.filter(|(at, server)| !unable[*at] && server.health().is_ready());
        let picked = servers.min_by_key(|(at, server)| {
            let (is_silent, in_flight) = (&server.is_silent, &server.in_flight);
            (silences[*at], is_silent.load(Ordering::Relaxed), in_flight.load(Ordering::Relaxed))
        });
        picked.map(|(number, _)| number)
    }

    /// Error of a step that no server can provide any more, because each has refused it or is lost. `refusal` is the
    /// error of the server that refused the step last.
    fn none_left(&self, unable: &[bool], refusal: &mut Option<RemoteError>) -> Option<RemoteError> {
        let lost: Vec<_> = self.servers.iter().map(|server| server.health().lost.clone()).collect();
        if unable.iter().zip(&lost).any(|(unable, lost)| !unable && lost.is_none()) {
            return None;
        }
        let of_lost = || lost.into_iter().flatten().next_back().map(|error| RemoteError::Lost { error });
        refusal.take().or_else(of_lost)
    }

    /// Asks a failed server again, with back-off, until it answers. No step waits for it meanwhile, because a
    /// connection to a host that is gone takes seconds to fail.
    fn revive(self: &Arc<Self>, number: usize) {
        let server = &self.servers[number];
        if server.health().ask_again.is_none() || server.reviving.swap(true, Ordering::AcqRel) {
            return;
        }
        let fetcher = Arc::downgrade(self);
        tokio::spawn(async move {
            // Ends with the client.
            while let Some(fetcher) = fetcher.upgrade() {
                let server = &fetcher.servers[number];
                let Some(at) = server.health().ask_again else { break };
                if let Some(time) = at.checked_duration_since(Instant::now()) {
                    drop(fetcher);
                    tokio::time::sleep(time).await;
                    continue;
                }
                match fetcher.link(number).await {
                    Ok(_) => server.reconnected(),
                    Err(Failure::Lost(err) | Failure::Fatal(err)) => return server.lost(err),
                    // The server may be able to open the stream later: a proxy in between may have failed.
                    Err(Failure::Unable(err)) => server.failed(&err.to_string()),
                    Err(_) => {}
                }
            }
            if let Some(fetcher) = fetcher.upgrade() {
                fetcher.servers[number].reviving.store(false, Ordering::Release);
                // The server may have failed since the last look.
                fetcher.revive(number);
            }
        });
    }

    /// Waits until some server may be asked again.
    async fn wait(&self, since: Instant) -> Result<(), RemoteError> {
        let waiting = self.servers.iter().filter_map(|server| {
            let health = server.health();
            let at = health.ask_again.filter(|_| health.lost.is_none())?;
            Some((at, server))
        });
        let Some((at, server)) = waiting.min_by_key(|(at, _)| *at) else { return Ok(()) };
        if since.elapsed() >= self.options.retry {
            return Err(server.unreachable(since));
        }
        let time = at.saturating_duration_since(Instant::now()).max(BACK_OFF.0 / 10);
        if stopped_within(&self.options.stop, time).await { Err(RemoteError::Stopped) } else { Ok(()) }
    }
}

impl Health {
    /// Returns `true` unless the server failed and is asked again later or never.
    fn is_ready(&self) -> bool {
        self.ask_again.is_none() && self.lost.is_none()
    }
}

impl Server {
    /// Forgets a connection, unless another one has replaced it.
    async fn unlink(&self, link: &Arc<Link>) {
        let mut guard = self.link.lock().await;
        if guard.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            *guard = None;
        }
    }

    /// Error of a step that has been failing since `since`; it names the server that failed last.
    fn unreachable(&self, since: Instant) -> RemoteError {
        let (url, reason) = (self.dialer.url().to_owned(), self.health().reason.clone());
        RemoteError::Unreachable { waited: since.elapsed(), url, reason }
    }

    /// Excludes the server for good.
    fn lost(&self, error: RemoteError) {
        let mut health = self.health();
        if health.lost.is_none() {
            tracing::error!(url = self.dialer.url(), "the server is not asked any more: {error}");
            health.lost = Some(Arc::new(error));
        }
    }

    fn failed(&self, reason: &str) {
        let mut health = self.health();
        let now = Instant::now();
        // Requests in flight fail together; they count once.
        if health.ask_again.is_none_or(|at| at <= now) {
            if health.failures == 0 {
                tracing::warn!(url = self.dialer.url(), "the server does not answer: {reason}");
            }
            let delay = BACK_OFF.0.saturating_mul(1 << health.failures.min(10)).min(BACK_OFF.1);
            health.failures += 1;
            health.ask_again = Some(now + delay);
        }
        reason.clone_into(&mut health.reason);
    }

    /// Makes the server available again after it was reached. Its count of consecutive failures is kept, because it may
    /// fail again.
    fn reconnected(&self) {
        self.health().ask_again = None;
    }

    /// Keeps the server from being asked while others answer, because no part of a batch has arrived for `silent_for`.
    fn fell_silent(&self, silent_for: Duration) {
        if !self.is_silent.swap(true, Ordering::Relaxed) {
            let (url, secs) = (self.dialer.url(), silent_for.as_secs());
            tracing::warn!(url, "nothing of a batch has arrived for {secs} s; another server is asked");
        }
    }

    /// Ends a series of failures, unless a request that was in flight has failed since.
    fn delivered(&self) {
        self.is_silent.store(false, Ordering::Relaxed);
        let mut health = self.health();
        if health.failures > 0 && health.ask_again.is_none() {
            tracing::info!(url = self.dialer.url(), "the server answers again");
            *health = Health { lost: health.lost.take(), ..Health::default() };
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
