//! The loader as a service: one thread pool and one page cache for any number of clients.
//!
//! # Guarantee
//! A batch is a pure function of (cases, stream configuration, seed, step, share of a rank). So a service has no
//! dispatcher, no journal and no state that can be lost: clients *pull single steps*, in any order, from any server that
//! holds the same cases. [`crate::remote`] is the client; `proto/hiend/loader/v1/loader.proto` is the contract.
//!
//! ```text
//!   listen     TCP and Unix sockets; a connection is a client with memory of its own
//!   rpc        token, request sizes, frames                                           threads serve-io
//!   schedule   clients take turns; one whose memory is full is passed over           threads serve-make
//!   pipeline   visits of the batches in progress, as in the process of a trainer      threads loader
//!   hub        streams by id, shared memory by ticket
//! ```
//! Memory is bounded: each client has [`ServiceConfig::client_memory_bytes`] for batches being made, batches until the
//! transport has taken their last byte, and shared memory; there are as many clients as
//! [`ServiceConfig::memory_bytes`] has room for. A client that does not read therefore holds its own memory only, and no
//! thread waits for it. A dead client is detected by its connection, or by pings within a minute; its memory is freed then.
//! The threads' buffers, and 64 MiB of answers from object storage, come on top.
//!
//! On one host, a client gets its voxels through shared memory ([`ServiceConfig::shared_memory`]): the server cuts
//! crops into a slot that the client named.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use hiend_cache::held_bytes;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::blocks::Blocks;
use crate::pipeline::Workers;

mod client;
mod config;
mod hub;
mod listen;
mod metrics;
mod monitor;
mod pass;
mod rpc;
mod schedule;
mod serving;
mod sockets;
mod status;
mod streams;

pub use config::{ServiceConfig, ServiceError, Tls};
pub use listen::{Listen, ListenError};
pub use metrics::METRICS;
pub use monitor::Monitor;
pub use status::{Recent, Status};

use client::Clients;
use hub::Hub;
use listen::SocketPath;
use schedule::Schedule;
use sockets::Sockets;
use streams::{OpenStream, Streams};

/// Memory for visits whose boxes take more than a thread's own memory, in bytes.
const SPILL_BYTES: u64 = 512 << 20;

/// Number of requests of one client that may wait.
const MOST_WAITING: usize = 64;

/// Pause after accepting a connection failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running service. Dropping it cuts all connections; [`Self::shutdown`] first lets batches in progress finish.
pub struct Service {
    hub: Arc<Hub>,
    urls: Vec<String>,
    /// Runtime of the service; dropped after the listeners.
    runtime: Option<Runtime>,
    serving: Option<JoinSet<()>>,
    stop: watch::Sender<bool>,
    drain: Duration,
    /// Files of Unix sockets, removed when the service begins to shut down: a successor may listen there while this one
    /// still sends batches.
    paths: Vec<SocketPath>,
}

impl Service {
    /// Starts a service.
    ///
    /// # Errors
    /// If the configuration is not safe or does not make sense, an address cannot be bound, or the system lacks threads.
    pub fn start(config: ServiceConfig) -> Result<Self, ServiceError> {
        let blocks_bytes = held_bytes(config.caches.iter().flat_map(|(cache, _)| cache.cases()));
        config.check(blocks_bytes)?;
        let tls = config.tls.as_ref().map(|tls| {
            let identity = Identity::from_pem(&tls.cert_pem, &tls.key_pem);
            ServerTlsConfig::new().identity(identity).timeout(Duration::from_secs(10))
        });
        // Fails here rather than in a task.
        if let Some(tls) = &tls {
            Server::builder().tls_config(tls.clone()).map_err(|source| ServiceError::Tls { source })?;
        }
        let workers = Arc::new(Workers::new(config.threads, SPILL_BYTES)?);
        let schedule = Schedule::new(workers.num_threads(), MOST_WAITING);
        // The memory of one client is for free blocks.
        let for_clients = config.memory_bytes - blocks_bytes;
        let most = usize::try_from(for_clients / config.client_memory_bytes - 1).unwrap_or(usize::MAX);
        let clients = Clients::new(most, config.client_memory_bytes, &schedule);
        let (advice, advised) = flume::bounded(64);
        let hub = Arc::new(Hub {
            caches: config.caches,
            workers,
            schedule,
            streams: Streams::new(config.max_streams),
            clients,
            blocks: Blocks::new(config.client_memory_bytes),
            client_memory_bytes: config.client_memory_bytes,
            token: config.token.as_deref().map(|token| blake3::hash(token.as_bytes())),
            shares_memory: config.shared_memory,
            draining: AtomicBool::new(false),
            advice,
            tickets: Mutex::default(),
            spans: status::Spans::default(),
        });
        let sockets = Sockets::bind(&config.listen, tls.is_some(), config.shared_memory)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(crate::budget::cores().clamp(2, 4))
            .max_blocking_threads(16)
            .thread_name("serve-io")
            .enable_all()
            .build()
            .map_err(|source| ServiceError::NoThreads { source })?;
        start_threads(&hub, advised)?;
        let (stop, stopped) = watch::channel(false);
        let mut serving = JoinSet::new();
        {
            let _context = runtime.enter();
            for listener in sockets.listeners {
                let bind = |source| ServiceError::NoThreads { source };
                listener.serve(&hub, tls.as_ref(), &stopped, &mut serving).map_err(bind)?;
            }
        }
        runtime.spawn(tidy(Arc::downgrade(&hub), config.idle));
        Ok(Self {
            hub,
            urls: sockets.urls,
            runtime: Some(runtime),
            serving: Some(serving),
            stop,
            drain: config.drain,
            paths: sockets.paths,
        })
    }

    /// Addresses for clients, in the order of [`ServiceConfig::listen`], with ports chosen by the system filled in.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Access to the state of the service for other threads.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor::new(&self.hub)
    }

    /// Largest number of clients served at a time: one less than the memory has room for.
    #[must_use]
    pub fn max_clients(&self) -> usize {
        self.hub.clients.most()
    }

    /// Number of clients currently served.
    #[cfg(test)]
    fn num_clients(&self) -> usize {
        self.hub.clients.len()
    }

    /// Number of open streams.
    #[cfg(test)]
    fn num_streams(&self) -> usize {
        self.hub.streams.len()
    }

    /// Bytes that the service holds for clients: batches being made or sent, shared memory, and free blocks.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.hub.clients.held_bytes() + self.hub.blocks.free_bytes()
    }

    /// Refuses new requests, waits until the batches in progress are sent, at most [`ServiceConfig::drain`], and ends.
    ///
    /// Returns true if all connections ended in time.
    #[must_use]
    pub fn shutdown(mut self) -> bool {
        self.hub.draining.store(true, Ordering::Relaxed);
        // Removes the socket files before the listeners close.
        self.paths.clear();
        let _ = self.stop.send(true);
        let (Some(runtime), Some(mut serving)) = (&self.runtime, self.serving.take()) else { return true };
        let drain = self.drain;
        let all = async { while serving.join_next().await.is_some() {} };
        runtime.block_on(async { tokio::time::timeout(drain, all).await }).is_ok()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.hub.draining.store(true, Ordering::Relaxed);
        // Removes the socket files before the listeners close.
        self.paths.clear();
        self.hub.schedule.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts the threads that make batches, and the one that reads ahead as `advised`.
fn start_threads(hub: &Hub, advised: flume::Receiver<(Arc<OpenStream>, u64)>) -> Result<(), ServiceError> {
    for number in 0..hub.workers.num_threads() + 2 {
        let schedule = Arc::clone(&hub.schedule);
        spawn(format!("serve-make-{number}"), move || schedule.run())?;
    }
    spawn("serve-advice".into(), move || {
        for (stream, step) in advised {
            stream.loader.advise(step);
        }
    })
}

/// Removes what has been unused for `idle`, again and again until the service is gone.
async fn tidy(hub: Weak<Hub>, idle: Duration) {
    let mut ticks = tokio::time::interval((idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(5)));
    loop {
        ticks.tick().await;
        let Some(hub) = hub.upgrade() else { return };
        hub.tidy(Instant::now(), idle);
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), ServiceError> {
    let thread = std::thread::Builder::new().name(name).spawn(work);
    thread.map(drop).map_err(|source| ServiceError::NoThreads { source })
}

#[cfg(test)]
mod tests;
