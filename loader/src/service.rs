//! The loader as a service: one pool of threads and one page cache for any number of clients.
//!
//! # Law
//! A batch is a pure function of (cases, stream configuration, seed, step, share of a rank). So a service has no
//! dispatcher, no journal and no state that can be lost: clients *pull single steps*, in any order, from any server that
//! holds the same cases. [`crate::remote`] is the client; `proto/hiend/loader/v1/loader.proto` is the contract.
//!
//! ```text
//!   listen     TCP and Unix sockets; a connection is a client with memory of its own
//!   rpc        token, request sizes, frames                                           threads serve-io
//!   schedule   clients take turns; one whose memory is full is passed over           threads serve-make
//!   pipeline   visits of the batches in work, as in the process of a trainer          threads loader
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
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hiend_cache::{Cache, held_bytes};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::blocks::Blocks;
use crate::pipeline::{self, Workers};

mod client;
mod hub;
mod listen;
mod metrics;
mod pass;
mod rpc;
mod schedule;
mod status;
mod streams;

pub use listen::{Listen, ListenError};
pub use metrics::METRICS;
pub use status::{Monitor, Recent, Status};

use client::Clients;
use hub::Hub;
use listen::{Bound, Connection, SocketPath};
use rpc::Rpc;
use schedule::Schedule;
use streams::Streams;

/// Memory for visits whose boxes take more than a thread keeps, in bytes.
const SPILL_BYTES: u64 = 512 << 20;

/// Requests of one client that may wait.
const MOST_WAITING: usize = 64;

/// Time between pings, and time for their answers; a client that answers none for so long is gone.
const PING: Duration = Duration::from_secs(20);

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest HTTP/2 frame that the server reads; requests are small.
const FRAME_LIMIT: u32 = 64 << 10;

/// Configuration of a service.
#[derive(Clone)]
pub struct ServiceConfig {
    /// Caches to serve, with their weights.
    pub caches: Vec<(Arc<Cache>, u32)>,
    /// Addresses to listen on.
    pub listen: Vec<Listen>,
    /// Number of threads that decode and augment; 0 for one per core.
    pub threads: usize,
    /// Memory for the batches of all clients, and for the blocks that the disk cache has mapped, in bytes.
    pub memory_bytes: u64,
    /// Memory for the batches of each client, in bytes.
    pub client_memory_bytes: u64,
    /// Number of streams that may be open.
    pub max_streams: usize,
    /// Time after which an unused stream is closed.
    pub idle: Duration,
    /// Time that [`Service::shutdown`] waits for batches being sent.
    pub drain: Duration,
    /// Token that clients must present; none admits every client.
    pub token: Option<String>,
    /// Certificate and key for TCP; none for plain TCP.
    pub tls: Option<Tls>,
    /// True to listen beyond this host without TLS or without a token.
    pub insecure: bool,
    /// True to pass voxels through shared memory to clients on this host.
    pub shared_memory: bool,
}

impl std::fmt::Debug for ServiceConfig {
    /// Shows everything but the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            caches,
            listen,
            threads,
            memory_bytes,
            client_memory_bytes,
            max_streams,
            idle,
            drain,
            token,
            tls,
            insecure,
            shared_memory,
        } = self;
        f.debug_struct("ServiceConfig")
            .field("caches", caches)
            .field("listen", listen)
            .field("threads", threads)
            .field("memory_bytes", memory_bytes)
            .field("client_memory_bytes", client_memory_bytes)
            .field("max_streams", max_streams)
            .field("idle", idle)
            .field("drain", drain)
            .field("token", &token.as_ref().map(|_| "hidden"))
            .field("tls", tls)
            .field("insecure", insecure)
            .field("shared_memory", shared_memory)
            .finish()
    }
}

/// Certificate chain and key of a server, as PEM.
#[derive(Clone)]
pub struct Tls {
    /// Certificates, the server's own first.
    pub cert_pem: Vec<u8>,
    /// Private key.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            caches: Vec::new(),
            listen: Vec::new(),
            threads: 0,
            memory_bytes: 16 << 30,
            client_memory_bytes: 2 << 30,
            max_streams: 256,
            idle: Duration::from_mins(10),
            drain: Duration::from_secs(30),
            token: None,
            tls: None,
            insecure: false,
            shared_memory: true,
        }
    }
}

/// Error of starting a service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is nothing to serve.
    #[error("no cache to serve")]
    NoCache,
    /// There is no address.
    #[error("no address to listen on")]
    NoAddress,
    /// The service would be open to the network.
    #[error(
        "{listen}: listening beyond this host needs --tls-cert, --tls-key and --token-file, or --insecure where the \
         network is trusted"
    )]
    Exposed {
        /// The address.
        listen: Listen,
    },
    /// The token is empty.
    #[error("the token is empty")]
    EmptyToken,
    /// The memory does not suffice.
    #[error(
        "--memory {memory_bytes} is too small: two clients' memory of {client_memory_bytes} bytes is needed, one for \
         a client and one for memory to be reused{}", of_blocks(*blocks_bytes)
    )]
    TooLittleMemory {
        /// Memory of all clients.
        memory_bytes: u64,
        /// Memory of each.
        client_memory_bytes: u64,
        /// Memory for blocks of caches in object storage.
        blocks_bytes: u64,
    },
    /// An address cannot be bound.
    #[error("cannot listen on {listen}")]
    Bind {
        /// The address.
        listen: Listen,
        /// Cause.
        source: std::io::Error,
    },
    /// Certificate and key cannot be used.
    #[error("invalid certificate or key")]
    Tls {
        /// Cause.
        source: tonic::transport::Error,
    },
    /// The system provided no threads.
    #[error("cannot start the threads of the service")]
    NoThreads {
        /// Cause.
        source: std::io::Error,
    },
    /// The loader's threads cannot be started.
    #[error(transparent)]
    Loader(#[from] pipeline::Error),
}

/// Part of an error about memory.
fn of_blocks(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(", and {bytes} bytes for blocks of the disk cache") }
}

/// A running service. Dropping it cuts all connections; [`Self::shutdown`] lets batches being sent arrive.
pub struct Service {
    hub: Arc<Hub>,
    urls: Vec<String>,
    /// Dropped after the listeners.
    runtime: Option<Runtime>,
    serving: Option<JoinSet<()>>,
    stop: watch::Sender<bool>,
    drain: Duration,
    /// Files of Unix sockets, removed with the service.
    _paths: Vec<SocketPath>,
}

impl Service {
    /// Starts a service.
    ///
    /// # Errors
    /// If the configuration is not safe or does not make sense, an address cannot be bound, or the system lacks threads.
    pub fn start(config: ServiceConfig) -> Result<Self, ServiceError> {
        let blocks_bytes = held_bytes(config.caches.iter().flat_map(|(cache, _)| cache.cases()));
        check(&config, blocks_bytes)?;
        let tls = config.tls.as_ref().map(|tls| {
            let identity = Identity::from_pem(&tls.cert_pem, &tls.key_pem);
            ServerTlsConfig::new().identity(identity).timeout(Duration::from_secs(10))
        });
        // Fails here rather than in a task.
        if let Some(tls) = &tls {
            Server::builder().tls_config(tls.clone()).map_err(|source| ServiceError::Tls { source })?;
        }
        let workers = Arc::new(Workers::new(config.threads, SPILL_BYTES)?);
        let threads = workers.num_threads();
        let schedule = Schedule::new(threads, MOST_WAITING);
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
            draining: AtomicBool::new(false),
            advice,
            tickets: Mutex::default(),
            spans: status::Spans::default(),
        });
        let mut listeners = Vec::new();
        let mut paths = Vec::new();
        let mut urls = Vec::new();
        for listen in &config.listen {
            let bind = |source| ServiceError::Bind { listen: listen.clone(), source };
            let (bound, url) = Bound::new(listen, tls.is_some()).map_err(bind)?;
            urls.push(url);
            let files = match listen {
                Listen::Unix(path) if config.shared_memory => {
                    let (bound, path) = listen::bind_unix(&pass::path(path)).map_err(bind)?;
                    paths.push(path);
                    Some(bound)
                }
                _ => None,
            };
            listeners.push(match bound {
                Bound::Tcp(listener) => Listener::Tcp(listener),
                Bound::Unix(listener, path) => {
                    paths.push(path);
                    Listener::Unix(listener, files)
                }
            });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(crate::budget::cores().clamp(2, 4))
            .max_blocking_threads(16)
            .thread_name("serve-io")
            .enable_all()
            .build()
            .map_err(|source| ServiceError::NoThreads { source })?;
        for number in 0..threads + 2 {
            let schedule = Arc::clone(&hub.schedule);
            spawn(format!("serve-make-{number}"), move || schedule.run())?;
        }
        spawn("serve-advice".into(), move || {
            for (stream, step) in advised {
                let stream: Arc<streams::OpenStream> = stream;
                stream.loader.advise(step);
            }
        })?;
        let (stop, stopped) = watch::channel(false);
        let mut serving = JoinSet::new();
        {
            let _context = runtime.enter();
            for listener in listeners {
                let bind = |source| ServiceError::NoThreads { source };
                listener.serve(&hub, tls.as_ref(), &stopped, &mut serving).map_err(bind)?;
            }
            let idle = config.idle;
            let weak = Arc::downgrade(&hub);
            runtime.spawn(async move {
                let mut ticks =
                    tokio::time::interval((idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(5)));
                loop {
                    ticks.tick().await;
                    let Some(hub) = weak.upgrade() else { return };
                    hub.tidy(Instant::now(), idle);
                }
            });
        }
        let drain = config.drain;
        Ok(Self { hub, urls, runtime: Some(runtime), serving: Some(serving), stop, drain, _paths: paths })
    }

    /// Addresses for clients, in the order of [`ServiceConfig::listen`], with the ports that the system chose.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Access to the state of the service for other threads.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor::new(&self.hub)
    }

    /// Number of clients that are served at a time.
    #[must_use]
    pub fn num_clients(&self) -> usize {
        self.hub.clients.len()
    }

    /// Number of open streams.
    #[must_use]
    pub fn num_streams(&self) -> usize {
        self.hub.streams.len()
    }

    /// Bytes that the service holds for clients: batches being made or sent, shared memory, and free blocks.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.hub.clients.held_bytes() + self.hub.blocks.free_bytes()
    }

    /// Refuses new requests, waits until the batches in work are sent, at most [`ServiceConfig::drain`], and ends.
    ///
    /// Returns true if all connections ended in time.
    #[must_use]
    pub fn shutdown(mut self) -> bool {
        self.hub.draining.store(true, Ordering::Relaxed);
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
        self.hub.schedule.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Checks a configuration; `blocks_bytes` are those that the caches may hold of objects.
fn check(config: &ServiceConfig, blocks_bytes: u64) -> Result<(), ServiceError> {
    if config.caches.is_empty() {
        return Err(ServiceError::NoCache);
    }
    if config.listen.is_empty() {
        return Err(ServiceError::NoAddress);
    }
    if config.token.as_deref().is_some_and(|token| token.trim().is_empty()) {
        return Err(ServiceError::EmptyToken);
    }
    let (memory_bytes, client_memory_bytes) = (config.memory_bytes, config.client_memory_bytes);
    if client_memory_bytes == 0 || memory_bytes.saturating_sub(blocks_bytes) / client_memory_bytes < 2 {
        return Err(ServiceError::TooLittleMemory { memory_bytes, client_memory_bytes, blocks_bytes });
    }
    let is_safe = config.insecure || (config.tls.is_some() && config.token.is_some());
    match config.listen.iter().find(|listen| !listen.is_local() && !is_safe) {
        Some(listen) => Err(ServiceError::Exposed { listen: listen.clone() }),
        None => Ok(()),
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), ServiceError> {
    let thread = std::thread::Builder::new().name(name).spawn(work);
    thread.map(drop).map_err(|source| ServiceError::NoThreads { source })
}

/// A bound address, before the runtime knows it.
enum Listener {
    Tcp(std::net::TcpListener),
    /// With the socket that passes files of shared memory, if they are shared.
    Unix(std::os::unix::net::UnixListener, Option<std::os::unix::net::UnixListener>),
}

impl Listener {
    /// Starts the tasks that serve an address.
    fn serve(
        self,
        hub: &Arc<Hub>,
        tls: Option<&ServerTlsConfig>,
        stopped: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> std::io::Result<()> {
        use tokio_stream::StreamExt as _;
        use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

        let clients = Arc::clone(&hub.clients);
        let mut stopped = stopped.clone();
        // An error means that the service is gone.
        let stop = async move { stopped.wait_for(|&stop| stop).await.map_or((), |_| ()) };
        let rpc = Rpc::new(hub);
        match self {
            Self::Tcp(listener) => {
                let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
                let incoming = incoming.then(accepted).filter_map(move |socket| {
                    let (socket, client) = (socket?, clients.connect(false)?);
                    Some(Ok::<_, std::io::Error>(Connection::tcp(socket, client)))
                });
                let incoming = Box::pin(incoming);
                let mut server = server();
                if let Some(tls) = tls {
                    server = server.tls_config(tls.clone()).map_err(std::io::Error::other)?;
                }
                tasks.spawn(async move { report(server.serve_with_incoming_shutdown(rpc, incoming, stop).await) });
            }
            Self::Unix(listener, files) => {
                let shares_memory = files.is_some();
                if let Some(files) = files {
                    let files = tokio::net::UnixListener::from_std(files)?;
                    // Ends with the runtime; a client redeems its ticket at once.
                    tokio::spawn(pass::serve(files, Arc::downgrade(hub)));
                }
                let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?);
                let incoming = incoming.then(accepted).filter_map(move |socket| {
                    let (socket, client) = (socket?, clients.connect(shares_memory)?);
                    Some(Ok::<_, std::io::Error>(Connection::unix(socket, client)))
                });
                let incoming = Box::pin(incoming);
                let server = server();
                tasks.spawn(async move { report(server.serve_with_incoming_shutdown(rpc, incoming, stop).await) });
            }
        }
        Ok(())
    }
}

/// The socket of a new connection; reports an error and pauses, because a process without free file descriptors gets the
/// same error at once again.
async fn accepted<S>(socket: std::io::Result<S>) -> Option<S> {
    match socket {
        Ok(socket) => Some(socket),
        Err(err) => {
            tracing::warn!("cannot accept a connection: {err}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Server with the bounds of every connection.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .max_concurrent_streams(2 * u32::try_from(MOST_WAITING).unwrap_or(u32::MAX))
        .http2_max_header_list_size(16 << 10)
        .max_frame_size(FRAME_LIMIT)
}

fn report(ended: Result<(), tonic::transport::Error>) {
    if let Err(err) = ended {
        tracing::error!("a listener ended: {:#}", err);
    }
}

#[cfg(test)]
mod tests;
