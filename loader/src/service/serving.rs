//! Tasks that accept connections on bound addresses and answer their requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::{Server, ServerTlsConfig};

use super::hub::Hub;
use super::listen::Connection;
use super::rpc::Rpc;
use super::{ACCEPT_PAUSE, MOST_WAITING, pass};

/// Interval between pings, and timeout for their answers; a client that answers none for that long is gone.
const PING: Duration = Duration::from_secs(20);

/// Largest HTTP/2 frame that the server reads; requests are small.
const FRAME_LIMIT: u32 = 64 << 10;

/// A bound address that is not yet registered with the runtime.
pub(super) enum Listener {
    Tcp(std::net::TcpListener),
    /// A Unix socket, and the socket that passes files of shared memory, if memory is shared.
    Unix(std::os::unix::net::UnixListener, Option<std::os::unix::net::UnixListener>),
}

impl Listener {
    /// Starts the tasks that serve an address.
    pub(super) fn serve(
        self,
        hub: &Arc<Hub>,
        tls: Option<&ServerTlsConfig>,
        stopped: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> std::io::Result<()> {
        use tokio_stream::StreamExt as _;
        use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

        let clients = Arc::clone(&hub.clients);
        let mut until_stopped = stopped.clone();
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
                    // Ends with new requests: a client redeems its ticket at once.
                    let passing = tokio::spawn(pass::serve(files, Arc::downgrade(hub)));
                    tokio::spawn(async move {
                        // An error means that the sender is gone, which is a stop as well.
                        let _ = until_stopped.wait_for(|&stop| stop).await;
                        passing.abort();
                    });
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

/// Returns the socket of a new connection. Reports an error and pauses, because a process without free file descriptors
/// would immediately get the same error again.
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

/// Creates a server with limits on every connection.
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
