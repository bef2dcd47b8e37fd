//! Addresses that a service listens on, and the connections to them.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::client::Client;

/// Address to listen on: `127.0.0.1:7070`, `[::1]:7070` or `unix:/run/hiend.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// IP address and port; port 0 selects a free port.
    Tcp(SocketAddr),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

/// Error of an invalid address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {text:?}; expected IP:PORT, such as 127.0.0.1:7070 or [::]:7070, or unix:/PATH")]
pub struct ListenError {
    text: String,
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
        let listen = match path {
            Some(path) => path.starts_with('/').then(|| Self::Unix(path.into())),
            None => text.parse().ok().map(Self::Tcp),
        };
        listen.ok_or_else(|| ListenError { text: text.to_owned() })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Returns true if only processes of this host can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(addr) => addr.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// A bound address.
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(SocketPath, UnixListener),
}

/// Path of a bound Unix socket. Dropping it removes the file, unless the file now belongs to another server.
///
/// The path must be dropped before the listener: until the listener is closed, no other server mistakes the file for an
/// abandoned one, and the system gives its inode number to no other file.
pub(super) struct SocketPath {
    path: PathBuf,
    /// Device and inode number of the file.
    id: (u64, u64),
}

impl SocketPath {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id_of(path)? })
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if id_of(&self.path).is_ok_and(|id| id == self.id) {
            // Not an error if another process removes it at this moment.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Returns device and inode number of a file.
fn id_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Time to wait for a folder that another process has locked. Servers hold the lock only briefly.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two attempts to lock a folder.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Locks a folder, so that only one of several servers that find an abandoned socket file replaces it. Returns `None`,
/// leaving servers that start at the same moment to chance, if the folder cannot be locked or another program keeps it
/// locked.
fn lock_folder(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_PAUSE),
            Err(err) => {
                tracing::debug!("cannot lock {}: {err}", folder.display());
                return None;
            }
        }
    }
}

/// Longest path of a Unix socket, in bytes.
const MAX_PATH_BYTES: usize = 107;

/// Binds a Unix socket that only this user may open. A file left by a killed server is replaced.
///
/// # Errors
/// If another server listens there, the path is taken by something else, or cannot be written.
pub(super) fn bind_unix(path: &Path) -> io::Result<(SocketPath, UnixListener)> {
    let path_bytes = path.as_os_str().len();
    if path_bytes > MAX_PATH_BYTES {
        let reason = format!("the path has {path_bytes} bytes, a Unix socket's at most {MAX_PATH_BYTES}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
        let reason = format!("there is no folder {}; create it first", folder.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    // Released by closing the file, when the new listener listens.
    let _lock = path.parent().and_then(lock_folder);
    let listener = match UnixListener::bind(path) {
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            UnixListener::bind(path)?
        }
        listener => listener?,
    };
    let socket_path = SocketPath::new(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok((socket_path, listener))
}

/// Removes the file of a socket on which no process listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is taken by a file that is not a socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens on this socket")),
        Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(err) => Err(err),
    }
}

impl Bound {
    /// Binds an address; also returns the URL for clients, with the port chosen by the system.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub(super) fn new(listen: &Listen, tls: bool) -> io::Result<(Self, String)> {
        match listen {
            Listen::Tcp(addr) => {
                let listener = TcpListener::bind(addr)?;
                listener.set_nonblocking(true)?;
                let url = format!("{}://{}", if tls { "https" } else { "http" }, listener.local_addr()?);
                Ok((Self::Tcp(listener), url))
            }
            Listen::Unix(path) => {
                let (socket_path, listener) = bind_unix(path)?;
                Ok((Self::Unix(socket_path, listener), format!("unix://{}", path.display())))
            }
        }
    }
}

/// Time within which a connection must send its first valid request. Without this limit, strangers could occupy all
/// connections.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection of a client.
pub(super) struct Connection {
    socket: Socket,
    client: Arc<Client>,
    /// Time at which [`PATIENCE`] ends.
    deadline: Pin<Box<tokio::time::Sleep>>,
}

enum Socket {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Connection {
    pub(super) fn tcp(socket: tokio::net::TcpStream, client: Arc<Client>) -> Self {
        // Without it, small requests wait for more to come; nothing else is lost.
        let _ = socket.set_nodelay(true);
        Self::new(Socket::Tcp(socket), client)
    }

    pub(super) fn unix(socket: tokio::net::UnixStream, client: Arc<Client>) -> Self {
        Self::new(Socket::Unix(socket), client)
    }

    fn new(socket: Socket, client: Arc<Client>) -> Self {
        Self { socket, client, deadline: Box::pin(tokio::time::sleep(PATIENCE)) }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Client>;

    fn connect_info(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.client.is_admitted() && self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Socket::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Socket::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_or_refused() {
        let tcp = |text: &str| Listen::Tcp(text.parse().unwrap());
        assert_eq!("127.0.0.1:7070".parse(), Ok(tcp("127.0.0.1:7070")));
        assert_eq!("[::]:7070".parse(), Ok(tcp("[::]:7070")));
        assert_eq!("unix:/a/b".parse(), Ok(Listen::Unix("/a/b".into())));
        assert_eq!("unix:///a/b".parse(), Ok(Listen::Unix("/a/b".into())));
        for text in ["", "localhost:7070", "127.0.0.1", "unix:", "unix:a", ":7070", "http://127.0.0.1:1"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
        let local = |text: &str| text.parse::<Listen>().unwrap().is_local();
        assert!(local("127.0.0.1:1") && local("[::1]:1") && local("unix:/a"));
        assert!(!local("0.0.0.0:1") && !local("[::]:1") && !local("10.0.0.1:1"));
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = bind_unix(&path).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        drop(first);
        assert!(!path.exists());
        // A killed server leaves the file.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind_unix(&path).unwrap());
        let error = bind_unix(&dir.path().join("absent/s")).err().unwrap().to_string();
        assert!(error.contains("there is no folder") && error.contains("absent;"), "{error}");
        let error = bind_unix(&dir.path().join("s".repeat(108))).err().unwrap().to_string();
        assert!(error.ends_with("bytes, a Unix socket's at most 107"), "{error}");
        let longest = Path::new("/").join("s".repeat(MAX_PATH_BYTES - 1));
        assert!(std::os::unix::net::SocketAddr::from_pathname(longest.join("s")).is_err());
        assert!(std::os::unix::net::SocketAddr::from_pathname(longest).is_ok());
        std::fs::write(&path, "text").unwrap();
        assert_eq!(bind_unix(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
    }

    #[test]
    fn the_socket_of_another_server_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (old_path, _old) = bind_unix(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (_new_path, _new) = bind_unix(&path).unwrap();
        drop(old_path);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn one_of_several_servers_replaces_a_socket_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let path = dir.path().join(format!("s{round}"));
            drop(UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(4);
            let bind = || {
                start.wait();
                bind_unix(&path)
            };
            let bound: Vec<_> = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(bind));
                threads.map(|thread| thread.join().unwrap()).into_iter().collect()
            });
            assert_eq!(bound.iter().filter(|bound| bound.is_ok()).count(), 1, "{round}");
            assert!(UnixStream::connect(&path).is_ok(), "{round}");
        }
    }
}
