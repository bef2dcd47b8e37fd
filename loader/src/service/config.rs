//! Configuration of a service, and the errors of starting it.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use hiend_cache::Cache;

use super::Listen;
use crate::pipeline;

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
    /// Largest number of open streams.
    pub max_streams: usize,
    /// Time after which an unused stream is closed.
    pub idle: Duration,
    /// Time that [`Service::shutdown`](super::Service::shutdown) waits for batches that are being sent.
    pub drain: Duration,
    /// Token that clients must present; `None` admits every client.
    pub token: Option<String>,
    /// Certificate and key for TCP; `None` for TCP without TLS.
    pub tls: Option<Tls>,
    /// True to listen beyond this host without TLS or without a token.
    pub insecure: bool,
    /// True to pass voxels through shared memory to clients on this host.
    pub shared_memory: bool,
}

impl std::fmt::Debug for ServiceConfig {
    /// Shows everything except the token.
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

impl ServiceConfig {
    /// Checks the configuration; `blocks_bytes` is the number of bytes that the caches may hold of objects.
    pub(super) fn check(&self, blocks_bytes: u64) -> Result<(), ServiceError> {
        if self.caches.is_empty() {
            return Err(ServiceError::NoCache);
        }
        if self.listen.is_empty() {
            return Err(ServiceError::NoAddress);
        }
        if self.token.as_deref().is_some_and(|token| token.trim().is_empty()) {
            return Err(ServiceError::EmptyToken);
        }
        let (memory_bytes, client_memory_bytes) = (self.memory_bytes, self.client_memory_bytes);
        if client_memory_bytes == 0 {
            return Err(ServiceError::NoClientMemory);
        }
        if memory_bytes.saturating_sub(blocks_bytes) / client_memory_bytes < 2 {
            return Err(ServiceError::TooLittleMemory { memory_bytes, client_memory_bytes, blocks_bytes });
        }
        let is_safe = self.insecure || (self.tls.is_some() && self.token.is_some());
        match self.listen.iter().find(|listen| !listen.is_local() && !is_safe) {
            Some(listen) => Err(ServiceError::Exposed { listen: listen.clone() }),
            None => Ok(()),
        }
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
            memory_bytes: 24 << 30,
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

/// Error from starting a service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No cache was given.
    #[error("no cache to serve")]
    NoCache,
    /// No address to listen on was given.
    #[error("no address to listen on")]
    NoAddress,
    /// The service would be reachable from the network without protection.
    #[error(
        "{listen}: listening beyond this host needs --tls-cert, --tls-key and --token-file, or --insecure where the \
         network is trusted"
    )]
    Exposed {
        /// Address to listen on, reachable from other hosts.
        listen: Listen,
    },
    /// The token is empty.
    #[error("the token is empty")]
    EmptyToken,
    /// Clients have no memory.
    #[error("--client-memory is 0; expected at least 1 byte")]
    NoClientMemory,
    /// The memory is too small.
    #[error(
        "--memory {memory_bytes} is too small; expected at least {} bytes ({}): twice --client-memory, for a client and \
         for memory to be reused{}",
        least(*client_memory_bytes, *blocks_bytes), ByteSize(least(*client_memory_bytes, *blocks_bytes)),
        of_blocks(*blocks_bytes)
    )]
    TooLittleMemory {
        /// Memory for all clients, in bytes.
        memory_bytes: u64,
        /// Memory for each client, in bytes.
        client_memory_bytes: u64,
        /// Memory for blocks of caches in object storage, in bytes.
        blocks_bytes: u64,
    },
    /// An address cannot be bound.
    #[error("cannot listen on {listen}")]
    Bind {
        /// Address to listen on.
        listen: Listen,
        /// Error from binding the address.
        source: std::io::Error,
    },
    /// The certificate and key cannot be used.
    #[error("invalid certificate or key")]
    Tls {
        /// Error from the TLS set-up.
        source: tonic::transport::Error,
    },
    /// The system provided no threads.
    #[error("cannot start the threads of the service")]
    NoThreads {
        /// Error from starting a thread.
        source: std::io::Error,
    },
    /// The loader's threads cannot be started.
    #[error(transparent)]
    Loader(#[from] pipeline::Error),
}

/// Smallest memory of a service, in bytes.
fn least(client_memory_bytes: u64, blocks_bytes: u64) -> u64 {
    client_memory_bytes.saturating_mul(2).saturating_add(blocks_bytes)
}

/// Returns the clause of an error text that names the memory for blocks of object storage; empty if it is 0.
fn of_blocks(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(", and {bytes} bytes for blocks of the disk cache") }
}
