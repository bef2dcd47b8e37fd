//! State shared by all requests of a service, and the operations on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hiend_cache::{Cache, DatasetInfo, Manifest};
use tonic::{Code, Status};

use super::client::{Client, Clients, Memory};
use super::metrics;
use super::schedule::{Job, Refused, Reservation, Schedule};
use super::status::{self, Spans};
use super::streams::{OpenStream, Streams};
use crate::batch::VoxelForm;
use crate::blocks::Blocks;
use crate::pipeline::{self, Loader, LoaderOptions, RECORD_BYTES, STEPS, Workers};
use crate::shared_memory::{Slot, Slots, layout};
use crate::wire::batch::SentBatch;
use crate::wire::framing::Pieces;
use crate::wire::{self, FetchRequest, OpenRequest, ShareRequest, SharedMemory, StreamFacts, TICKET_LEN};

/// Time for which a ticket for shared memory is valid.
pub(super) const TICKET_LIFE: Duration = Duration::from_secs(30);

/// Largest number of slots that a client may request at a time.
const MOST_SLOTS: u32 = 1024;

/// Largest number of a stream's excluded names that are looked up for remarks.
const MOST_REMARKS: usize = 16;

/// Answer to a request without a token. Each client program has its own flag for the token.
const NO_TOKEN: &str =
    "a bearer token is required (hiend-shard stream: --token-file; hiend-train: --loader-token-file)";

/// State of a service.
pub(super) struct Hub {
    pub(super) caches: Vec<(Arc<Cache>, u32)>,
    pub(super) workers: Arc<Workers>,
    pub(super) schedule: Arc<Schedule>,
    pub(super) streams: Streams,
    pub(super) clients: Arc<Clients>,
    pub(super) blocks: Arc<Blocks>,
    /// Largest batch in bytes, equal to the memory of a client.
    pub(super) client_memory_bytes: u64,
    /// Hash of the token that requests must carry.
    pub(super) token: Option<blake3::Hash>,
    /// False if no client gets shared memory.
    pub(super) shares_memory: bool,
    /// True once the service is shutting down.
    pub(super) draining: AtomicBool,
    /// Sender of the steps whose cases will be read soon.
    pub(super) advice: flume::Sender<(Arc<OpenStream>, u64)>,
    pub(super) tickets: Mutex<Tickets>,
    /// Times of recently made batches.
    pub(super) spans: Spans,
}

/// Files of shared memory by ticket, with the times at which the tickets were issued.
pub(super) type Tickets = HashMap<[u8; TICKET_LEN], (Arc<OwnedFd>, Instant)>;

/// A batch that is ready to be sent.
pub(super) struct Ready {
    pub(super) body: Pieces,
}

impl Hub {
    /// Checks that a request may be answered, and admits its client.
    ///
    /// # Errors
    /// If the token is wrong, the service shuts down, or has no room for the client.
    pub(super) fn authorize(&self, client: &Client, authorization: Option<&[u8]>) -> Result<(), Status> {
        if let Some(expected) = &self.token {
            let token = authorization.and_then(|value| value.strip_prefix(b"Bearer "));
            let token = token.ok_or_else(|| Status::unauthenticated(NO_TOKEN))?;
            // Hashes are compared in constant time.
            if blake3::hash(token) != *expected {
                return Err(Status::unauthenticated("the token is wrong"));
            }
        }
        if self.draining.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the server is shutting down"));
        }
        client.admit().map_err(|err| Status::resource_exhausted(err.to_string()))
    }

    /// Opens a stream, or finds it open.
    ///
    /// # Errors
    /// If the specification does not make sense, does not fit the cases, or there is no room.
    pub(super) fn open(&self, request: OpenRequest) -> Result<StreamFacts, Status> {
        let spec = request.spec.ok_or_else(|| Status::invalid_argument("spec: missing"))?;
        let id = wire::spec::stream_id(&spec);
        if let Some(stream) = self.streams.get(&id, Instant::now()) {
            return Ok(stream.facts.clone());
        }
        self.streams.has_room().map_err(|err| Status::resource_exhausted(err.to_string()))?;
        let stream = wire::spec::Stream::of_spec(&spec).map_err(|err| Status::invalid_argument(err.to_string()))?;
        let options =
            LoaderOptions { threads: 0, memory_bytes: self.client_memory_bytes, rank: stream.rank, form: stream.form };
        let labels = stream.config.labels;
        let loader = Loader::open_shared(self.caches.clone(), stream.config, stream.seed, &options, &self.workers)
            .map_err(|err| status_of(&err))?;
        // In object storage, each index takes a request. A damaged index is reported with the batch that needs it.
        let is_local = self.caches.iter().all(|(cache, _)| cache.location().url().is_none());
        let unseen = if labels && is_local { loader.unseen_labels().unwrap_or_default() } else { BTreeSet::new() };
        let exclude = &loader.config().exclude;
        let caches = || self.caches.iter().map(|(cache, _)| &**cache);
        let mut remarks = pipeline::remarks_on_exclude(caches(), &exclude[..exclude.len().min(MOST_REMARKS)]);
        remarks.extend(pipeline::remark_on_padding(caches(), loader.config()));
        remarks.extend(pipeline::remark_on_labels(caches(), loader.config()));
        remarks.extend(pipeline::remark_on_shared_scans(caches(), loader.config()));
        for remark in &remarks {
            tracing::warn!(stream = %id, "{remark}");
        }
        let memory = loader.memory();
        let facts = StreamFacts {
            stream_id: id,
            digest: loader.digest(),
            num_cases: loader.num_cases() as u64,
            steps_per_epoch: loader.steps_per_epoch(),
            crops_per_batch: loader.crops_per_batch() as u64,
            voxel_bytes: (memory.batch_voxels * stream.form.voxel_bytes()) as u64,
            label_bytes: memory.batch_labels as u64,
            manifest_json: self.manifest(&loader)?,
            server_version: wire::VERSION.into(),
            unseen_labels: unseen.into_iter().map(u32::from).collect(),
            remarks,
        };
        tracing::info!(stream = %facts.stream_id, cases = facts.num_cases, crops = facts.crops_per_batch, "stream opened");
        let stream = self.streams.insert(OpenStream { loader, facts }, Instant::now());
        metrics::streams(self.streams.len());
        stream.map(|stream| stream.facts.clone()).map_err(|err| Status::resource_exhausted(err.to_string()))
    }

    /// Manifest for clients: that of the first cache, with the datasets of the stream and without shards. If several
    /// caches hold a dataset, the description in the first one is used; for a stream with labels, the loader has
    /// checked that they agree.
    fn manifest(&self, loader: &Loader) -> Result<String, Status> {
        let Some((cache, _)) = self.caches.first() else { return Err(Status::internal("the server has no cache")) };
        let names = loader.datasets();
        let mut datasets: BTreeMap<String, DatasetInfo> = BTreeMap::new();
        for (name, info) in self.caches.iter().flat_map(|(cache, _)| &cache.manifest().datasets) {
            if names.contains(name.as_str()) {
                datasets.entry(name.clone()).or_insert_with(|| info.clone());
            }
        }
        let manifest = Manifest { shards: Vec::new(), checksum: None, datasets, ..cache.manifest().clone() };
        serde_json::to_string(&manifest).map_err(|err| Status::internal(err.to_string()))
    }

    /// Makes the batch of a step when it is the client's turn.
    ///
    /// # Errors
    /// If the stream is not open, the request is out of range, there is no room, or the batch cannot be made.
    pub(super) async fn fetch(self: &Arc<Self>, client: &Arc<Client>, request: FetchRequest) -> Result<Ready, Status> {
        let stream = self.streams.get(&request.stream_id, Instant::now()).ok_or_else(not_open)?;
        let step = request.step;
        if step >= STEPS {
            return Err(Status::invalid_argument(format!("step: {step}; expected a number below 2^47")));
        }
        let sizes = Sizes::of(&stream.loader, step);
        let slot = match request.slot {
            Some(wire::Slot { memory_id, number }) => {
                let memory = client.memory(memory_id).ok_or_else(|| {
                    Status::not_found(format!(
                        "shared memory {memory_id} is not open on this connection; share it again"
                    ))
                })?;
                sizes.slot(&memory, number)?
            }
            None => None,
        };
        let (reply, answer) = tokio::sync::oneshot::channel();
        let reply = Arc::new(Mutex::new(Some(reply)));
        let waiting = Arc::clone(&reply);
        let submitted = Instant::now();
        let hub = Arc::clone(self);
        let job = Job {
            bytes: if slot.is_some() { sizes.records as u64 } else { sizes.total() },
            visits: stream.loader.num_visits(),
            is_cancelled: Box::new(move || lock(&waiting).as_ref().is_none_or(tokio::sync::oneshot::Sender::is_closed)),
            work: {
                let stream = Arc::clone(&stream);
                // The client's memory must be there as long as the batch is made.
                let client = Arc::clone(client);
                Box::new(move |reservation| {
                    let queue_secs = submitted.elapsed().as_secs_f64();
                    let made = hub.make(&stream.loader, step, sizes, slot, reservation, queue_secs);
                    if let Some(reply) = lock(&reply).take() {
                        // The receiver is gone if the client is.
                        let _ = reply.send(made);
                    }
                    drop(client);
                })
            },
        };
        self.schedule.submit(&client.account, job).map_err(|err| match err {
            Refused::TooMany { .. } => Status::resource_exhausted(err.to_string()),
            // The same request would be too large again.
            Refused::TooLarge { .. } => Status::out_of_range(err.to_string()),
            Refused::Stopped => Status::unavailable(err.to_string()),
        })?;
        // Advice is lost where the disk is slower than the requests; then it would come too late anyway.
        let _ = self.advice.try_send((stream, step));
        answer.await.unwrap_or_else(|_| Err(Status::unavailable("the server is shutting down")))
    }

    fn make(
        &self,
        loader: &Loader,
        step: u64,
        sizes: Sizes,
        slot: Option<Arc<Slot>>,
        reservation: Reservation,
        queue_secs: f64,
    ) -> Result<Ready, Status> {
        let no_memory = |err: crate::blocks::NoMemory| Status::resource_exhausted(format!("{err} for a batch"));
        let in_slot = slot.is_some();
        let reservation = Arc::new(reservation);
        let batch = if let Some(slot) = slot {
            let (voxels, labels) = slot
                .divide(sizes.voxels, sizes.label_offset, sizes.labels)
                .ok_or_else(|| Status::internal("a slot is smaller than its batch"))?;
            loader.make(step, Box::new(voxels), Box::new(labels))
        } else {
            let voxels = self.blocks.take(sizes.voxels, Arc::clone(&reservation)).map_err(no_memory)?;
            let labels = self.blocks.take(sizes.labels, Arc::clone(&reservation)).map_err(no_memory)?;
            loader.make(step, Box::new(voxels), Box::new(labels))
        };
        let batch = batch.map_err(|err| status_of(&err))?;
        let num_crops = batch.shape[0];
        self.spans.add(Instant::now(), num_crops, &batch.times, queue_secs);
        let sent = SentBatch::of(batch, in_slot.then_some(sizes.label_offset), queue_secs)
            .map_err(|err| Status::internal(err.to_string()))?;
        metrics::batch(in_slot, num_crops, sent.num_bytes(), queue_secs);
        // A slot is freed here: the header informs its client that the voxels are in it.
        let data = if in_slot { Vec::new() } else { sent.data };
        Ok(Ready { body: Pieces::batch(sent.header, reservation, data) })
    }

    /// Allocates shared memory for a client.
    ///
    /// # Errors
    /// If the client is not on this host, or there is no room.
    pub(super) fn share(&self, client: &Client, request: &ShareRequest) -> Result<SharedMemory, Status> {
        let stream = self.streams.get(&request.stream_id, Instant::now()).ok_or_else(not_open)?;
        if !self.shares_memory {
            return Err(Status::failed_precondition("the server runs with --no-shared-memory"));
        }
        if !client.shares_memory {
            return Err(Status::failed_precondition("shared memory is available over the server's Unix socket only"));
        }
        if !(1..=MOST_SLOTS).contains(&request.slots) {
            return Err(Status::invalid_argument(format!("slots: {}; expected 1 to {MOST_SLOTS}", request.slots)));
        }
        let facts = &stream.facts;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (slot_bytes, _) = layout(size(facts.voxel_bytes), size(facts.label_bytes))
            .ok_or_else(|| Status::resource_exhausted("a batch is larger than the address space"))?;
        // The rest of the client's memory is for a batch that does not fit into a slot, because its boxes are larger than
        // estimated, and for records.
        let record_bytes = facts.crops_per_batch * RECORD_BYTES as u64;
        let batch_bytes = facts.voxel_bytes + facts.label_bytes;
        let excess = if stream.loader.form() == VoxelForm::Boxes { batch_bytes / 4 } else { 0 };
        let free = (client.account.limit() - client.account.held()).saturating_sub(batch_bytes + excess + record_bytes);
        let slots = u64::from(request.slots).min(free / (slot_bytes as u64 + record_bytes));
        let bytes = slots * slot_bytes as u64;
        let reservation = if slots == 0 { None } else { client.account.pin(bytes) };
        let reservation = reservation.ok_or_else(|| {
            let limit = client.account.limit();
            Status::resource_exhausted(format!(
                "a slot takes {slot_bytes} bytes, and the socket as much, but a client has {limit}; raise \
                 --client-memory of the service"
            ))
        })?;
        let count = usize::try_from(slots).unwrap_or(0);
        let (memory, file) = Slots::create(count, slot_bytes)
            .map_err(|err| Status::failed_precondition(format!("cannot create shared memory: {err}")))?;
        let ticket = random_ticket().map_err(|err| Status::internal(format!("no random numbers: {err}")))?;
        let memory_id = client.keep(memory, reservation);
        lock(&self.tickets).insert(ticket, (Arc::new(file), Instant::now()));
        Ok(SharedMemory {
            memory_id,
            slot_bytes: slot_bytes as u64,
            slots: u32::try_from(slots).unwrap_or(0),
            ticket: Bytes::copy_from_slice(&ticket),
        })
    }

    /// Returns the file of a ticket and invalidates the ticket.
    pub(super) fn redeem(&self, ticket: [u8; TICKET_LEN]) -> Option<Arc<OwnedFd>> {
        lock(&self.tickets).remove(&ticket).map(|(file, _)| file)
    }

    /// Closes idle streams and forgets old tickets.
    pub(super) fn tidy(&self, now: Instant, idle: Duration) {
        let closed = self.streams.close_idle(now, idle);
        if closed > 0 {
            tracing::info!(closed, "closed idle streams");
        }
        lock(&self.tickets).retain(|_, (_, issued)| now.saturating_duration_since(*issued) < TICKET_LIFE);
        if self.clients.len() == 0 {
            self.blocks.clear();
        }
        self.schedule.nudge();
        metrics::state(&self.status(now), self.blocks.free_bytes());
    }

    /// State at `now`.
    pub(super) fn status(&self, now: Instant) -> status::Status {
        let (in_work, oldest) = self.schedule.in_work(now);
        status::Status {
            clients: self.clients.len(),
            streams: self.streams.len(),
            waiting: self.schedule.waiting(),
            in_work,
            oldest,
            held_bytes: self.clients.held_bytes(),
            recent: self.spans.recent(now),
        }
    }
}

/// Bytes of a batch before any case is skipped.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    voxels: usize,
    labels: usize,
    label_offset: usize,
    /// Size of the crops' records, in memory and as a message.
    records: usize,
}

impl Sizes {
    fn of(loader: &Loader, step: u64) -> Self {
        let (voxels, labels) = loader.batch_len(step);
        let voxels = voxels * loader.form().voxel_bytes();
        let (_, label_offset) = layout(voxels, labels).unwrap_or((usize::MAX, usize::MAX));
        Self { voxels, labels, label_offset, records: loader.crops_per_batch() * RECORD_BYTES }
    }

    fn total(self) -> u64 {
        (self.voxels + self.labels + self.records) as u64
    }

    /// Slot that a client names; `None` if the batch does not fit, which happens to one batch of boxes in thousands.
    fn slot(self, memory: &Arc<Memory>, number: u32) -> Result<Option<Arc<Slot>>, Status> {
        let slots = &memory.slots;
        if layout(self.voxels, self.labels).is_none_or(|(bytes, _)| bytes > slots.slot_bytes()) {
            return Ok(None);
        }
        let slot = slots.take(number as usize, Arc::clone(memory));
        let refused = || Status::failed_precondition(format!("slot {number} is in use or does not exist"));
        slot.map(Some).ok_or_else(refused)
    }
}

fn not_open() -> Status {
    Status::not_found("the stream is not open here; open it again")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns sixteen random bytes from the operating system.
fn random_ticket() -> Result<[u8; TICKET_LEN], getrandom::Error> {
    let mut ticket = [0; TICKET_LEN];
    getrandom::fill(&mut ticket)?;
    Ok(ticket)
}

/// Status that reports an error of the loader. Data that cannot be read is logged as well, because only the server's
/// operator can repair it.
fn status_of(error: &pipeline::Error) -> Status {
    let code = match error {
        // The server shuts down; another one may make the batch.
        pipeline::Error::Read(err) if hiend_cache::is_abandoned(err) => Code::Unavailable,
        pipeline::Error::Read(_) => Code::DataLoss,
        pipeline::Error::Panicked { .. } => Code::Aborted,
        pipeline::Error::NoThreads { .. } | pipeline::Error::NoMemory { .. } => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    };
    let text = hiend_cache::with_sources(error);
    if code == Code::DataLoss {
        tracing::error!("no data for a client: {text}");
    }
    Status::new(code, text)
}
