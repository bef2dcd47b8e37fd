//! A connection to a server.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tonic::Status;
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_prost::ProstCodec;

use super::address::Address;
use super::failure::Failure;
use super::{Facts, RemoteError, RemoteOptions};
use crate::pem;
use crate::shared_memory::{Slots, pass};
use crate::wire::{
    FD_SUFFIX, OpenRequest, ShareRequest, SharedMemory, StreamFacts, StreamSpec, TICKET_LEN, VERSION, path,
    spec::stream_id as stream_id_of,
};

/// Timeout for making a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Time for a server on this host to pass the file of shared memory. After it, voxels arrive through the socket for as
/// long as the connection lasts.
const PASSING: Duration = Duration::from_secs(30);

/// Interval between pings, and timeout for their answers.
const PING: Duration = Duration::from_secs(10);

/// Bytes that a server may send ahead: on a request, and on the connection.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

/// Largest HTTP/2 frame, as large as a frame of voxels.
const HTTP_FRAME: u32 = (1 << 20) + 64;

/// Largest response that is not a batch: facts, including a manifest.
const ANSWER_LIMIT: usize = 64 << 20;

/// Usual paths of the system's certificate files.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A connection with an open stream.
pub(super) struct Link {
    pub(super) channel: Channel,
    pub(super) stream_id: String,
    pub(super) memory: Option<LinkMemory>,
}

/// Shared memory that belongs to a connection.
pub(super) struct LinkMemory {
    pub(super) id: u64,
    pub(super) slots: Arc<Slots>,
}

/// Reason why a connection has no shared memory.
#[derive(Debug, thiserror::Error)]
enum ShareError {
    /// The server did not allocate the memory.
    #[error(transparent)]
    Request(#[from] Failure),
    /// The ticket has the wrong length.
    #[error("malformed ticket")]
    Ticket,
    /// The thread that maps the memory ended without a result.
    #[error(transparent)]
    Thread(#[from] tokio::task::JoinError),
    /// The memory was not received, or cannot be mapped.
    #[error(transparent)]
    Map(#[from] std::io::Error),
}

/// Makes connections to one server.
pub(super) struct Dialer {
    address: Address,
    endpoint: Endpoint,
    token: Option<HeaderValue>,
    shared_memory: bool,
}

impl Dialer {
    /// Prepares connections to `address`.
    ///
    /// # Errors
    /// If the certificates cannot be read, or the token holds characters that a header cannot.
    pub(super) fn new(address: Address, options: &RemoteOptions) -> Result<Self, RemoteError> {
        let url = address.url().to_owned();
        let refused =
            |reason: &str| RemoteError::Refused { url: url.clone(), reason: reason.to_owned(), is_invalid: true };
        let endpoint = match &address {
            // The host of a Unix socket is never looked up.
            Address::Unix { .. } => Endpoint::from_static("http://localhost"),
            Address::Tcp { url, host, tls } => {
                let endpoint = Endpoint::from_shared(url.clone()).ok().ok_or_else(|| refused("not a URL"))?;
                if *tls {
                    let config = tls_config(url, host, options.ca.as_deref())?;
                    let bad = |source| RemoteError::BadCa { url: url.clone(), source };
                    endpoint.tls_config(config).map_err(bad)?
                } else {
                    endpoint
                }
            }
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(2 * PING)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_frame_size(HTTP_FRAME)
            .tcp_nodelay(true);
        let token = options.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .ok()
                .ok_or_else(|| refused("the token holds characters other than visible ASCII"))?;
            value.set_sensitive(true);
            Ok::<_, RemoteError>(value)
        });
        let shared_memory = options.shared_memory;
        Ok(Self { address, endpoint, token: token.transpose()?, shared_memory })
    }

    /// URL of the server.
    pub(super) fn url(&self) -> &str {
        self.address.url()
    }

    /// Adds the token to the headers of a request.
    pub(super) fn authorize(&self, headers: &mut http::HeaderMap) {
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
    }

    /// Connects, opens the stream, and shares memory for `num_slots` batches if the server is on this host.
    pub(super) async fn dial(
        &self,
        spec: &StreamSpec,
        num_slots: impl Fn(&Facts) -> usize,
    ) -> Result<(Link, Facts), Failure> {
        let channel = match &self.address {
            Address::Tcp { .. } => self.endpoint.connect().await,
            Address::Unix { path, .. } => {
                let path = path.clone();
                let connect = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
                });
                self.endpoint.connect_with_connector(connect).await
            }
        };
        let channel = channel.map_err(|err| self.not_connected(&err))?;
        let request = OpenRequest { spec: Some(spec.clone()) };
        let answer: StreamFacts = self.call(&channel, path::OPEN, request).await?;
        let stream_id = answer.stream_id.clone();
        let facts = self.facts(answer, &stream_id_of(spec))?;
        let memory = match &self.address {
            Address::Unix { path, .. } if self.shared_memory => {
                let slots = num_slots(&facts);
                match self.share(&channel, path, &stream_id, slots).await {
                    Ok(memory) => Some(memory),
                    Err(reason) => {
                        tracing::warn!(url = self.url(), "no shared memory, voxels come through the socket: {reason}");
                        None
                    }
                }
            }
            _ => None,
        };
        Ok((Link { channel, stream_id, memory }, facts))
    }

    /// Checks the answer to opening the stream with this id.
    fn facts(&self, answer: StreamFacts, stream_id: &str) -> Result<Facts, Failure> {
        if answer.server_version != VERSION {
            let (url, server) = (self.url().to_owned(), answer.server_version);
            return Err(Failure::Lost(RemoteError::OtherVersion { url, server, client: VERSION }));
        }
        let wrong = |reason: String| Failure::Lost(RemoteError::Protocol { url: self.url().to_owned(), reason });
        if answer.stream_id != stream_id {
            return Err(wrong(format!("the server opened stream {:?}; expected {stream_id:?}", answer.stream_id)));
        }
        let manifest = serde_json::from_str(&answer.manifest_json)
            .map_err(|err| wrong(format!("the server's manifest is of another version: {err}")))?;
        if answer.steps_per_epoch == 0 || answer.crops_per_batch == 0 || answer.voxel_bytes == 0 {
            return Err(wrong("the server describes an empty stream".into()));
        }
        let unseen_labels = answer.unseen_labels.iter().filter_map(|&label| u8::try_from(label).ok()).collect();
        let StreamFacts {
            digest, num_cases, steps_per_epoch, crops_per_batch, voxel_bytes, label_bytes, remarks, ..
        } = answer;
        Ok(Facts {
            digest,
            num_cases,
            steps_per_epoch,
            crops_per_batch,
            voxel_bytes,
            label_bytes,
            manifest,
            unseen_labels,
            remarks,
        })
    }

    /// Calls a method with a single response.
    async fn call<Q, A>(&self, channel: &Channel, path: &'static str, request: Q) -> Result<A, Failure>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut request = tonic::Request::new(request);
        if let Some(token) = &self.token {
            let value = AsciiMetadataValue::try_from(token.as_bytes());
            request.metadata_mut().insert("authorization", value.expect("a header value is one of metadata"));
        }
        let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT);
        let answer = async {
            grpc.ready().await.map_err(|err| Status::from_error(err.into()))?;
            grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::default()).await
        };
        answer.await.map(tonic::Response::into_inner).map_err(|status| match std::error::Error::source(&status) {
            // The server sent no status: the connection failed.
            Some(source) => Failure::of_connecting(self.url(), source),
            None => Failure::of(self.url(), &status),
        })
    }

    /// Failure of a connection attempt.
    fn not_connected(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let failure = Failure::of_connecting(self.url(), error);
        match (&self.address, failure) {
            (Address::Unix { path, .. }, Failure::Away(reason)) => Failure::Away(match path.parent() {
                Some(folder) if !folder.exists() => format!("{reason}; there is no folder {}", folder.display()),
                _ => reason,
            }),
            (_, failure) => failure,
        }
    }

    /// Asks the server to allocate shared memory, and maps it.
    async fn share(
        &self,
        channel: &Channel,
        socket: &Path,
        stream_id: &str,
        slots: usize,
    ) -> Result<LinkMemory, ShareError> {
        let request = ShareRequest { stream_id: stream_id.to_owned(), slots: u32::try_from(slots).unwrap_or(u32::MAX) };
        let memory: SharedMemory = self.call(channel, path::SHARE, request).await?;
        let ticket = <[u8; TICKET_LEN]>::try_from(memory.ticket.as_ref()).ok().ok_or(ShareError::Ticket)?;
        let mut path = socket.as_os_str().to_owned();
        path.push(FD_SUFFIX);
        let id = memory.memory_id;
        let slots = tokio::task::spawn_blocking(move || map(&path.into(), ticket, &memory)).await??;
        Ok(LinkMemory { id, slots: Arc::new(slots) })
    }
}

/// Receives the file of shared memory and maps it.
fn map(path: &PathBuf, ticket: [u8; TICKET_LEN], memory: &SharedMemory) -> std::io::Result<Slots> {
    let mut socket = std::os::unix::net::UnixStream::connect(path)?;
    socket.set_read_timeout(Some(PASSING))?;
    socket.write_all(&ticket)?;
    let file = pass::receive(socket.as_fd())?;
    let slot_bytes = usize::try_from(memory.slot_bytes).map_err(std::io::Error::other)?;
    Slots::open(&file, memory.slots as usize, slot_bytes)
}

fn tls_config(url: &str, host: &str, ca: Option<&Path>) -> Result<ClientTlsConfig, RemoteError> {
    let system = || {
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        named.into_iter().chain(SYSTEM_CERTIFICATES.map(PathBuf::from)).find(|path| path.exists())
    };
    let path = ca.map(Path::to_owned).or_else(system).ok_or_else(|| RemoteError::NoCa { url: url.to_owned() })?;
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(source) => return Err(RemoteError::ReadCa { path, source }),
    };
    // TLS would skip certificates that it cannot decode, and then trust no server.
    pem::certificates(&pem).map_err(|source| RemoteError::InvalidCa { path, source })?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name(host).timeout(CONNECT))
}
